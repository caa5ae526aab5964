//! The Lock API: its rules once for both dialects.

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use tonic::Status;

use super::Call;
use super::prefix::Prefix;
use super::status::LockFailure;
use crate::component::Block;
use crate::component::lock::{Outcome, Store};
use crate::config::{self, Config};

/// All lock stores of the app.
#[derive(Debug)]
pub(super) struct LockApi {
    stores: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    prefix: Prefix,
    store: Rc<dyn Store>,
}

/// The reply to a try: that of both incumbents, and a field of ours that their SDKs pass over.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TryLockResponse {
    #[prost(bool, tag = "1")]
    success: bool,
    /// Zero where the store has none.
    #[prost(int64, tag = "1001")]
    fencing_token: i64,
}

impl LockApi {
    /// The stores among these components.
    pub(super) fn new(config: &Config, stores: Vec<(&config::Component, Rc<dyn Store>)>) -> Self {
        let named = |(component, store): (&config::Component, _)| Named {
            name: component.name.clone(),
            prefix: Prefix::new(config, component),
            store,
        };
        Self { stores: stores.into_iter().map(named).collect() }
    }

    /// The store, and the name of the lock in it. What is refused first is so with the incumbents too; a time is there
    /// where the call needs one.
    fn store(
        &self,
        call: &Call,
        (store, resource, owner): (&str, &str, &str),
        expiry: Option<i32>,
    ) -> Result<(&Named, String), Status> {
        let refuse = |failure: LockFailure<'_>| Err(failure.status(call.dialect));
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
        let Some(named) = self.stores.iter().find(|named| named.name == store) else {
            return refuse(LockFailure::NotFound(store));
        };
        call.concerns(Block::Lock, store);
        match named.prefix.name(call.dialect.lock.prefix, resource) {
            Some(key) => Ok((named, key)),
            None => refuse(LockFailure::IllegalKey(store, resource, expiry.is_none())),
        }
    }

    /// `TryLockAlpha1` and `TryLock`: a lock that is held is no error.
    pub(super) async fn try_lock(&self, call: &Call, request: dapr::TryLockRequest) -> Result<TryLockResponse, Status> {
        if call.dialect.lock.expiry_first {
            check_expiry(call, &request)?;
        }
        let dapr::TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), Some(*expiry_in_seconds))?;
        let held = named.store.try_lock(&key, lock_owner, seconds(*expiry_in_seconds)).await;
        let held = held.map_err(|cause| LockFailure::TryLock(store_name, cause).status(call.dialect))?;
        Ok(TryLockResponse {
            success: held.is_some(),
            fencing_token: held.and_then(|held| held.fencing_token).unwrap_or_default(),
        })
    }

    /// `UnlockAlpha1` and `Unlock`: the status says whether the lock was the owner's.
    pub(super) async fn unlock(
        &self,
        call: &Call,
        request: dapr::UnlockRequest,
    ) -> Result<dapr::UnlockResponse, Status> {
        let dapr::UnlockRequest { store_name, resource_id, lock_owner } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), None)?;
        let outcome = named.store.unlock(&key, lock_owner).await;
        let outcome = outcome.map_err(|cause| LockFailure::Unlock(store_name, cause).status(call.dialect))?;
        Ok(dapr::UnlockResponse { status: number(outcome) })
    }

    /// `LockKeepAlive`, which Layotto declares and does not serve: the owner gets the lock for so long from now on. The
    /// statuses are those of a release.
    pub(super) async fn keep_alive(
        &self,
        call: &Call,
        request: layotto::LockKeepAliveRequest,
    ) -> Result<layotto::LockKeepAliveResponse, Status> {
        let layotto::LockKeepAliveRequest { store_name, resource_id, lock_owner, expire } = &request;
        let (named, key) = self.store(call, (store_name, resource_id, lock_owner), Some(*expire))?;
        let outcome = named.store.keep_alive(&key, lock_owner, seconds(*expire)).await;
        let outcome = outcome.map_err(|cause| LockFailure::KeepAlive(store_name, cause).status(call.dialect))?;
        Ok(layotto::LockKeepAliveResponse { status: number(outcome) })
    }
}

/// Refuses a try for no time at all.
pub(super) fn check_expiry(call: &Call, request: &dapr::TryLockRequest) -> Result<(), Status> {
    if request.expiry_in_seconds > 0 {
        return Ok(());
    }
    Err(LockFailure::ExpiryNotPositive(&request.store_name).status(call.dialect))
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
