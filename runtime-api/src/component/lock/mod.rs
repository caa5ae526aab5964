//! Lock stores: what a driver offers, and what all of them share.

pub mod etcd;
pub mod in_memory;
pub mod redis;
pub mod redis_cluster;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::{Field, Kind};
use crate::protocol::Failure;

/// The metadata fields of every lock store.
pub const FIELDS: &[Field] = &[Field::optional(
    "keyPrefix",
    Kind::KeyPart,
    "what stands between `lock||` (Layotto: `lock|||`) and the resource in the name of a lock: appid, which is the \
     default, name, none, or any other text in lower case",
)];

/// A place for locks. Keys are complete: prefixes have been added. A lock is held by an owner, a text that the app
/// chooses, until it is released or its time is over.
#[async_trait(?Send)]
pub trait Store {
    /// Takes a lock for so long, which is whole seconds and at least one. `None` when it is held, be it by the same
    /// owner: locks are not re-entrant.
    async fn try_lock(&self, key: &str, owner: &str, expiry: Duration) -> Result<Option<Held>, Error>;

    /// Releases a lock of the owner.
    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error>;

    /// Gives a lock of the owner so long from now on.
    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// A lock that was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// A number larger than that of any earlier holder of the lock, where the store has one: what the lock protects
    /// can refuse a holder whose time was over without its knowing.
    pub fencing_token: Option<i64>,
}

/// What became of the release or the renewal of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Nobody holds the lock.
    Missing,
    /// Another owner holds the lock.
    Others,
}

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, or not just now. Whether a lock was taken is unknown.
    #[error("{0}")]
    Unavailable(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

/// What a server says, as a failure of the store.
impl<F: Failure> From<F> for Error {
    fn from(failure: F) -> Self {
        if failure.is_passing() { Self::Unavailable(failure.to_string()) } else { Self::Failed(failure.to_string()) }
    }
}
