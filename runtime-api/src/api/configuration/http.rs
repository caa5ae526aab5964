//! The Configuration API over HTTP. Saving and deleting are ours: Dapr only reads.

use std::collections::BTreeMap;

use ::http::StatusCode;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use serde::Serialize;
use tonic::Code;

use super::ConfigurationApi;
use crate::api::Call;
use crate::api::failure::Failure;
use crate::api::http::{Asked, Response, malformed};
use crate::api::room::{ALPHA1, About, Path, V1, request};
use crate::component::configuration::Metadata;
use crate::component::property;

/// The requests.
pub(super) const PATHS: &[Path] = &[
    Path {
        methods: &["GET"],
        versions: &[V1, ALPHA1],
        form: "configuration/{store}",
        name: "GetConfiguration",
        is_open: false,
        handler: request!(ConfigurationApi, get_http),
        about: About {
            query: &[KEYS],
            takes_metadata: true,
            answers: &[
                (
                    200,
                    "The items by their keys; those that are not there are left out",
                    Some(
                        r#"{"type":"object","additionalProperties":{"type":"object","required":["value"],"properties":{"value":{"type":"string"},"version":{"type":"string"},"metadata":{"type":"object","additionalProperties":{"type":"string"}}}}}"#,
                    ),
                ),
                (204, "There is none of them", None),
            ],
            ..About::new("Read configuration")
        },
    },
    Path {
        methods: &["GET"],
        versions: &[V1, ALPHA1],
        form: "configuration/{store}/subscribe",
        name: "SubscribeConfiguration",
        is_open: false,
        handler: request!(ConfigurationApi, subscribe_http),
        about: About {
            query: &[KEYS],
            takes_metadata: true,
            errors: &[501],
            ..About::new("Subscribe to configuration, which is not served yet: its pushes are calls into the app")
        },
    },
    Path {
        methods: &["GET"],
        versions: &[V1, ALPHA1],
        form: "configuration/{store}/{id}/unsubscribe",
        name: "UnsubscribeConfiguration",
        is_open: false,
        handler: request!(ConfigurationApi, unsubscribe_http),
        about: About {
            answers: &[(
                200,
                "The subscription has ended",
                Some(r#"{"type":"object","required":["ok"],"properties":{"ok":{"const":true}}}"#),
            )],
            errors: &[404],
            ..About::new("End a subscription that was made over gRPC")
        },
    },
    Path {
        methods: &["POST", "PUT"],
        versions: &[ALPHA1],
        form: "configuration/{store}",
        name: "SaveConfiguration",
        is_open: false,
        handler: request!(ConfigurationApi, save_http),
        about: About {
            takes_metadata: true,
            body: Some(
                r#"{"type":"object","properties":{"items":{"type":"array","items":{"type":"object","required":["key"],"properties":{"key":{"type":"string","minLength":1},"value":{"type":"string"},"group":{"type":"string"},"label":{"type":"string"},"tags":{"type":"object","additionalProperties":{"type":"string"}},"metadata":{"type":"object","additionalProperties":{"type":"string"}}}}},"appId":{"type":"string"},"metadata":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
            ),
            answers: &[(204, "They are saved", None)],
            errors: &[501],
            ..About::new("Save configuration (not in Dapr)")
        },
    },
    Path {
        methods: &["DELETE"],
        versions: &[ALPHA1],
        form: "configuration/{store}",
        name: "DeleteConfiguration",
        is_open: false,
        handler: request!(ConfigurationApi, delete_http),
        about: About {
            query: &[KEYS],
            takes_metadata: true,
            answers: &[(204, "They are gone, or were not there", None)],
            errors: &[501],
            ..About::new("Delete configuration (not in Dapr)")
        },
    },
];

const KEYS: (&str, &str, &str) =
    ("key", r#"{"type":"array","items":{"type":"string","minLength":1}}"#, "A key; once for each. None: all there are");

/// What is answered for a key.
#[derive(Serialize)]
struct Told<'a> {
    value: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
}

impl ConfigurationApi {
    pub(super) async fn get_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let request = dapr::GetConfigurationRequest {
            store_name: asked.part(0).to_owned(),
            keys: keys(&asked),
            metadata: asked.metadata(),
        };
        let items = self.get_dapr(call, request).await?.items;
        if items.is_empty() {
            return Ok(Response::empty(StatusCode::NO_CONTENT));
        }
        let mut told = BTreeMap::new();
        for (key, item) in &items {
            let metadata = item.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            told.insert(key.as_str(), Told { value: &item.value, version: &item.version, metadata });
        }
        Ok(Response::json(StatusCode::OK, serde_json::to_vec(&told).unwrap_or_default()))
    }

    pub(super) async fn subscribe_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        self.store(call, asked.part(0))?;
        let text = "what changes would be pushed by calls into the app, which are not served yet: subscribe over gRPC, \
                    with SubscribeConfiguration, or read again from time to time";
        Err(Failure::new(Code::Unimplemented, text).tag("ERR_CONFIGURATION_SUBSCRIBE"))
    }

    pub(super) async fn unsubscribe_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        self.store(call, asked.part(0))?;
        let (store_name, id) = (asked.part(0).to_owned(), asked.part(1).to_owned());
        let ended = self.unsubscribe(call, dapr::UnsubscribeConfigurationRequest { store_name, id }).await?;
        if ended.ok {
            return Ok(Response::json(StatusCode::OK, r#"{"ok":true}"#));
        }
        let text = format!("{}; those made over gRPC can be ended here, and none are made over HTTP", ended.message);
        Err(Failure::new(Code::NotFound, text).tag("ERR_CONFIGURATION_UNSUBSCRIBE"))
    }

    pub(super) async fn save_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object()?;
        let mut items = Vec::new();
        for item in body.list("items")? {
            let item = item.object()?;
            items.push(layotto::ConfigurationItem {
                key: item.text("key")?.unwrap_or_default(),
                content: item.text("value")?.unwrap_or_default(),
                group: item.text("group")?.unwrap_or_default(),
                label: item.text("label")?.unwrap_or_default(),
                tags: item.texts("tags")?,
                metadata: item.texts("metadata")?,
            });
        }
        let request = layotto::SaveConfigurationRequest {
            store_name: asked.part(0).to_owned(),
            app_id: body.text("appId")?.unwrap_or_default(),
            items,
            metadata: asked.metadata_over(body.texts("metadata")?).into_iter().collect(),
        };
        self.save(call, request).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn delete_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let keys = keys(&asked);
        if keys.is_empty() {
            return Err(malformed("no key is named: ?key= is expected, once for each"));
        }
        let metadata: Metadata = asked.metadata();
        let text = |name| property(&metadata, name).unwrap_or_default().to_owned();
        let request = layotto::DeleteConfigurationRequest {
            store_name: asked.part(0).to_owned(),
            app_id: text("appId"),
            group: text("group"),
            label: text("label"),
            keys,
            metadata,
        };
        self.delete(call, request).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }
}

fn keys(asked: &Asked<'_>) -> Vec<String> {
    asked.query_all("key").map(str::to_owned).collect()
}
