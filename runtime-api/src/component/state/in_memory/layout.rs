//! How the in-memory store lies in the shared area: protobuf, which all workers read alike.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;

use crate::component::state::Item;

/// Some of the items.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    /// The journal's number when it was last written.
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) entries: Vec<Entry>,
}

/// An item.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data: Bytes,
    #[prost(string, tag = "3")]
    pub(super) etag: String,
    /// Milliseconds since 1970; zero is never.
    #[prost(uint64, tag = "4")]
    pub(super) expires: u64,
}

/// The last write, and what is known of the store after it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Journal {
    /// The number of the write.
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    /// What it does, until that is carried out.
    #[prost(message, repeated, tag = "2")]
    pub(super) steps: Vec<Step>,
    /// What all items weigh: see [`Entry::weight`].
    #[prost(uint64, tag = "3")]
    pub(super) bytes: u64,
    /// How many items have an end.
    #[prost(uint64, tag = "4")]
    pub(super) mortal: u64,
    /// Until when other writers are asked to wait for a long one. Milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(super) reserved_until: u64,
}

/// A change of one item.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Step {
    /// The bucket that the item is in.
    #[prost(uint32, tag = "1")]
    pub(super) bucket: u32,
    /// The item as it is to be.
    #[prost(message, optional, tag = "2")]
    pub(super) put: Option<Entry>,
    /// The key of the item that goes, if none is put.
    #[prost(string, tag = "3")]
    pub(super) removed: String,
}

/// Which part of the store was swept last, and when.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Sweep {
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    /// The bucket to go on with.
    #[prost(uint32, tag = "2")]
    pub(super) next: u32,
}

/// What cannot be read is taken for empty: only this code writes it.
pub(super) fn read<M: Message + Default>(bytes: Bytes) -> M {
    M::decode(bytes).unwrap_or_default()
}

impl Bucket {
    /// Does what the steps say, in their order.
    pub(super) fn carry_out(&mut self, sequence: u64, steps: &[&Step]) {
        self.sequence = sequence;
        for step in steps {
            self.entries.retain(|entry| entry.key != step.key());
            self.entries.extend(step.put.clone());
        }
    }
}

impl Step {
    /// The key of the item that it is about.
    pub(super) fn key(&self) -> &str {
        self.put.as_ref().map_or(&self.removed, |entry| &entry.key)
    }
}

impl Entry {
    /// What an item takes besides its key and value: an etag, and its part of a bucket and of the name of that.
    const BESIDES: usize = 128;

    /// What it counts of the bound of the store, in bytes.
    pub(super) fn weight(&self) -> u64 {
        (Self::BESIDES + self.key.len() + self.data.len()).try_into().unwrap_or(u64::MAX)
    }

    pub(super) fn is_alive(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }

    pub(super) fn into_item(self) -> Item {
        let expires = (self.expires > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires));
        Item { data: self.data, etag: Some(self.etag), expires }
    }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
