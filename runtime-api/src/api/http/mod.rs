//! Dapr's HTTP API: which row of the rooms a request is for, and what is the same for all of them.

mod asked;
mod cors;
mod json;
mod path;

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use tonic::Code;

use super::call::{Body, Content};
use super::failure::Failure;
use super::room::Path;
use super::{Call, Runtime};
use crate::config::{Protocol, Secret};
pub(super) use asked::{Asked, malformed};
pub(super) use json::{Member, Object, list};
use path::Found;

/// A request of the app.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub target: String,
    /// Those of [`HEADERS`] that it has.
    pub headers: Vec<(&'static str, String)>,
    /// `dapr-api-token`.
    pub token: Option<Secret>,
    /// From `content-type`.
    pub content: Content,
    /// The body.
    pub body: Bytes,
}

/// The headers of a request that matter to HTTP alone.
pub const HEADERS: &[&str] = &[IF_MATCH, cors::ORIGIN, cors::REQUEST_METHOD, cors::REQUEST_HEADERS];

/// The version that an item must still have.
pub(super) const IF_MATCH: &str = "if-match";

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The path without its query.
    fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }
}

/// What the app gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// Its headers, with the content type if there is a body.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// One without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// One with a text of JSON.
    pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { body: text.into(), ..Self::empty(status) }.with("content-type", "application/json")
    }

    /// One with a text for people.
    pub(crate) fn text(status: StatusCode, text: &str) -> Self {
        Self { body: format!("{text}\n").into(), ..Self::empty(status) }
            .with("content-type", "text/plain; charset=utf-8")
            .with("x-content-type-options", "nosniff")
    }

    /// Adds a header. Where the value is what no header may have, which a store may give, there is none.
    pub(super) fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        let value = value.into();
        if value.bytes().all(|byte| byte >= b' ' && byte != 0x7f) {
            self.headers.push((name.into(), value));
        }
        self
    }
}

/// An error as Dapr words it.
#[derive(Debug, Serialize)]
pub(super) struct ErrorBody<'a> {
    #[serde(rename = "errorCode")]
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) details: Vec<serde_json::Value>,
}

impl ErrorBody<'_> {
    pub(super) fn response(&self, status: StatusCode) -> Response {
        Response::json(status, serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The text of a value as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Runtime {
    /// Answers a request on the HTTP listener with this body.
    pub async fn http_with(&self, mut request: Request, body: Body) -> Response {
        match body.freeze() {
            Ok(body) => request.body = body,
            Err(exhausted) => {
                let failure = Failure::new(Code::ResourceExhausted, exhausted.to_string()).tag("ERR_MEMORY_FULL");
                let response = failure.http(StatusCode::SERVICE_UNAVAILABLE).response();
                return cors::dressed(&self.config.api, &request, response);
            }
        }
        self.http(&request).await
    }

    /// Answers a request on the HTTP listener. Dropping the future cancels it.
    pub async fn http(&self, request: &Request) -> Response {
        // A browser asks without the token, and before it asks for anything.
        if let Some(allowed) = cors::preflight(&self.config.api, request) {
            return allowed;
        }
        cors::dressed(&self.config.api, request, self.answer_http(request).await)
    }

    async fn answer_http(&self, request: &Request) -> Response {
        let started = self.proxy.now();
        let call = Call::new(super::dialect::Dialect::Dapr);
        let path = path::segments(request.path());
        let found = path::find(&request.method, &path);
        if let Some(failure) = self.refusal(request, &path, found.row()) {
            self.account(&call, found.row().map_or(UNKNOWN, |row| row.name), Some(started), Some(&failure));
            return failure.response();
        }
        let Found::Row { row, room, parts } = found else {
            let (failure, allow) = unserved(&found, &path, request);
            self.account(&call, UNKNOWN, Some(started), Some(&failure));
            let response = failure.response();
            return if allow.is_empty() { response } else { response.with("allow", allow) };
        };
        let answered = async {
            let Some(api) = self.rooms.get(room) else {
                return Err(Failure::new(Code::Internal, "a path stands in no room"));
            };
            let asked = Asked::new(request, &parts, self.intake.items)?;
            let handled = (row.handler)(&**api, &call, asked);
            let response = self.within(self.config.limits.timeout, &call, handled).await?;
            self.bounded_http(response)
        };
        let (answer, trace) = self.traced(answered).await;
        self.account(&call, row.name, Some(started), answer.as_ref().err());
        if let Some(trace) = trace {
            let sizes = (request.body.len(), answer.as_ref().map_or(0, |response| response.body.len()));
            self.explain(&call, row.name, started, sizes, &trace, answer.as_ref().err());
        }
        answer.unwrap_or_else(Failure::response)
    }

    /// A response as far as Envoy passes it on. It counts as held until Envoy has taken it.
    fn bounded_http(&self, mut response: Response) -> Result<Response, Failure> {
        let limit = self.config.limits.max_reply_bytes();
        if response.body.len() > limit {
            return Err(super::call::reply_too_large(response.body.len(), limit).into());
        }
        response.body = self.intake.budget.hold(response.body).map_err(tonic::Status::from)?;
        Ok(response)
    }

    /// Why a request is not handed on, whatever it is for.
    fn refusal(&self, request: &Request, path: &[&str], row: Option<&Path>) -> Option<Failure> {
        if row.is_some_and(|row| row.is_open) {
            // Also where its body is too large: it has none that matters.
            return None;
        }
        if !self.admits(request.token.as_ref()) {
            return Some(Failure::new(Code::Unauthenticated, "invalid api token").plain());
        }
        let part = |number: usize| path.get(number).copied().unwrap_or_default();
        if !self.config.api.allows(Protocol::Http, part(1), part(0)) {
            // As Dapr has it: what may not be called is not there.
            return Some(Failure::new(Code::Unimplemented, "404 page not found").http(StatusCode::NOT_FOUND).plain());
        }
        if let Content::Unsupported(kind) = &request.content {
            let text = format!("content type {kind:?} is not served: call with application/grpc, over HTTP/2");
            let failure = Failure::new(Code::InvalidArgument, text);
            return Some(failure.http(StatusCode::UNSUPPORTED_MEDIA_TYPE).plain());
        }
        let limit = self.config.limits.max_request_bytes;
        (request.body.len() > limit).then(|| {
            let text = format!("the body is larger than {limit} bytes, the limit set by limits.maxRequestBytes");
            let failure = Failure::new(Code::ResourceExhausted, text);
            failure.tag("ERR_BODY_TOO_LARGE").http(StatusCode::PAYLOAD_TOO_LARGE)
        })
    }
}

/// What metrics call a request that is for no row.
const UNKNOWN: &str = "unknown";

/// What is said of such a request: what there is instead, and the methods that its path takes.
fn unserved(found: &Found<'_>, path: &[&str], request: &Request) -> (Failure, String) {
    let methods = found.methods().join(", ");
    let asked = format!("{} {}", request.method, crate::text::name(request.path()));
    let text = if methods.is_empty() {
        format!("{asked} is not served; {}", path::served_instead(path))
    } else {
        format!("{asked} is not served: this path takes {methods}")
    };
    // The code is Dapr's, which takes all it does not know for a call to another app.
    let failure = Failure::new(Code::Unimplemented, text).tag("ERR_DIRECT_INVOKE").http(StatusCode::NOT_FOUND);
    (failure, methods)
}
