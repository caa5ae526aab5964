//! Sequences in etcd: an id is how often its key was written, as in Layotto's etcd sequencer. So ids rise by one, and
//! begin anew when the key is deleted; there is no way to have many at once, nor to raise them.

use std::rc::Rc;

use async_trait::async_trait;
use envoy_runtime_proto::etcd::etcdserverpb as etcdserver;

use super::{Error, Store};
use crate::component::etcd::{self as connection, Names};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::Field;
use crate::protocol::etcd::{self, Client, counts, one, puts, read, reads};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "sequencer.etcd",
    block: Block::Sequencer,
    meaning: "etcd 3.4 or later; sequences go on where Layotto's have stopped. Each id is a write.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: |settings, path, report| connection::check(settings, &Names::LAYOTTO, path, report),
    upstreams: |settings| connection::upstreams(settings, &Names::LAYOTTO),
    build: Build::Sequencer(|environment| Rc::new(Etcd::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::LAYOTTO];

/// A sequencer in etcd.
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
}

#[async_trait(?Send)]
impl Store for Etcd {
    /// Where the ids must be bigger than what they are, it fails and none is given.
    async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error> {
        let key = format!("{}{key}", self.prefix);
        let bytes = key.as_bytes();
        let put = puts(etcdserver::PutRequest { key: key.clone().into(), ..Default::default() });
        let answer = self
            .client
            .transact(etcdserver::TxnRequest {
                compare: if above > 0 { vec![counts(bytes, above)] } else { Vec::new() },
                success: vec![put, reads(one(bytes))],
                failure: vec![reads(one(bytes))],
            })
            .await?;
        let found = read(answer.responses.last()).and_then(|range| range.kvs.first());
        match (answer.succeeded, found.map_or(0, |kv| kv.version)) {
            (true, 0) => Err(etcd::Error::Unexpected("Txn").into()),
            (true, id) => Ok(id),
            (false, last) => Err(Error::Failed(format!(
                "the last id of {key} in etcd is {last}, and biggerThan asks for more than {above}: ids in etcd count \
                 writes and cannot be raised"
            ))),
        }
    }
}
