//! The Lock API: its rules once for both dialects.

mod failure;
mod http;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;

use super::dialect::{DAPR, Dialect, LAYOTTO};
use super::failure::Failure;
use super::prefix::Prefix;
use super::room::{Api, Handler, Method, Missing, Opening, Room, Stores, is_served, no_component, opens, unary};
use super::{Call, call};
use crate::component::lock::{Outcome, Store};
use crate::component::{Block, Build};
use failure::LockFailure;

/// The Lock API.
pub(super) const ROOM: Room = Room {
    open: opens::<LockApi>(),
    methods: &[
        Method { names: &[(DAPR, "TryLockAlpha1"), (LAYOTTO, "TryLock")], handler: TRY_LOCK },
        Method { names: &[(DAPR, "UnlockAlpha1"), (LAYOTTO, "Unlock")], handler: unary!(LockApi, unlock) },
        Method { names: &[(LAYOTTO, "LockKeepAlive")], handler: unary!(LockApi, keep_alive) },
    ],
    paths: http::PATHS,
};

/// Dapr refuses a time that is not positive before it looks for a store.
const TRY_LOCK: Handler = if is_served::<LockApi>() {
    unary!(LockApi, try_lock)
} else {
    Handler::Unary(|api, call, message| {
        Box::pin(async move {
            if call.dialect == Dialect::Dapr {
                check_expiry(call, &call::decode(message.clone())?)?;
            }
            no_component::<LockApi>(api, call, message).await
        })
    })
};

/// All lock stores of the app.
#[derive(Debug)]
pub(super) struct LockApi {
    stores: Stores<Named>,
}

#[derive(Debug)]
struct Named {
    prefix: Prefix,
    store: Rc<dyn Store>,
}

/// The reply to a try: that of both incumbents, and a field of ours that their SDKs pass over.
#[derive(Clone, PartialEq, Message)]
struct TryLockResponse {
    #[prost(bool, tag = "1")]
    success: bool,
    /// Zero where the store has none.
    #[prost(int64, tag = "1001")]
    fencing_token: i64,
}

impl Api for LockApi {
    const BLOCK: Option<Block> = Some(Block::Lock);

    fn open(opening: &Opening<'_>) -> Self {
        let stores = opening.stores(Block::Lock, |build, environment| {
            let Build::Lock(build) = build else { return None };
            let prefix = Prefix::new(opening.config, &environment.component);
            Some(Named { prefix, store: build(&environment) })
        });
        Self { stores }
    }

    fn none(dialect: Dialect, _store: &str) -> Failure {
        LockFailure::NotConfigured.told(dialect)
    }
}

impl LockApi {
    /// The store, and the name of the lock in it. What is refused first is so with the incumbents too; a time is there
    /// where the call needs one.
    fn store(
        &self,
        call: &Call,
        (store, resource, owner): (&str, &str, &str),
        expiry: Option<i32>,
    ) -> Result<(&Named, String), Failure> {
        let refuse = |failure: LockFailure<'_>| Err(failure.told(call.dialect));
        let late = expiry.is_some_and(|seconds| seconds <= 0);
        if self.stores.is_empty() {
            return refuse(LockFailure::NotConfigured);
        }
        if resource.is_empty() {
            return refuse(LockFailure::ResourceEmpty(store));
        }
        if owner.is_empty() {
            return refuse(LockFailure::OwnerEmpty(store));
        }
        if late {
            return refuse(LockFailure::ExpiryNotPositive(store));
        }
        let named = match self.stores.find(call, store) {
            Ok(named) => named,
            Err(Missing::All | Missing::Name) => return refuse(LockFailure::NotFound(store)),
        };
        match named.prefix.name(call.dialect.pick("lock||", "lock|||"), resource) {
            Some(key) => Ok((named, key)),
            None => refuse(LockFailure::IllegalKey(store, resource, expiry.is_none())),
        }
    }

    /// `TryLockAlpha1` and `TryLock`: a lock that is held is no error.
    async fn try_lock(&self, call: &Call, request: dapr::TryLockRequest) -> Result<TryLockResponse, Failure> {
        if call.dialect == Dialect::Dapr {
            check_expiry(call, &request)?;
        }
        let dapr::TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), Some(*expiry_in_seconds))?;
        let held = named.store.try_lock(&key, lock_owner, seconds(*expiry_in_seconds)).await;
        let held = held.map_err(|cause| LockFailure::TryLock(store_name, cause).told(call.dialect))?;
        Ok(TryLockResponse {
            success: held.is_some(),
            fencing_token: held.and_then(|held| held.fencing_token).unwrap_or_default(),
        })
    }

    /// `UnlockAlpha1` and `Unlock`: the status says whether the lock was the owner's.
    async fn unlock(&self, call: &Call, request: dapr::UnlockRequest) -> Result<dapr::UnlockResponse, Failure> {
        let dapr::UnlockRequest { store_name, resource_id, lock_owner } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), None)?;
        let outcome = named.store.unlock(&key, lock_owner).await;
        let outcome = outcome.map_err(|cause| LockFailure::Unlock(store_name, cause).told(call.dialect))?;
        Ok(dapr::UnlockResponse { status: number(outcome) })
    }

    /// `LockKeepAlive`, which Layotto declares and does not serve: the owner gets the lock for so long from now on. The
    /// statuses are those of a release.
    async fn keep_alive(
        &self,
        call: &Call,
        request: layotto::LockKeepAliveRequest,
    ) -> Result<layotto::LockKeepAliveResponse, Failure> {
        let layotto::LockKeepAliveRequest { store_name, resource_id, lock_owner, expire } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), Some(*expire))?;
        let outcome = named.store.keep_alive(&key, lock_owner, seconds(*expire)).await;
        let outcome = outcome.map_err(|cause| LockFailure::KeepAlive(store_name, cause).told(call.dialect))?;
        Ok(layotto::LockKeepAliveResponse { status: number(outcome) })
    }
}

/// Refuses a try for no time at all.
fn check_expiry(call: &Call, request: &dapr::TryLockRequest) -> Result<(), Failure> {
    if request.expiry_in_seconds > 0 {
        return Ok(());
    }
    Err(LockFailure::ExpiryNotPositive(&request.store_name).told(call.dialect))
}

fn seconds(expiry: i32) -> Duration {
    Duration::from_secs(u64::try_from(expiry).unwrap_or_default())
}

/// The number of the status, which is the same in both dialects.
fn number(outcome: Outcome) -> i32 {
    use dapr::unlock_response::Status as S;
    match outcome {
        Outcome::Done => S::Success,
        Outcome::Missing => S::LockDoesNotExist,
        Outcome::Others => S::LockBelongsToOthers,
    }
    .into()
}
