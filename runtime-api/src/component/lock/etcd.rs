//! Locks in etcd: an item under the name of the lock with the owner in it and under a lease, as Layotto's etcd lock
//! writes it.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use envoy_runtime_proto::etcd::etcdserverpb as etcdserver;

use super::{Error, Held, Outcome, Store};
use crate::component::etcd::{self as connection, Names};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::Field;
use crate::protocol::etcd::{self, Client, deletes, holds, one, puts, read, reads, unchanged};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "lock.etcd",
    block: Block::Lock,
    meaning: "etcd 3.4 or later; locks exclude those of Layotto with the same name. The fencing token is a revision.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: |settings, path, report| connection::check(settings, &Names::LAYOTTO, path, report),
    upstreams: |settings| connection::upstreams(settings, &Names::LAYOTTO),
    build: Build::Lock(|environment| Rc::new(Etcd::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::LAYOTTO];

/// A lock store in etcd.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    prefix: String,
}

impl Etcd {
    fn new(environment: &Environment) -> Self {
        let prefix = connection::prefix(&environment.component.settings);
        Self { client: connection::client(environment, &Names::LAYOTTO), prefix }
    }

    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    /// Takes a step if the condition holds, else looks who has the lock.
    async fn run(
        &self,
        key: &[u8],
        condition: etcdserver::Compare,
        step: etcd::Step,
    ) -> Result<etcdserver::TxnResponse, Error> {
        let (compare, steps, otherwise) = (vec![condition], vec![step], vec![reads(one(key))]);
        Ok(self.client.write(etcd::Write { compare, steps, otherwise, most: MOST_STEPS }).await?)
    }
}

/// What the servers take in a transaction by default.
const MOST_STEPS: usize = 128;

/// The owner, under a lease of its own.
fn put(key: &[u8], owner: &str, expiry: Duration) -> etcd::Step {
    let (key, value) = (key.to_vec().into(), owner.to_owned().into());
    etcd::Step {
        operation: puts(etcdserver::PutRequest { key, value, ..Default::default() }),
        seconds: Some(i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX)),
    }
}

fn outcome(answer: &etcdserver::TxnResponse) -> Outcome {
    let found = read(answer.responses.first()).is_some_and(|range| !range.kvs.is_empty());
    match (answer.succeeded, found) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Others,
        (false, false) => Outcome::Missing,
    }
}

#[async_trait(?Send)]
impl Store for Etcd {
    async fn try_lock(&self, key: &str, owner: &str, expiry: Duration) -> Result<Option<Held>, Error> {
        let key = self.key(key);
        let answer = self.run(&key, unchanged(&key, 0), put(&key, owner, expiry)).await?;
        let fencing_token = answer.header.as_ref().map(|header| header.revision);
        Ok(answer.succeeded.then_some(Held { fencing_token }))
    }

    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error> {
        let key = self.key(key);
        let removal = etcd::Step { operation: deletes(&key), seconds: None };
        Ok(outcome(&self.run(&key, holds(&key, owner.as_bytes()), removal).await?))
    }

    /// By a new lease: an old one cannot be given another time.
    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error> {
        let key = self.key(key);
        Ok(outcome(&self.run(&key, holds(&key, owner.as_bytes()), put(&key, owner, expiry)).await?))
    }
}
