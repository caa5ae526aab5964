//! The Lock API over HTTP.

use ::http::StatusCode;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;

use super::LockApi;
use crate::api::Call;
use crate::api::failure::Failure;
use crate::api::http::{Asked, Response, quoted};
use crate::api::room::{ALPHA1, About, Path, request};

/// The requests. The last one is ours: Dapr has no such call.
pub(super) const PATHS: &[Path] = &[
    Path {
        methods: &["POST"],
        versions: &[ALPHA1],
        form: "lock/{store}",
        name: "TryLockAlpha1",
        is_open: false,
        handler: request!(LockApi, try_lock_http),
        about: About {
            body: Some(TIMED),
            answers: &[(
                200,
                "Whether the owner has the lock now",
                Some(
                    r#"{"type":"object","required":["success"],"properties":{"success":{"type":"boolean"},"fencingToken":{"type":"string","description":"A number that rises with each owner, where the store has one"}}}"#,
                ),
            )],
            ..About::new("Try to lock a resource")
        },
    },
    Path {
        methods: &["POST"],
        versions: &[ALPHA1],
        form: "unlock/{store}",
        name: "UnlockAlpha1",
        is_open: false,
        handler: request!(LockApi, unlock_http),
        about: About {
            body: Some(
                r#"{"type":"object","required":["resourceId","lockOwner"],"properties":{"resourceId":{"type":"string","minLength":1},"lockOwner":{"type":"string","minLength":1}}}"#,
            ),
            answers: STATUS,
            ..About::new("Unlock a resource")
        },
    },
    Path {
        methods: &["POST"],
        versions: &[ALPHA1],
        form: "lock/{store}/keepalive",
        name: "LockKeepAlive",
        is_open: false,
        handler: request!(LockApi, keep_alive_http),
        about: About {
            body: Some(TIMED),
            answers: STATUS,
            ..About::new("Give the owner of a lock more time (not in Dapr)")
        },
    },
];

const TIMED: &str = r#"{"type":"object","required":["resourceId","lockOwner","expiryInSeconds"],"properties":{"resourceId":{"type":"string","minLength":1},"lockOwner":{"type":"string","minLength":1},"expiryInSeconds":{"type":"integer","format":"int32","minimum":1}}}"#;

const STATUS: &[(u16, &str, Option<&str>)] = &[(
    200,
    "0: it is done; 1: there is no such lock; 2: another owner has it; 3: the store failed",
    Some(r#"{"type":"object","required":["status"],"properties":{"status":{"enum":[0,1,2,3]}}}"#),
)];

impl LockApi {
    pub(super) async fn try_lock_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object_or_nothing()?;
        let request = dapr::TryLockRequest {
            store_name: asked.part(0).to_owned(),
            resource_id: body.text("resourceId")?.unwrap_or_default(),
            lock_owner: body.text("lockOwner")?.unwrap_or_default(),
            expiry_in_seconds: body.number("expiryInSeconds")?.unwrap_or_default(),
        };
        let tried = self.try_lock(call, request).await?;
        let token = match tried.fencing_token {
            0 => String::new(),
            token => format!(",\"fencingToken\":{}", quoted(&token.to_string())),
        };
        Ok(Response::json(StatusCode::OK, format!("{{\"success\":{}{token}}}", tried.success)))
    }

    pub(super) async fn unlock_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object_or_nothing()?;
        let request = dapr::UnlockRequest {
            store_name: asked.part(0).to_owned(),
            resource_id: body.text("resourceId")?.unwrap_or_default(),
            lock_owner: body.text("lockOwner")?.unwrap_or_default(),
        };
        Ok(status(self.unlock(call, request).await?.status))
    }

    pub(super) async fn keep_alive_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object_or_nothing()?;
        let request = layotto::LockKeepAliveRequest {
            store_name: asked.part(0).to_owned(),
            resource_id: body.text("resourceId")?.unwrap_or_default(),
            lock_owner: body.text("lockOwner")?.unwrap_or_default(),
            expire: body.number("expiryInSeconds")?.unwrap_or_default(),
        };
        Ok(status(self.keep_alive(call, request).await?.status))
    }
}

fn status(number: i32) -> Response {
    Response::json(StatusCode::OK, format!("{{\"status\":{number}}}"))
}
