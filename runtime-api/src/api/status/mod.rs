//! Failures and the statuses that tell an app of them, one module per building block: the only place that knows gRPC
//! codes and the texts of the incumbents, which apps and their tests compare.

mod configuration;
mod lock;
mod secrets;
mod sequencer;
mod state;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

pub(super) use configuration::ConfigurationFailure;
pub(super) use lock::LockFailure;
pub(super) use secrets::{SecretTexts, SecretsFailure};
pub(super) use sequencer::SequencerFailure;
pub(super) use state::StateFailure;

use super::dialect::Dialect;
use crate::component::Block;
use crate::text::{self, shortened};

/// Puts texts into the places of a template that are named in braces. It is walked once: what is put in is not looked
/// into.
fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let mut pieces = template.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (place, rest) = piece.split_once('}').unwrap_or((piece, ""));
        filled.push_str(texts.iter().find(|(name, _)| *name == place).map_or("", |(_, text)| text));
        filled.push_str(rest);
    }
    filled
}

/// What is said when no component of a block is configured at all; `store` is the one that was asked for.
pub(super) fn not_configured(dialect: &Dialect, block: Block, store: &str) -> Status {
    match block {
        Block::State => StateFailure::NotConfigured(store).status(dialect),
        Block::Configuration => ConfigurationFailure::NotConfigured(store).status(dialect),
        Block::Lock => LockFailure::NotConfigured.status(dialect),
        Block::Sequencer => SequencerFailure::NotConfigured.status(),
        Block::Secrets => SecretsFailure::NotConfigured.status(dialect),
    }
}

/// What a failure has beside its code and text, for those that read the details of a status.
#[derive(Debug, Default)]
struct Details<'a> {
    /// The reason of ErrorInfo.
    reason: &'static str,
    /// What ErrorInfo says besides.
    metadata: &'a [(&'static str, &'a str)],
    /// The component, where ResourceInfo names it.
    resource: Option<(Block, &'a str)>,
    /// The value that `BadRequest` says is wrong; it describes it by the text of the status.
    wrong: Option<&'a str>,
    /// Where Help sends the reader: a description and an address.
    help: Option<(&'static str, &'static str)>,
}

impl Details<'_> {
    /// A reason alone, which is what most failures have.
    fn reason(reason: &'static str) -> Self {
        Self { reason, ..Self::default() }
    }
}

/// A status with details, where the dialect has them: in the order and the form in which daprd gives them.
fn with_details(dialect: &Dialect, code: Code, text: String, details: Details<'_>) -> Status {
    let Some(domain) = dialect.error_domain else { return Status::new(code, text) };
    let mut parts = Vec::new();
    let mut add = |name: &str, value: Vec<u8>| {
        parts.push(Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value });
    };
    if let Some(value) = details.wrong {
        let (field, description) = (text::name(value).into_owned(), shortened(&text, MOST_DESCRIPTION).into_owned());
        let violation = pb::bad_request::FieldViolation { field, description, ..Default::default() };
        add("BadRequest", pb::BadRequest { field_violations: vec![violation] }.encode_to_vec());
    }
    if let Some((description, url)) = details.help {
        let link = pb::help::Link { description: description.to_owned(), url: url.to_owned() };
        add("Help", pb::Help { links: vec![link] }.encode_to_vec());
    }
    if let Some((block, component)) = details.resource {
        let (resource_type, resource_name) = (block.name().to_owned(), text::name(component).into_owned());
        let resource = pb::ResourceInfo { resource_type, resource_name, ..Default::default() };
        add("ResourceInfo", resource.encode_to_vec());
    }
    let metadata = details.metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let info = pb::ErrorInfo { reason: details.reason.to_owned(), domain: domain.to_owned(), metadata };
    add("ErrorInfo", info.encode_to_vec());
    // Without the text: `told` puts it in.
    let details = pb::Status { code: code.into(), message: String::new(), details: parts };
    Status::with_details(code, text, details.encode_to_vec().into())
}

/// What a `grpc-message` may take, encoded. Clients of gRPC refuse all headers of an answer together above 8 KiB, and a
/// call over the limit fails with a status that says nothing of the cause.
const MOST_TEXT: usize = 1024;

/// What the description of a wrong field may take: the text of a status that has one is not longer.
const MOST_DESCRIPTION: usize = 512;

/// The status as it goes to the app: its text cut to what clients take, whoever made it. The details have the text once
/// more, since clients in Go and Python take it from there.
pub(super) fn told(status: Status) -> Status {
    let text = text::within_header(status.message(), MOST_TEXT);
    if status.details().is_empty() {
        return if text.len() == status.message().len() { status } else { Status::new(status.code(), text) };
    }
    // The fields of a message may follow one another in any order.
    let mut details = pb::Status { message: text.clone().into_owned(), ..Default::default() }.encode_to_vec();
    details.extend_from_slice(status.details());
    Status::with_details(status.code(), text, details.into())
}

/// What is said to a caller without the token of the API.
pub(super) fn invalid_token(dialect: &Dialect, given: bool) -> Status {
    let text = "invalid api token: the metadata field dapr-api-token is missing or wrong".to_owned();
    let why = if given { "authentication error: api token mismatch" } else { "missing api token in request metadata" };
    let metadata = &[("http.code", "401"), ("http.error_message", why)];
    let details = Details { reason: "Unauthorized", metadata, ..Details::default() };
    with_details(dialect, Code::Unauthenticated, text, details)
}
