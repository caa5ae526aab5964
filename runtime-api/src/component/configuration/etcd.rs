//! Configuration in etcd, as Layotto's etcd store keeps it: an item is `/<app>/<group>/<label>/<key>` with its content,
//! and each of its tags a key below, `/<app>/<group>/<label>/<key>/<name of the tag>` with the value of the tag.
//!
//! Layotto writes a tag under its value instead of its name, and the content as its value. Either reads what the
//! other wrote: of tags that Layotto wrote the names are lost. Unlike Layotto, a removal ends with the item and its
//! tags (there also all items whose keys begin alike), a save leaves no tag of before, and both are one transaction.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use envoy_runtime_proto::etcd::etcdserverpb as etcdserver;
use envoy_runtime_proto::etcd::mvccpb::KeyValue;
use futures::future::{Either, select};

use super::{Change, Error, Feed, Item, Metadata, Selection, Store};
use crate::component::etcd::{self as connection, Names};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::{Field, Kind};
use crate::protocol::etcd::{Batch, Client, Watch, all, deletes, one, puts, read, reads};
use crate::proxy::Proxy;
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "configuration.etcd",
    block: Block::Configuration,
    meaning: "etcd 3.4 or later; data is interchangeable with Layotto's, but for the names of tags that Layotto wrote.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: |settings, path, report| connection::check(settings, &Names::CONFIGURATION, path, report),
    upstreams: |settings| connection::upstreams(settings, &Names::CONFIGURATION),
    build: Build::Configuration(|environment| Rc::new(Etcd::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, OWN, connection::LAYOTTO_TLS];

const OWN: &[Field] =
    &[Field::default("timeout", Kind::Whole(1, 3600), "10", "how long a call to etcd may take, in seconds")];

/// Steps of one transaction. The servers take 128.
const MOST_STEPS: usize = 128;

/// A store of configuration in etcd.
#[derive(Debug)]
pub struct Etcd {
    client: Client,
    proxy: Rc<dyn Proxy>,
    /// How long a subscription may take to come into force.
    patience: Duration,
}

impl Etcd {
    fn new(environment: &Environment) -> Self {
        let client = connection::client(environment, &Names::CONFIGURATION);
        Self { client, proxy: Rc::clone(&environment.proxy), patience: environment.limits.timeout }
    }

    /// Takes steps, as few transactions as the bound of the servers lets there be. What belongs together is given
    /// together.
    async fn run(&self, together: Vec<Vec<etcdserver::RequestOp>>) -> Result<Vec<etcdserver::ResponseOp>, Error> {
        let mut answers = Vec::new();
        let mut success: Vec<etcdserver::RequestOp> = Vec::new();
        let mut groups = together.into_iter().peekable();
        while let Some(mut steps) = groups.next() {
            success.append(&mut steps);
            if groups.peek().is_none_or(|next| success.len() + next.len() > MOST_STEPS) {
                let success = std::mem::take(&mut success);
                let request = etcdserver::TxnRequest { success, ..Default::default() };
                answers.extend(self.client.transact(request).await?.responses);
            }
        }
        Ok(answers)
    }
}

/// Where an item is.
fn place(app: &str, group: &str, label: &str, key: &str) -> Result<String, Error> {
    Ok(prefix(app, group, label)? + part("key", key)?)
}

/// Where all items of a group and label are.
fn prefix(app: &str, group: &str, label: &str) -> Result<String, Error> {
    Ok(format!("/{}/{}/{}/", part("app", app)?, part("group", group)?, part("label", label)?))
}

/// A part of the key of an item.
fn part<'a>(what: &str, text: &'a str) -> Result<&'a str, Error> {
    if text.contains('/') || text.is_empty() {
        return Err(Error::Invalid(format!(
            "the {what} {text:?} is empty or has a / in it, which etcd keys of configuration have between their parts"
        )));
    }
    Ok(text)
}

/// The parts of a key: app, group, label, key and the name of a tag, if it is a tag's.
fn parts(key: &str) -> Option<[&str; 5]> {
    let mut parts = key.strip_prefix('/')?.splitn(5, '/');
    let place = [parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next().unwrap_or_default()];
    place.iter().take(4).all(|part| !part.is_empty()).then_some(place)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Puts items together of what was read, in the order of their keys.
fn items<'a>(kvs: impl IntoIterator<Item = &'a KeyValue>) -> Vec<Item> {
    let mut items: BTreeMap<String, Item> = BTreeMap::new();
    let mut tags: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for kv in kvs {
        let key = text(&kv.key);
        let Some([_, group, label, key, tag]) = parts(&key) else { continue };
        if tag.is_empty() {
            let item = Item {
                key: key.to_owned(),
                content: text(&kv.value),
                group: group.to_owned(),
                label: label.to_owned(),
                version: kv.mod_revision.to_string(),
                ..Item::default()
            };
            items.insert(key.to_owned(), item);
        } else {
            tags.entry(key.to_owned()).or_default().push((tag.to_owned(), text(&kv.value)));
        }
    }
    for (key, tags) in tags {
        if let Some(item) = items.get_mut(&key) {
            item.tags.extend(tags);
        }
    }
    items.into_values().collect()
}

/// The items that a batch is about, with the tags that were written at the same revision. A change of tags alone is
/// none of an item.
fn changes(batch: Batch) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    let mut places: BTreeMap<(String, i64), usize> = BTreeMap::new();
    let mut tags: Vec<((String, i64), String, String)> = Vec::new();
    for change in batch.changes {
        let full = text(&change.key);
        let Some([app, group, label, key, tag]) = parts(&full) else { continue };
        let place = (format!("/{app}/{group}/{label}/{key}"), change.revision);
        let gone = change.value.is_none();
        let content = text(&change.value.unwrap_or_default());
        if !tag.is_empty() {
            tags.extend((!gone).then(|| (place, tag.to_owned(), content)));
            continue;
        }
        let version = if gone { String::new() } else { change.revision.to_string() };
        let item = Item {
            key: key.to_owned(),
            group: group.to_owned(),
            label: label.to_owned(),
            content,
            version,
            ..Item::default()
        };
        places.insert(place, found.len());
        found.push(Change { app: app.to_owned(), item });
    }
    for (place, name, value) in tags {
        if let Some(change) = places.get(&place).and_then(|at| found.get_mut(*at)) {
            change.item.tags.insert(name, value);
        }
    }
    found
}

#[async_trait(?Send)]
impl Store for Etcd {
    async fn get(&self, wanted: &Selection) -> Result<Vec<Item>, Error> {
        let Selection { app, group, label, keys, .. } = wanted;
        if keys.is_empty() {
            let prefix = prefix(app, group, label)?;
            return Ok(items(&self.client.range(all(prefix.as_bytes())).await?.kvs));
        }
        let mut steps = Vec::with_capacity(keys.len());
        for key in keys {
            let place = place(app, group, label, key)?;
            steps.push(vec![reads(one(place.as_bytes())), reads(all(format!("{place}/").as_bytes()))]);
        }
        let answers = self.run(steps).await?;
        let ranges = answers.iter().filter_map(|answer| read(Some(answer)));
        let mut found: BTreeMap<String, Item> =
            items(ranges.flat_map(|range| &range.kvs)).into_iter().map(|item| (item.key.clone(), item)).collect();
        Ok(keys.iter().filter_map(|key| found.remove(key)).collect())
    }

    async fn save(&self, app: &str, items: Vec<Item>, _: &Metadata) -> Result<(), Error> {
        let mut places = Vec::with_capacity(items.len());
        let mut looks = Vec::with_capacity(items.len());
        for item in &items {
            if let Some(tag) = item.tags.keys().find(|tag| tag.is_empty()) {
                return Err(Error::Invalid(format!("the item {} has a tag without a name, {tag:?}", item.key)));
            }
            let place = place(app, &item.group, &item.label, &item.key)?;
            let tags = etcdserver::RangeRequest { keys_only: true, ..all(format!("{place}/").as_bytes()) };
            looks.push(vec![reads(tags)]);
            places.push(place);
        }
        let before = self.run(looks).await?;
        let put = |key: String, value: String| {
            puts(etcdserver::PutRequest { key: key.into(), value: value.into(), ..Default::default() })
        };
        let mut steps: BTreeMap<String, Vec<etcdserver::RequestOp>> = BTreeMap::new();
        for ((item, place), before) in items.into_iter().zip(places).zip(&before) {
            let tags: BTreeMap<String, String> =
                item.tags.into_iter().map(|(name, value)| (format!("{place}/{name}"), value)).collect();
            let gone = read(Some(before)).map(|range| range.kvs.as_slice()).unwrap_or_default();
            let gone = gone.iter().filter(|kv| !tags.contains_key(&text(&kv.key))).map(|kv| deletes(&kv.key));
            let mut one = vec![put(place.clone(), item.content)];
            one.extend(gone);
            one.extend(tags.into_iter().map(|(key, value)| put(key, value)));
            // An item that is there twice: the last counts. A key can be written once in a transaction.
            steps.insert(place, one);
        }
        self.run(steps.into_values().collect()).await?;
        Ok(())
    }

    async fn delete(&self, gone: &Selection) -> Result<(), Error> {
        let Selection { app, group, label, keys, .. } = gone;
        let mut steps = Vec::with_capacity(keys.len());
        for key in keys {
            let place = place(app, group, label, key)?;
            let tags = all(format!("{place}/").as_bytes());
            let tags = etcdserver::DeleteRangeRequest { key: tags.key, range_end: tags.range_end, prev_kv: false };
            let tags = etcdserver::request_op::Request::RequestDeleteRange(tags);
            steps.push(vec![deletes(place.as_bytes()), etcdserver::RequestOp { request: Some(tags) }]);
        }
        self.run(steps).await?;
        Ok(())
    }

    fn accepts(&self, wanted: &Selection) -> Result<(), Error> {
        let Selection { app, group, label, keys, .. } = wanted;
        prefix(app, group, label)?;
        keys.iter().try_for_each(|key| place(app, group, label, key).map(drop))
    }

    /// Never ends: the watch of the client goes on by itself when the server is lost, and misses nothing.
    async fn watch(&self, feed: &Feed) -> Error {
        let watches: RefCell<BTreeMap<String, Watch>> = RefCell::default();
        loop {
            let next = Box::pin(next_batch(&watches));
            let wanted = match select(Box::pin(feed.wanted()), next).await {
                Either::Left((wanted, _)) => wanted,
                Either::Right((batch, _)) => {
                    feed.deliver(changes(batch));
                    continue;
                }
            };
            let apps: BTreeSet<String> = feed.topics().iter().map(|topic| topic.app.clone()).collect();
            watches.borrow_mut().retain(|app, _| apps.contains(app));
            let mut refused = None;
            for app in apps {
                let known = watches.borrow_mut().remove(&app);
                let mut watch = known.unwrap_or_else(|| self.client.watch(format!("/{app}/").as_bytes()));
                let begun = {
                    let begun = select(Box::pin(watch.established()), self.proxy.sleep(self.patience)).await;
                    matches!(begun, Either::Left(_))
                };
                if !begun {
                    refused = Some(self.client.why_not_watching());
                }
                watches.borrow_mut().insert(app, watch);
            }
            match refused {
                Some(why) => feed.refuse(&Error::Unavailable(why)),
                None => feed.cover(&wanted),
            }
        }
    }
}

/// The next batch of any watch; pending without one.
async fn next_batch(watches: &RefCell<BTreeMap<String, Watch>>) -> Batch {
    poll_fn(|context| {
        for watch in watches.borrow_mut().values_mut() {
            if let Poll::Ready(batch) = watch.poll_next(context) {
                return Poll::Ready(batch);
            }
        }
        Poll::Pending
    })
    .await
}
