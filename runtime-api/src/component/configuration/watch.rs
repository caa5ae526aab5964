//! Watching a store: one watch per worker and store, whatever the number of subscriptions.
//!
//! A [`Hub`] starts the driver's watch with the first subscriber and ends it with the last. Between them is a
//! [`Feed`]: it tells the driver what is wanted, all subscriptions together, and takes changes from it, which it gives
//! to the subscribers that they concern, each once and in order. A subscription lasts as long as its [`Subscriber`]:
//! dropping that leaves nothing behind.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{LocalBoxFuture, select};

use super::knowledge::Knowledge;
use super::{Change, Error, Item, Selection, Store};
use crate::backoff::backoff;
use crate::proxy::{Level, Proxy};
use crate::slot::Slot;

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
    pub(super) fn whole(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    pub(super) fn of(change: &Change) -> Self {
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
        let mailbox = feed.demand.borrow_mut().join();
        Subscriber { feed, mailbox }
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
        failures = if feed.has_covered() { 1 } else { failures.saturating_add(1) };
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
type Mailboxes = BTreeMap<u64, Rc<Mailbox>>;

/// What goes between the driver's watch and the subscribers.
#[derive(Debug, Default)]
pub struct Feed {
    demand: RefCell<Demand>,
    knowledge: RefCell<Knowledge>,
    /// The driver waits here for more to watch.
    driver: Slot,
    /// The task that runs the driver waits here for the last subscriber to go.
    task: Slot,
}

/// What the subscribers want, and what the driver was told of it.
#[derive(Debug, Default)]
struct Demand {
    topics: BTreeMap<Rc<Topic>, Mailboxes>,
    /// Counts what was subscribed, and where the driver is.
    number: u64,
    told: u64,
    /// Whether the driver has yet to be told of everything.
    afresh: bool,
    added: BTreeSet<Rc<Topic>>,
    removed: BTreeSet<Rc<Topic>>,
    /// Whether something was in force in this attempt.
    covered: bool,
    /// Who waits for being in force.
    pending: Vec<(u64, Rc<Mailbox>)>,
    holders: usize,
    next_subscriber: u64,
}

impl Feed {
    /// For a driver: what is to be watched, as soon as that is not what this gave before. At the beginning of an
    /// attempt that is at once, with all there is.
    pub async fn wanted(&self) -> Wanted {
        self.driver.until(|| self.take_wanted()).await
    }

    /// As [`Feed::wanted`], if there is something now.
    pub fn take_wanted(&self) -> Option<Wanted> {
        self.demand.borrow_mut().take_wanted()
    }

    /// For a driver: all that is subscribed now, in order.
    pub fn topics(&self) -> Vec<Rc<Topic>> {
        self.demand.borrow().topics()
    }

    /// For a driver: all of this is watched from now on.
    pub fn cover(&self, wanted: &Wanted) {
        let ready = self.demand.borrow_mut().cover(wanted);
        for mailbox in ready {
            mailbox.tell(News::InForce);
        }
    }

    /// For a driver: what changed in the store at one time. Each subscriber that some of it concerns is told that, as
    /// one; what concerns nobody is passed over.
    pub fn deliver(&self, changes: Vec<Change>) {
        let mut news: BTreeMap<u64, (Rc<Mailbox>, Vec<Rc<Change>>)> = BTreeMap::new();
        let demand = self.demand.borrow();
        for change in changes {
            let concerned = demand.concerned(&Topic::of(&change));
            let change = Rc::new(change);
            for (id, mailbox) in concerned {
                news.entry(id).or_insert_with(|| (mailbox, Vec::new())).1.push(Rc::clone(&change));
            }
        }
        drop(demand);
        for (mailbox, changes) in news.into_values() {
            mailbox.tell(News::Changes(changes));
        }
    }

    /// For a driver without revisions: what the store holds of a topic just now. The first time that is what the
    /// subscribers are taken to know; after that they are told how it differs from what they know. It must be given
    /// in the order in which it was read, also with regard to [`Feed::deliver_if_new`].
    pub fn read(&self, topic: &Rc<Topic>, items: Vec<Item>) {
        if self.demand.borrow().topics.contains_key(topic) {
            let changes = self.knowledge.borrow_mut().read(topic, items);
            self.deliver_if_new(changes);
        }
    }

    /// For a driver without revisions: items that may have changed, as they are now; one that is not there has an
    /// empty content. Subscribers are told of those that they know otherwise.
    pub fn deliver_if_new(&self, mut changes: Vec<Change>) {
        changes.retain(|change| self.knowledge.borrow_mut().note(change));
        self.deliver(changes);
    }

    /// For a driver: whether anybody is subscribed to an item.
    pub fn wants(&self, item: &Topic) -> bool {
        let demand = self.demand.borrow();
        demand.topics.contains_key(item) || demand.topics.contains_key(&item.whole())
    }

    fn start_attempt(&self) {
        let mut demand = self.demand.borrow_mut();
        (demand.afresh, demand.covered) = (true, false);
    }

    /// Whether something was in force in this attempt, which is over.
    fn has_covered(&self) -> bool {
        std::mem::take(&mut self.demand.borrow_mut().covered)
    }

    /// Whoever is not in force yet will not be. For a driver whose watch goes on all the same; one whose watch ends
    /// need not say it.
    pub fn refuse(&self, why: &Error) {
        let pending = std::mem::take(&mut self.demand.borrow_mut().pending);
        for (_, mailbox) in pending {
            mailbox.tell(News::Failed(why.clone()));
        }
    }

    async fn abandoned(&self) {
        self.task.until(|| (self.demand.borrow().holders == 0).then_some(())).await;
    }

    fn subscribe(&self, mailbox: &Rc<Mailbox>, selection: &Selection) {
        self.demand.borrow_mut().subscribe(mailbox, selection);
        self.driver.wake();
    }

    fn unsubscribe(&self, mailbox: &Mailbox) {
        let unwanted = self.demand.borrow_mut().leave(mailbox);
        for topic in unwanted {
            self.knowledge.borrow_mut().forget(&topic);
        }
        self.driver.wake();
        if self.demand.borrow().holders == 0 {
            self.task.wake();
        }
    }
}

impl Demand {
    /// Somebody who will subscribe.
    fn join(&mut self) -> Rc<Mailbox> {
        let id = self.next_subscriber;
        self.next_subscriber += 1;
        self.holders += 1;
        Rc::new(Mailbox { id, ..Mailbox::default() })
    }

    /// Ends all subscriptions of somebody, and gives the topics that nobody wants any longer.
    fn leave(&mut self, mailbox: &Mailbox) -> Vec<Rc<Topic>> {
        self.pending.retain(|(_, other)| other.id != mailbox.id);
        self.holders = self.holders.saturating_sub(1);
        let mut unwanted = mailbox.topics.take();
        unwanted.retain(|topic| {
            let Some(subscribers) = self.topics.get_mut(topic) else { return false };
            subscribers.remove(&mailbox.id);
            subscribers.is_empty()
        });
        for topic in &unwanted {
            self.topics.remove(topic);
            if !self.added.remove(topic) {
                self.removed.insert(Rc::clone(topic));
            }
        }
        unwanted
    }

    fn subscribe(&mut self, mailbox: &Rc<Mailbox>, selection: &Selection) {
        self.number += 1;
        for topic in Topic::all_of(selection) {
            let topic = Rc::new(topic);
            if !self.topics.contains_key(&topic) {
                self.added.insert(Rc::clone(&topic));
            }
            let subscribers = self.topics.entry(Rc::clone(&topic)).or_default();
            if subscribers.insert(mailbox.id, Rc::clone(mailbox)).is_none() {
                mailbox.topics.borrow_mut().push(topic);
            }
        }
        self.pending.push((self.number, Rc::clone(mailbox)));
    }

    fn topics(&self) -> Vec<Rc<Topic>> {
        self.topics.keys().map(Rc::clone).collect()
    }

    fn take_wanted(&mut self) -> Option<Wanted> {
        let number = self.number;
        if self.afresh {
            if self.topics.is_empty() {
                return None;
            }
            (self.afresh, self.told) = (false, number);
            self.added.clear();
            self.removed.clear();
            return Some(Wanted { added: self.topics(), removed: Vec::new(), number });
        }
        if self.told == number && self.removed.is_empty() {
            return None;
        }
        self.told = number;
        let added = std::mem::take(&mut self.added).into_iter().collect();
        let removed = std::mem::take(&mut self.removed).into_iter().collect();
        Some(Wanted { added, removed, number })
    }

    /// All of this is in force; gives who waited for it.
    fn cover(&mut self, wanted: &Wanted) -> Vec<Rc<Mailbox>> {
        self.covered = true;
        let ready = self.pending.extract_if(.., |(number, _)| *number <= wanted.number);
        ready.map(|(_, mailbox)| mailbox).collect()
    }

    /// Whom an item concerns. Whoever subscribed both to the key and to all keys is there once.
    fn concerned(&self, item: &Topic) -> Mailboxes {
        let subscribers = [self.topics.get(item), self.topics.get(&item.whole())];
        subscribers.into_iter().flatten().flatten().map(|(id, mailbox)| (*id, Rc::clone(mailbox))).collect()
    }
}

/// A subscriber as the feed sees it.
#[derive(Debug, Default)]
struct Mailbox {
    id: u64,
    topics: RefCell<Vec<Rc<Topic>>>,
    news: RefCell<VecDeque<News>>,
    waiting: Slot,
}

impl Mailbox {
    fn tell(&self, news: News) {
        self.news.borrow_mut().push_back(news);
        self.waiting.wake();
    }
}

/// Somebody with subscriptions to a store. Dropping it ends them.
#[derive(Debug)]
pub struct Subscriber {
    feed: Rc<Feed>,
    mailbox: Rc<Mailbox>,
}

impl Subscriber {
    /// Subscribes to these items too. [`News::InForce`] or [`News::Failed`] follows.
    pub fn subscribe(&self, selection: &Selection) {
        self.feed.subscribe(&self.mailbox, selection);
    }

    /// What there is to be told, as it happens.
    pub async fn next(&self) -> News {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Subscriber::next`], for who waits for several.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<News> {
        self.mailbox.waiting.poll(context, || self.mailbox.news.borrow_mut().pop_front())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.feed.unsubscribe(&self.mailbox);
    }
}
