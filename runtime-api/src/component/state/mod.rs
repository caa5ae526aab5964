//! State stores: what a driver offers, and what all of them share.

pub mod etcd;
pub mod in_memory;
pub mod memcached;
pub mod redis;

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::{Field, Kind};
use crate::protocol::Failure;
use crate::text;

/// The metadata fields of every state store.
pub const FIELDS: &[Field] = &[
    Field::optional(
        "keyPrefix",
        Kind::KeyPart,
        "what stands before `||` in front of the key in the store: none, appid, name, namespace, or any other text as \
         it is. When absent, calls of Dapr's API use appid and those of Layotto's none",
    ),
    Field::optional("actorStateStore", Kind::Ignored("actors are not served"), "whether actors keep their state here"),
    Field::optional(
        "primaryEncryptionKey",
        Kind::Refused("values would be stored without encryption"),
        "the key that values are encrypted with",
    ),
    Field::optional(
        "secondaryEncryptionKey",
        Kind::Refused("values would be stored without encryption"),
        "an older key that values may be encrypted with",
    ),
    Field::optional("outboxPublishPubsub", Kind::Refused("no event would be published"), "the broker of an outbox"),
    Field::optional("outboxPublishTopic", Kind::Refused("no event would be published"), "the topic of an outbox"),
];

/// The metadata field of a request with the life time of an item, in whole seconds; -1 takes it away.
pub const TTL: &str = "ttlInSeconds";

/// A place for keys and values. Keys are complete: prefixes have been added.
#[async_trait(?Send)]
pub trait Store {
    /// The item under the key, if there is one.
    async fn get(&self, key: &str) -> Result<Option<Item>, Error>;

    /// Writes an item.
    async fn set(&self, write: Write) -> Result<(), Error>;

    /// Removes an item; one that is not there is no error, unless an etag says that it should be.
    async fn delete(&self, delete: Delete) -> Result<(), Error>;

    /// Writes and deletes in this order, as one.
    async fn transact(&self, operations: Vec<Operation>) -> Result<(), Error> {
        let _ = operations;
        Err(Error::TransactionsNotSupported)
    }
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// What a store holds under a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub data: Bytes,
    /// The version of the item; absent where the store knows none.
    pub etag: Option<String>,
    /// When it ends, where the store tells.
    pub expires: Option<SystemTime>,
}

/// A write of one item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Write {
    /// The complete key.
    pub key: String,
    /// The new value.
    pub data: Bytes,
    /// The version that the item must still have; never an empty one.
    pub etag: Option<String>,
    /// How the write treats other writers.
    pub concurrency: Concurrency,
    /// Whether the write is answered only when replicas have it too.
    pub strong: bool,
    /// How long the item lives from now on.
    pub ttl: Ttl,
}

/// A removal of one item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delete {
    /// The complete key.
    pub key: String,
    /// The version that the item must still have; never an empty one.
    pub etag: Option<String>,
    /// How the removal treats other writers.
    pub concurrency: Concurrency,
    /// Whether the removal is answered only when replicas have it too.
    pub strong: bool,
}

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Write an item.
    Upsert(Write),
    /// Remove an item.
    Delete(Delete),
}

/// How a write treats other writers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// The request did not say.
    #[default]
    Unspecified,
    /// A write without an etag must be the first one.
    FirstWrite,
    /// The last write stands; but an etag that is given counts all the same, save in Redis at a write.
    LastWrite,
}

/// How long an item lives from a write on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ttl {
    /// The request did not say: the component's default, or else what the driver does of itself.
    #[default]
    Unspecified,
    /// Without end.
    Endless,
    /// For so long.
    Lasts(Duration),
}

impl Ttl {
    /// Reads the text of [`TTL`]. As with Dapr's drivers zero and less mean without end, and no text says nothing.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self::Unspecified);
        }
        match text.trim().parse::<i64>() {
            Ok(seconds) => Ok(u64::try_from(seconds).map_or(Self::Endless, Self::from_seconds)),
            Err(_) => {
                let text = text::name(text);
                Err(Error::TtlInvalid(format!("value for {TTL} must be a whole number of seconds, not {text:?}")))
            }
        }
    }

    /// A life time in whole seconds; zero is without end. What is longer than clocks can say is as long as they can.
    pub fn from_seconds(seconds: u64) -> Self {
        const LONGEST: u64 = 100 * 365 * 24 * 3600;
        if seconds == 0 { Self::Endless } else { Self::Lasts(Duration::from_secs(seconds.min(LONGEST))) }
    }

    /// This, or the other where this does not say.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Unspecified { other } else { self }
    }
}

impl Error {
    /// Many errors of one call as one: the gravest kind, with the keys and texts of the first few, the gravest first.
    #[must_use]
    pub fn join(mut errors: Vec<(String, Self)>) -> Option<Self> {
        errors.sort_by_key(|(_, error)| error.rank());
        let (_, gravest) = errors.first()?;
        let told: Vec<String> = errors.iter().take(text::FEW).map(|(key, error)| error.told_of(key)).collect();
        Some(gravest.clone().with_cause(text::list(&told, errors.len(), "; ")))
    }

    /// The same, with the key that it is about in its text.
    #[must_use]
    pub fn about(self, key: &str) -> Self {
        let text = self.told_of(key);
        self.with_cause(text)
    }

    /// What is said of it as one of many.
    fn told_of(&self, key: &str) -> String {
        format!("key {}: {}", text::name(key), text::name(&self.cause()))
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Unavailable(_) | Self::Exhausted(_) => 0,
            Self::EtagMismatch(_) => 1,
            Self::EtagInvalid(_) => 2,
            Self::KeyInvalid(_) => 3,
            Self::NotJson(_) => 4,
            Self::TtlInvalid(_) | Self::TransactionsNotSupported | Self::TooManyOperations(_, _) | Self::Failed(_) => 5,
        }
    }

    /// The same kind with another text.
    fn with_cause(self, text: String) -> Self {
        match self {
            Self::EtagMismatch(_) => Self::EtagMismatch(text),
            Self::EtagInvalid(_) => Self::EtagInvalid(text),
            Self::KeyInvalid(_) => Self::KeyInvalid(text),
            Self::NotJson(_) => Self::NotJson(text),
            Self::TtlInvalid(_) => Self::TtlInvalid(text),
            Self::Unavailable(_) => Self::Unavailable(text),
            Self::Exhausted(_) => Self::Exhausted(text),
            Self::TransactionsNotSupported | Self::TooManyOperations(_, _) | Self::Failed(_) => Self::Failed(text),
        }
    }

    /// The text without what its kind adds.
    fn cause(&self) -> String {
        match self {
            Self::EtagMismatch(text) | Self::EtagInvalid(text) | Self::KeyInvalid(text) | Self::NotJson(text) => {
                text.clone()
            }
            Self::TtlInvalid(_)
            | Self::TransactionsNotSupported
            | Self::TooManyOperations(_, _)
            | Self::Unavailable(_)
            | Self::Exhausted(_)
            | Self::Failed(_) => self.to_string(),
        }
    }
}

/// Why a store did not do what was asked. The texts of the two about etags are Dapr's, which apps compare.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The item is not the version that the caller knows.
    #[error("possible etag mismatch. error from state store: {0}")]
    EtagMismatch(String),
    /// The etag cannot be one of this store.
    #[error("invalid etag value: {0}")]
    EtagInvalid(String),
    /// The key cannot be one of this store.
    #[error("invalid key: {0}")]
    KeyInvalid(String),
    /// The life time is not a number.
    #[error("{0}")]
    TtlInvalid(String),
    /// A value said to be JSON is not.
    #[error("the value is not JSON, as its contentType says: {0}")]
    NotJson(String),
    /// The store knows no transactions.
    #[error("transactions are not supported")]
    TransactionsNotSupported,
    /// The transaction has more operations than the store takes.
    #[error("the transaction contains {0} operations, which is more than what the state store supports: {1}")]
    TooManyOperations(usize, usize),
    /// The store cannot be reached, or not just now.
    #[error("{0}")]
    Unavailable(String),
    /// There is no room for it, in the store or on the way to it.
    #[error("{0}")]
    Exhausted(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

/// What a server says, as a failure of the store.
impl<F: Failure> From<F> for Error {
    fn from(failure: F) -> Self {
        let text = failure.to_string();
        match failure {
            _ if failure.is_exhausted() => Self::Exhausted(text),
            _ if failure.is_passing() => Self::Unavailable(text),
            _ => Self::Failed(text),
        }
    }
}
