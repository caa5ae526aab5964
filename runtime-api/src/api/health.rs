//! Whether the runtime serves: gRPC's health service, and what Dapr's SDKs ask over HTTP before their first call.

use std::rc::Rc;

use ::http::StatusCode;
use envoy_runtime_proto::grpc::health::v1 as proto;
use proto::health_check_response::ServingStatus;
use tonic::Code;

use super::failure::Failure;
use super::http::{Asked, Response};
use super::room::{About, Api, Method, Opening, Path, Room, V1, opens, request, services, stream, unary};
use super::{Call, Conversation};
use crate::config::Config;

const SERVICE: &str = "grpc.health.v1.Health";

/// Health.
pub(super) const ROOM: Room = Room {
    open: opens::<HealthApi>(),
    methods: &[
        Method { names: &[(SERVICE, "Check")], handler: unary!(HealthApi, check) },
        Method { names: &[(SERVICE, "Watch")], handler: stream!(HealthApi, watch, once: true) },
    ],
    paths: &[
        Path {
            methods: &["GET"],
            versions: &[V1],
            form: "healthz",
            name: "Check",
            is_open: true,
            handler: request!(HealthApi, healthz),
            about: About {
                query: &[("appid", r#"{"type":"string"}"#, "Whose runtime it has to be")],
                answers: HEALTHY,
                errors: &[500],
                ..About::new("Whether the runtime serves")
            },
        },
        Path {
            methods: &["GET"],
            versions: &[V1],
            form: "healthz/outbound",
            name: "Check",
            is_open: true,
            handler: request!(HealthApi, outbound),
            about: About { answers: HEALTHY, ..About::new("Whether the app can call the runtime") },
        },
    ],
};

const HEALTHY: &[(u16, &str, Option<&str>)] = &[(204, "It does", None)];

/// Health of the runtime.
#[derive(Debug)]
pub(super) struct HealthApi {
    config: Rc<Config>,
}

impl Api for HealthApi {
    fn open(opening: &Opening<'_>) -> Self {
        Self { config: Rc::clone(opening.config) }
    }
}

impl HealthApi {
    /// `grpc.health.v1.Health/Check`: serving, for the server and for each service that is served.
    async fn check(
        &self,
        _call: &Call,
        request: proto::HealthCheckRequest,
    ) -> Result<proto::HealthCheckResponse, Failure> {
        let name = request.service.as_str();
        if name.is_empty() || services().any(|served| served == name) {
            return Ok(proto::HealthCheckResponse { status: ServingStatus::Serving.into() });
        }
        Err(Failure::new(Code::NotFound, format!("unknown service {name:?}")))
    }

    /// `grpc.health.v1.Health/Watch`: the status of a service, and then each change of it. A service that is served is so
    /// for as long as the filter runs; of one that is not known it is said, and the stream stays open.
    async fn watch(&self, call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        let request: Option<proto::HealthCheckRequest> = conversation.request().await?;
        let request = request.ok_or_else(|| Failure::new(Code::Internal, "the call ended without a message"))?;
        let unknown = proto::HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let response = self.check(call, request).await.unwrap_or(unknown);
        conversation.reply(&response)?;
        std::future::pending().await
    }

    /// `GET /v1.0/healthz`, which may ask by the way whose runtime this is.
    async fn healthz(&self, _call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        match asked.query("appid") {
            Some(other) if other != self.config.app_id => {
                Err(Failure::new(Code::Internal, "dapr app-id does not match").tag("ERR_HEALTH_APPID_NOT_MATCH"))
            }
            _ => Ok(Response::empty(StatusCode::NO_CONTENT)),
        }
    }

    /// `GET /v1.0/healthz/outbound`.
    async fn outbound(&self, _call: &Call, _asked: Asked<'_>) -> Result<Response, Failure> {
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }
}
