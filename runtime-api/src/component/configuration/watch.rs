//! Watching a store: one watch per worker and store, whatever the number of subscriptions.
//!
//! A [`Hub`] starts the driver's watch with the first subscriber and ends it with the last. Between them is a
//! [`Feed`]: it tells the driver what is wanted, all subscriptions together, and takes changes from it, which it gives
//! to the subscribers that they concern, each once and in order. A subscription lasts as long as its [`Subscriber`]:
//! dropping that leaves nothing behind.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{LocalBoxFuture, select};

use super::{Change, Error, Item, Selection, Store};
use crate::backoff::backoff;
use crate::proxy::{Level, Proxy};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1); // a store that is back is watched again within two

/// What may be subscribed as one: an item, or all of a group and label.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topic {
    /// The app that the items belong to.
    pub app: String,
    /// Their group.
    pub group: String,
    /// Their label.
    pub label: String,
    /// The key; none: all keys.
    pub key: Option<String>,
}

impl Topic {
    /// The topic of all keys that this one is among.
    fn whole(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    fn of(change: &Change) -> Self {
        let Item { key, group, label, .. } = &change.item;
        Self { app: change.app.clone(), group: group.clone(), label: label.clone(), key: Some(key.clone()) }
    }

    fn all_of(selection: &Selection) -> Vec<Self> {
        let Selection { app, group, label, keys, .. } = selection;
        let topic = |key| Self { app: app.clone(), group: group.clone(), label: label.clone(), key };
        if keys.is_empty() {
            return vec![topic(None)];
        }
        keys.iter().map(|key| topic(Some(key.clone()))).collect()
    }
}

/// What the driver is to watch from now on, as it differs from what it was told before in the same attempt.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What is new: at the beginning of an attempt everything. It may be empty, as when somebody subscribes to what
    /// is watched already; [`Feed::cover`] is due all the same.
    pub added: Vec<Rc<Topic>>,
    /// What nobody wants any longer. What is in both was given up and is wanted again: it is new.
    pub removed: Vec<Rc<Topic>>,
    number: u64,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// All that was subscribed so far is watched: a change from here on is told.
    InForce,
    /// What changed in the store at one time; never nothing.
    Changes(Vec<Rc<Change>>),
    /// What was subscribed last cannot be watched.
    Failed(Error),
}

/// The watch of one store in one worker, if anybody is subscribed.
pub struct Hub {
    proxy: Rc<dyn Proxy>,
    /// The component, for the log.
    component: String,
    store: Rc<dyn Store>,
    feed: RefCell<Weak<Feed>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}

impl Hub {
    /// The hub of a store. Nothing is watched yet.
    pub fn new(proxy: Rc<dyn Proxy>, component: &str, store: Rc<dyn Store>) -> Self {
        Self { proxy, component: component.to_owned(), store, feed: RefCell::default() }
    }

    /// Somebody who will subscribe: all its subscriptions end with it.
    pub fn subscriber(&self) -> Subscriber {
        let feed = self.feed.borrow().upgrade();
        let feed = feed.unwrap_or_else(|| self.begin());
        let id = feed.next_subscriber.get();
        feed.next_subscriber.set(id + 1);
        feed.holders.set(feed.holders.get() + 1);
        let place = Rc::new(Place { id, ..Place::default() });
        Subscriber { feed, place }
    }

    /// Begins to watch. The task lets go of the feed when the last subscriber has.
    fn begin(&self) -> Rc<Feed> {
        let feed = Rc::new(Feed::default());
        *self.feed.borrow_mut() = Rc::downgrade(&feed);
        let (proxy, component, store) = (Rc::clone(&self.proxy), self.component.clone(), Rc::clone(&self.store));
        let own = Rc::clone(&feed);
        self.proxy.spawn(Box::pin(async move {
            let attempts: LocalBoxFuture<'_, ()> = Box::pin(attempts(&*proxy, &component, &*store, &own));
            let _ = select(attempts, Box::pin(own.abandoned())).await;
        }));
        feed
    }
}

/// Watches for as long as it is let.
async fn attempts(proxy: &dyn Proxy, component: &str, store: &dyn Store, feed: &Feed) {
    let mut failures = 0_u32;
    loop {
        feed.start_attempt();
        let why = store.watch(feed).await;
        failures = if feed.covered.replace(false) { 1 } else { failures.saturating_add(1) };
        let pause = backoff(proxy, failures, FIRST_BACKOFF, LONGEST_BACKOFF);
        proxy.log(
            Level::Warn,
            &format!(
                "component={component} event=watch_lost reason={:?} failures={failures} retry_after_ms={}",
                why.to_string(),
                pause.as_millis()
            ),
        );
        feed.refuse(&why);
        proxy.sleep(pause).await;
    }
}

/// Subscribers by their numbers.
type Places = BTreeMap<u64, Rc<Place>>;

/// What goes between the driver's watch and the subscribers.
#[derive(Debug, Default)]
pub struct Feed {
    topics: RefCell<BTreeMap<Rc<Topic>, Places>>,
    /// Counts what was subscribed, and where the driver is.
    number: Cell<u64>,
    told: Cell<u64>,
    /// Whether the driver has yet to be told of everything.
    afresh: Cell<bool>,
    added: RefCell<BTreeSet<Rc<Topic>>>,
    removed: RefCell<BTreeSet<Rc<Topic>>>,
    /// Whether something was in force in this attempt.
    covered: Cell<bool>,
    /// Who waits for being in force.
    pending: RefCell<Vec<(u64, Rc<Place>)>>,
    driver: RefCell<Option<Waker>>,
    task: RefCell<Option<Waker>>,
    holders: Cell<usize>,
    next_subscriber: Cell<u64>,
    /// What the subscribers know, for drivers that tell changes by reading again.
    read: RefCell<BTreeSet<Rc<Topic>>>,
    known: RefCell<BTreeMap<Topic, u64>>,
}

impl Feed {
    /// For a driver: what is to be watched, as soon as that is not what this gave before. At the beginning of an
    /// attempt that is at once, with all there is.
    pub async fn wanted(&self) -> Wanted {
        poll_fn(|context| match self.take_wanted() {
            Some(wanted) => Poll::Ready(wanted),
            None => {
                *self.driver.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// As [`Feed::wanted`], if there is something now.
    pub fn take_wanted(&self) -> Option<Wanted> {
        let number = self.number.get();
        if self.afresh.get() {
            if self.topics.borrow().is_empty() {
                return None;
            }
            self.afresh.set(false);
            self.told.set(number);
            self.added.take();
            self.removed.take();
            return Some(Wanted { added: self.topics(), removed: Vec::new(), number });
        }
        if self.told.get() == number && self.removed.borrow().is_empty() {
            return None;
        }
        self.told.set(number);
        let (added, removed) = (self.added.take().into_iter().collect(), self.removed.take().into_iter().collect());
        Some(Wanted { added, removed, number })
    }

    /// For a driver: all that is subscribed now, in order.
    pub fn topics(&self) -> Vec<Rc<Topic>> {
        self.topics.borrow().keys().map(Rc::clone).collect()
    }

    /// For a driver: all of this is watched from now on.
    pub fn cover(&self, wanted: &Wanted) {
        self.covered.set(true);
        let mut ready = Vec::new();
        self.pending.borrow_mut().retain(|(number, place)| {
            let waits = *number > wanted.number;
            if !waits {
                ready.push(Rc::clone(place));
            }
            waits
        });
        for place in ready {
            place.tell(News::InForce);
        }
    }

    /// For a driver: what changed in the store at one time. Each subscriber that some of it concerns is told that, as
    /// one; what concerns nobody is passed over.
    pub fn deliver(&self, changes: Vec<Change>) {
        let mut news: BTreeMap<u64, (Rc<Place>, Vec<Rc<Change>>)> = BTreeMap::new();
        let topics = self.topics.borrow();
        for change in changes {
            let topic = Topic::of(&change);
            let change = Rc::new(change);
            // Whoever subscribed both to the key and to all keys is told once.
            let mut concerned = BTreeMap::new();
            for subscribers in [topics.get(&topic), topics.get(&topic.whole())].into_iter().flatten() {
                concerned.extend(subscribers);
            }
            for (id, place) in concerned {
                news.entry(*id).or_insert_with(|| (Rc::clone(place), Vec::new())).1.push(Rc::clone(&change));
            }
        }
        drop(topics);
        for (place, changes) in news.into_values() {
            place.tell(News::Changes(changes));
        }
    }

    /// For a driver without revisions: what the store holds of a topic just now. The first time that is what the
    /// subscribers are taken to know; after that they are told how it differs from what they know. It must be given
    /// in the order in which it was read, also with regard to [`Feed::deliver_if_new`].
    pub fn read(&self, topic: &Rc<Topic>, items: Vec<Item>) {
        if !self.topics.borrow().contains_key(topic) {
            return;
        }
        let change = |item| Change { app: topic.app.clone(), item };
        if !self.read.borrow().contains(topic) {
            let changes: Vec<Change> = items.into_iter().map(change).collect();
            for change in changes {
                let item = Topic::of(&change);
                // What others have subscribed already they are told of by what comes later.
                if !change.item.content.is_empty() && !self.is_read(&item) {
                    self.known.borrow_mut().insert(item, fingerprint(&change.item));
                }
            }
            self.read.borrow_mut().insert(Rc::clone(topic));
            return;
        }
        let mut gone: BTreeSet<Topic> = self.known_of(topic).into_iter().collect();
        let mut changes: Vec<Change> = items.into_iter().map(change).collect();
        for change in &changes {
            gone.remove(&Topic::of(change));
        }
        for Topic { app, group, label, key } in gone {
            let item = Item { key: key.unwrap_or_default(), group, label, ..Item::default() };
            changes.push(Change { app, item });
        }
        self.deliver_if_new(changes);
    }

    /// For a driver without revisions: items that may have changed, as they are now; one that is not there has an
    /// empty content. Subscribers are told of those that they know otherwise.
    pub fn deliver_if_new(&self, mut changes: Vec<Change>) {
        changes.retain(|change| self.note(change));
        self.deliver(changes);
    }

    /// For a driver: whether anybody is subscribed to an item.
    pub fn wants(&self, item: &Topic) -> bool {
        let topics = self.topics.borrow();
        topics.contains_key(item) || topics.contains_key(&item.whole())
    }

    /// Remembers an item, and says whether that is news.
    fn note(&self, change: &Change) -> bool {
        let topic = Topic::of(change);
        if !self.is_read(&topic) {
            return true; // nobody knows anything about it yet
        }
        let mut known = self.known.borrow_mut();
        if change.item.content.is_empty() {
            return known.remove(&topic).is_some();
        }
        let now = fingerprint(&change.item);
        known.insert(topic, now) != Some(now)
    }

    /// Whether an item is among what was read.
    fn is_read(&self, item: &Topic) -> bool {
        let read = self.read.borrow();
        read.contains(item) || read.contains(&item.whole())
    }

    /// The items of a topic that subscribers know.
    fn known_of(&self, topic: &Topic) -> Vec<Topic> {
        let known = self.known.borrow();
        if topic.key.is_some() {
            return known.get_key_value(topic).map(|(topic, _)| topic.clone()).into_iter().collect();
        }
        let alike = |item: &&Topic| item.app == topic.app && item.group == topic.group && item.label == topic.label;
        known.range(topic..).map(|(item, _)| item).take_while(alike).cloned().collect()
    }

    fn start_attempt(&self) {
        self.afresh.set(true);
        self.covered.set(false);
    }

    /// Whoever is not in force yet will not be. For a driver whose watch goes on all the same; one whose watch ends
    /// need not say it.
    pub fn refuse(&self, why: &Error) {
        for (_, place) in self.pending.take() {
            place.tell(News::Failed(why.clone()));
        }
    }

    async fn abandoned(&self) {
        poll_fn(|context| {
            if self.holders.get() == 0 {
                return Poll::Ready(());
            }
            *self.task.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn subscribe(&self, place: &Rc<Place>, selection: &Selection) {
        let number = self.number.get() + 1;
        self.number.set(number);
        for topic in Topic::all_of(selection) {
            let topic = Rc::new(topic);
            let mut topics = self.topics.borrow_mut();
            if !topics.contains_key(&topic) {
                self.added.borrow_mut().insert(Rc::clone(&topic));
            }
            let subscribers = topics.entry(Rc::clone(&topic)).or_default();
            if subscribers.insert(place.id, Rc::clone(place)).is_none() {
                place.topics.borrow_mut().push(topic);
            }
        }
        self.pending.borrow_mut().push((number, Rc::clone(place)));
        wake(&self.driver);
    }

    fn unsubscribe(&self, place: &Place) {
        self.pending.borrow_mut().retain(|(_, other)| other.id != place.id);
        for topic in place.topics.take() {
            let mut topics = self.topics.borrow_mut();
            let Some(subscribers) = topics.get_mut(&topic) else { continue };
            subscribers.remove(&place.id);
            if !subscribers.is_empty() {
                continue;
            }
            topics.remove(&topic);
            drop(topics);
            self.forget(&topic);
            if !self.added.borrow_mut().remove(&topic) {
                self.removed.borrow_mut().insert(topic);
            }
        }
        self.holders.set(self.holders.get().saturating_sub(1));
        wake(&self.driver);
        if self.holders.get() == 0 {
            wake(&self.task);
        }
    }

    /// Forgets what was known of a topic, but for what another topic covers.
    fn forget(&self, topic: &Rc<Topic>) {
        if !self.read.borrow_mut().remove(topic) {
            return;
        }
        for item in self.known_of(topic) {
            if !self.is_read(&item) {
                self.known.borrow_mut().remove(&item);
            }
        }
    }
}

/// A subscriber as the feed sees it.
#[derive(Debug, Default)]
struct Place {
    id: u64,
    topics: RefCell<Vec<Rc<Topic>>>,
    news: RefCell<VecDeque<News>>,
    waiting: RefCell<Option<Waker>>,
}

impl Place {
    fn tell(&self, news: News) {
        self.news.borrow_mut().push_back(news);
        wake(&self.waiting);
    }
}

/// Somebody with subscriptions to a store. Dropping it ends them.
#[derive(Debug)]
pub struct Subscriber {
    feed: Rc<Feed>,
    place: Rc<Place>,
}

impl Subscriber {
    /// Subscribes to these items too. [`News::InForce`] or [`News::Failed`] follows.
    pub fn subscribe(&self, selection: &Selection) {
        self.feed.subscribe(&self.place, selection);
    }

    /// What there is to be told, as it happens.
    pub async fn next(&self) -> News {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Subscriber::next`], for who waits for several.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<News> {
        match self.place.news.borrow_mut().pop_front() {
            Some(news) => Poll::Ready(news),
            None => {
                *self.place.waiting.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.feed.unsubscribe(&self.place);
    }
}

/// Whether an item is the same as before is told by this.
fn fingerprint(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    item.hash(&mut hasher);
    hasher.finish()
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    let waker = waiting.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
