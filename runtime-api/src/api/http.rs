//! The HTTP listener: what SDKs ask for before their first call. The other parts of Dapr's HTTP API are not served
//! yet and say so.

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1::SetMetadataRequest;
use http::{Method, StatusCode};
use serde_json::json;

use super::Runtime;
use super::call::{Body, Content};
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

/// What the path begins with that sets an attribute; its key is the rest.
const METADATA_KEY: &str = "/v1.0/metadata/";

impl Response {
    /// One without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content_type: None, body: String::new() }
    }

    fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self { status, content_type: Some("application/json"), body: value.to_string() }
    }

    /// An error as Dapr words it.
    fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self::json(status, &json!({"errorCode": code, "message": message}))
    }
}

impl Runtime {
    /// Answers a request on the HTTP listener with this body.
    pub fn http_with(&self, request: &mut Request, body: Body) -> Response {
        match body.freeze() {
            Ok(body) => {
                request.body = body;
                self.http(request)
            }
            Err(exhausted) => {
                Response::error(StatusCode::SERVICE_UNAVAILABLE, "ERR_MEMORY_FULL", &exhausted.to_string())
            }
        }
    }

    /// Answers a request on the HTTP listener.
    pub fn http(&self, request: &Request) -> Response {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let health = matches!(path, "/v1.0/healthz" | "/v1.0/healthz/outbound");
        if !health && !self.admits(request.token.as_ref()) {
            return Response {
                status: StatusCode::UNAUTHORIZED,
                content_type: Some("text/plain"),
                body: "invalid api token".to_owned(),
            };
        }
        if let Content::Unsupported(kind) = &request.content {
            return Response {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                content_type: Some("text/plain"),
                body: format!("content type {kind:?} is not served: call with application/grpc, over HTTP/2"),
            };
        }
        if request.body.len() > self.config.limits.max_request_bytes {
            return self.too_large();
        }
        match (&request.method, path) {
            (&Method::GET, "/v1.0/healthz/outbound") => Response::empty(StatusCode::NO_CONTENT),
            (&Method::GET, "/v1.0/healthz") => match app_id(query) {
                Some(other) if other != self.config.app_id => Response::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "ERR_HEALTH_APPID_NOT_MATCH",
                    "dapr app-id does not match",
                ),
                _ => Response::empty(StatusCode::NO_CONTENT),
            },
            (&Method::GET, "/v1.0/metadata") => Response::json(StatusCode::OK, &self.metadata.json()),
            (method, path) => match path.strip_prefix(METADATA_KEY) {
                Some(key) if method == Method::PUT => self.set_metadata(key, &request.body),
                _ => Response::error(
                    StatusCode::NOT_FOUND,
                    "ERR_METHOD_NOT_FOUND",
                    &format!("{method} {path} is not served over HTTP; call it by gRPC"),
                ),
            },
        }
    }

    fn too_large(&self) -> Response {
        let limit = self.config.limits.max_request_bytes;
        let text = format!("the body is larger than {limit} bytes, the limit set by limits.maxRequestBytes");
        Response::error(StatusCode::PAYLOAD_TOO_LARGE, "ERR_BODY_TOO_LARGE", &text)
    }

    fn set_metadata(&self, key: &str, body: &Bytes) -> Response {
        let (Some(key), Ok(value)) = (percent_decode(key), std::str::from_utf8(body)) else {
            return Response::error(StatusCode::BAD_REQUEST, "ERR_METADATA_SET", "key and value are to be UTF-8");
        };
        match self.metadata.set(SetMetadataRequest { key, value: value.to_owned() }) {
            Ok(()) => Response::empty(StatusCode::NO_CONTENT),
            Err(status) => Response::error(StatusCode::BAD_REQUEST, "ERR_METADATA_SET", status.message()),
        }
    }
}

fn app_id(query: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix("appid=")).and_then(percent_decode)
}

fn percent_decode(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}
