//! A sequencer as an app sees it: a client and the name of a component.

use std::collections::BTreeMap;

use envoy_runtime_proto::spec::runtime::v1::sequencer_options::AutoIncrement;
use envoy_runtime_proto::spec::runtime::v1::{GetNextIdRequest, SequencerOptions};
use tonic::Status;

use crate::client::Client;

/// One sequencer component. Only Layotto has the API.
#[derive(Clone, Debug)]
pub struct Sequencer {
    client: Client,
    name: String,
}

impl Sequencer {
    /// The component `name`, called through `client`.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// `GetNextId` without options, which is WEAK.
    pub async fn next(&self, key: &str) -> Result<i64, Status> {
        self.next_with(key, None).await
    }

    /// `GetNextId`, STRONG.
    pub async fn next_strong(&self, key: &str) -> Result<i64, Status> {
        self.next_with(key, Some(AutoIncrement::Strong.into())).await
    }

    /// `GetNextId` with any number for the increment.
    pub async fn next_with(&self, key: &str, increment: Option<i32>) -> Result<i64, Status> {
        let options = increment.map(|increment| SequencerOptions { increment });
        let request =
            GetNextIdRequest { store_name: self.name.clone(), key: key.to_owned(), options, metadata: BTreeMap::new() };
        Ok(self.client.layotto().get_next_id(self.client.request(request)).await?.into_inner().next_id)
    }
}
