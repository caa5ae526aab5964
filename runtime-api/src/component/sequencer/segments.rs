//! Ids that were taken from a store ahead of their use: segments in the shared area, from which all workers help
//! themselves by compare-and-swap. An id is given out only by the write that takes it out of the area, so none is given
//! twice; a segment that is lost, since Envoy ended or the reply of the store did not come, is skipped.
//!
//! Segments lie in buckets by the hash of their key. Their number is bounded: the key that was used least recently
//! makes room, and the rest of its segment is skipped too. A bucket tells for which settings of the component its
//! segments are, and is empty for others: ids of one server are never taken for those of another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::SystemTime;

use futures::future::{FutureExt, LocalBoxFuture, Shared};
use prost::Message;

use super::{Error, Segment, Store};
use crate::component::Environment;
use crate::component::buckets::Buckets;
use crate::proxy::{Level, Proxy};

/// Keys of a bucket.
const MOST_KEYS: usize = 16;
/// What is longer is fetched id by id.
const LONGEST_KEY: usize = 256;
/// How long the worker that fetches ahead has before another may try.
const CLAIM_MS: u64 = 2000;

/// The segments of a store.
#[derive(Debug)]
pub struct Segments(Rc<Area>);

#[derive(Debug)]
struct Area {
    proxy: Rc<dyn Proxy>,
    store: Rc<dyn Store>,
    component: String,
    buckets: Buckets,
    /// What tells these settings of the component from others.
    origin: String,
    step: u32,
    prefetch: u64,
    /// What this worker fetches right now, by key: all calls that need it wait for the same.
    fetching: RefCell<BTreeMap<String, Fetch>>,
}

type Fetch = Shared<LocalBoxFuture<'static, Result<(), Error>>>;

/// Segments of some keys, the one used least recently first.
#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
    /// Of which settings they are.
    #[prost(string, tag = "2")]
    origin: String,
}

/// The segments of a key: the ids from `next` to `to`, and then those of the reserve. An empty one begins after its
/// end.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(int64, tag = "2")]
    next: i64,
    #[prost(int64, tag = "3")]
    to: i64,
    #[prost(int64, tag = "4")]
    reserve_from: i64,
    #[prost(int64, tag = "5")]
    reserve_to: i64,
    /// Until when a worker fetches ahead, in milliseconds since 1970.
    #[prost(uint64, tag = "6")]
    claimed_until: u64,
}

impl Entry {
    fn new(key: &str) -> Self {
        Self { key: key.to_owned(), next: 1, to: 0, reserve_from: 1, reserve_to: 0, claimed_until: 0 }
    }

    fn has_reserve(&self) -> bool {
        self.reserve_from <= self.reserve_to
    }

    /// Takes the next id out.
    fn take(&mut self) -> Option<i64> {
        if self.next > self.to {
            if !self.has_reserve() {
                return None;
            }
            (self.next, self.to) = (self.reserve_from, self.reserve_to);
            (self.reserve_from, self.reserve_to) = (1, 0);
        }
        let id = self.next;
        self.next = id.checked_add(1)?;
        Some(id)
    }

    /// How many ids are left.
    fn left(&self) -> u64 {
        let count = |from: i64, to: i64| if from <= to { to.abs_diff(from).saturating_add(1) } else { 0 };
        count(self.next, self.to).saturating_add(count(self.reserve_from, self.reserve_to))
    }

    /// The last id that is known of.
    fn end(&self) -> i64 {
        if self.has_reserve() { self.reserve_to } else { self.to }
    }

    /// Adds a segment. One that comes after a later one is skipped, so that ids rise; so is one too many.
    fn add(&mut self, segment: Segment) {
        if self.to == 0 && !self.has_reserve() || segment.from > self.end() {
            if self.next > self.to && !self.has_reserve() {
                (self.next, self.to) = (segment.from, segment.to);
            } else if !self.has_reserve() {
                (self.reserve_from, self.reserve_to) = (segment.from, segment.to);
            }
        }
        self.claimed_until = 0;
    }
}

impl Segments {
    /// Those of a component. `None` if its store has none, or it is not to use them.
    pub fn new(environment: &Environment, store: Rc<dyn Store>) -> Option<Self> {
        let Environment { proxy, component, .. } = environment;
        let settings = &component.settings;
        if !store.has_segments() || !settings.flag("segmentCacheEnable") {
            return None;
        }
        let area = Area {
            proxy: Rc::clone(proxy),
            store,
            component: component.name.clone(),
            buckets: Buckets::open(proxy, format!("sequencer/{}/2/", component.name)), // the number is that of the layout
            origin: format!("{:x}/{}", settings.fingerprint(), component.cluster),
            step: settings.whole("segmentStep").and_then(|step| step.try_into().ok()).unwrap_or(10_000),
            prefetch: settings.whole("segmentPrefetch").and_then(|left| left.try_into().ok()).unwrap_or(1000),
            fetching: RefCell::default(),
        };
        Some(Self(Rc::new(area)))
    }

    /// The next id of a key.
    pub async fn next_id(&self, key: &str, above: i64) -> Result<i64, Error> {
        let area = &self.0;
        if key.len() > LONGEST_KEY {
            return area.store.next_id(key, above).await;
        }
        loop {
            if let Some(id) = area.take(key, above) {
                return Ok(id);
            }
            area.fetch(key, above).await?;
        }
    }
}

impl Area {
    /// Takes an id out of the area, and sees to it that there are more in time.
    fn take(self: &Rc<Self>, key: &str, above: i64) -> Option<i64> {
        let now = self.millis();
        let (id, low) = self.change(key, |entry| {
            let Some(id) = entry.take() else { return ((None, false), false) };
            let low = !entry.has_reserve() && entry.left() <= self.prefetch && entry.claimed_until <= now;
            if low {
                entry.claimed_until = now.saturating_add(CLAIM_MS);
            }
            ((Some(id), low), true)
        });
        if low {
            drop(self.fetch(key, above));
        }
        id
    }

    /// Fetches a segment, unless this worker does so already. It goes on when nobody waits for it.
    fn fetch(self: &Rc<Self>, key: &str, above: i64) -> Fetch {
        if let Some(fetch) = self.fetching.borrow().get(key) {
            return fetch.clone();
        }
        let (area, own) = (Rc::clone(self), key.to_owned());
        let fetch: LocalBoxFuture<'static, _> = Box::pin(async move {
            // Above what was given out even if the store has forgotten.
            let known = area.change(&own, |entry| (entry.end(), false));
            let fetched = area.store.segment(&own, above.max(known), area.step).await;
            area.fetching.borrow_mut().remove(&own);
            match fetched {
                Ok(segment) => {
                    area.change(&own, |entry| {
                        entry.add(segment);
                        ((), true)
                    });
                    Ok(())
                }
                Err(error) => {
                    let (component, text) = (&area.component, error.to_string());
                    let line = format!("component={component} event=no_segment reason={text:?}");
                    area.proxy.log(Level::Debug, &line);
                    Err(error)
                }
            }
        });
        let fetch = fetch.shared();
        self.fetching.borrow_mut().insert(key.to_owned(), fetch.clone());
        self.proxy.spawn(Box::pin(fetch.clone().map(drop)));
        fetch
    }

    /// Looks at the entry of a key, and changes it if the function says so.
    fn change<T>(&self, key: &str, change: impl Fn(&mut Entry) -> (T, bool)) -> T {
        let Ok(outcome) = self.buckets.change(key, |bucket: &mut Bucket| -> Result<_, Infallible> {
            if bucket.origin != self.origin {
                *bucket = Bucket { entries: Vec::new(), origin: self.origin.clone() };
            }
            let at = bucket.entries.iter().position(|entry| entry.key == key);
            let mut entry = at.map_or_else(|| Entry::new(key), |at| bucket.entries.remove(at));
            let (outcome, changed) = change(&mut entry);
            if bucket.entries.len() >= MOST_KEYS {
                bucket.entries.remove(0);
            }
            bucket.entries.push(entry);
            Ok((outcome, changed))
        });
        outcome
    }

    fn millis(&self) -> u64 {
        let since = self.proxy.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
