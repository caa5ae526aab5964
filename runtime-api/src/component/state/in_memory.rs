//! State in the memory of Envoy, one store for all workers: the reference for what the others do about etags.
//!
//! Items lie in buckets, each a value in the shared area, and every write goes through a journal, one more value there.
//! A write is decided by putting what it does into the journal, by compare-and-swap; doing it to the buckets comes
//! after, and whoever next writes does it first if it was not finished. Whoever reads takes the journal into account.
//! So a transaction is seen whole or not at all, and a worker that ends in the middle leaves nothing half done.

mod layout;
mod sweep;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::lock::Mutex;
use prost::Message;
use uuid::Builder;

use super::{Concurrency, Delete, Error, Item, Operation, Store, Ttl, Write};
use crate::component::{Block, Build, Driver, Environment, V1, bucket_of};
use crate::config::{Field, Kind};
use crate::pace::Pace;
use crate::proxy::{MISSING, Proxy, Version, shared_init};
use layout::{Bucket, Entry, Journal, Step, millis, read};

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "state.in-memory",
    block: Block::State,
    meaning: "The memory of Envoy, shared by its workers and gone with it: for development and caches.",
    versions: V1,
    capabilities: &["ETAG", "TRANSACTIONAL", "TTL"],
    fields: FIELDS,
    check: |_, _, _| {},
    upstreams: |_| Vec::new(),
    build: Build::State(|environment| Rc::new(InMemory(Area::open(environment)))),
};

const FIELDS: &[Field] = &[
    Field::optional("ttlInSeconds", Kind::Whole(1, i64::MAX), "how long an item lives when its write does not say"),
    Field::default(
        "maxBytes",
        Kind::Whole(64 << 10, 64 << 30),
        "268435456",
        "how many bytes all items may have, each counted with its key and 128 bytes more; a write that would go over it \
         is refused with RESOURCE_EXHAUSTED",
    ),
];

/// Many, so that a bucket stays small: it is written anew with each of its items. Each is made when it is first needed.
const BUCKETS: u32 = 65_536;
/// A bucket is read as a whole into the memory of a worker, of which it may take this part.
const BUCKETS_SHARE: usize = 8;

/// With so many operations or fewer a write is done in one go, with more in turns.
const SHORT: usize = 64;
/// How long a write that is done in turns asks others to wait, once another has been faster.
const LEASE_MS: u64 = 1000;
/// How soon they look again.
const LOOK: Duration = Duration::from_millis(1);

/// A state store in the shared area.
#[derive(Debug)]
pub struct InMemory(Rc<Area>);

/// The part of the shared area that belongs to one store.
#[derive(Debug)]
struct Area {
    proxy: Rc<dyn Proxy>,
    pace: Pace,
    /// What the names of its values in the shared area begin with.
    prefix: String,
    journal_name: String,
    ttl: Ttl,
    /// How many bytes the items may have, all and those of a bucket.
    most: u64,
    most_of_bucket: u64,
    /// Those of this worker that write take turns: what another does in many turns need not be done by each.
    writer: Mutex<()>,
    /// Whether this worker looks for items that have ended.
    sweeping: Cell<bool>,
}

/// The operations of a write, by the bucket that they are in, with their places in the request.
type Work<'a> = BTreeMap<u32, Vec<(usize, &'a Operation)>>;

/// The bucket of a key. Keys that differ in a number at their end differ little in that hash, and are spread here.
fn bucket_number(key: &str) -> u32 {
    let hash = bucket_of(key, u32::MAX);
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35); // the last steps of MurmurHash3
    (hash ^ (hash >> 16)) % BUCKETS
}

/// What a write will do.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    /// What the store weighs then, and how many of its items have an end.
    bytes: u64,
    mortal: u64,
    /// The first operation that is refused, and why.
    refused: Option<(usize, Error)>,
}

impl Area {
    fn open(environment: &Environment) -> Rc<Self> {
        let Environment { proxy, component, .. } = environment;
        let whole = |name| component.settings.whole(name).and_then(|number| u64::try_from(number).ok());
        // The number is that of the layout: a filter that has another one is to find nothing.
        let prefix = format!("state.in-memory/2/{}/", component.name);
        let most_of_bucket = environment.limits.max_memory_bytes / BUCKETS_SHARE;
        let area = Rc::new(Self {
            proxy: Rc::clone(proxy),
            pace: environment.pace.clone(),
            journal_name: format!("{prefix}journal"),
            prefix,
            ttl: whole("ttlInSeconds").map_or(Ttl::Unspecified, Ttl::from_seconds),
            most: whole("maxBytes").unwrap_or(u64::MAX),
            most_of_bucket: most_of_bucket.try_into().unwrap_or(u64::MAX),
            writer: Mutex::new(()),
            sweeping: Cell::new(false),
        });
        shared_init(&**proxy, &area.journal_name);
        // What another worker, or one before this, wrote is to end as well.
        area.sweep_if_needed(&area.journal().0);
        area
    }

    /// Decides the operations, all or none, and carries them out.
    async fn write(self: &Rc<Self>, operations: &[Operation]) -> Result<(), Error> {
        let mut work = Work::new();
        for (place, operation) in operations.iter().enumerate() {
            let bucket = bucket_number(key_of(operation));
            work.entry(bucket).or_default().push((place, operation));
        }
        self.commit(&work).await.map_err(|(place, error)| match operations {
            [_] => error,
            operations => operations.get(place).map_or(error.clone(), |operation| error.about(key_of(operation))),
        })
    }

    /// Changes buckets, all or none; those without operations lose what has ended. An error has the place of its
    /// operation.
    async fn commit(self: &Rc<Self>, work: &Work<'_>) -> Result<(), (usize, Error)> {
        let _turn = self.writer.lock().await;
        let long = work.len() > SHORT;
        let mut reserved = None;
        let mut late = false;
        loop {
            let (journal, version) = self.settle().await;
            let now = millis(self.proxy.wall_clock());
            let others = journal.reserved_until > now && journal.reserved_until <= now + LEASE_MS;
            if others && reserved != Some(journal.reserved_until) {
                self.proxy.sleep(LOOK).await;
                continue;
            }
            if long && late && !others {
                let until = now + LEASE_MS;
                let asking = Journal { reserved_until: until, ..journal };
                if self.put_journal(&asking, version) {
                    reserved = Some(until);
                }
                continue;
            }
            let mut plan = Plan { bytes: journal.bytes, mortal: journal.mortal, ..Plan::default() };
            for (number, operations) in work {
                if long {
                    self.pace.step().await;
                }
                self.plan(*number, operations, now, &mut plan);
            }
            if plan.refused.is_none() && plan.bytes > self.most && plan.bytes > journal.bytes {
                let text =
                    format!("the store is full: its items may have {} bytes, the limit set by maxBytes", self.most);
                plan.refuse(usize::MAX, Error::Exhausted(text)); // it is about no one of them
            }
            if plan.refused.is_some() || plan.steps.is_empty() {
                if reserved.is_some() {
                    self.put_journal(&Journal { reserved_until: 0, ..journal }, version); // others need not wait any more
                }
                return plan.refused.map_or(Ok(()), Err);
            }
            let Plan { steps, bytes, mortal, .. } = plan;
            let next = Journal { sequence: journal.sequence + 1, steps, bytes, mortal, reserved_until: 0 };
            if self.put_journal(&next, version) {
                self.sweep_if_needed(&next);
                drop(next); // it is as large as the request, and read again
                self.settle().await;
                return Ok(());
            }
            late = true;
        }
    }

    /// Carries out what the journal says, whoever wrote it, and empties it; gives it and its version.
    async fn settle(&self) -> (Journal, Version) {
        loop {
            let (mut journal, version) = self.journal();
            if journal.steps.is_empty() {
                return (journal, version);
            }
            let mut steps: BTreeMap<u32, Vec<&Step>> = BTreeMap::new();
            for step in &journal.steps {
                steps.entry(step.bucket).or_default().push(step);
            }
            for (number, steps) in &steps {
                if journal.steps.len() > SHORT {
                    self.pace.step().await;
                }
                let (mut bucket, version) = self.bucket(*number);
                if bucket.sequence < journal.sequence {
                    bucket.carry_out(journal.sequence, steps);
                    // Refused when another worker was faster: with this content, or with a later one.
                    let _ = self.proxy.shared_set(&self.bucket_name(*number), &bucket.encode_to_vec(), Some(version));
                }
            }
            drop(steps);
            journal.steps.clear();
            self.put_journal(&journal, version);
        }
    }

    /// Adds to the plan what the operations do to a bucket.
    fn plan(self: &Rc<Self>, number: u32, operations: &[(usize, &Operation)], now: u64, plan: &mut Plan) {
        let mut entries = self.bucket(number).0.entries;
        let before: u64 = entries.iter().map(Entry::weight).sum();
        let ended: Vec<String> =
            entries.iter().filter(|entry| !entry.is_alive(now)).map(|entry| entry.key.clone()).collect();
        for key in ended {
            plan.remove(number, &key, &mut entries);
        }
        let mut last = 0;
        for (place, operation) in operations {
            last = *place;
            if let Err(error) = self.plan_one(number, operation, now, &mut entries, plan) {
                plan.refuse(*place, error);
                return;
            }
        }
        let after: u64 = entries.iter().map(Entry::weight).sum();
        if after > self.most_of_bucket && after > before {
            let most = self.most_of_bucket;
            let text = format!(
                "the part of the store that this item is in is full: it may have {most} bytes, an eighth of limits.maxMemoryBytes"
            );
            plan.refuse(last, Error::Exhausted(text));
        }
    }

    fn plan_one(
        &self,
        number: u32,
        operation: &Operation,
        now: u64,
        entries: &mut Vec<Entry>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let key = key_of(operation);
        let old = entries.iter().find(|entry| entry.key == key);
        match operation {
            Operation::Upsert(write) => {
                compare(old, write.etag.as_deref(), write.concurrency)?;
                let expires = match write.ttl.or(self.ttl) {
                    Ttl::Lasts(time) => now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                    // As with Dapr's driver, a write that does not say takes the end away.
                    Ttl::Endless | Ttl::Unspecified => 0,
                };
                let entry = Entry { key: key.to_owned(), data: write.data.clone(), etag: self.new_etag(), expires };
                plan.put(number, entry, entries);
            }
            Operation::Delete(delete) => {
                compare(old, delete.etag.as_deref(), delete.concurrency)?;
                plan.remove(number, key, entries);
            }
        }
        Ok(())
    }

    /// Unlike a counter, never the etag of an item from before a restart.
    fn new_etag(&self) -> String {
        let mut random = [0; 16];
        self.proxy.random(&mut random);
        Builder::from_random_bytes(random).into_uuid().to_string()
    }

    fn journal(&self) -> (Journal, Version) {
        let (bytes, version) = self.proxy.shared_get(&self.journal_name).unwrap_or(MISSING);
        (read(bytes), version)
    }

    fn put_journal(&self, journal: &Journal, version: Version) -> bool {
        self.proxy.shared_set(&self.journal_name, &journal.encode_to_vec(), Some(version)).is_ok()
    }

    fn bucket(&self, number: u32) -> (Bucket, Version) {
        let (bytes, version) = self.proxy.shared_get(&self.bucket_name(number)).unwrap_or(MISSING);
        self.pace.spend(bytes.len());
        (read(bytes), version)
    }

    fn bucket_name(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }
}

impl Plan {
    fn put(&mut self, bucket: u32, entry: Entry, entries: &mut Vec<Entry>) {
        self.take_out(&entry.key, entries);
        self.bytes = self.bytes.saturating_add(entry.weight());
        self.mortal += u64::from(entry.expires > 0);
        entries.push(entry.clone());
        self.steps.push(Step { bucket, put: Some(entry), removed: String::new() });
    }

    fn remove(&mut self, bucket: u32, key: &str, entries: &mut Vec<Entry>) {
        if self.take_out(key, entries) {
            self.steps.push(Step { bucket, put: None, removed: key.to_owned() });
        }
    }

    fn take_out(&mut self, key: &str, entries: &mut Vec<Entry>) -> bool {
        let Some(at) = entries.iter().position(|entry| entry.key == key) else { return false };
        let old = entries.swap_remove(at);
        self.bytes = self.bytes.saturating_sub(old.weight());
        self.mortal = self.mortal.saturating_sub(u64::from(old.expires > 0));
        true
    }

    fn refuse(&mut self, place: usize, error: Error) {
        if self.refused.as_ref().is_none_or(|(first, _)| place < *first) {
            self.refused = Some((place, error));
        }
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    async fn get(&self, key: &str) -> Result<Option<Item>, Error> {
        let area = &self.0;
        let now = millis(area.proxy.wall_clock());
        let (journal, _) = area.journal();
        let (bucket, _) = area.bucket(bucket_number(key));
        // What is decided and not carried out yet.
        let pending = journal.steps.into_iter().rev().filter(|_| bucket.sequence < journal.sequence);
        let all: usize = bucket.entries.iter().map(|entry| entry.data.len()).sum();
        let mut found = match pending.into_iter().find(|step| step.key() == key) {
            Some(step) => step.put,
            None => bucket.entries.into_iter().find(|entry| entry.key == key),
        };
        // The value is a part of what was read, which need not be kept for it.
        if let Some(entry) = &mut found
            && entry.data.len() < all / 2
        {
            entry.data = Bytes::copy_from_slice(&entry.data);
        }
        Ok(found.filter(|entry| entry.is_alive(now)).map(Entry::into_item))
    }

    async fn set(&self, write: Write) -> Result<(), Error> {
        self.0.write(&[Operation::Upsert(write)]).await
    }

    async fn delete(&self, delete: Delete) -> Result<(), Error> {
        self.0.write(&[Operation::Delete(delete)]).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<(), Error> {
        self.0.write(&operations).await
    }
}

/// The rules about etags: one that is given must be that of the item, whatever the concurrency; a first write without
/// one needs an item that is not there yet.
fn compare(current: Option<&Entry>, etag: Option<&str>, concurrency: Concurrency) -> Result<(), Error> {
    match (etag, current) {
        (Some(given), Some(current)) if given != current.etag => {
            Err(Error::EtagMismatch(format!("it was written since etag {given}")))
        }
        (Some(given), None) => Err(Error::EtagMismatch(format!("there is no item, and etag {given} was given"))),
        (None, Some(_)) if concurrency == Concurrency::FirstWrite => {
            Err(Error::EtagMismatch("there is an item already, and this write is to be the first".to_owned()))
        }
        _ => Ok(()),
    }
}

fn key_of(operation: &Operation) -> &str {
    let (Operation::Upsert(Write { key, .. }) | Operation::Delete(Delete { key, .. })) = operation;
    key
}
