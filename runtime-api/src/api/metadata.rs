//! What the runtime tells about itself: GetMetadata and SetMetadata, on gRPC and on HTTP.

use std::collections::BTreeMap;
use std::rc::Rc;

use ::http::StatusCode;
use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use prost::Message;
use serde_json::json;
use tonic::Code;

use super::Call;
use super::dialect::DAPR;
use super::failure::Failure;
use super::http::{Asked, Response};
use super::room::{About, Api, Method, Opening, Path, Room, V1, opens, request, unary};
use crate::VERSION;
use crate::config::Config;
use crate::proxy::{Proxy, shared_init};

/// Metadata.
pub(super) const ROOM: Room = Room {
    open: opens::<MetadataApi>(),
    methods: &[
        Method { names: &[(DAPR, "GetMetadata")], handler: unary!(MetadataApi, get) },
        Method { names: &[(DAPR, "SetMetadata")], handler: unary!(MetadataApi, set) },
    ],
    paths: &[
        Path {
            methods: &["GET"],
            versions: &[V1],
            form: "metadata",
            name: "GetMetadata",
            is_open: false,
            handler: request!(MetadataApi, get_http),
            about: About {
                answers: &[(
                    200,
                    "The runtime and its components",
                    Some(r##"{"$ref":"#/components/schemas/Metadata"}"##),
                )],
                ..About::new("What the runtime is and has")
            },
        },
        Path {
            methods: &["PUT"],
            versions: &[V1],
            form: "metadata/{key}",
            name: "SetMetadata",
            is_open: false,
            handler: request!(MetadataApi, set_http),
            about: About {
                body: Some("*"),
                answers: &[(204, "It is set", None)],
                ..About::new("Add to what the runtime tells, until Envoy ends")
            },
        },
    ],
};

/// Where in the shared area the metadata that the app has set lie.
const EXTENDED: &str = "metadata/extended";

/// The `errorCode` over HTTP.
const NOT_SET: &str = "ERR_METADATA_SET";

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
struct GetMetadataResponse {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "3")]
    registered_components: Vec<dapr::RegisteredComponents>,
    #[prost(btree_map = "string, string", tag = "4")]
    extended_metadata: BTreeMap<String, String>,
    #[prost(string, tag = "8")]
    runtime_version: String,
}

impl Api for MetadataApi {
    fn open(opening: &Opening<'_>) -> Self {
        shared_init(&**opening.proxy, EXTENDED);
        Self { proxy: Rc::clone(opening.proxy), config: Rc::clone(opening.config) }
    }
}

impl MetadataApi {
    /// `GetMetadata`.
    async fn get(&self, _call: &Call, _request: dapr::GetMetadataRequest) -> Result<GetMetadataResponse, Failure> {
        Ok(self.told())
    }

    /// `SetMetadata`.
    async fn set(&self, _call: &Call, request: dapr::SetMetadataRequest) -> Result<(), Failure> {
        self.change(request)
    }

    /// `PUT /v1.0/metadata/{key}`, whose body is the value.
    async fn set_http(&self, _call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let Ok(value) = str::from_utf8(asked.body()) else {
            return Err(Failure::new(Code::InvalidArgument, "the value is to be UTF-8").tag(NOT_SET));
        };
        let set = self.change(dapr::SetMetadataRequest { key: asked.part(0).to_owned(), value: value.to_owned() });
        set.map_err(|failure| failure.tag(NOT_SET).http(StatusCode::BAD_REQUEST))?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    #[inline(never)]
    fn told(&self) -> GetMetadataResponse {
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

    /// All workers see it.
    fn change(&self, request: dapr::SetMetadataRequest) -> Result<(), Failure> {
        if request.key.is_empty() {
            return Err(Failure::new(Code::InvalidArgument, "the key of the metadata is empty"));
        }
        loop {
            let Some((bytes, version)) = self.proxy.shared_get(EXTENDED) else {
                return Err(Failure::new(Code::Internal, "the shared area has lost the metadata"));
            };
            let mut extended = decode(bytes);
            extended.fields.insert(request.key.clone(), request.value.clone());
            if extended.encoded_len() > MOST_EXTENDED_BYTES {
                return Err(Failure::new(
                    Code::ResourceExhausted,
                    format!("the metadata set by the app would be larger than {MOST_EXTENDED_BYTES} bytes"),
                ));
            }
            if self.proxy.shared_set(EXTENDED, &extended.encode_to_vec(), Some(version)).is_ok() {
                return Ok(());
            }
        }
    }

    /// `GET /v1.0/metadata`.
    async fn get_http(&self, _call: &Call, _asked: Asked<'_>) -> Result<Response, Failure> {
        let metadata = self.told();
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
        let told = json!({
            "id": metadata.id,
            "runtimeVersion": metadata.runtime_version,
            "components": components,
            "extended": metadata.extended_metadata,
            "actors": [],
            "subscriptions": [],
            "httpEndpoints": [],
            "enabledFeatures": [],
        });
        Ok(Response::json(StatusCode::OK, told.to_string()))
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
