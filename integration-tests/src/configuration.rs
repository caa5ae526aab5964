//! A store of configuration as an app sees it: a client, the name of a component and a group.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use futures::channel::mpsc::UnboundedSender;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::client::{Client, Dialect};
use crate::wait::{self, PATIENCE};

/// Keys that a [`Watch`] uses for itself begin so; they are never told of.
const PROBE: &str = "probe-";
/// Long enough that something which should not come would have.
const SILENCE: Duration = Duration::from_millis(300);

/// One group of a component, called in one dialect. Dapr's API cannot write, so writes go out by Layotto's.
#[derive(Clone, Debug)]
pub struct Configuration {
    client: Client,
    name: String,
    app: String,
    group: String,
}

impl Configuration {
    /// The group of the component `name`, called through `client`; an empty one is the default group.
    pub fn new(client: Client, name: &str, group: &str) -> Self {
        Self { client, name: name.to_owned(), app: String::new(), group: group.to_owned() }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("group".to_owned(), self.group.clone())])
    }

    /// `GetConfiguration`: keys and values.
    pub async fn get(&self, keys: &[&str]) -> Result<Vec<(String, String)>, Status> {
        let keys = owned(keys);
        let store_name = self.name.clone();
        match self.client.dialect() {
            Dialect::Dapr => {
                let request = dapr::GetConfigurationRequest { store_name, keys, metadata: self.metadata() };
                let answer = self.client.dapr().get_configuration(self.client.request(request)).await?;
                Ok(answer.into_inner().items.into_iter().map(|(key, item)| (key, item.value)).collect())
            }
            Dialect::Layotto => {
                let (app_id, group) = (self.app.clone(), self.group.clone());
                let request =
                    layotto::GetConfigurationRequest { store_name, app_id, group, keys, ..Default::default() };
                let answer = self.client.layotto().get_configuration(self.client.request(request)).await?;
                Ok(answer.into_inner().items.into_iter().map(|item| (item.key, item.content)).collect())
            }
        }
    }

    /// `SaveConfiguration`
    pub async fn save(&self, items: &[(&str, &str)]) -> Result<(), Status> {
        let item = |(key, content): &(&str, &str)| layotto::ConfigurationItem {
            key: (*key).to_owned(),
            content: (*content).to_owned(),
            group: self.group.clone(),
            ..Default::default()
        };
        let items = items.iter().map(item).collect();
        let (store_name, app_id) = (self.name.clone(), self.app.clone());
        let request = layotto::SaveConfigurationRequest { store_name, app_id, items, metadata: BTreeMap::new() };
        self.client.layotto().save_configuration(self.client.request(request)).await.map(|_| ())
    }

    /// `DeleteConfiguration`
    pub async fn delete(&self, keys: &[&str]) -> Result<(), Status> {
        let (store_name, app_id, group) = (self.name.clone(), self.app.clone(), self.group.clone());
        let keys = owned(keys);
        let request = layotto::DeleteConfigurationRequest { store_name, app_id, group, keys, ..Default::default() };
        self.client.layotto().delete_configuration(self.client.request(request)).await.map(|_| ())
    }

    /// `UnsubscribeConfiguration`, which Dapr has.
    pub async fn unsubscribe(&self, id: &str) -> Result<dapr::UnsubscribeConfigurationResponse, Status> {
        let request = dapr::UnsubscribeConfigurationRequest { store_name: self.name.clone(), id: id.to_owned() };
        Ok(self.client.dapr().unsubscribe_configuration(self.client.request(request)).await?.into_inner())
    }

    /// `SubscribeConfiguration` of Dapr, as it is.
    pub async fn stream(&self, keys: &[&str]) -> Result<Streaming<dapr::SubscribeConfigurationResponse>, Status> {
        let store_name = self.name.clone();
        let request = dapr::SubscribeConfigurationRequest { store_name, keys: owned(keys), metadata: self.metadata() };
        Ok(self.client.dapr().subscribe_configuration(self.client.request(request)).await?.into_inner())
    }

    /// Subscribes, and waits until that is in force.
    pub async fn watch(&self, keys: &[&str]) -> Watch {
        match self.client.dialect() {
            Dialect::Dapr => self.watch_dapr(keys).await,
            Dialect::Layotto => self.watch_layotto(keys).await,
        }
    }

    async fn watch_dapr(&self, keys: &[&str]) -> Watch {
        let mut stream = self.stream(keys).await.unwrap();
        let first = stream.message().await.unwrap().expect("the id comes first");
        assert!(first.items.is_empty() && !first.id.is_empty(), "{first:?}");
        let (sender, changes) = mpsc::unbounded_channel();
        let id = first.id.clone();
        let task = tokio::spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        assert!(message.id == first.id && !message.items.is_empty(), "{message:?}");
                        for (key, item) in message.items {
                            let _ = sender.send(Ok((key, item.value)));
                        }
                    }
                    Ok(None) => return,
                    Err(status) => {
                        let _ = sender.send(Err(status));
                        return;
                    }
                }
            }
        });
        Watch { id, changes, task, _open: None }
    }

    /// Layotto does not say when a subscription is in force: a key of our own is written until that is told.
    async fn watch_layotto(&self, keys: &[&str]) -> Watch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let probe = format!("{PROBE}{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut wanted = owned(keys);
        if !wanted.is_empty() {
            wanted.push(probe.clone());
        }
        let (open, requests) = futures::channel::mpsc::unbounded();
        let request = layotto::SubscribeConfigurationRequest {
            store_name: self.name.clone(),
            app_id: self.app.clone(),
            group: self.group.clone(),
            keys: wanted,
            ..Default::default()
        };
        open.unbounded_send(request).expect("the stream is open");
        let (sender, changes) = mpsc::unbounded_channel();
        let (mut client, name) = (self.client.layotto(), self.name.clone());
        let task = tokio::spawn(async move {
            // The response begins with the first message: until then this waits.
            let mut stream = match client.subscribe_configuration(requests).await {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    let _ = sender.send(Err(status));
                    return;
                }
            };
            loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        assert!(message.store_name == name && !message.items.is_empty(), "{message:?}");
                        for item in message.items {
                            let _ = sender.send(Ok((item.key, item.content)));
                        }
                    }
                    Ok(None) => return,
                    Err(status) => {
                        let _ = sender.send(Err(status));
                        return;
                    }
                }
            }
        });
        let mut watch = Watch { id: String::new(), changes, task, _open: Some(open) };
        let mut attempt = 0;
        wait::eventually("the subscription is in force", async || {
            attempt += 1;
            self.save(&[(&probe, &attempt.to_string())]).await.unwrap();
            match timeout(Duration::from_millis(100), watch.changes.recv()).await {
                Ok(Some(Ok(_))) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        self.delete(&[&probe]).await.unwrap();
        watch
    }
}

/// A subscription. Dropping it ends the stream.
#[derive(Debug)]
pub struct Watch {
    /// Its id; empty with Layotto, which has none.
    pub id: String,
    changes: mpsc::UnboundedReceiver<Result<(String, String), Status>>,
    task: JoinHandle<()>,
    _open: Option<UnboundedSender<layotto::SubscribeConfigurationRequest>>,
}

impl Watch {
    /// The next change: a key and its value.
    pub async fn next(&mut self) -> (String, String) {
        timeout(PATIENCE, self.change()).await.expect("a change comes").expect("the stream is open")
    }

    /// Asserts that these changes come, in this order.
    pub async fn expect(&mut self, changes: &[(&str, &str)]) {
        for (key, value) in changes {
            assert_eq!(self.next().await, ((*key).to_owned(), (*value).to_owned()));
        }
    }

    /// Asserts that nothing comes.
    pub async fn expect_silence(&mut self) {
        if let Ok(change) = timeout(SILENCE, self.change()).await {
            assert!(change.is_none(), "nothing is expected, not {change:?}");
        }
    }

    /// Asserts that the stream ends with OK and nothing comes before that.
    pub async fn expect_end(&mut self) {
        let end = timeout(PATIENCE, self.change()).await.expect("the stream ends");
        assert_eq!(end, None);
    }

    async fn change(&mut self) -> Option<(String, String)> {
        loop {
            let change = self.changes.recv().await?.unwrap();
            if !change.0.starts_with(PROBE) {
                return Some(change);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}
