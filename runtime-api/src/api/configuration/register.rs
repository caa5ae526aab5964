//! The subscriptions of Dapr's API that are open, of all workers, so that any of them can end each.
//!
//! The ids lie in the shared area, spread over a few values. To end a subscription is to take its id out, which any
//! worker can; one more value changes with it, and that the worker of the stream looks at from time to time. Beside each
//! id stands when its worker last renewed it: what nobody renews is of a worker that has ended, and is dropped.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use uuid::{Builder, Uuid};

use crate::proxy::{Proxy, Version, shared_init};

/// Many enough that a value stays small with thousands of subscriptions: it is written anew for each.
const BUCKETS: u8 = 16;
/// How soon a worker sees that another has ended a subscription of its own.
const LOOK: Duration = Duration::from_millis(50);
/// The length of an id.
const ID: usize = 16;
/// The same with the time of its renewal behind it, in seconds since 1970.
const RECORD: usize = ID + 4;
/// How often a worker renews its ids, and for how long others take them for open.
const RENEWAL: Duration = Duration::from_secs(600);
const LONGEST: u32 = 3600;

/// The subscriptions to one store.
pub(super) struct Register {
    proxy: Rc<dyn Proxy>,
    prefix: String,
    /// What changes when a subscription is ended.
    ended: String,
    /// The streams of this worker; who waits for the end of one.
    own: RefCell<BTreeMap<Uuid, Option<Waker>>>,
    looking: Cell<bool>,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Register")
    }
}

impl Register {
    pub(super) fn new(proxy: Rc<dyn Proxy>, store: &str) -> Self {
        let prefix = format!("configuration/{store}/subscriptions/2/"); // the number is that of the layout
        let ended = format!("{prefix}ended");
        shared_init(&*proxy, &ended);
        (0..BUCKETS).for_each(|number| shared_init(&*proxy, &format!("{prefix}{number}")));
        Self { proxy, prefix, ended, own: RefCell::default(), looking: Cell::new(false) }
    }

    /// Enters a new subscription of this worker.
    pub(super) fn enter(self: &Rc<Self>) -> Entry {
        let mut random = [0; ID];
        self.proxy.random(&mut random);
        let id = Builder::from_random_bytes(random).into_uuid();
        self.own.borrow_mut().insert(id, None);
        let now = self.seconds();
        self.change(self.bucket(id), |ids| {
            drop_forgotten(ids, now);
            ids.extend_from_slice(id.as_bytes());
            ids.extend_from_slice(&now.to_be_bytes());
            true
        });
        if !self.looking.replace(true) {
            self.proxy.spawn(Box::pin(Rc::clone(self).look()));
        }
        Entry { register: Rc::clone(self), id }
    }

    /// Ends a subscription, of whichever worker; false if there is none of this id.
    pub(super) fn end(&self, id: &str) -> bool {
        let Ok(id) = id.parse::<Uuid>() else { return false };
        if !self.take(id) {
            return false;
        }
        if self.own.borrow().contains_key(&id) {
            self.forget(id);
            return true;
        }
        while let Some((bytes, version)) = self.proxy.shared_get(&self.ended) {
            // What it says does not matter, only that it changes.
            let next = bytes.first().map_or(0, |byte| byte.wrapping_add(1));
            if self.proxy.shared_set(&self.ended, &[next], Some(version)).is_ok() {
                break;
            }
        }
        true
    }

    /// The stream of an id is to end.
    fn forget(&self, id: Uuid) {
        let waker = self.own.borrow_mut().remove(&id).flatten();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes an id out; false if it was not there.
    fn take(&self, id: Uuid) -> bool {
        self.change(self.bucket(id), |ids| match position(ids, id) {
            Some(at) => {
                ids.drain(at..at + RECORD);
                true
            }
            None => false,
        })
    }

    /// Renews the ids of this worker that are still there.
    fn renew(&self) {
        let now = self.seconds();
        let own = self.own.borrow();
        for number in 0..BUCKETS {
            self.change(format!("{}{number}", self.prefix), |ids| {
                drop_forgotten(ids, now);
                for record in ids.chunks_exact_mut(RECORD) {
                    if let Some((id, time)) = record.split_first_chunk_mut::<ID>()
                        && own.contains_key(&Uuid::from_bytes(*id))
                    {
                        time.copy_from_slice(&now.to_be_bytes());
                    }
                }
                true
            });
        }
    }

    fn seconds(&self) -> u32 {
        let since = self.proxy.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }

    /// Changes the ids in a bucket, unless `change` says that there is nothing to do.
    fn change(&self, name: String, change: impl Fn(&mut Vec<u8>) -> bool) -> bool {
        while let Some((bytes, version)) = self.proxy.shared_get(&name) {
            let mut ids = bytes.to_vec();
            if !change(&mut ids) {
                return false;
            }
            if self.proxy.shared_set(&name, &ids, Some(version)).is_ok() {
                return true;
            }
        }
        false
    }

    fn bucket(&self, id: Uuid) -> String {
        let [first, ..] = *id.as_bytes();
        format!("{}{}", self.prefix, first % BUCKETS)
    }

    /// Looks whether other workers have ended subscriptions of this one, for as long as it has any.
    async fn look(self: Rc<Self>) {
        let mut seen = None;
        let mut renewed = self.proxy.now();
        loop {
            if self.proxy.now().saturating_sub(renewed) >= RENEWAL {
                renewed = self.proxy.now();
                self.renew();
            }
            let version: Option<Version> = self.proxy.shared_get(&self.ended).map(|(_, version)| version);
            if version != seen {
                seen = version;
                let own: Vec<Uuid> = self.own.borrow().keys().copied().collect();
                for id in own {
                    let ids = self.proxy.shared_get(&self.bucket(id)).map(|(bytes, _)| bytes).unwrap_or_default();
                    if position(&ids, id).is_none() {
                        self.forget(id);
                    }
                }
            }
            self.proxy.sleep(LOOK).await;
            if self.own.borrow().is_empty() {
                self.looking.set(false);
                return;
            }
        }
    }
}

/// Where an id is in the row of ids.
fn position(ids: &[u8], id: Uuid) -> Option<usize> {
    ids.chunks_exact(RECORD).position(|other| other.starts_with(id.as_bytes())).map(|at| at * RECORD)
}

/// Drops what no worker has renewed.
fn drop_forgotten(ids: &mut Vec<u8>, now: u32) {
    let mut kept = Vec::with_capacity(ids.len() + RECORD);
    for record in ids.chunks_exact(RECORD) {
        let time = record.last_chunk().map_or(0, |time| u32::from_be_bytes(*time));
        if now.abs_diff(time) < LONGEST {
            kept.extend_from_slice(record);
        }
    }
    *ids = kept;
}

/// An open subscription. Dropping it takes it out of the register.
pub(super) struct Entry {
    register: Rc<Register>,
    id: Uuid,
}

impl Entry {
    /// The id for the app.
    pub(super) fn id(&self) -> String {
        self.id.to_string()
    }

    /// Waits until somebody ends the subscription.
    pub(super) async fn ended(&self) {
        poll_fn(|context| match self.register.own.borrow_mut().get_mut(&self.id) {
            Some(waiting) => {
                *waiting = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
        .await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.register.own.borrow_mut().remove(&self.id).is_some() {
            self.register.take(self.id);
        }
    }
}
