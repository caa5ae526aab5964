//! Failures of the Lock API. Dapr's have no details.

use tonic::{Code, Status};

use super::fill;
use crate::api::dialect::Dialect;
use crate::component::lock;
use crate::text::name;

/// Why a call of the Lock API failed.
#[derive(Debug)]
pub(in crate::api) enum LockFailure<'a> {
    /// There is no lock store at all.
    NotConfigured,
    /// There is none of that name.
    NotFound(&'a str),
    /// The call names no resource.
    ResourceEmpty(&'a str),
    /// The call names no owner.
    OwnerEmpty(&'a str),
    /// The lock would end before it began.
    ExpiryNotPositive(&'a str),
    /// The resource holds the separator `||`: store, resource, whether the call is a release.
    IllegalKey(&'a str, &'a str, bool),
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
        let (code, text) = match self {
            F::NotConfigured => (Code::FailedPrecondition, "lock store is not configured".to_owned()),
            F::NotFound(store) => (refused, format!("lock store {} not found", name(store))),
            F::ResourceEmpty(store) => (refused, format!("ResourceId is empty in lock store {}", name(store))),
            F::OwnerEmpty(store) => (refused, format!("LockOwner is empty in lock store {}", name(store))),
            F::ExpiryNotPositive(store) => {
                (refused, format!("{} is not positive in lock store {}", dialect.lock.expiry, name(store)))
            }
            F::IllegalKey(store, key, releases) => {
                let words = if releases { dialect.lock.unlock_failed } else { dialect.lock.try_failed };
                let words =
                    if dialect.lock.illegal_key_fails { fill(words, &[("store", store)]) } else { String::new() };
                (dialect.lock.failed, format!("{words}input key/keyPrefix '{}' can't contain '||'", name(key)))
            }
            F::TryLock(store, cause) => {
                let words = fill(dialect.lock.try_failed, &[("store", store)]);
                (code(dialect, &cause), format!("{words}{cause}"))
            }
            F::Unlock(store, cause) => {
                let words = fill(dialect.lock.unlock_failed, &[("store", store)]);
                (code(dialect, &cause), format!("{words}{cause}"))
            }
            F::KeepAlive(store, cause) => (code(dialect, &cause), format!("lock store {store}: {cause}")),
        };
        Status::new(code, text)
    }
}

/// An outage is told as such, so that clients try again.
fn code(dialect: &Dialect, cause: &lock::Error) -> Code {
    match cause {
        lock::Error::Unavailable(_) => Code::Unavailable,
        lock::Error::Failed(_) => dialect.lock.failed,
    }
}
