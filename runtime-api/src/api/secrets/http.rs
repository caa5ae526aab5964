//! The Secrets API over HTTP.

use std::collections::BTreeMap;

use ::http::StatusCode;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use serde_json::json;

use super::SecretsApi;
use crate::api::Call;
use crate::api::failure::Failure;
use crate::api::http::{Asked, Response};
use crate::api::room::{About, Path, V1, request};

/// The requests; of two that fit a path the first one counts.
pub(super) const PATHS: &[Path] = &[
    Path {
        methods: &["GET"],
        versions: &[V1],
        form: "secrets/{store}/bulk",
        name: "GetBulkSecret",
        is_open: false,
        handler: request!(SecretsApi, get_bulk_http),
        about: About {
            takes_metadata: true,
            answers: &[(
                200,
                "All secrets that the app may read",
                Some(
                    r#"{"type":"object","additionalProperties":{"type":"object","additionalProperties":{"type":"string"}}}"#,
                ),
            )],
            errors: &[403],
            ..About::new("Read all secrets")
        },
    },
    Path {
        methods: &["GET"],
        versions: &[V1],
        form: "secrets/{store}/{name}",
        name: "GetSecret",
        is_open: false,
        handler: request!(SecretsApi, get_http),
        about: About {
            takes_metadata: true,
            answers: &[(200, "The secret", Some(r#"{"type":"object","additionalProperties":{"type":"string"}}"#))],
            errors: &[403],
            ..About::new("Read a secret")
        },
    },
];

impl SecretsApi {
    pub(super) async fn get_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let (store_name, key) = (asked.part(0).to_owned(), asked.part(1).to_owned());
        let found = self.get(call, dapr::GetSecretRequest { store_name, key, metadata: asked.metadata() }).await?;
        let found: BTreeMap<_, _> = found.data.into_iter().collect();
        Ok(Response::json(StatusCode::OK, json!(found).to_string()))
    }

    pub(super) async fn get_bulk_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let store_name = asked.part(0).to_owned();
        let found = self.get_bulk(call, dapr::GetBulkSecretRequest { store_name, metadata: asked.metadata() }).await?;
        let found: BTreeMap<_, BTreeMap<_, _>> =
            found.data.into_iter().map(|(name, secret)| (name, secret.secrets.into_iter().collect())).collect();
        Ok(Response::json(StatusCode::OK, json!(found).to_string()))
    }
}
