//! Locks in etcd: an item under the name of the lock with the owner in it and under a lease, as Layotto's etcd lock writes
//! it.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use envoy_runtime_proto::etcd::etcdserverpb as etcdserver;

use super::{Error, Held, Outcome, Store};
use crate::component::etcd::{self as connection, Names};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::Field;
use crate::protocol::Failure;
use crate::protocol::etcd::{self, Client, holds, one, puts, read, reads, replaced, takes, unchanged};
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

    /// Writes the owner under a lease of its own, if the condition holds. Leases without a lock are given back: the new
    /// one if the condition did not hold, else the one that the lock was under.
    async fn put(
        &self,
        condition: etcdserver::Compare,
        key: &[u8],
        owner: &str,
        expiry: Duration,
    ) -> Result<etcdserver::TxnResponse, Error> {
        let lease = self.client.grant(i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX)).await?;
        let value = owner.to_owned().into();
        let put = puts(etcdserver::PutRequest { key: key.to_vec().into(), value, lease, prev_kv: true });
        match self.run(condition, put, key).await {
            Ok(answer) => {
                if !answer.succeeded {
                    self.client.give_back(lease);
                }
                Ok(answer)
            }
            Err(error) => {
                // Not where the lock may have been taken under it: it ends with the lease then.
                if !error.is_passing() {
                    self.client.give_back(lease);
                }
                Err(error.into())
            }
        }
    }

    /// Takes a step if the condition holds, else looks who has the lock.
    async fn run(
        &self,
        condition: etcdserver::Compare,
        step: etcdserver::RequestOp,
        key: &[u8],
    ) -> Result<etcdserver::TxnResponse, etcd::Error> {
        let (compare, success, failure) = (vec![condition], vec![step], vec![reads(one(key))]);
        let answer = self.client.transact(etcdserver::TxnRequest { compare, success, failure }).await?;
        if answer.succeeded {
            for ended in replaced(&answer).map(|kv| kv.lease).filter(|lease| *lease != 0) {
                self.client.give_back(ended);
            }
        }
        Ok(answer)
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
        let answer = self.put(unchanged(&key, 0), &key, owner, expiry).await?;
        let fencing_token = answer.header.as_ref().map(|header| header.revision);
        Ok(answer.succeeded.then_some(Held { fencing_token }))
    }

    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error> {
        let key = self.key(key);
        Ok(outcome(&self.run(holds(&key, owner.as_bytes()), takes(&key), &key).await?))
    }

    /// By a new lease: an old one cannot be given another time.
    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error> {
        let key = self.key(key);
        Ok(outcome(&self.put(holds(&key, owner.as_bytes()), &key, owner, expiry).await?))
    }
}
