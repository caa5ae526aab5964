//! Failures of the Lock API.

use tonic::{Code, Status};

use super::{fill, with_details};
use crate::api::dialect::Dialect;
use crate::component::{Block, lock};

/// Why a call of the Lock API failed.
#[derive(Debug)]
pub(in crate::api) enum LockFailure<'a> {
    /// There is no lock store at all.
    NotConfigured(&'a str),
    /// There is none of that name.
    NotFound(&'a str),
    /// The call names no resource.
    ResourceEmpty(&'a str),
    /// The call names no owner.
    OwnerEmpty(&'a str),
    /// The lock would end before it began.
    ExpiryNotPositive(&'a str),
    /// The resource, which is the second, holds the separator `||`.
    IllegalKey(&'a str, &'a str),
    /// The lock could not be asked for: store, cause.
    TryLock(&'a str, lock::Error),
    /// The lock could not be released: store, cause.
    Unlock(&'a str, lock::Error),
    /// The lock could not be lengthened: store, cause.
    KeepAlive(&'a str, lock::Error),
}

impl LockFailure<'_> {
    /// The status for an app that called by this dialect.
    pub(in crate::api) fn status(self, dialect: &Dialect) -> Status {
        use LockFailure as F;
        let refused = Code::InvalidArgument;
        let (code, reason, store, text) = match self {
            F::NotConfigured(store) => {
                (Code::FailedPrecondition, "DAPR_LOCK_NOT_CONFIGURED", store, "lock store is not configured".to_owned())
            }
            F::NotFound(store) => (refused, "DAPR_LOCK_NOT_FOUND", store, format!("lock store {store} not found")),
            F::ResourceEmpty(store) => {
                (refused, "DAPR_LOCK_RESOURCE_ID_EMPTY", store, format!("ResourceId is empty in lock store {store}"))
            }
            F::OwnerEmpty(store) => {
                (refused, "DAPR_LOCK_OWNER_EMPTY", store, format!("LockOwner is empty in lock store {store}"))
            }
            F::ExpiryNotPositive(store) => (
                refused,
                "DAPR_LOCK_EXPIRY_NOT_POSITIVE",
                store,
                format!("{} is not positive in lock store {store}", dialect.lock.expiry),
            ),
            F::IllegalKey(store, key) => (
                dialect.illegal_key,
                "DAPR_LOCK_ILLEGAL_KEY",
                store,
                format!("input key/keyPrefix '{key}' can't contain '||'"),
            ),
            F::TryLock(store, cause) => {
                let words = fill(dialect.lock.try_failed, &[("store", store)]);
                (code(dialect, &cause), "DAPR_LOCK_TRY_LOCK_FAILED", store, format!("{words}{cause}"))
            }
            F::Unlock(store, cause) => {
                let words = fill(dialect.lock.unlock_failed, &[("store", store)]);
                (code(dialect, &cause), "DAPR_LOCK_UNLOCK_FAILED", store, format!("{words}{cause}"))
            }
            F::KeepAlive(store, cause) => {
                let text = format!("lock store {store}: {cause}");
                (code(dialect, &cause), "DAPR_LOCK_KEEP_ALIVE_FAILED", store, text)
            }
        };
        with_details(dialect, code, text, reason, (Block::Lock, store))
    }
}

/// An outage is told as such, so that clients try again.
fn code(dialect: &Dialect, cause: &lock::Error) -> Code {
    match cause {
        lock::Error::Unavailable(_) => Code::Unavailable,
        lock::Error::Failed(_) => dialect.lock.failed,
    }
}
