//! Sequencers: what a driver offers, and what all of them share.

pub mod etcd;
pub mod in_memory;
pub mod redis;
pub mod segments;

use std::fmt;

use async_trait::async_trait;

use crate::config::{Field, Kind};
use crate::protocol::Failure;

/// The metadata fields of every sequencer.
pub const FIELDS: &[Field] = &[
    Field::optional(
        "keyPrefix",
        Kind::KeyPart,
        "what stands between `sequencer|||` and the key in the name of a sequence: appid, which is the default, name, \
         none, or any other text in lower case",
    ),
    Field::optional(
        BIGGER_THAN,
        Kind::Numbers,
        "for keys, as the app says them, a number that all of their ids are bigger than: `{\"orders\": 1000}`. A key \
         with `||` in it is the whole name of a sequence in the store",
    ),
    Field::default(
        "segmentCacheEnable",
        Kind::Flag,
        "true",
        "whether ids that need not rise strictly (WEAK) are taken from the store many at a time",
    ),
    Field::default("segmentStep", Kind::Whole(1, 1_000_000), "10000", "how many ids at a time"),
    Field::default(
        "segmentPrefetch",
        Kind::Whole(0, 1_000_000),
        "1000",
        "how few ids are left when the next ones are taken, ahead of their use",
    ),
];

/// The field with the numbers that ids are bigger than.
pub const BIGGER_THAN: &str = "biggerThan";

/// A source of numbers. Keys are complete: prefixes have been added. No number is ever given twice for a key.
#[async_trait(?Send)]
pub trait Store {
    /// The next number, bigger than `above` and than all that were given before.
    async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error>;

    /// Whether numbers can be had many at a time, and whether that is worth while.
    fn has_segments(&self) -> bool {
        false
    }

    /// So many numbers at once, for the caller alone, bigger than `above` and than all that were given before.
    async fn segment(&self, key: &str, above: i64, size: u32) -> Result<Segment, Error> {
        let _ = size;
        let id = self.next_id(key, above).await?;
        Ok(Segment { from: id, to: id })
    }
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// Numbers in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, or not just now. Numbers that it may have given are lost; none is given again.
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
