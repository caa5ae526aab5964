//! Failures as values. A building block says what failed; here it becomes what an app is told, a gRPC status with details or
//! an HTTP response.

use std::collections::BTreeMap;

use http::StatusCode;
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::pb;

use super::dialect::{DOMAIN, Dialect};
use super::http::{ErrorBody, Response};
use crate::component::Block;
use crate::text::{self, shortened};

/// Why a call failed, in the words of the API that it was made by.
#[derive(Debug)]
pub(super) struct Failure(Box<Told>);

#[derive(Debug)]
struct Told {
    code: Code,
    text: String,
    /// The reason of `ErrorInfo`. Without one a status has no details.
    reason: Option<&'static str>,
    /// Dapr's `errorCode` over HTTP, where it is not the reason.
    tag: Option<&'static str>,
    /// What `ErrorInfo` says besides.
    metadata: Vec<(&'static str, String)>,
    /// The component, where `ResourceInfo` names it.
    resource: Option<(Block, String)>,
    /// The value that `BadRequest` says is wrong; it describes it by the text of the status.
    wrong: Option<String>,
    /// Where `Help` sends the reader: a description and an address.
    help: Option<(&'static str, &'static str)>,
    /// The status over HTTP, where it is not what the code stands for.
    http: Option<StatusCode>,
    /// Whether HTTP tells the text alone.
    is_plain: bool,
}

impl From<Status> for Failure {
    /// A status without details: what the core itself refuses, whatever the API.
    fn from(status: Status) -> Self {
        Self::new(status.code(), status.message())
    }
}

impl Failure {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Self {
        let text = text.into();
        let (reason, tag, metadata, resource, wrong, help, http) = (None, None, Vec::new(), None, None, None, None);
        Self(Box::new(Told { code, text, reason, tag, metadata, resource, wrong, help, http, is_plain: false }))
    }

    /// Names the reason, which gives a status details.
    pub(super) fn reason(mut self, reason: &'static str) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// Names the `errorCode` over HTTP.
    pub(super) fn tag(mut self, tag: impl Into<Option<&'static str>>) -> Self {
        self.0.tag = tag.into();
        self
    }

    /// Has it told over HTTP as a text alone.
    pub(super) fn plain(mut self) -> Self {
        self.0.is_plain = true;
        self
    }

    /// Adds to what `ErrorInfo` says.
    pub(super) fn metadata(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.push((name, value.into()));
        self
    }

    /// Names the component.
    pub(super) fn resource(mut self, block: Block, component: &str) -> Self {
        self.0.resource = Some((block, text::name(component).into_owned()));
        self
    }

    /// Names the value that is wrong.
    pub(super) fn wrong(mut self, value: &str) -> Self {
        self.0.wrong = Some(text::name(value).into_owned());
        self
    }

    /// Says where to read more.
    pub(super) fn help(mut self, help: (&'static str, &'static str)) -> Self {
        self.0.help = Some(help);
        self
    }

    /// Sets the status over HTTP.
    pub(super) fn http(mut self, status: impl Into<Option<StatusCode>>) -> Self {
        self.0.http = status.into();
        self
    }

    /// The code of gRPC.
    pub(super) fn code(&self) -> Code {
        self.0.code
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0.text
    }

    /// As a status of gRPC, with details where the dialect has them: in the order and the form in which daprd gives them.
    pub(super) fn status(self, dialect: Dialect) -> Status {
        let Told { code, text, reason, metadata, resource, wrong, help, .. } = *self.0;
        let (Some(domain), Some(reason)) = (dialect.error_domain(), reason) else {
            return told(Status::new(code, text));
        };
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Vec<u8>| {
            parts.push(Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value });
        };
        if let Some(field) = wrong {
            let description = shortened(&text, MOST_DESCRIPTION).into_owned();
            let violation = pb::bad_request::FieldViolation { field, description, ..Default::default() };
            add("BadRequest", pb::BadRequest { field_violations: vec![violation] }.encode_to_vec());
        }
        if let Some((description, url)) = help {
            let link = pb::help::Link { description: description.to_owned(), url: url.to_owned() };
            add("Help", pb::Help { links: vec![link] }.encode_to_vec());
        }
        if let Some((block, resource_name)) = resource {
            let resource_type = block.name().to_owned();
            let resource = pb::ResourceInfo { resource_type, resource_name, ..Default::default() };
            add("ResourceInfo", resource.encode_to_vec());
        }
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let info = pb::ErrorInfo { reason: reason.to_owned(), domain: domain.to_owned(), metadata };
        add("ErrorInfo", info.encode_to_vec());
        // Without the text: `told` puts it in.
        let details = pb::Status { code: code.into(), message: String::new(), details: parts };
        told(Status::with_details(code, text, details.encode_to_vec().into()))
    }

    /// As a response of Dapr's HTTP API, with details where daprd gives them: with its newer errors.
    pub(super) fn response(self) -> Response {
        let told = *self.0;
        let status = told.http.unwrap_or_else(|| http_status(told.code));
        if told.is_plain {
            return Response::text(status, &told.text);
        }
        let has_details = told.reason.is_some_and(|reason| reason.starts_with("DAPR_"));
        ErrorBody {
            code: told.tag.or(told.reason).unwrap_or_else(|| usual_tag(told.code)),
            message: &told.text,
            details: if has_details { told.details() } else { Vec::new() },
        }
        .response(status)
    }
}

impl Told {
    /// What [`Failure::status`] has as messages, in the same order.
    fn details(&self) -> Vec<Value> {
        let typed = |name: &str, mut value: Value| {
            if let Some(fields) = value.as_object_mut() {
                fields.insert("@type".to_owned(), format!("type.googleapis.com/google.rpc.{name}").into());
            }
            value
        };
        let wrong = self.wrong.as_ref().map(|field| {
            let description = shortened(&self.text, MOST_DESCRIPTION);
            typed("BadRequest", json!({"field_violations": [{"field": field, "description": description}]}))
        });
        let help = self
            .help
            .map(|(description, url)| typed("Help", json!({"links": [{"description": description, "url": url}]})));
        let resource = self.resource.as_ref().map(|(block, name)| {
            let (kind, name) = (block.name(), name.as_str());
            typed("ResourceInfo", json!({"resource_type": kind, "resource_name": name, "owner": "", "description": ""}))
        });
        let metadata: BTreeMap<_, _> = self.metadata.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let metadata = if metadata.is_empty() { Value::Null } else { json!(metadata) };
        let info = typed("ErrorInfo", json!({"reason": self.reason, "domain": DOMAIN, "metadata": metadata}));
        [wrong, help, resource, Some(info)].into_iter().flatten().collect()
    }
}

/// The `errorCode` where the failure names none: what no building block says.
fn usual_tag(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "ERR_MALFORMED_REQUEST",
        Code::ResourceExhausted => "ERR_RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "ERR_DEADLINE_EXCEEDED",
        Code::Unavailable => "ERR_UNAVAILABLE",
        Code::PermissionDenied => "ERR_PERMISSION_DENIED",
        _ => "ERR_INTERNAL",
    }
}

/// What a code of gRPC is over HTTP, as daprd's own table has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Puts texts into the places of a template that are named in braces. It is walked once: what is put in is not looked
/// into.
pub(super) fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let mut pieces = template.split('{');
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (place, rest) = piece.split_once('}').unwrap_or((piece, ""));
        filled.push_str(texts.iter().find(|(name, _)| *name == place).map_or("", |(_, text)| text));
        filled.push_str(rest);
    }
    filled
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
pub(super) fn invalid_token(given: bool) -> Failure {
    let text = "invalid api token: the metadata field dapr-api-token is missing or wrong";
    let why = if given { "authentication error: api token mismatch" } else { "missing api token in request metadata" };
    Failure::new(Code::Unauthenticated, text)
        .reason("Unauthorized")
        .metadata("http.code", "401")
        .metadata("http.error_message", why)
}

/// What is said of a call that no list of APIs allows.
pub(super) fn not_allowed() -> Failure {
    let text = "requested endpoint is not available";
    Failure::new(Code::Unimplemented, text)
        .reason("Not Implemented")
        .metadata("http.code", "501")
        .metadata("http.error_message", text)
}
