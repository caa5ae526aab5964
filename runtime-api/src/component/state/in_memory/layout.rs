//! How the in-memory store lies in the shared area: protobuf, which all workers read alike.

use std::collections::BTreeMap;
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

/// The last write: which buckets hold what after it.
#[derive(Clone, PartialEq, Message)]
struct JournalMessage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint32, repeated, tag = "2")]
    numbers: Vec<u32>,
    #[prost(message, repeated, tag = "3")]
    buckets: Vec<Bucket>,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) sequence: u64,
    pub(super) buckets: BTreeMap<u32, Bucket>,
}

impl Bucket {
    /// What cannot be read is taken for empty: only this code writes it.
    pub(super) fn decode(bytes: Bytes) -> Self {
        Message::decode(bytes).unwrap_or_default()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl Entry {
    pub(super) fn is_alive(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }

    pub(super) fn into_item(self) -> Item {
        let expires = (self.expires > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires));
        Item { data: self.data, etag: Some(self.etag), expires }
    }
}

impl Journal {
    /// The one that follows that number.
    pub(super) fn after(sequence: u64, mut buckets: BTreeMap<u32, Bucket>) -> Self {
        let sequence = sequence + 1;
        for bucket in buckets.values_mut() {
            bucket.sequence = sequence;
        }
        Self { sequence, buckets }
    }

    /// What it is once carried out.
    pub(super) fn emptied(&self) -> Self {
        Self { sequence: self.sequence, buckets: BTreeMap::new() }
    }

    pub(super) fn decode(bytes: Bytes) -> Self {
        let message = JournalMessage::decode(bytes).unwrap_or_default();
        let mut buckets = BTreeMap::new();
        for (number, bucket) in message.numbers.into_iter().zip(message.buckets) {
            buckets.insert(number, bucket);
        }
        Self { sequence: message.sequence, buckets }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let (numbers, buckets) = self.buckets.clone().into_iter().unzip();
        JournalMessage { sequence: self.sequence, numbers, buckets }.encode_to_vec()
    }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
