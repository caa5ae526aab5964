//! Locks in Redis: a string under the name of the lock with the owner in it, which ends by itself, as Dapr's
//! lock.redis and Layotto's redis write it.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Error, Held, Outcome, Store};
use crate::component::{Block, Build, Driver, Environment, V1, redis as connection};
use crate::config::Field;
use crate::protocol::redis::{self, Client, Reply};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "lock.redis",
    block: Block::Lock,
    meaning: "Redis, or what speaks its protocol; locks exclude those of Dapr and Layotto with the same name.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: connection::check,
    upstreams: connection::upstreams,
    build: Build::Lock(|environment| Rc::new(Redis(Server::new(environment, &environment.component.cluster)))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::CONNECTION, connection::LAYOTTO];

/// Releases a lock. KEYS: the key. ARGV: the owner. As the scripts of Dapr and Layotto.
const UNLOCK: &str = "\
local owner = redis.call('GET', KEYS[1])
if not owner then return -1 end
if owner ~= ARGV[1] then return -2 end
return redis.call('DEL', KEYS[1])";

/// Lengthens a lock. KEYS: the key. ARGV: the owner; seconds from now on.
const KEEP_ALIVE: &str = "\
local owner = redis.call('GET', KEYS[1])
if not owner then return -1 end
if owner ~= ARGV[1] then return -2 end
return redis.call('EXPIRE', KEYS[1], ARGV[2])";

/// A lock store in one Redis.
#[derive(Debug)]
pub struct Redis(Server);

/// A server with locks.
#[derive(Debug, Clone)]
pub(super) struct Server(Client);

impl Server {
    /// The server that this cluster leads to.
    pub(super) fn new(environment: &Environment, cluster: &str) -> Self {
        Self(connection::client(environment, cluster))
    }

    /// Whether the lock was free, and is the owner's now.
    pub(super) async fn take(&self, key: &str, owner: &str, expiry: Duration) -> Result<bool, redis::Error> {
        let seconds = expiry.as_secs().to_string();
        let words: [&[u8]; 6] = [b"SET", key.as_bytes(), owner.as_bytes(), b"NX", b"EX", seconds.as_bytes()];
        Ok(redis::bytes(self.0.command(&words).await?, "SET")?.is_some())
    }

    /// Releases the lock.
    pub(super) async fn release(&self, key: &str, owner: &str) -> Result<Outcome, redis::Error> {
        let words: [&[u8]; 5] = [b"EVAL", UNLOCK.as_bytes(), b"1", key.as_bytes(), owner.as_bytes()];
        outcome(&self.0.command(&words).await?)
    }

    /// Lengthens the lock.
    pub(super) async fn renew(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, redis::Error> {
        let seconds = expiry.as_secs().to_string();
        let words: [&[u8]; 6] =
            [b"EVAL", KEEP_ALIVE.as_bytes(), b"1", key.as_bytes(), owner.as_bytes(), seconds.as_bytes()];
        outcome(&self.0.command(&words).await?)
    }
}

/// What the scripts have done.
fn outcome(reply: &Reply) -> Result<Outcome, redis::Error> {
    Ok(match redis::integer(reply, "EVAL")? {
        -1 => Outcome::Missing,
        -2 => Outcome::Others,
        _ => Outcome::Done,
    })
}

#[async_trait(?Send)]
impl Store for Redis {
    async fn try_lock(&self, key: &str, owner: &str, expiry: Duration) -> Result<Option<Held>, Error> {
        Ok(self.0.take(key, owner, expiry).await?.then(Held::default))
    }

    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error> {
        Ok(self.0.release(key, owner).await?)
    }

    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error> {
        Ok(self.0.renew(key, owner, expiry).await?)
    }
}
