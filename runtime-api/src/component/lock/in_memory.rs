//! Locks in the memory of Envoy, the same for all workers: buckets in the shared area, each a value that is changed by
//! compare-and-swap.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;

use super::{Error, Held, Outcome, Store};
use crate::component::{Block, Build, Driver, Environment, V1, bucket_of};
use crate::proxy::{MISSING, Proxy, shared_init};

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "lock.in-memory",
    block: Block::Lock,
    meaning: "The memory of Envoy, shared by its workers and gone with it: for one replica, and for development.",
    versions: V1,
    capabilities: &[],
    fields: &[],
    check: |_, _, _| {},
    upstreams: |_| Vec::new(),
    build: Build::Lock(|environment| Rc::new(InMemory::new(environment))),
};

const BUCKETS: u32 = 256;
/// A bound, since the area never shrinks: 16 MiB for all buckets, some 100,000 locks at the same time.
const MOST_BUCKET_BYTES: usize = 64 * 1024;

/// A lock store in the shared area.
#[derive(Debug)]
pub struct InMemory {
    proxy: Rc<dyn Proxy>,
    /// What the names of its values in the shared area begin with.
    prefix: String,
}

/// Some of the locks.
#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(message, repeated, tag = "1")]
    locks: Vec<Lock>,
    /// The last fencing token.
    #[prost(int64, tag = "2")]
    token: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Lock {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    owner: String,
    /// Microseconds since 1970: the monotonic clock of each worker counts from another beginning.
    #[prost(int64, tag = "3")]
    expires: i64,
}

impl InMemory {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        let store = Self { proxy: Rc::clone(proxy), prefix: format!("lock.in-memory/{}/", component.name) };
        (0..BUCKETS).for_each(|number| shared_init(&**proxy, &format!("{}{number}", store.prefix)));
        store
    }

    /// Changes the bucket of a key, again when another worker was faster. Nothing is written when `change` gives none.
    fn change<T>(&self, key: &str, change: impl Fn(&mut Bucket, i64) -> (T, bool)) -> Result<T, Error> {
        let name = format!("{}{}", self.prefix, bucket_of(key, BUCKETS));
        loop {
            let (bytes, version) = self.proxy.shared_get(&name).unwrap_or(MISSING);
            let before = bytes.len();
            let mut bucket = decode(bytes);
            let now = micros(self.proxy.wall_clock());
            bucket.locks.retain(|lock| now < lock.expires);
            let (outcome, changed) = change(&mut bucket, now);
            if !changed {
                return Ok(outcome);
            }
            let bytes = bucket.encode_to_vec();
            if bytes.len() > MOST_BUCKET_BYTES && bytes.len() > before {
                return Err(Error::Unavailable(format!(
                    "the locks in memory are full ({MOST_BUCKET_BYTES} bytes in one of {BUCKETS} parts); \
                     unlock some, or use lock.redis"
                )));
            }
            if self.proxy.shared_set(&name, &bytes, Some(version)).is_ok() {
                return Ok(outcome);
            }
        }
    }

    /// Changes the lock of the owner; `false` drops it.
    fn of_owner(&self, key: &str, owner: &str, keep: impl Fn(&mut Lock, i64) -> bool) -> Result<Outcome, Error> {
        self.change(key, |bucket, now| {
            let at = bucket.locks.iter().position(|lock| lock.key == key);
            let Some((at, lock)) = at.and_then(|at| Some((at, bucket.locks.get_mut(at)?))) else {
                return (Outcome::Missing, false);
            };
            if lock.owner != owner {
                return (Outcome::Others, false);
            }
            if !keep(lock, now) {
                bucket.locks.swap_remove(at);
            }
            (Outcome::Done, true)
        })
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    /// The token is the time of day, or else one more than the last: it rises over restarts of Envoy, too.
    async fn try_lock(&self, key: &str, owner: &str, expiry: Duration) -> Result<Option<Held>, Error> {
        self.change(key, |bucket, now| {
            if bucket.locks.iter().any(|lock| lock.key == key) {
                return (None, false);
            }
            bucket.token = now.max(bucket.token.saturating_add(1));
            let expires = now.saturating_add(duration(expiry));
            bucket.locks.push(Lock { key: key.to_owned(), owner: owner.to_owned(), expires });
            (Some(Held { fencing_token: Some(bucket.token) }), true)
        })
    }

    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error> {
        self.of_owner(key, owner, |_, _| false)
    }

    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error> {
        self.of_owner(key, owner, |lock, now| {
            lock.expires = now.saturating_add(duration(expiry));
            true
        })
    }
}

/// What cannot be read is taken for empty: only this code writes it.
fn decode(bytes: Bytes) -> Bucket {
    Message::decode(bytes).unwrap_or_default()
}

fn micros(time: SystemTime) -> i64 {
    duration(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn duration(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
