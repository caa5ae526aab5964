//! What the runtime tells about itself: GetMetadata and SetMetadata, on gRPC and on HTTP.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use prost::Message;
use serde_json::json;
use tonic::Status;

use crate::VERSION;
use crate::config::Config;
use crate::proxy::{Proxy, shared_init};

/// Where in the shared area the metadata that the app has set lie.
const EXTENDED: &str = "metadata/extended";

/// A bound, since what an app sets stays for as long as Envoy runs.
const MOST_EXTENDED_BYTES: usize = 64 * 1024;

/// The metadata of the runtime.
#[derive(Debug)]
pub(super) struct MetadataApi {
    proxy: Rc<dyn Proxy>,
    config: Rc<Config>,
}

/// A map as it lies in the shared area.
#[derive(Clone, PartialEq, Message)]
struct Extended {
    #[prost(btree_map = "string, string", tag = "1")]
    fields: BTreeMap<String, String>,
}

/// Of the message of this name those fields that are ever set: code to write the others would lie in every VM.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetMetadataResponse {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "3")]
    registered_components: Vec<dapr::RegisteredComponents>,
    #[prost(btree_map = "string, string", tag = "4")]
    extended_metadata: BTreeMap<String, String>,
    #[prost(string, tag = "8")]
    runtime_version: String,
}

impl MetadataApi {
    /// The metadata of a runtime with this configuration.
    pub(super) fn new(proxy: Rc<dyn Proxy>, config: Rc<Config>) -> Self {
        shared_init(&*proxy, EXTENDED);
        Self { proxy, config }
    }

    /// `GetMetadata`.
    #[inline(never)]
    pub(super) fn get(&self) -> GetMetadataResponse {
        let component = |component: &crate::config::Component| dapr::RegisteredComponents {
            name: component.name.clone(),
            r#type: component.driver.kind.to_owned(),
            version: component.version.clone(),
            capabilities: component.driver.capabilities.iter().map(ToString::to_string).collect(),
        };
        GetMetadataResponse {
            id: self.config.app_id.clone(),
            registered_components: self.config.components.iter().map(component).collect(),
            extended_metadata: self.extended(),
            runtime_version: VERSION.to_owned(),
        }
    }

    /// `SetMetadata`: all workers see it.
    pub(super) fn set(&self, request: dapr::SetMetadataRequest) -> Result<(), Status> {
        if request.key.is_empty() {
            return Err(Status::invalid_argument("the key of the metadata is empty"));
        }
        loop {
            let Some((bytes, version)) = self.proxy.shared_get(EXTENDED) else {
                return Err(Status::internal("the shared area has lost the metadata"));
            };
            let mut extended = decode(bytes);
            extended.fields.insert(request.key.clone(), request.value.clone());
            if extended.encoded_len() > MOST_EXTENDED_BYTES {
                return Err(Status::resource_exhausted(format!(
                    "the metadata set by the app would be larger than {MOST_EXTENDED_BYTES} bytes"
                )));
            }
            if self.proxy.shared_set(EXTENDED, &extended.encode_to_vec(), Some(version)).is_ok() {
                return Ok(());
            }
        }
    }

    /// `GET /v1.0/metadata`.
    pub(super) fn json(&self) -> serde_json::Value {
        let metadata = self.get();
        let components: Vec<_> = metadata
            .registered_components
            .iter()
            .map(|component| {
                json!({
                    "name": component.name,
                    "type": component.r#type,
                    "version": component.version,
                    "capabilities": component.capabilities,
                })
            })
            .collect();
        json!({
            "id": metadata.id,
            "runtimeVersion": metadata.runtime_version,
            "components": components,
            "extended": metadata.extended_metadata,
            "actors": [],
            "subscriptions": [],
            "httpEndpoints": [],
            "enabledFeatures": [],
        })
    }

    /// What the app has set, and the version under the name by which Dapr's tools look for it.
    fn extended(&self) -> BTreeMap<String, String> {
        let mut fields = self.proxy.shared_get(EXTENDED).map(|(bytes, _)| decode(bytes).fields).unwrap_or_default();
        fields.insert("daprRuntimeVersion".to_owned(), VERSION.to_owned());
        fields
    }
}

fn decode(bytes: Bytes) -> Extended {
    Extended::decode(bytes).unwrap_or_default()
}
