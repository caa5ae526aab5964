//! The Sequencer API over HTTP: ours, since Dapr has no such block.

use ::http::StatusCode;
use envoy_runtime_proto::spec::runtime::v1::{self as layotto, sequencer_options::AutoIncrement};

use super::SequencerApi;
use crate::api::Call;
use crate::api::failure::Failure;
use crate::api::http::{Asked, Response, malformed, quoted};
use crate::api::room::{ALPHA1, About, Path, request};

/// The requests.
pub(super) const PATHS: &[Path] = &[Path {
    methods: &["POST"],
    versions: &[ALPHA1],
    form: "sequencer/{store}",
    name: "GetNextId",
    is_open: false,
    handler: request!(SequencerApi, next_id_http),
    about: About {
        body: Some(
            r#"{"type":"object","required":["key"],"properties":{"key":{"type":"string","minLength":1},"increment":{"enum":["weak","strong"],"description":"weak: ids rise within this Envoy; strong: over all callers"},"metadata":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
        ),
        answers: &[(
            200,
            "An id that nobody else gets. It is a text, since a number of 64 bits is not one in JavaScript",
            Some(
                r#"{"type":"object","required":["nextId"],"properties":{"nextId":{"type":"string","pattern":"^-?[0-9]+$"}}}"#,
            ),
        )],
        ..About::new("Get the next id of a sequence (not in Dapr)")
    },
}];

impl SequencerApi {
    async fn next_id_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object()?;
        let increment = match body.text("increment")?.unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "weak" => AutoIncrement::Weak,
            "strong" => AutoIncrement::Strong,
            other => {
                let other = crate::text::name(other);
                return Err(malformed(format!("body.increment has to be weak or strong, not {other:?}")));
            }
        };
        let request = layotto::GetNextIdRequest {
            store_name: asked.part(0).to_owned(),
            key: body.text("key")?.unwrap_or_default(),
            options: Some(layotto::SequencerOptions { increment: increment.into() }),
            metadata: body.texts("metadata")?,
        };
        let id = self.next_id(call, request).await?.next_id;
        Ok(Response::json(StatusCode::OK, format!("{{\"nextId\":{}}}", quoted(&id.to_string()))))
    }
}
