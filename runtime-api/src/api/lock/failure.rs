//! Failures of the Lock API. Dapr's have no details.

use http::StatusCode;
use tonic::Code;

use crate::api::dialect::Dialect;
use crate::api::failure::{Failure, fill};
use crate::component::lock;
use crate::text::name;

/// Why a call of the Lock API failed.
#[derive(Debug)]
pub(super) enum LockFailure<'a> {
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
    /// In the words of the API that was called.
    pub(super) fn told(self, dialect: Dialect) -> Failure {
        use LockFailure as F;
        let tag = match self {
            F::NotConfigured => "ERR_LOCK_STORE_NOT_CONFIGURED",
            F::NotFound(_) => "ERR_LOCK_STORE_NOT_FOUND",
            F::ResourceEmpty(_) | F::OwnerEmpty(_) | F::ExpiryNotPositive(_) => "ERR_MALFORMED_REQUEST",
            F::IllegalKey(_, _, true) | F::Unlock(..) => "ERR_UNLOCK",
            F::IllegalKey(_, _, false) | F::TryLock(..) => "ERR_TRY_LOCK",
            F::KeepAlive(..) => "ERR_LOCK_KEEP_ALIVE",
        };
        // What is wrong in the request is no fault of the server's over HTTP.
        let http = matches!(self, F::IllegalKey(..)).then_some(StatusCode::BAD_REQUEST);
        let words = words(dialect);
        let refused = Code::InvalidArgument;
        let (code, text) = match self {
            F::NotConfigured => (Code::FailedPrecondition, "lock store is not configured".to_owned()),
            F::NotFound(store) => (refused, format!("lock store {} not found", name(store))),
            F::ResourceEmpty(store) => (refused, format!("ResourceId is empty in lock store {}", name(store))),
            F::OwnerEmpty(store) => (refused, format!("LockOwner is empty in lock store {}", name(store))),
            F::ExpiryNotPositive(store) => {
                (refused, format!("{} is not positive in lock store {}", words.expiry, name(store)))
            }
            F::IllegalKey(store, key, releases) => {
                let before = match dialect {
                    Dialect::Dapr => {
                        fill(if releases { words.unlock_failed } else { words.try_failed }, &[("store", store)])
                    }
                    Dialect::Layotto => String::new(),
                };
                (words.failed, format!("{before}input key/keyPrefix '{}' can't contain '||'", name(key)))
            }
            F::TryLock(store, cause) => {
                (code(words, &cause), format!("{}{cause}", fill(words.try_failed, &[("store", store)])))
            }
            F::Unlock(store, cause) => {
                (code(words, &cause), format!("{}{cause}", fill(words.unlock_failed, &[("store", store)])))
            }
            F::KeepAlive(store, cause) => (code(words, &cause), format!("lock store {store}: {cause}")),
        };
        Failure::new(code, text).tag(tag).http(http)
    }
}

/// What the APIs say differently.
struct Words {
    /// How the refusal of a time that is not positive calls it.
    expiry: &'static str,
    /// The status when a store failed.
    failed: Code,
    /// What stands before the words of a store that could not take a lock; `{store}` is its name.
    try_failed: &'static str,
    /// What stands before the words of a store that could not release one.
    unlock_failed: &'static str,
}

fn words(dialect: Dialect) -> &'static Words {
    const DAPR: Words = Words {
        expiry: "ExpiryInSeconds",
        failed: Code::Internal,
        try_failed: "failed to try acquiring lock: ",
        unlock_failed: "failed to release lock: ",
    };
    const LAYOTTO: Words = Words {
        expiry: "Expire",
        failed: Code::Unknown,
        try_failed: "lock store {store}: ",
        unlock_failed: "lock store {store}: ",
    };
    dialect.pick(&DAPR, &LAYOTTO)
}

/// An outage is told as such, so that clients try again.
fn code(words: &Words, cause: &lock::Error) -> Code {
    match cause {
        lock::Error::Unavailable(_) => Code::Unavailable,
        lock::Error::Failed(_) => words.failed,
    }
}
