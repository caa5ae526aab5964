//! The HTTP API: which row of the rooms a request is for, and what is the same for all of them. The other parts of Dapr's HTTP
//! API are not served yet and say so.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use tonic::Code;

use super::call::{Body, Content};
use super::failure::Failure;
use super::room::Path;
use super::{Call, ROOMS, Runtime};
use crate::config::Secret;

/// A request of the app.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub target: String,
    /// `dapr-api-token`.
    pub token: Option<Secret>,
    /// From `content-type`.
    pub content: Content,
    /// The body.
    pub body: Bytes,
}

/// What the app gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The content type, if there is a body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: String,
}

/// What all paths of the API begin with.
const VERSION: &str = "/v1.0/";

impl Request {
    /// The path without its query.
    fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// A parameter of the query.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        percent_decode(value)
    }
}

impl Response {
    /// One without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content_type: None, body: String::new() }
    }

    pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self { status, content_type: Some("application/json"), body: value.to_string() }
    }

    /// One with a text for people.
    pub(crate) fn text(status: StatusCode, text: String) -> Self {
        Self { status, content_type: Some("text/plain"), body: text }
    }

    /// An error as Dapr words it.
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self::json(status, &json!({"errorCode": code, "message": message}))
    }
}

/// A row, the number of its room, and the texts that stand for the parts in braces.
type Found = (&'static Path, usize, Vec<String>);

/// The row that a request is for.
fn find(request: &Request) -> Option<Found> {
    let path = request.path().strip_prefix(VERSION)?;
    ROOMS.iter().enumerate().find_map(|(room, rows)| {
        let rows = rows.paths.iter().filter(|row| row.method == request.method.as_str());
        rows.into_iter().find_map(|row| Some((row, room, parts(row.form, path)?)))
    })
}

/// The texts of a path that stand for the parts in braces of a row's; `None` if it is not of that form.
fn parts(form: &str, path: &str) -> Option<Vec<String>> {
    let (mut form, mut path) = (form.split('/'), path);
    let mut parts = Vec::new();
    while let Some(part) = form.next() {
        let is_last = form.clone().next().is_none();
        let (head, rest) = match path.split_once('/') {
            Some((head, rest)) if !(is_last && part.starts_with('{')) => (head, Some(rest)),
            _ => (path, None),
        };
        if part.starts_with('{') {
            parts.push(percent_decode(head)?);
        } else if part != head {
            return None;
        }
        path = match rest {
            Some(rest) if !is_last => rest,
            None if is_last => return Some(parts),
            _ => return None,
        };
    }
    None
}

impl Runtime {
    /// Answers a request on the HTTP listener with this body.
    pub async fn http_with(&self, mut request: Request, body: Body) -> Response {
        match body.freeze() {
            Ok(body) => request.body = body,
            Err(exhausted) => {
                let text = exhausted.to_string();
                return Response::error(StatusCode::SERVICE_UNAVAILABLE, "ERR_MEMORY_FULL", &text);
            }
        }
        self.http(&request).await
    }

    /// Answers a request on the HTTP listener. Dropping the future cancels it.
    pub async fn http(&self, request: &Request) -> Response {
        let started = self.proxy.now();
        let found = find(request);
        let call = Call::new(super::dialect::Dialect::Dapr);
        if let Some((failure, response)) = self.refusal(request, found.as_ref().map(|(row, ..)| *row)) {
            let name = found.map_or("unknown", |(row, ..)| row.name);
            self.account(&call, name, Some(started), Some(&failure));
            return response;
        }
        let Some((row, room, parts)) = found else { return self.unserved(request, &call, started) };
        let answered = async {
            let Some(api) = self.rooms.get(room) else {
                return Err(Failure::new(Code::Internal, "a path stands in no room"));
            };
            let handled = (row.handler)(&**api, &call, request, parts);
            self.within(self.config.limits.timeout, &call, handled).await
        };
        let (answer, trace) = self.traced(answered).await;
        self.account(&call, row.name, Some(started), answer.as_ref().err());
        if let Some(trace) = trace {
            let sizes = (request.body.len(), answer.as_ref().map_or(0, |response| response.body.len()));
            self.explain(&call, row.name, started, sizes, &trace, answer.as_ref().err());
        }
        answer.unwrap_or_else(Failure::response)
    }

    /// Why a request is not handed on, whatever it is for, and what is said of it.
    fn refusal(&self, request: &Request, row: Option<&Path>) -> Option<(Failure, Response)> {
        if !row.is_some_and(|row| row.is_open) && !self.admits(request.token.as_ref()) {
            let text = "invalid api token".to_owned();
            let failure = Failure::new(Code::Unauthenticated, &*text);
            return Some((failure, Response::text(StatusCode::UNAUTHORIZED, text)));
        }
        if let Content::Unsupported(kind) = &request.content {
            let text = format!("content type {kind:?} is not served: call with application/grpc, over HTTP/2");
            let failure = Failure::new(Code::InvalidArgument, &*text);
            return Some((failure, Response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)));
        }
        let limit = self.config.limits.max_request_bytes;
        (request.body.len() > limit).then(|| {
            let text = format!("the body is larger than {limit} bytes, the limit set by limits.maxRequestBytes");
            let failure = Failure::new(Code::ResourceExhausted, &*text);
            (failure, Response::error(StatusCode::PAYLOAD_TOO_LARGE, "ERR_BODY_TOO_LARGE", &text))
        })
    }

    /// What is said of a request that is for no row.
    fn unserved(&self, request: &Request, call: &Call, started: Duration) -> Response {
        let text = format!("{} {} is not served over HTTP; call it by gRPC", request.method, request.path());
        let failure =
            Failure::new(Code::Unimplemented, text).reason("ERR_METHOD_NOT_FOUND").http(StatusCode::NOT_FOUND);
        self.account(call, "unknown", Some(started), Some(&failure));
        failure.response()
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_paths() {
        let parts = |form, path| parts(form, path).map(|parts| parts.join(" "));
        assert_eq!(parts("healthz", "healthz"), Some(String::new()));
        assert_eq!(parts("healthz", "healthz/outbound"), None);
        assert_eq!(parts("healthz/outbound", "healthz"), None);
        assert_eq!(parts("state/{store}/{key}", "state/s/k"), Some("s k".to_owned()));
        assert_eq!(parts("state/{store}/{key}", "state/s/a%2Fb/c"), Some("s a/b/c".to_owned()));
        assert_eq!(parts("state/{store}", "state/s/k"), Some("s/k".to_owned()));
        assert_eq!(parts("state/{store}/bulk", "state/s/bulk"), Some("s".to_owned()));
        assert_eq!(parts("state/{store}/bulk", "state/s/other"), None);
        assert_eq!(parts("metadata/{key}", "metadata/%FF"), None, "no UTF-8");
    }
}
