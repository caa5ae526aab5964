//! Sequences in the memory of Envoy, the same for all workers: buckets in the shared area.

use std::rc::Rc;

use async_trait::async_trait;
use prost::Message;

use super::{Error, Store};
use crate::component::buckets::{BUCKETS, Buckets};
use crate::component::{Block, Build, Driver, Environment, V1};

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "sequencer.in-memory",
    block: Block::Sequencer,
    meaning: "The memory of Envoy, shared by its workers and gone with it, so that ids begin anew: for development.",
    versions: V1,
    capabilities: &[],
    fields: &[],
    check: |_, _, _| {},
    upstreams: |_| Vec::new(),
    build: Build::Sequencer(|environment| Rc::new(InMemory::new(environment))),
};

/// A bound, since a sequence stays for as long as Envoy runs: 8 MiB for all buckets, some 100,000 keys.
const MOST_BUCKET_BYTES: usize = 32 * 1024;

/// A sequencer in the shared area.
#[derive(Debug)]
pub struct InMemory(Buckets);

/// Some of the sequences.
#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(message, repeated, tag = "1")]
    sequences: Vec<Sequence>,
}

#[derive(Clone, PartialEq, Message)]
struct Sequence {
    #[prost(string, tag = "1")]
    key: String,
    /// The last id.
    #[prost(int64, tag = "2")]
    last: i64,
}

impl InMemory {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        Self(Buckets::open(proxy, format!("sequencer.in-memory/{}/", component.name)))
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error> {
        self.0.change(key, |bucket: &mut Bucket| {
            let known = bucket.sequences.iter_mut().find(|sequence| sequence.key == key);
            let last = known.as_ref().map_or(0, |sequence| sequence.last);
            let Some(id) = last.max(above).checked_add(1) else {
                return Err(Error::Failed(format!("the ids of this key are used up: {} was the last", i64::MAX)));
            };
            if let Some(sequence) = known {
                sequence.last = id;
                return Ok((id, true));
            }
            bucket.sequences.push(Sequence { key: key.to_owned(), last: id });
            if bucket.encoded_len() > MOST_BUCKET_BYTES {
                return Err(Error::Failed(format!(
                    "the sequences in memory are full ({MOST_BUCKET_BYTES} bytes in one of {BUCKETS} parts); \
                     use sequencer.redis"
                )));
            }
            Ok((id, true))
        })
    }
}
