//! A state store as an app sees it: a client and the name of a component.

use std::collections::BTreeMap;

use bytes::Bytes;
pub use dapr::{BulkStateItem, GetStateResponse, TransactionalStateOperation};
use envoy_runtime_proto::dapr::common::v1::state_options::{StateConcurrency, StateConsistency};
use envoy_runtime_proto::dapr::common::v1::{Etag, StateItem, StateOptions};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use tonic::Status;

use crate::client::{Client, Dialect};

/// One state component, called in one dialect.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    name: String,
}

impl Store {
    /// The component `name`, called through `client`.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// The name of the component.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that it is called through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whose API it is called by.
    pub fn dialect(&self) -> Dialect {
        self.client.dialect()
    }

    /// `GetState`
    pub async fn get(&self, key: &str) -> Result<GetStateResponse, Status> {
        let store_name = self.name.clone();
        self.client.get_state(dapr::GetStateRequest { store_name, key: key.into(), ..Default::default() }).await
    }

    /// `GetState` with metadata.
    pub async fn get_with(&self, key: &str, metadata: &[(&str, &str)]) -> Result<GetStateResponse, Status> {
        let store_name = self.name.clone();
        let metadata = pairs(metadata);
        self.client
            .get_state(dapr::GetStateRequest { store_name, key: key.into(), metadata, ..Default::default() })
            .await
    }

    /// `GetBulkState`
    pub async fn bulk_get(&self, keys: &[&str], parallelism: i32) -> Result<Vec<BulkStateItem>, Status> {
        let store_name = self.name.clone();
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let request = dapr::GetBulkStateRequest { store_name, keys, parallelism, metadata: BTreeMap::new() };
        Ok(self.client.get_bulk_state(request).await?.items)
    }

    /// `SaveState` of one item.
    pub async fn save(&self, item: StateItem) -> Result<(), Status> {
        self.bulk_save(vec![item]).await
    }

    /// `SaveState`
    pub async fn bulk_save(&self, states: Vec<StateItem>) -> Result<(), Status> {
        self.client.save_state(dapr::SaveStateRequest { store_name: self.name.clone(), states }).await
    }

    /// `DeleteState` of what `item` names; its value does not count.
    pub async fn delete(&self, item: StateItem) -> Result<(), Status> {
        let StateItem { key, etag, options, metadata, .. } = item;
        let store_name = self.name.clone();
        self.client.delete_state(dapr::DeleteStateRequest { store_name, key, etag, options, metadata }).await
    }

    /// `DeleteBulkState`
    pub async fn bulk_delete(&self, states: Vec<StateItem>) -> Result<(), Status> {
        self.client.delete_bulk_state(dapr::DeleteBulkStateRequest { store_name: self.name.clone(), states }).await
    }

    /// `ExecuteStateTransaction`
    pub async fn transaction(&self, operations: Vec<TransactionalStateOperation>) -> Result<(), Status> {
        let store_name = self.name.clone();
        let request = dapr::ExecuteStateTransactionRequest { store_name, operations, metadata: BTreeMap::new() };
        self.client.execute_state_transaction(request).await
    }

    /// The value under `key`; empty when there is none.
    pub async fn value(&self, key: &str) -> Bytes {
        self.get(key).await.unwrap_or_else(|status| panic!("get {key}: {status}")).data
    }

    /// The etag of the item under `key`; empty when there is none.
    pub async fn etag(&self, key: &str) -> String {
        self.get(key).await.unwrap_or_else(|status| panic!("get {key}: {status}")).etag
    }
}

/// An item to be saved.
pub fn item(key: &str, value: impl Into<Bytes>) -> StateItem {
    StateItem { key: key.into(), value: value.into(), ..Default::default() }
}

/// An item to be deleted.
pub fn key(key: &str) -> StateItem {
    item(key, "")
}

/// `upsert`, an operation of a transaction.
pub fn upsert(item: StateItem) -> TransactionalStateOperation {
    TransactionalStateOperation { operation_type: "upsert".into(), request: Some(item) }
}

/// `delete`, an operation of a transaction.
pub fn delete(item: StateItem) -> TransactionalStateOperation {
    TransactionalStateOperation { operation_type: "delete".into(), request: Some(item) }
}

/// What a request can ask for an item beside its value.
pub trait ItemOptions: Sized {
    /// Only if the item still has this etag.
    fn if_etag(self, etag: &str) -> Self;
    /// With the concurrency option first-write.
    fn first_write(self) -> Self;
    /// With the concurrency option last-write.
    fn last_write(self) -> Self;
    /// With the consistency option strong.
    fn strong(self) -> Self;
    /// With an entry of metadata.
    fn metadata(self, name: &str, value: &str) -> Self;
    /// With a time to live, in seconds.
    fn ttl(self, seconds: i64) -> Self {
        self.metadata("ttlInSeconds", &seconds.to_string())
    }
    /// As JSON.
    fn json(self) -> Self {
        self.metadata("contentType", "application/json")
    }
}

impl ItemOptions for StateItem {
    fn if_etag(mut self, etag: &str) -> Self {
        self.etag = Some(Etag { value: etag.into() });
        self
    }

    fn first_write(mut self) -> Self {
        options(&mut self).set_concurrency(StateConcurrency::ConcurrencyFirstWrite);
        self
    }

    fn last_write(mut self) -> Self {
        options(&mut self).set_concurrency(StateConcurrency::ConcurrencyLastWrite);
        self
    }

    fn strong(mut self) -> Self {
        options(&mut self).set_consistency(StateConsistency::ConsistencyStrong);
        self
    }

    fn metadata(mut self, name: &str, value: &str) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

fn options(item: &mut StateItem) -> &mut StateOptions {
    item.options.get_or_insert_default()
}

fn pairs(metadata: &[(&str, &str)]) -> BTreeMap<String, String> {
    metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
