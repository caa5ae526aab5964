//! Locks in the memory of Envoy, the same for all workers: buckets in the shared area.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use prost::Message;

use super::{Error, Held, Outcome, Store};
use crate::component::buckets::{BUCKETS, Buckets};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::proxy::Proxy;

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

/// A bound, since the area never shrinks: 16 MiB for all buckets, some 100,000 locks at the same time.
const MOST_BUCKET_BYTES: usize = 64 * 1024;

/// A lock store in the shared area.
#[derive(Debug)]
pub struct InMemory {
    proxy: Rc<dyn Proxy>,
    buckets: Buckets,
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
        let buckets = Buckets::open(proxy, format!("lock.in-memory/{}/", component.name));
        Self { proxy: Rc::clone(proxy), buckets }
    }

    /// Changes the bucket of a key if `change` says so. What has ended is not in it.
    fn change<T>(&self, key: &str, change: impl Fn(&mut Bucket, i64) -> (T, bool)) -> Result<T, Error> {
        self.buckets.change(key, |bucket: &mut Bucket| {
            let before = bucket.encoded_len();
            let now = micros(self.proxy.wall_clock());
            bucket.locks.retain(|lock| now < lock.expires);
            let (outcome, changed) = change(bucket, now);
            let after = bucket.encoded_len();
            if changed && after > MOST_BUCKET_BYTES && after > before {
                return Err(Error::Unavailable(format!(
                    "the locks in memory are full ({MOST_BUCKET_BYTES} bytes in one of {BUCKETS} parts); \
                     unlock some, or use lock.redis"
                )));
            }
            Ok((outcome, changed))
        })
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

fn micros(time: SystemTime) -> i64 {
    duration(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn duration(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
