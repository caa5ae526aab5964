//! State in the memory of Envoy, one store for all workers: the reference for what the others do about etags.
//!
//! Items lie in buckets, each a value in the shared area, and every write goes through a journal, one more value
//! there. A write is decided by putting what the buckets shall hold into the journal, by compare-and-swap; copying it
//! into the buckets comes after, and whoever next uses the store does it again first. So a transaction is seen whole
//! or not at all, workers never wait for each other, and a worker that ends in the middle leaves nothing half done.

mod layout;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Builder;

use super::{Concurrency, Delete, Error, Item, Operation, Store, Ttl, Write};
use crate::component::{Block, Build, Driver, Environment, V1, bucket_of};
use crate::config::{Field, Kind};
use crate::proxy::{MISSING, Proxy, Version, shared_init};
use layout::{Bucket, Entry, Journal};

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
    build: Build::State(|environment| Rc::new(InMemory(Rc::new(Area::new(environment))))),
};

const FIELDS: &[Field] =
    &[Field::optional("ttlInSeconds", Kind::Whole(1, i64::MAX), "how long an item lives when its write does not say")];

/// Many, so that a bucket stays small: it is written anew with each of its items.
const BUCKETS: u32 = 2048;
/// So that each is looked at about once a minute.
const SWEPT_PER_SECOND: u32 = 32;

/// A state store in the shared area.
#[derive(Debug)]
pub struct InMemory(Rc<Area>);

/// The part of the shared area that belongs to one store.
#[derive(Debug)]
struct Area {
    proxy: Rc<dyn Proxy>,
    /// What the names of its values in the shared area begin with.
    prefix: String,
    journal_name: String,
    ttl: Ttl,
    /// Whether this worker looks for items that have ended.
    sweeping: Cell<bool>,
    /// Whether an item with an end was written since this pass of the sweep began.
    mortal_written: Cell<bool>,
}

impl Area {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, .. } = environment;
        let seconds = component.settings.whole("ttlInSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        let prefix = format!("state.in-memory/{}/", component.name);
        let store = Self {
            proxy: Rc::clone(proxy),
            journal_name: format!("{prefix}journal"),
            prefix,
            ttl: seconds.map_or(Ttl::Unspecified, Ttl::from_seconds),
            sweeping: Cell::new(false),
            mortal_written: Cell::new(false),
        };
        shared_init(&**proxy, &store.journal_name);
        (0..BUCKETS).for_each(|number| shared_init(&**proxy, &store.bucket_name(number)));
        store
    }

    /// Decides the operations, all or none, and carries them out.
    fn write(self: &Rc<Self>, operations: &[Operation]) -> Result<(), Error> {
        let mut numbers = BTreeSet::new();
        for operation in operations {
            numbers.insert(bucket_of(key_of(operation), BUCKETS));
        }
        self.commit(&numbers, |buckets| {
            for operation in operations {
                if let Some(bucket) = buckets.get_mut(&bucket_of(key_of(operation), BUCKETS)) {
                    self.apply(operation, bucket).map_err(|error| match operations {
                        [_] => error,
                        _ => error.about(key_of(operation)),
                    })?;
                }
            }
            Ok(())
        })
    }

    /// Changes buckets, all or none. `change` runs again when another worker has written meanwhile.
    fn commit(
        &self,
        numbers: &BTreeSet<u32>,
        change: impl Fn(&mut BTreeMap<u32, Bucket>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let (sequence, version) = self.settle();
            let mut buckets = BTreeMap::new();
            for number in numbers {
                buckets.insert(*number, self.bucket(*number).0);
            }
            change(&mut buckets)?;
            let next = Journal::after(sequence, buckets);
            if self.proxy.shared_set(&self.journal_name, &next.encode(), Some(version)).is_ok() {
                self.settle();
                return Ok(());
            }
        }
    }

    /// Carries out what the journal says, whoever wrote it, and empties it; gives its number and version.
    fn settle(&self) -> (u64, Version) {
        loop {
            let (bytes, version) = self.proxy.shared_get(&self.journal_name).unwrap_or(MISSING);
            let journal = Journal::decode(bytes);
            if journal.buckets.is_empty() {
                return (journal.sequence, version);
            }
            for (number, bucket) in &journal.buckets {
                let (current, version) = self.bucket(*number);
                if current.sequence < bucket.sequence {
                    // Refused when another worker was faster: with this content, or with a later one.
                    let _ = self.proxy.shared_set(&self.bucket_name(*number), &bucket.encode(), Some(version));
                }
            }
            let _ = self.proxy.shared_set(&self.journal_name, &journal.emptied().encode(), Some(version));
        }
    }

    fn apply(self: &Rc<Self>, operation: &Operation, bucket: &mut Bucket) -> Result<(), Error> {
        let now = layout::millis(self.proxy.wall_clock());
        bucket.entries.retain(|entry| entry.is_alive(now));
        match operation {
            Operation::Upsert(write) => {
                let current = bucket.entries.iter().position(|entry| entry.key == write.key);
                let old = current.map(|at| bucket.entries.swap_remove(at));
                compare(old.as_ref(), write.etag.as_deref(), write.concurrency)?;
                let expires = match write.ttl.or(self.ttl) {
                    Ttl::Lasts(time) => now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                    Ttl::Endless => 0,
                    Ttl::Unspecified => old.map_or(0, |old| old.expires),
                };
                if expires > 0 {
                    self.mortal_written.set(true);
                    if !self.sweeping.replace(true) {
                        self.proxy.spawn(Box::pin(Rc::clone(self).sweep()));
                    }
                }
                let (key, data) = (write.key.clone(), write.data.clone());
                bucket.entries.push(Entry { key, data, etag: self.new_etag(), expires });
            }
            Operation::Delete(delete) => {
                let current = bucket.entries.iter().find(|entry| entry.key == delete.key);
                compare(current, delete.etag.as_deref(), delete.concurrency)?;
                bucket.entries.retain(|entry| entry.key != delete.key);
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

    /// Removes what has ended, a few buckets a second, until nothing is left that could end. Items are not seen after
    /// their end in any case; this frees their memory.
    async fn sweep(self: Rc<Self>) {
        loop {
            // An item may come into a bucket that this pass has seen already.
            self.mortal_written.set(false);
            let mut mortal = false;
            for number in 0..BUCKETS {
                if number % SWEPT_PER_SECOND == 0 {
                    self.proxy.sleep(Duration::from_secs(1)).await;
                }
                let now = layout::millis(self.proxy.wall_clock());
                let entries = self.bucket(number).0.entries;
                mortal |= entries.iter().any(|entry| entry.expires > 0);
                if entries.iter().any(|entry| !entry.is_alive(now)) {
                    let _ = self.commit(&BTreeSet::from([number]), |buckets| {
                        for bucket in buckets.values_mut() {
                            bucket.entries.retain(|entry| entry.is_alive(now));
                        }
                        Ok(())
                    });
                }
            }
            if !mortal && !self.mortal_written.get() {
                self.sweeping.set(false);
                return;
            }
        }
    }

    fn bucket(&self, number: u32) -> (Bucket, Version) {
        let (bytes, version) = self.proxy.shared_get(&self.bucket_name(number)).unwrap_or(MISSING);
        (Bucket::decode(bytes), version)
    }

    fn bucket_name(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }
}

#[async_trait(?Send)]
impl Store for InMemory {
    async fn get(&self, key: &str) -> Result<Option<Item>, Error> {
        let area = &self.0;
        area.settle();
        let now = layout::millis(area.proxy.wall_clock());
        let found = area.bucket(bucket_of(key, BUCKETS)).0.entries.into_iter().find(|entry| entry.key == key);
        Ok(found.filter(|entry| entry.is_alive(now)).map(Entry::into_item))
    }

    async fn set(&self, write: Write) -> Result<(), Error> {
        self.0.write(&[Operation::Upsert(write)])
    }

    async fn delete(&self, delete: Delete) -> Result<(), Error> {
        self.0.write(&[Operation::Delete(delete)])
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<(), Error> {
        self.0.write(&operations)
    }
}

/// The rules about etags: one that is given must be that of the item; a first write without one needs an item that is
/// not there yet; an empty one is none; the last write stands whatever its etag.
fn compare(current: Option<&Entry>, etag: Option<&str>, concurrency: Concurrency) -> Result<(), Error> {
    let given = etag.filter(|etag| !etag.is_empty() && concurrency != Concurrency::LastWrite);
    match (given, current) {
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
