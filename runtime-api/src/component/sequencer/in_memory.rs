//! Sequences in the memory of Envoy, the same for all workers: buckets in the shared area, each a value that is changed
//! by compare-and-swap.

use std::rc::Rc;

use async_trait::async_trait;
use prost::Message;

use super::{Error, Store};
use crate::component::{Block, Build, Driver, Environment, V1, bucket_of};
use crate::proxy::{MISSING, Proxy, shared_init};

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

const BUCKETS: u32 = 256;
/// A bound, since a sequence stays for as long as Envoy runs: 8 MiB for all buckets, some 100,000 keys.
const MOST_BUCKET_BYTES: usize = 32 * 1024;

/// A sequencer in the shared area.
#[derive(Debug)]
pub struct InMemory {
    proxy: Rc<dyn Proxy>,
    /// What the names of its values in the shared area begin with.
    prefix: String,
}

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
        let store = Self { proxy: Rc::clone(proxy), prefix: format!("sequencer.in-memory/{}/", component.name) };
        (0..BUCKETS).for_each(|number| shared_init(&**proxy, &format!("{}{number}", store.prefix)));
        store
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error> {
        let name = format!("{}{}", self.prefix, bucket_of(key, BUCKETS));
        loop {
            let (bytes, version) = self.proxy.shared_get(&name).unwrap_or(MISSING);
            let mut bucket = Bucket::decode(bytes).unwrap_or_default();
            let at = bucket.sequences.iter().position(|sequence| sequence.key == key);
            let fresh = at.is_none();
            let at = at.unwrap_or_else(|| {
                bucket.sequences.push(Sequence { key: key.to_owned(), last: 0 });
                bucket.sequences.len() - 1
            });
            let Some(sequence) = bucket.sequences.get_mut(at) else { continue };
            let Some(id) = sequence.last.max(above).checked_add(1) else {
                return Err(Error::Failed(format!("the ids of this key are used up: {} was the last", i64::MAX)));
            };
            sequence.last = id;
            let bytes = bucket.encode_to_vec();
            if fresh && bytes.len() > MOST_BUCKET_BYTES {
                return Err(Error::Failed(format!(
                    "the sequences in memory are full ({MOST_BUCKET_BYTES} bytes in one of {BUCKETS} parts); \
                     use sequencer.redis"
                )));
            }
            if self.proxy.shared_set(&name, &bytes, Some(version)).is_ok() {
                return Ok(id);
            }
        }
    }
}
