//! State in etcd: an item per key, as Dapr's state.etcd writes it. Version v1 of the component keeps the value as it
//! is, v2 a small message around it that says when it ends.
//!
//! Etags are etcd's own revisions, and every condition is one of the transaction that writes: of two writers with the
//! same etag one is told that it came second. (Dapr's driver looks first, and does not look at what became of its
//! transaction.)

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use envoy_runtime_proto::etcd::etcdserverpb as etcdserver;
use prost::Message;

use super::{Concurrency, Delete, Error, Item, Operation, Store, Ttl, Write};
use crate::component::etcd::{self as connection, Names};
use crate::component::{Block, Build, Driver, Environment};
use crate::config::{Field, Kind};
use crate::protocol::etcd::{self, Client, deletes, one, puts, read, reads, unchanged};
use crate::proxy::Proxy;
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "state.etcd",
    block: Block::State,
    meaning: "etcd 3.4 or later; data is interchangeable with Dapr's. `version: v2` keeps with each item when it ends.",
    versions: &["v1", "v2"],
    capabilities: &["ETAG", "TRANSACTIONAL", "TTL"],
    fields: FIELDS,
    check: |settings, path, report| connection::check(settings, &Names::DAPR, path, report),
    upstreams: |settings| connection::upstreams(settings, &Names::DAPR),
    build: Build::State(|environment| Rc::new(Etcd::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, OWN];

const OWN: &[Field] = &[
    Field::optional("keyPrefixPath", Kind::Text, "what stands with a `/` in front of all keys"),
    Field::default("dialTimeout", Kind::Whole(1, 3600), "5", "how long a call to etcd may take, in seconds"),
    Field::default("tlsEnable", Kind::Flag, "false", "whether Envoy speaks TLS to the members"),
    Field::optional("ca", Kind::Text, "the file of the authorities to trust with TLS; absent: the system's"),
    Field::optional("cert", Kind::Text, "the file of the certificate to show with TLS; needs key"),
    Field::optional("key", Kind::Text, "the file of the key of cert"),
    Field::default(
        "maxTxnOps",
        Kind::Whole(1, 65536),
        "128",
        "the most operations of a transaction; the servers have a bound of their own, `--max-txn-ops`",
    ),
];

/// How an item lies in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The value as it is.
    Plain,
    /// A [`Value`].
    Message,
}

/// An item of version v2, as Dapr's driver writes it.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    /// When it was written.
    #[prost(message, optional, tag = "2")]
    ts: Option<prost_types::Timestamp>,
    /// How long it lives from then on; absent or zero: without end.
    #[prost(message, optional, tag = "3")]
    ttl: Option<prost_types::Duration>,
}

/// A state store in etcd.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    proxy: Rc<dyn Proxy>,
    layout: Layout,
    prefix: String,
    most_operations: usize,
}

impl Etcd {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        let settings = &component.settings;
        Self {
            client: connection::client(environment, &Names::DAPR),
            proxy: Rc::clone(proxy),
            layout: if component.version == "v2" { Layout::Message } else { Layout::Plain },
            prefix: settings.text("keyPrefixPath").map(|prefix| format!("{prefix}/")).unwrap_or_default(),
            most_operations: settings.whole("maxTxnOps").and_then(|most| most.try_into().ok()).unwrap_or(128),
        }
    }

    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    fn encode(&self, data: &Bytes, ttl: Ttl) -> Bytes {
        match self.layout {
            Layout::Plain => data.clone(),
            Layout::Message => {
                let ttl = if let Ttl::Lasts(time) = ttl { prost_types::Duration::try_from(time).ok() } else { None };
                let ts = Some(self.proxy.wall_clock().into());
                Value { data: data.clone(), ts, ttl }.encode_to_vec().into()
            }
        }
    }

    fn decode(&self, value: Bytes) -> Result<(Bytes, Option<SystemTime>), Error> {
        if self.layout == Layout::Plain {
            return Ok((value, None));
        }
        let value = Value::decode(value).map_err(|_| {
            let text = "the value is none that version v2 of the component writes; is it one of version v1?";
            Error::Failed(text.to_owned())
        })?;
        let (written, ttl) = (value.ts.map(SystemTime::try_from), value.ttl.map(Duration::try_from));
        let expires = match (written, ttl) {
            (Some(Ok(written)), Some(Ok(ttl))) if !ttl.is_zero() => written.checked_add(ttl),
            _ => None,
        };
        Ok((value.data, expires))
    }

    /// Carries out steps if the conditions hold.
    async fn write(&self, plan: Plan) -> Result<(), Error> {
        let Plan { steps, conditions } = plan;
        let alone = steps.len() == 1;
        let steps = steps.into_iter().map(|(key, step)| {
            let key = self.key(&key);
            match step {
                Step::Put(data, ttl) => {
                    let value = self.encode(&data, ttl);
                    etcd::Step {
                        operation: puts(etcdserver::PutRequest { key: key.into(), value, ..Default::default() }),
                        seconds: seconds(ttl),
                    }
                }
                Step::Delete => etcd::Step { operation: deletes(&key), seconds: None },
            }
        });
        let write = etcd::Write {
            compare: conditions.iter().map(|(key, wanted)| unchanged(&self.key(key), wanted.revision())).collect(),
            steps: steps.collect(),
            otherwise: conditions
                .keys()
                .map(|key| reads(etcdserver::RangeRequest { keys_only: true, ..one(&self.key(key)) }))
                .collect(),
            most: self.most_operations,
        };
        let answer = self.client.write(write).await?;
        if answer.succeeded {
            return Ok(());
        }
        let mut errors = Vec::new();
        for ((key, wanted), found) in conditions.into_iter().zip(&answer.responses) {
            let found = read(Some(found)).and_then(|range| range.kvs.first()).map_or(0, |kv| kv.mod_revision);
            if found != wanted.revision() {
                errors.push((key, wanted.unmet(found)));
            }
        }
        let error = if alone { errors.pop().map(|(_, error)| error) } else { Error::join(errors) };
        Err(error.unwrap_or_else(|| Error::Failed("etcd did not carry out a transaction whose conditions hold".into())))
    }
}

/// How long an item lives, if it ends. A write that does not say lets it live without end, as with Dapr's driver.
fn seconds(ttl: Ttl) -> Option<i64> {
    match ttl {
        Ttl::Lasts(time) => Some(i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
        Ttl::Unspecified | Ttl::Endless => None,
    }
}

/// What an item must be for a transaction to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Not there.
    Absent,
    /// Written at this revision.
    Revision(i64),
}

impl Wanted {
    /// What etcd compares with.
    fn revision(self) -> i64 {
        match self {
            Self::Absent => 0,
            Self::Revision(revision) => revision,
        }
    }

    fn unmet(self, found: i64) -> Error {
        Error::EtagMismatch(match (self, found) {
            (Self::Absent, _) => "there is an item already, and this write is to be the first".to_owned(),
            (Self::Revision(given), 0) => format!("there is no item, and etag {given} was given"),
            (Self::Revision(given), found) => format!("etag {given} was given and {found} is stored"),
        })
    }
}

/// What becomes of a key.
#[derive(Debug)]
enum Step {
    Put(Bytes, Ttl),
    Delete,
}

/// Operations as one transaction of etcd, which can neither look at a key between its steps nor write a key twice: the
/// first condition on each key, and the last step.
#[derive(Debug, Default)]
struct Plan {
    steps: BTreeMap<String, Step>,
    conditions: BTreeMap<String, Wanted>,
}

impl Plan {
    fn new(operations: Vec<Operation>) -> Result<Self, Error> {
        let (mut plan, alone) = (Self::default(), operations.len() == 1);
        for operation in operations {
            let (key, etag, concurrency, step) = match operation {
                Operation::Upsert(write) => {
                    (write.key, write.etag, write.concurrency, Step::Put(write.data, write.ttl))
                }
                Operation::Delete(delete) => (delete.key, delete.etag, delete.concurrency, Step::Delete),
            };
            let wanted =
                wanted(etag.as_deref(), concurrency).map_err(|error| if alone { error } else { error.about(&key) })?;
            match (wanted, plan.steps.get(&key)) {
                (None, _) | (Some(Wanted::Absent), Some(Step::Delete)) => {}
                (Some(wanted), None) => {
                    plan.conditions.insert(key.clone(), wanted);
                }
                // An earlier step of the transaction leaves an item of another revision, or none.
                (Some(wanted), Some(earlier)) => {
                    let found = if matches!(earlier, Step::Delete) { 0 } else { i64::MAX };
                    let text = match wanted.unmet(found) {
                        Error::EtagMismatch(text) if found == 0 => text,
                        _ => "an earlier operation of the transaction has written it".to_owned(),
                    };
                    return Err(Error::EtagMismatch(text).about(&key));
                }
            }
            plan.steps.insert(key, step);
        }
        Ok(plan)
    }
}

/// The condition of a write or removal: the rules that `state.in-memory` has.
fn wanted(etag: Option<&str>, concurrency: Concurrency) -> Result<Option<Wanted>, Error> {
    match etag {
        // Dapr's driver compares texts, so what is no revision is an etag that no item has.
        Some(etag) => match etag.parse::<i64>() {
            Ok(revision) if revision > 0 && revision.to_string() == etag => Ok(Some(Wanted::Revision(revision))),
            _ => Err(Error::EtagMismatch(format!("etag {etag:?} was given, which no item of this store has"))),
        },
        None if concurrency == Concurrency::FirstWrite => Ok(Some(Wanted::Absent)),
        None => Ok(None),
    }
}

#[async_trait(?Send)]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Item>, Error> {
        let found = self.client.range(one(&self.key(key))).await?;
        let Some(kv) = found.kvs.into_iter().next() else { return Ok(None) };
        let (data, expires) = self.decode(kv.value)?;
        Ok(Some(Item { data, etag: Some(kv.mod_revision.to_string()), expires }))
    }

    async fn set(&self, write: Write) -> Result<(), Error> {
        self.write(Plan::new(vec![Operation::Upsert(write)])?).await
    }

    async fn delete(&self, delete: Delete) -> Result<(), Error> {
        self.write(Plan::new(vec![Operation::Delete(delete)])?).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<(), Error> {
        if operations.len() > self.most_operations {
            return Err(Error::TooManyOperations(operations.len(), self.most_operations));
        }
        self.write(Plan::new(operations)?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(key: &str, etag: Option<&str>, concurrency: Concurrency) -> Operation {
        let etag = etag.map(str::to_owned);
        Operation::Upsert(Write { key: key.to_owned(), etag, concurrency, ..Write::default() })
    }

    fn delete(key: &str) -> Operation {
        Operation::Delete(Delete { key: key.to_owned(), ..Delete::default() })
    }

    #[test]
    fn conditions() {
        use Concurrency::{FirstWrite, LastWrite, Unspecified};
        assert_eq!(wanted(None, Unspecified), Ok(None));
        assert_eq!(wanted(Some("7"), FirstWrite), Ok(Some(Wanted::Revision(7))));
        assert_eq!(wanted(Some("7"), LastWrite), Ok(Some(Wanted::Revision(7))), "an etag that is given counts");
        assert_eq!(wanted(None, LastWrite), Ok(None));
        for none in ["0", "-1", "x", "07", "+7", "99999999999999999999"] {
            assert!(matches!(wanted(Some(none), Unspecified), Err(Error::EtagMismatch(_))), "{none}");
        }
    }

    #[test]
    fn a_key_is_written_once_and_compared_with_what_was_before() {
        use Concurrency::{FirstWrite, Unspecified};
        let plan = Plan::new(vec![upsert("a", Some("7"), Unspecified), delete("a"), upsert("a", None, FirstWrite)]);
        let plan = plan.unwrap();
        assert_eq!(plan.conditions, BTreeMap::from([("a".to_owned(), Wanted::Revision(7))]));
        assert!(matches!(plan.steps.get("a"), Some(Step::Put(..))));
        for late in [upsert("a", None, FirstWrite), upsert("a", Some("7"), Unspecified)] {
            let refused = Plan::new(vec![upsert("a", None, Unspecified), late]);
            assert!(matches!(refused, Err(Error::EtagMismatch(_))), "{refused:?}");
        }
        assert!(Plan::new(vec![delete("a"), upsert("a", Some("7"), Unspecified)]).is_err());
    }
}
