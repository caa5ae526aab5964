//! Sequences in Redis: a number under the name of the sequence, which INCR and INCRBY raise, as Layotto's redis
//! sequencer keeps it.

use std::rc::Rc;

use async_trait::async_trait;

use super::{Error, Segment, Store};
use crate::component::{Block, Build, Driver, Environment, V1, redis as connection};
use crate::config::Field;
use crate::protocol::redis::{self, Client};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "sequencer.redis",
    block: Block::Sequencer,
    meaning: "Redis, or what speaks its protocol; sequences go on where Layotto's have stopped.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: connection::check,
    upstreams: connection::upstreams,
    build: Build::Sequencer(|environment| Rc::new(Redis::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::CONNECTION, connection::LAYOTTO];

/// Raises a number. KEYS: the key. ARGV: what it is at least to be, in digits. They are compared as texts: Lua's
/// numbers are exact only up to 2^53. What is no whole number is left for INCRBY to refuse.
const RAISE: &str = "\
local have = redis.call('GET', KEYS[1])
if have and not string.match(have, '^-?%d+$') then return 0 end
if not have or string.sub(have, 1, 1) == '-' or #have < #ARGV[1] or (#have == #ARGV[1] and have < ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return 0";

/// A sequencer in Redis.
#[derive(Debug)]
pub struct Redis {
    client: Client,
}

impl Redis {
    fn new(environment: &Environment) -> Self {
        Self { client: connection::client(environment, &environment.component.cluster) }
    }

    /// Raises the number by so much, and above what the component says; gives what it is then.
    async fn raise(&self, key: &str, above: i64, by: u32) -> Result<i64, Error> {
        let (least, by) = (above.to_string(), by.to_string());
        let raise: &[&[u8]] = &[b"EVAL", RAISE.as_bytes(), b"1", key.as_bytes(), least.as_bytes()];
        let increase: &[&[u8]] = &[b"INCRBY", key.as_bytes(), by.as_bytes()];
        if above <= 0 {
            return Ok(redis::integer(&self.client.command(increase).await?, "INCRBY")?);
        }
        let mut replies = self.client.pipeline(&[raise, increase]).await?.into_iter();
        replies.next().unwrap_or(Err(redis::Error::Unexpected("EVAL")))?;
        let increased = replies.next().unwrap_or(Err(redis::Error::Unexpected("INCRBY")))?;
        Ok(redis::integer(&increased, "INCRBY")?)
    }
}

#[async_trait(?Send)]
impl Store for Redis {
    async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error> {
        self.raise(key, above, 1).await
    }

    fn has_segments(&self) -> bool {
        true
    }

    async fn segment(&self, key: &str, above: i64, size: u32) -> Result<Segment, Error> {
        let to = self.raise(key, above, size).await?;
        Ok(Segment { from: to.saturating_sub(i64::from(size) - 1), to })
    }
}
