//! State in Redis: a hash per key with the fields `data`, `version` and `first-write`, as Dapr's state.redis writes
//! it, so that either reads what the other wrote.
//!
//! Where the rules of a write come from Dapr's driver they hold here to the letter, also where they differ from other
//! stores: an etag for a key that is absent is no mismatch, and the first write without an etag is told by a mark
//! that only first-write writes leave.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Concurrency, Delete, Error, Item, Operation, Store, Ttl, Write};
use crate::component::{Block, Build, Driver, Environment, V1, redis as connection};
use crate::config::{Field, Kind};
use crate::protocol::redis::{self, Client, Reply};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "state.redis",
    block: Block::State,
    meaning: "Redis, or what speaks its protocol; data is interchangeable with Dapr's and Layotto's.",
    versions: V1,
    capabilities: &["ETAG", "TRANSACTIONAL", "TTL"],
    fields: FIELDS,
    check: connection::check,
    upstreams: connection::upstreams,
    build: Build::State(|environment| Rc::new(Redis::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::CONNECTION, OWN];

const OWN: &[Field] = &[
    Field::optional("ttlInSeconds", Kind::Whole(1, i64::MAX), "how long an item lives when its write does not say"),
    Field::optional("queryIndexes", Kind::Ignored("queries are not served"), "indexes for queries"),
];

/// Writes an item. KEYS: the key. ARGV: the etag or "0"; the value; "0" to leave the mark of a first write, else "1";
/// seconds to live, "-1" to live without end, or "" to leave that as it is. As Dapr's script, with the life time in it:
/// one round trip, and no moment at which an item lives longer than asked.
const SET: &str = "\
local version = redis.pcall('HGET', KEYS[1], 'version')
local odd = type(version) == 'table' and version.err
if odd then redis.call('DEL', KEYS[1]) end
local marked = redis.call('HGET', KEYS[1], 'first-write')
if odd or not version or version == '' or version == ARGV[1] or (not marked and ARGV[1] == '0') then
  redis.call('HSET', KEYS[1], 'data', ARGV[2])
  if ARGV[3] == '0' then redis.call('HSET', KEYS[1], 'first-write', 0) end
  local new = redis.call('HINCRBY', KEYS[1], 'version', 1)
  if ARGV[4] == '-1' then redis.call('PERSIST', KEYS[1])
  elseif ARGV[4] ~= '' then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
  return new
end
return redis.error_reply('ETAG version ' .. version .. ' is stored')";

/// Removes an item. KEYS: the key. ARGV: the etag or "0". As Dapr's script.
const DELETE: &str = "\
local version = redis.pcall('HGET', KEYS[1], 'version')
local odd = type(version) == 'table' and version.err
if odd or not version or version == '' or version == ARGV[1] or ARGV[1] == '0' then
  return redis.call('DEL', KEYS[1])
end
return redis.error_reply('ETAG version ' .. version .. ' is stored')";

/// How long Redis may wait for its replicas at a strongly consistent write, as in Dapr's driver; with a small
/// `limits.timeout` half of that, so that Redis answers before the connection is taken for dead.
const REPLICATION: Duration = Duration::from_secs(1);

/// A state store in Redis.
#[derive(Debug)]
pub struct Redis {
    client: Client,
    /// For strongly consistent writes: `WAIT` holds up its connection, and speaks of the writes of its connection.
    strong: Client,
    /// How long Redis may wait for its replicas.
    replication: Duration,
    ttl: Ttl,
}

impl Redis {
    fn new(environment: &Environment) -> Self {
        let component = &environment.component;
        let client = || connection::client(environment, &component.cluster);
        let seconds = component.settings.whole("ttlInSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        let ttl = seconds.map_or(Ttl::Unspecified, Ttl::from_seconds);
        // `WAIT 0` would wait for ever.
        let replication = REPLICATION.min(environment.limits.timeout / 2).max(Duration::from_millis(1));
        Self { client: client(), strong: client(), replication, ttl }
    }

    /// Runs a script for one key; a strongly consistent one is answered when all replicas have it.
    async fn run(&self, words: &[&[u8]], strong: bool) -> Result<(), redis::Error> {
        if !strong {
            return self.client.command(words).await.map(drop);
        }
        let info = self.strong.command(&[b"INFO", b"replication"]).await?;
        let replicas = replicas(&redis::bytes(info, "INFO")?.unwrap_or_default());
        if replicas == 0 {
            return self.strong.command(words).await.map(drop);
        }
        let wanted = replicas.to_string();
        let patience = self.replication.as_millis().to_string();
        let wait: &[&[u8]] = &[b"WAIT", wanted.as_bytes(), patience.as_bytes()];
        let mut replies = self.strong.pipeline(&[words, wait]).await?.into_iter();
        let (written, waited) = (replies.next(), replies.next());
        written.unwrap_or(Err(redis::Error::Unexpected("EVAL")))?;
        let have = redis::integer(&waited.unwrap_or(Err(redis::Error::Unexpected("WAIT")))?, "WAIT")?;
        if have < replicas {
            let text =
                format!("TRYAGAIN it is written, but only {have} of {replicas} replicas have it after {patience} ms");
            return Err(redis::Error::Refused(text));
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Store for Redis {
    /// A plain string under the key, which no runtime has written, is returned without an etag.
    async fn get(&self, key: &str) -> Result<Option<Item>, Error> {
        match self.client.command(&[b"HMGET", key.as_bytes(), b"data", b"version"]).await {
            Err(error) if error.is_wrong_type() => {
                let plain = self.client.command(&[b"GET", key.as_bytes()]).await?;
                Ok(redis::bytes(plain, "GET")?.map(|data| Item { data, ..Item::default() }))
            }
            fields => item(redis::list(fields?, "HMGET")?),
        }
    }

    async fn set(&self, write: Write) -> Result<(), Error> {
        let etag = etag_of_write(&write)?;
        let ttl = seconds(write.ttl.or(self.ttl));
        let words = set(&write, etag, &ttl, write.concurrency == Concurrency::FirstWrite);
        self.run(&words, write.strong).await.map_err(|error| refused(error, write.etag.as_deref()))
    }

    async fn delete(&self, delete: Delete) -> Result<(), Error> {
        let etag = etag_of_removal(&delete);
        let words: [&[u8]; 5] = [b"EVAL", DELETE.as_bytes(), b"1", delete.key.as_bytes(), etag.as_bytes()];
        self.run(&words, delete.strong).await.map_err(|error| refused(error, delete.etag.as_deref()))
    }

    /// MULTI to EXEC in one write. As Redis has it, a step that fails does not undo the others, and as with Dapr a
    /// write in a transaction never leaves the mark of a first write.
    async fn transact(&self, operations: Vec<Operation>) -> Result<(), Error> {
        let mut ttls = Vec::with_capacity(operations.len());
        for operation in &operations {
            ttls.push(match operation {
                Operation::Upsert(write) => seconds(write.ttl.or(self.ttl)),
                Operation::Delete(_) => String::new(),
            });
        }
        let mut steps: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
        for (operation, ttl) in operations.iter().zip(&ttls) {
            steps.push(match operation {
                Operation::Upsert(write) => set(write, etag_of_write(write)?, ttl, false).to_vec(),
                Operation::Delete(delete) => {
                    let etag = etag_of_removal(delete);
                    vec![b"EVAL", DELETE.as_bytes(), b"1", delete.key.as_bytes(), etag.as_bytes()]
                }
            });
        }
        steps.push(vec![b"EXEC"]);
        let steps: Vec<&[&[u8]]> = steps.iter().map(Vec::as_slice).collect();
        let mut replies = self.client.pipeline(&steps).await?;
        let outcome = replies.pop().unwrap_or(Err(redis::Error::Unexpected("EXEC")));
        for queued in replies {
            queued?;
        }
        for (step, operation) in redis::list(outcome?, "EXEC")?.into_iter().zip(&operations) {
            if let Reply::Error(text) = step {
                let (Operation::Upsert(Write { key, etag, .. }) | Operation::Delete(Delete { key, etag, .. })) =
                    operation;
                return Err(refused(redis::Error::Refused(text.to_string()), etag.as_deref()).about(key));
            }
        }
        Ok(())
    }
}

fn set<'a>(write: &'a Write, etag: &'a str, ttl: &'a str, mark: bool) -> [&'a [u8]; 8] {
    let mark: &[u8] = if mark { b"0" } else { b"1" };
    [b"EVAL", SET.as_bytes(), b"1", write.key.as_bytes(), etag.as_bytes(), &write.data, mark, ttl.as_bytes()]
}

/// What the scripts take for no etag.
const NO_ETAG: &str = "0";

/// What the script of a write compares with. As with Dapr's driver the last write does so with nothing, whatever etag
/// it brings, and an etag that is no number is refused before Redis is asked.
fn etag_of_write(write: &Write) -> Result<&str, Error> {
    match write.etag.as_deref() {
        None => Ok(NO_ETAG),
        Some(_) if write.concurrency == Concurrency::LastWrite => Ok(NO_ETAG),
        Some(etag) if etag.parse::<i64>().is_err() => {
            Err(Error::EtagInvalid(format!("{etag:?} is not a whole number, as the etags of this store are")))
        }
        Some(etag) => Ok(etag),
    }
}

/// What the script of a removal compares with: as with Dapr's driver the etag that is given, whatever the concurrency,
/// and any text may be one.
fn etag_of_removal(delete: &Delete) -> &str {
    delete.etag.as_deref().unwrap_or(NO_ETAG)
}

fn seconds(ttl: Ttl) -> String {
    match ttl {
        Ttl::Unspecified => String::new(),
        Ttl::Endless => "-1".to_owned(),
        Ttl::Lasts(time) => time.as_secs().to_string(),
    }
}

/// A refusal of the scripts is a mismatch when the caller had given an etag, else a failure.
fn refused(error: redis::Error, etag: Option<&str>) -> Error {
    match (&error, etag) {
        (redis::Error::Refused(text), Some(etag)) if text.starts_with("ETAG ") => {
            Error::EtagMismatch(format!("etag {etag} was given and {}", text.trim_start_matches("ETAG ")))
        }
        (redis::Error::Refused(text), None) if text.starts_with("ETAG ") => {
            Error::Failed(format!("it was written first by another: {}", text.trim_start_matches("ETAG ")))
        }
        _ => error.into(),
    }
}

/// The item in the fields data and version of a hash. Where there is neither, there is no hash, or one that is not of a
/// runtime and is not read: it may be of any size. To tell them apart would take a command more for each key that is
/// not there.
fn item(fields: Vec<Reply>) -> Result<Option<Item>, Error> {
    let mut fields = fields.into_iter().map(|field| redis::bytes(field, "HMGET"));
    let mut field = || fields.next().unwrap_or(Err(redis::Error::Unexpected("HMGET")));
    match (field()?, field()?) {
        (None, None) => Ok(None),
        (Some(data), Some(version)) => {
            let etag = Some(String::from_utf8_lossy(&version).into_owned());
            Ok(Some(Item { data, etag, expires: None }))
        }
        (data, _) => {
            let missing = if data.is_none() { "data" } else { "version" };
            Err(Error::Failed(format!("the hash under the key lacks the field {missing}; no runtime wrote it")))
        }
    }
}

/// The number of connected replicas in the text of INFO replication.
fn replicas(info: &[u8]) -> i64 {
    let info = String::from_utf8_lossy(info);
    let line = info.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn etags() {
        use Concurrency::{FirstWrite, LastWrite, Unspecified};
        let given = |etag: Option<&str>| etag.map(str::to_owned);
        let of_write = |etag, concurrency| {
            let write = Write { etag: given(etag), concurrency, ..Write::default() };
            etag_of_write(&write).map(str::to_owned)
        };
        assert_eq!(of_write(None, Unspecified), Ok("0".to_owned()));
        assert_eq!(of_write(Some("3"), FirstWrite), Ok("3".to_owned()));
        assert_eq!(of_write(Some("3"), LastWrite), Ok("0".to_owned()));
        assert_eq!(of_write(Some("x"), LastWrite), Ok("0".to_owned()));
        assert!(matches!(of_write(Some("x"), Unspecified), Err(Error::EtagInvalid(_))));
        for concurrency in [Unspecified, FirstWrite, LastWrite] {
            let of_removal = |etag| {
                let delete = Delete { etag: given(etag), concurrency, ..Delete::default() };
                etag_of_removal(&delete).to_owned()
            };
            assert_eq!([None, Some("3"), Some("x")].map(of_removal), ["0", "3", "x"]);
        }
    }

    #[test]
    fn replicas_are_counted() {
        assert_eq!(replicas(b"# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"), 2);
        assert_eq!(replicas(b""), 0);
    }

    #[test]
    fn life_times() {
        assert_eq!(seconds(Ttl::Lasts(Duration::from_secs(60))), "60");
        assert_eq!(seconds(Ttl::Endless), "-1");
        assert_eq!(seconds(Ttl::Unspecified), "");
    }
}
