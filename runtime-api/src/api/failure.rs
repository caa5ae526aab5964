//! Failures as values. A building block says what failed; here it becomes what an app is told, a gRPC status with details or
//! an HTTP response.

use http::StatusCode;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

use super::dialect::Dialect;
use super::http::Response;
use crate::component::Block;
use crate::text::{self, shortened};

/// Why a call failed, in the words of the API that it was made by.
#[derive(Debug)]
pub(super) struct Failure(Box<Told>);

#[derive(Debug)]
struct Told {
    code: Code,
    text: String,
    /// The reason of `ErrorInfo`, and Dapr's `errorCode` over HTTP. Without one a status has no details.
    reason: Option<&'static str>,
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
        let (reason, metadata, resource, wrong, help, http) = (None, Vec::new(), None, None, None, None);
        Self(Box::new(Told { code, text, reason, metadata, resource, wrong, help, http }))
    }

    /// Names the reason, which gives a status details.
    pub(super) fn reason(mut self, reason: &'static str) -> Self {
        self.0.reason = Some(reason);
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
    pub(super) fn http(mut self, status: StatusCode) -> Self {
        self.0.http = Some(status);
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
        let Told { code, text, reason, metadata, resource, wrong, help, http: _ } = *self.0;
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

    /// As a response of Dapr's HTTP API.
    pub(super) fn response(self) -> Response {
        let Told { code, text, reason, http, .. } = *self.0;
        Response::error(http.unwrap_or_else(|| http_status(code)), reason.unwrap_or("ERR_INTERNAL"), &text)
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
