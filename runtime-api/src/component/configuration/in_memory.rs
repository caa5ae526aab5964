//! Configuration in the memory of Envoy, one store for all workers: for development and tests.
//!
//! All of it is one value in the shared area, changed by compare-and-swap, with the last changes at its end. A worker
//! that has subscribers tells them what was written since; when to look it knows from a small value that changes with
//! each write.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use prost::Message;

use super::{Change, Error, Feed, Item, Metadata, Selection, Store, Topic};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::proxy::{Proxy, Version, shared_init};
use crate::slot::Slot;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "configuration.in-memory",
    block: Block::Configuration,
    meaning: "The memory of Envoy, shared by its workers and gone with it: for development.",
    versions: V1,
    capabilities: &[],
    fields: &[],
    check: |_, _, _| {},
    upstreams: |_| Vec::new(),
    build: Build::Configuration(|environment| Rc::new(InMemory::new(environment))),
};

/// How soon a worker sees what another has written.
const LOOK: Duration = Duration::from_millis(20);
/// After so many looks at the small value it looks at all, in case a worker ended between its write and telling of it.
const LOOKS: u32 = 250;
/// A bound, since all of it is written anew with each change.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How many changes are kept for workers that have not looked yet, and how many bytes of them.
const LOG: usize = 256;
const LOG_BYTES: usize = 64 * 1024;

/// A store of configuration in the shared area.
pub struct InMemory {
    proxy: Rc<dyn Proxy>,
    /// The name of its value in the shared area.
    name: String,
    /// The name of the small value that changes with it.
    mark: String,
    /// The value as it was last read.
    read: RefCell<Option<(Version, Rc<Content>)>>,
    /// The number of this worker's last write.
    own: Cell<u64>,
    /// The watch of this worker, which need not wait for what this worker writes.
    watch: Slot,
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InMemory")
    }
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    /// The number of the last write.
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    items: Vec<Entry>,
    /// The last changes, the oldest first.
    #[prost(message, repeated, tag = "3")]
    log: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    app: String,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(string, tag = "3")]
    label: String,
    #[prost(string, tag = "4")]
    key: String,
    #[prost(string, tag = "5")]
    content: String,
    #[prost(btree_map = "string, string", tag = "6")]
    tags: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "7")]
    metadata: BTreeMap<String, String>,
    /// The number of the write that it comes from.
    #[prost(uint64, tag = "8")]
    sequence: u64,
    /// Whether that write took the item away: an item may well be empty.
    #[prost(bool, tag = "9")]
    gone: bool,
}

impl Entry {
    fn is(&self, (app, group, label, key): (&str, &str, &str, &str)) -> bool {
        self.key == key && self.app == app && self.group == group && self.label == label
    }

    fn item(&self) -> Item {
        let Self { group, label, key, content, tags, metadata, sequence, gone, .. } = self.clone();
        let version = if gone { String::new() } else { sequence.to_string() };
        Item { key, content, group, label, tags, version, metadata }
    }

    fn change(&self) -> Change {
        Change { app: self.app.clone(), item: self.item() }
    }
}

impl InMemory {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        let name = format!("configuration.in-memory/{}", component.name);
        let mark = format!("{name}/changed");
        shared_init(&**proxy, &name);
        shared_init(&**proxy, &mark);
        let (read, own, watch) = (RefCell::default(), Cell::new(0), Slot::default());
        Self { proxy: Rc::clone(proxy), name, mark, read, own, watch }
    }

    /// What changes with each write.
    fn mark(&self) -> Option<Version> {
        self.proxy.shared_get(&self.mark).map(|(_, version)| version)
    }

    /// Tells that something was written. Another worker that does so at the same time does it for both.
    fn tell(&self, sequence: u64) {
        if let Some((_, version)) = self.proxy.shared_get(&self.mark) {
            let _ = self.proxy.shared_set(&self.mark, &sequence.to_be_bytes(), Some(version));
        }
    }

    /// What there is now, decoded only if it has changed.
    fn content(&self) -> (Version, Rc<Content>) {
        let Some((bytes, version)) = self.proxy.shared_get(&self.name) else {
            return (Version(u32::MAX), Rc::default());
        };
        if let Some((known, content)) = &*self.read.borrow()
            && *known == version
        {
            return (version, Rc::clone(content));
        }
        // What cannot be read is taken for empty: only this code writes it.
        let content = Rc::new(Content::decode(bytes).unwrap_or_default());
        *self.read.borrow_mut() = Some((version, Rc::clone(&content)));
        (version, content)
    }

    /// Changes what there is; again when another worker was faster. `change` gives what is new in it.
    fn write(&self, change: impl Fn(&Content, u64) -> Vec<Entry>) -> Result<(), Error> {
        loop {
            let (version, content) = self.content();
            let mut next = (*content).clone();
            next.sequence += 1;
            let changes = change(&content, next.sequence);
            if changes.is_empty() {
                return Ok(());
            }
            for entry in &changes {
                next.items.retain(|old| !old.is((&entry.app, &entry.group, &entry.label, &entry.key)));
                if !entry.gone {
                    next.items.push(entry.clone());
                }
            }
            next.log.extend(changes);
            next.trim();
            let bytes = next.encode_to_vec();
            if bytes.len() > MOST_BYTES {
                return Err(Error::Exhausted(format!(
                    "no more than {MOST_BYTES} bytes of configuration fit into memory"
                )));
            }
            if version == Version(u32::MAX) {
                return Err(Error::Failed("the shared area has no value for this store".to_owned()));
            }
            if self.proxy.shared_set(&self.name, &bytes, Some(version)).is_ok() {
                self.tell(next.sequence);
                self.own.set(next.sequence);
                self.watch.wake();
                return Ok(());
            }
        }
    }

    fn items(&self, wanted: &Topic) -> Vec<Item> {
        let (_, content) = self.content();
        let wanted = |entry: &&Entry| {
            let key = wanted.key.as_ref().is_none_or(|key| *key == entry.key);
            key && entry.app == wanted.app && entry.group == wanted.group && entry.label == wanted.label
        };
        let mut items: Vec<Item> = content.items.iter().filter(wanted).map(Entry::item).collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items
    }

    /// Waits until this worker has written.
    async fn written(&self, since: u64) {
        self.watch.until(|| (self.own.get() > since).then_some(())).await;
    }
}

impl Content {
    /// Drops the oldest changes beyond what is kept; those of a write stay together.
    fn trim(&mut self) {
        let mut bytes = 0;
        let mut kept = 0;
        for entry in self.log.iter().rev() {
            bytes += entry.encoded_len();
            if kept >= LOG || bytes > LOG_BYTES {
                break;
            }
            kept += 1;
        }
        let gone = self.log.len() - kept;
        let cut = gone.checked_sub(1).and_then(|last| self.log.get(last)).map(|entry| entry.sequence);
        self.log.retain(|entry| cut.is_none_or(|cut| entry.sequence > cut));
    }

    /// The changes after that write, by writes; nothing if not all of them are kept.
    fn since(&self, sequence: u64) -> Option<Vec<Vec<Change>>> {
        let mut found = BTreeSet::new();
        let mut writes: Vec<Vec<Change>> = Vec::new();
        for entry in self.log.iter().filter(|entry| entry.sequence > sequence) {
            if found.insert(entry.sequence) {
                writes.push(Vec::new());
            }
            if let Some(write) = writes.last_mut() {
                write.push(entry.change());
            }
        }
        (u64::try_from(found.len()) == Ok(self.sequence.saturating_sub(sequence))).then_some(writes)
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    async fn get(&self, wanted: &Selection) -> Result<Vec<Item>, Error> {
        let all =
            Topic { app: wanted.app.clone(), group: wanted.group.clone(), label: wanted.label.clone(), key: None };
        let mut items = self.items(&all);
        if !wanted.keys.is_empty() {
            let place = |item: &Item| wanted.keys.iter().position(|key| *key == item.key);
            items.retain(|item| place(item).is_some());
            items.sort_by_key(place);
        }
        Ok(items)
    }

    async fn save(&self, app: &str, items: Vec<Item>, _metadata: &Metadata) -> Result<(), Error> {
        self.write(|_, sequence| {
            let entry = |item: &Item| {
                let Item { key, content, group, label, tags, version: _, metadata } = item.clone();
                Entry { app: app.to_owned(), group, label, key, content, tags, metadata, sequence, gone: false }
            };
            items.iter().map(entry).collect()
        })
    }

    async fn delete(&self, gone: &Selection) -> Result<(), Error> {
        let Selection { app, group, label, keys, .. } = gone;
        self.write(|content, sequence| {
            let there = |key: &&String| content.items.iter().any(|entry| entry.is((app, group, label, key)));
            let removal = |key: &String| Entry {
                app: app.clone(),
                group: group.clone(),
                label: label.clone(),
                key: key.clone(),
                sequence,
                gone: true,
                ..Entry::default()
            };
            keys.iter().filter(there).map(removal).collect()
        })
    }

    async fn watch(&self, feed: &Feed) -> Error {
        let (mut seen, mut wanted) = (self.content().1.sequence, None);
        let (mut known, mut looks) = (None, 0);
        loop {
            // Read before what it tells of, so that nothing is missed.
            let mark = self.mark();
            if mark != known || looks >= LOOKS || self.own.get() > seen {
                (known, looks) = (mark, 0);
                let (_, content) = self.content();
                if content.sequence != seen {
                    match content.since(seen) {
                        Some(writes) => writes.into_iter().for_each(|changes| feed.deliver_if_new(changes)),
                        None => feed.topics().iter().for_each(|topic| feed.read(topic, self.items(topic))),
                    }
                    seen = content.sequence;
                }
            }
            looks += 1;
            // After what was written before: who subscribes now knows that.
            if let Some(wanted) = wanted.take().or_else(|| feed.take_wanted()) {
                for topic in &wanted.added {
                    feed.read(topic, self.items(topic));
                }
                feed.cover(&wanted);
            }
            let written = select(Box::pin(self.written(seen)), self.proxy.sleep(LOOK));
            if let Either::Left((more, _)) = select(Box::pin(feed.wanted()), written).await {
                wanted = Some(more);
            }
        }
    }
}
