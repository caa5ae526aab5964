//! Configuration in Redis as Dapr's configuration.redis has it: a string per key, `value||version`.
//!
//! What Layotto's items have more than that:
//!
//! - Apps are not kept apart, as they are not with Dapr: whoever wants that uses another database.
//! - An item of the default group and label lies under its key; one of another group or label under
//!   `config||<group>||<label>||<key>`. Such keys are not among all items of the default group.
//! - Tags are not kept.
//!
//! Changes are told by the server's keyspace notifications. They say which key was touched and no more, so its value
//! is read; of changes of a key that follow each other faster than that the last is told.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, LocalBoxFuture, select, try_join3};

use super::{Change, DEFAULT, Error, Feed, Item, Metadata, Selection, Store, Topic, Wanted};
use crate::component::{Block, Build, Driver, Environment, V1, redis as connection};
use crate::config::Field;
use crate::protocol::Failure;
use crate::protocol::redis::{self, Client, Push, Subscriber};
use crate::proxy::{Level, Proxy};
use crate::slot::Slot;
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "configuration.redis",
    block: Block::Configuration,
    meaning: "Redis, or what speaks its protocol; items are interchangeable with Dapr's.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: connection::check,
    upstreams: connection::upstreams,
    build: Build::Configuration(|environment| Rc::new(Redis::new(environment))),
};

const FIELDS: &[Field] = tables![connection::SERVER, connection::CONNECTION];

/// Between the value and its version, and between the parts of a key.
const SEPARATOR: &str = "||";
/// What the keys of items of other groups and labels begin with.
const GROUPED: &str = "config||";

/// Keys that are read, or subscribed, by one command.
const AT_ONCE: usize = 512;
/// Keys that the server looks at in a step of SCAN.
const SCANNED: &[u8] = b"1000";

/// What the server is to notify of, as Dapr's driver asks: by key, of generic commands, strings, ends, evictions.
const EVENTS: &str = "Kg$xe";

/// Writes values with versions that rise. KEYS: the keys. ARGV: the values. Nothing is written if one of the keys
/// holds something else than a string.
const SAVE: &str = "\
local versions = {}
for i, key in ipairs(KEYS) do
  local old = redis.call('GET', key)
  versions[i] = (tonumber(old and string.match(old, '||(%d+)$')) or 0) + 1
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[i] .. '||' .. string.format('%.0f', versions[i]))
end
return #KEYS";

/// A store of configuration in Redis.
pub struct Redis {
    proxy: Rc<dyn Proxy>,
    component: String,
    client: Client,
    /// What the names of the channels begin with.
    channel: String,
    /// Whether it was said that the server refuses CONFIG.
    refused: Cell<bool>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        let database = component.settings.whole("redisDB").unwrap_or_default();
        Self {
            proxy: Rc::clone(proxy),
            component: component.name.clone(),
            client: connection::client(environment, &component.cluster),
            channel: format!("__keyspace@{database}__:"),
            refused: Cell::new(false),
        }
    }

    /// The values of keys, each as text; none for one that is not there or holds something else than a string.
    async fn values(&self, keys: &[String]) -> Result<Vec<Option<String>>, redis::Error> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let mut words: Vec<&[u8]> = vec![b"MGET"];
            words.extend(keys.iter().map(String::as_bytes));
            for reply in redis::list(self.client.command(&words).await?, "MGET")? {
                let value = redis::bytes(reply, "MGET")?;
                values.push(value.map(|value| String::from_utf8_lossy(&value).into_owned()));
            }
        }
        Ok(values)
    }

    /// The names of all keys of a group and label, as in the store, in order.
    async fn names(&self, group: &str, label: &str) -> Result<Vec<String>, redis::Error> {
        let mut pattern = escaped(&prefix(group, label));
        pattern.push('*');
        let mut names = BTreeSet::new(); // SCAN may give a key twice
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let step: [&[u8]; 6] = [b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", SCANNED];
            let mut reply = redis::list(self.client.command(&step).await?, "SCAN")?.into_iter();
            let (Some(next), Some(keys)) = (reply.next(), reply.next()) else {
                return Err(redis::Error::Unexpected("SCAN"));
            };
            for key in redis::list(keys, "SCAN")? {
                let name = redis::bytes(key, "SCAN")?.map(Vec::from).map(String::from_utf8);
                if let Some(Ok(name)) = name
                    && Place::of(&name).is(group, label)
                {
                    names.insert(name);
                }
            }
            cursor = redis::bytes(next, "SCAN")?.unwrap_or_default();
            if cursor.as_ref() == b"0" || cursor.is_empty() {
                return Ok(names.into_iter().collect());
            }
        }
    }

    /// The items of a group and label; of all keys if none are given.
    async fn read(&self, group: &str, label: &str, keys: Option<&[String]>) -> Result<Vec<Item>, redis::Error> {
        let names = match keys {
            Some(keys) => keys.iter().map(|key| prefix(group, label) + key).collect(),
            None => self.names(group, label).await?,
        };
        let values = self.values(&names).await?;
        Ok(names.iter().zip(values).filter_map(|(name, value)| Some(Place::of(name).item(&value?))).collect())
    }

    /// One attempt at watching.
    async fn attend(&self, feed: &Feed) -> Result<Infallible, redis::Error> {
        let first = feed.wanted().await;
        let subscriber = self.client.subscriber().await?;
        self.ask_for_notifications().await?;
        let inbox = Inbox::default();
        let hear: LocalBoxFuture<'_, _> = Box::pin(self.hear(&subscriber, &inbox));
        let tell: LocalBoxFuture<'_, _> = Box::pin(self.tell(feed, first, &subscriber, &inbox));
        let watch: LocalBoxFuture<'_, _> = Box::pin(subscriber.watch());
        let (never, _, _): (Infallible, Infallible, Infallible) = try_join3(hear, tell, watch).await?;
        match never {}
    }

    /// Has the server notify of keys, besides what it notifies of already. It forgets that when it restarts.
    async fn ask_for_notifications(&self) -> Result<(), redis::Error> {
        const NAME: &[u8] = b"notify-keyspace-events";
        let asked = async {
            let set = redis::list(self.client.command(&[b"CONFIG", b"GET", NAME]).await?, "CONFIG GET")?;
            let set = set.into_iter().nth(1).map_or(Ok(None), |reply| redis::bytes(reply, "CONFIG GET"))?;
            let mut events = String::from_utf8_lossy(&set.unwrap_or_default()).into_owned();
            // A stands for all of g$lshzxet and more.
            let set = |event: char| events.contains(event) || (events.contains('A') && event != 'K');
            let missing: String = EVENTS.chars().filter(|event| !set(*event)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            events.push_str(&missing);
            self.client.command(&[b"CONFIG", b"SET", NAME, events.as_bytes()]).await.map(drop)
        };
        match asked.await {
            Err(why @ redis::Error::Refused(_)) if !why.is_passing() => {
                if !self.refused.replace(true) {
                    let (component, why) = (&self.component, why.to_string());
                    self.proxy.log(
                        Level::Warn,
                        &format!(
                            "component={component} event=notifications_not_set reason={why:?} hint=\"changes are told \
                             only if notify-keyspace-events of the server has {EVENTS}, which the runtime may not set\""
                        ),
                    );
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Notes which keys the server says were touched.
    async fn hear(&self, subscriber: &Subscriber, inbox: &Inbox) -> Result<Infallible, redis::Error> {
        loop {
            match subscriber.next().await? {
                Push::Confirmed => inbox.confirm(),
                Push::Message { channel, payload } => {
                    // Hashes are state, not configuration; an end that was set for later changes nothing yet.
                    let idle = payload.starts_with(b"h") || matches!(payload.as_ref(), b"expire" | b"persist");
                    let name = channel.strip_prefix(self.channel.as_bytes()).map(<[u8]>::to_vec);
                    if !idle && let Some(Ok(name)) = name.map(String::from_utf8) {
                        inbox.put(name);
                    }
                }
            }
        }
    }

    /// Subscribes what is wanted and tells what is in the keys that were touched, one after the other: what was read
    /// earlier is told earlier.
    async fn tell(
        &self,
        feed: &Feed,
        first: Wanted,
        subscriber: &Subscriber,
        inbox: &Inbox,
    ) -> Result<Infallible, redis::Error> {
        let mut channels = Channels::default();
        let mut wanted = Some(first);
        loop {
            if let Some(wanted) = wanted.take() {
                let (joined, left) = channels.change(&wanted);
                self.join(subscriber, inbox, &joined, &left).await;
                self.catch_up(feed, &wanted).await?;
                feed.cover(&wanted);
            }
            let names = inbox.take(AT_ONCE);
            if !names.is_empty() {
                self.tell_of(feed, names).await?;
                continue;
            }
            if let Either::Left((more, _)) = select(Box::pin(feed.wanted()), Box::pin(inbox.filled())).await {
                wanted = Some(more);
            }
        }
    }

    /// Subscribes and unsubscribes, and waits until the server has confirmed it.
    async fn join(&self, subscriber: &Subscriber, inbox: &Inbox, joined: &[Rc<Topic>], left: &[Rc<Topic>]) {
        for (topics, one, many) in [(left, "UNSUBSCRIBE", "PUNSUBSCRIBE"), (joined, "SUBSCRIBE", "PSUBSCRIBE")] {
            let (single, whole): (Vec<_>, Vec<_>) = topics.iter().partition(|topic| topic.key.is_some());
            for (topics, command) in [(single, one), (whole, many)] {
                for topics in topics.chunks(AT_ONCE) {
                    let names: Vec<String> = topics.iter().map(|topic| self.channel_of(topic)).collect();
                    let mut words = vec![command.as_bytes()];
                    words.extend(names.iter().map(String::as_bytes));
                    subscriber.send(&words);
                    inbox.expect(names.len());
                }
            }
        }
        inbox.confirmed().await;
    }

    /// The channel of a key, or the pattern of the channels of all keys.
    fn channel_of(&self, topic: &Topic) -> String {
        let prefix = prefix(&topic.group, &topic.label);
        match &topic.key {
            Some(key) => [&self.channel, &*prefix, key].concat(),
            None => [&*escaped(&self.channel), &escaped(&prefix), "*"].concat(),
        }
    }

    /// Reads what is new to be watched, or watched again.
    async fn catch_up(&self, feed: &Feed, wanted: &Wanted) -> Result<(), redis::Error> {
        let (single, whole): (Vec<_>, Vec<_>) = wanted.added.iter().partition(|topic| topic.key.is_some());
        for topic in whole {
            feed.read(topic, self.read(&topic.group, &topic.label, None).await?);
        }
        let name = |topic: &&Rc<Topic>| prefix(&topic.group, &topic.label) + topic.key.as_deref().unwrap_or_default();
        let names: Vec<String> = single.iter().map(name).collect();
        let values = self.values(&names).await?;
        for ((topic, name), value) in single.into_iter().zip(&names).zip(values) {
            feed.read(topic, value.map(|value| Place::of(name).item(&value)).into_iter().collect());
        }
        Ok(())
    }

    /// Tells what is in these keys now, each by itself, to the subscribers of all apps.
    async fn tell_of(&self, feed: &Feed, mut names: Vec<String>) -> Result<(), redis::Error> {
        let apps: BTreeSet<String> = feed.topics().iter().map(|topic| topic.app.clone()).collect();
        let wanted = |app: &str, name: &str| {
            let Place { group, label, key } = Place::of(name);
            let (app, group, label) = (app.to_owned(), group.to_owned(), label.to_owned());
            feed.wants(&Topic { app, group, label, key: Some(key.to_owned()) })
        };
        names.retain(|name| apps.iter().any(|app| wanted(app, name)));
        let values = self.values(&names).await?;
        for (name, value) in names.iter().zip(values) {
            let item = Place::of(name).item(value.as_deref().unwrap_or_default());
            for app in &apps {
                feed.deliver_if_new(vec![Change { app: app.clone(), item: item.clone() }]);
            }
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Store for Redis {
    async fn get(&self, wanted: &Selection) -> Result<Vec<Item>, Error> {
        let Selection { group, label, keys, .. } = wanted;
        separable(group, label)?;
        let keys = (!keys.is_empty()).then_some(&**keys);
        Ok(self.read(group, label, keys).await?)
    }

    async fn save(&self, _app: &str, items: Vec<Item>, _metadata: &Metadata) -> Result<(), Error> {
        let mut names = Vec::with_capacity(items.len());
        for item in &items {
            separable(&item.group, &item.label)?;
            names.push(prefix(&item.group, &item.label) + &item.key);
        }
        let count = names.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", SAVE.as_bytes(), count.as_bytes()];
        words.extend(names.iter().map(String::as_bytes));
        words.extend(items.iter().map(|item| item.content.as_bytes()));
        self.client.command(&words).await?;
        Ok(())
    }

    async fn delete(&self, gone: &Selection) -> Result<(), Error> {
        let Selection { group, label, keys, .. } = gone;
        separable(group, label)?;
        let names: Vec<String> = keys.iter().map(|key| prefix(group, label) + key).collect();
        let mut words: Vec<&[u8]> = vec![b"DEL"];
        words.extend(names.iter().map(String::as_bytes));
        self.client.command(&words).await?;
        Ok(())
    }

    fn accepts(&self, wanted: &Selection) -> Result<(), Error> {
        separable(&wanted.group, &wanted.label)
    }

    async fn watch(&self, feed: &Feed) -> Error {
        match self.attend(feed).await {
            Err(error) => error.into(),
            Ok(never) => match never {},
        }
    }
}

/// Where an item is.
struct Place<'a> {
    group: &'a str,
    label: &'a str,
    key: &'a str,
}

impl<'a> Place<'a> {
    /// The place that the name of a key in the store means.
    fn of(name: &'a str) -> Self {
        let grouped = name.strip_prefix(GROUPED).and_then(|rest| {
            let (group, rest) = rest.split_once(SEPARATOR)?;
            let (label, key) = rest.split_once(SEPARATOR)?;
            Some(Self { group, label, key })
        });
        grouped.unwrap_or(Self { group: DEFAULT, label: DEFAULT, key: name })
    }

    fn is(&self, group: &str, label: &str) -> bool {
        self.group == group && self.label == label
    }

    /// The item of a stored value. The version is what follows the last separator: Dapr's driver takes the first, and
    /// cannot have values with one in them.
    fn item(&self, value: &str) -> Item {
        let (content, version) = value.rsplit_once(SEPARATOR).unwrap_or((value, ""));
        Item {
            key: self.key.to_owned(),
            content: content.to_owned(),
            group: self.group.to_owned(),
            label: self.label.to_owned(),
            version: version.to_owned(),
            ..Item::default()
        }
    }
}

/// What the names of keys of a group and label begin with.
fn prefix(group: &str, label: &str) -> String {
    match (group, label) {
        (DEFAULT, DEFAULT) => String::new(),
        _ => [GROUPED, group, SEPARATOR, label, SEPARATOR].concat(),
    }
}

/// A group and a label must be told apart in the name of a key.
fn separable(group: &str, label: &str) -> Result<(), Error> {
    let odd = |text: &str| text.contains(SEPARATOR) || text.ends_with('|') || text.starts_with('|');
    if odd(group) || odd(label) {
        return Err(Error::Invalid(format!(
            "group {group:?} and label {label:?} become parts of a key between \"||\", and cannot hold it"
        )));
    }
    Ok(())
}

/// A text in which the characters of patterns mean themselves.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// What is subscribed at the server. Apps are not kept apart, so several topics may be one channel.
#[derive(Debug, Default)]
struct Channels(std::collections::BTreeMap<Topic, usize>);

impl Channels {
    /// What is to be subscribed and unsubscribed.
    fn change(&mut self, wanted: &Wanted) -> (Vec<Rc<Topic>>, Vec<Rc<Topic>>) {
        let bare = |topic: &Topic| Topic { app: String::new(), ..topic.clone() };
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for topic in &wanted.added {
            let count = self.0.entry(bare(topic)).or_default();
            *count += 1;
            if *count == 1 {
                joined.push(Rc::clone(topic));
            }
        }
        for topic in &wanted.removed {
            let channel = bare(topic);
            let Some(count) = self.0.get_mut(&channel) else { continue };
            *count -= 1;
            if *count == 0 {
                self.0.remove(&channel);
                left.push(Rc::clone(topic));
            }
        }
        (joined, left)
    }
}

/// Keys that were touched and not read yet, each once, and what the server has still to confirm.
#[derive(Debug, Default)]
struct Inbox {
    names: RefCell<VecDeque<String>>,
    there: RefCell<BTreeSet<String>>,
    expected: Cell<usize>,
    waiting: Slot,
}

impl Inbox {
    fn put(&self, name: String) {
        if self.there.borrow_mut().insert(name.clone()) {
            self.names.borrow_mut().push_back(name);
            self.waiting.wake();
        }
    }

    fn take(&self, most: usize) -> Vec<String> {
        let mut names = self.names.borrow_mut();
        let most = most.min(names.len());
        let taken: Vec<String> = names.drain(..most).collect();
        let mut there = self.there.borrow_mut();
        for name in &taken {
            there.remove(name);
        }
        taken
    }

    fn expect(&self, count: usize) {
        self.expected.set(self.expected.get() + count);
    }

    fn confirm(&self) {
        self.expected.set(self.expected.get().saturating_sub(1));
        self.waiting.wake();
    }

    async fn confirmed(&self) {
        self.waiting.until(|| (self.expected.get() == 0).then_some(())).await;
    }

    async fn filled(&self) {
        self.waiting.until(|| (!self.names.borrow().is_empty()).then_some(())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_a_version_at_their_end() {
        let item = |value| Place::of("k").item(value);
        assert_eq!((&*item("v||2").content, &*item("v||2").version), ("v", "2"));
        assert_eq!((&*item("v").content, &*item("v").version), ("v", ""));
        assert_eq!((&*item("a||b||7").content, &*item("a||b||7").version), ("a||b", "7"));
    }

    #[test]
    fn names_tell_where_an_item_is() {
        let place = |name| {
            let Place { group, label, key } = Place::of(name);
            (group, label, key)
        };
        assert_eq!(place("k"), ("default", "default", "k"));
        assert_eq!(place("config||g||l||a||b"), ("g", "l", "a||b"));
        assert_eq!(place("config||g"), ("default", "default", "config||g"));
        assert_eq!(prefix("g", "default") + "k", "config||g||default||k");
        assert_eq!(prefix("default", "default") + "k", "k");
    }

    #[test]
    fn patterns_mean_themselves() {
        assert_eq!(escaped("a*[b]?"), r"a\*\[b\]\?");
    }
}
