//! Ordinary clients that know what the answers must be: a key has the value that was last written, an etag guards a
//! counter, a lock has one holder, an id is given once. What may have been done, because its call had no answer, is
//! taken into account.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

use super::client::{Caller, Failed};
use super::ground::{Ground, PLACES, Place, SECRET};
use super::kind::Kind;
use crate::client::Dialect;
use crate::store::{ItemOptions, delete, item, upsert};

/// A write without an answer may take effect until so much later: what it was is stopped, or far away, and goes on.
const LATEST: Duration = Duration::from_mins(1);
/// By how much clocks may differ from each other.
const DRIFT: Duration = Duration::from_millis(100);

fn a_dialect(random: &mut StdRng) -> Dialect {
    *Dialect::ALL.choose(random).expect("there are two")
}

fn a_deadline(random: &mut StdRng) -> Option<Duration> {
    // Most calls have time; some are cut short by their deadline at any moment.
    match random.random_range(0..10) {
        0..5 => None,
        5..9 => Some(Duration::from_millis(random.random_range(1000..10_000))),
        _ => Some(Duration::from_millis(random.random_range(1..30))),
    }
}

/// Small calls to each worker, as a rule: that they are answered soon.
pub(super) async fn pulse(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::Pulse, number);
    let mut callers: Vec<_> = (0..4).map(|_| Caller::new(&ground, Kind::Pulse, a_dialect(&mut random))).collect();
    while ground.goes_on().await {
        let caller = callers.choose_mut(&mut random);
        let start = Instant::now();
        let request = dapr::GetStateRequest { store_name: "memory".into(), key: "pulse".into(), ..Default::default() };
        let answer = caller.unary::<dapr::GetStateResponse>("GetState", &request, Some(Duration::from_secs(20))).await;
        let (took, margin) = (start.elapsed(), ground.margin());
        if answer.is_ok() && took > Duration::from_secs(1) + margin {
            let example = format!("GetState in memory took {took:.1?} (allowed: a second and {margin:.1?})");
            ground.record.find(Kind::Pulse, "a worker stood still", example);
        }
        let request =
            dapr::GetSecretRequest { store_name: "environment".into(), key: SECRET.0.into(), ..Default::default() };
        if let Ok(reply) =
            callers.choose_mut(&mut random).unary::<dapr::GetSecretResponse>("GetSecret", &request, None).await
            && reply.data.get(SECRET.0).map(String::as_str) != Some(SECRET.1)
        {
            ground.record.find(Kind::Pulse, "a secret is not what it was", "");
        }
        ground.pause(Duration::from_millis(50)).await;
    }
}

trait ChooseMut<T> {
    fn choose_mut(&mut self, random: &mut StdRng) -> &mut T;
}

impl<T> ChooseMut<T> for Vec<T> {
    fn choose_mut(&mut self, random: &mut StdRng) -> &mut T {
        let index = random.random_range(0..self.len());
        &mut self[index]
    }
}

/// What a key may hold. The version 0 stands for no item.
#[derive(Debug, Default)]
struct Register {
    written: u64,
    /// Writes without an answer.
    unknown: Vec<(u64, Instant)>,
}

impl Register {
    /// A write was answered.
    fn is_written(&mut self, version: u64, now: Instant) {
        self.written = version;
        self.settle(now);
    }

    /// Whether a read may find this version. However late it is made: clients are silent for a while, and what was done
    /// before that is found after it.
    fn allows(&mut self, version: u64, now: Instant) -> bool {
        let unknown = self.unknown.iter().find(|(unknown, _)| *unknown == version);
        let allowed = version == self.written || unknown.is_some();
        if unknown.is_some_and(|(_, at)| now.duration_since(*at) >= LATEST) {
            self.written = version;
        }
        self.settle(now);
        allowed
    }

    /// Forgets the writes that have taken effect by now if they ever do.
    fn settle(&mut self, now: Instant) {
        self.unknown.retain(|(_, at)| now.duration_since(*at) < LATEST);
    }
}

/// One key of each place, written by one client and read by it and another.
pub(super) async fn state(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::State, number);
    let key = format!("register{number}");
    let mut registers: HashMap<Place, Register> = HashMap::new();
    let mut version = 0;
    let mut callers: Vec<_> = (0..3).map(|_| Caller::new(&ground, Kind::State, a_dialect(&mut random))).collect();
    while ground.goes_on().await {
        let place = *PLACES.choose(&mut random).expect("there are some");
        let register = registers.entry(place).or_default();
        if random.random_bool(0.5) {
            version += 1;
            let removes = random.random_bool(0.1);
            let written = if removes { 0 } else { version };
            let size = if random.random_bool(0.03) { 900_000 } else { random.random_range(0..2000) };
            let new = item(&key, format!("{version}:{}", "x".repeat(size)));
            let new = if random.random_bool(0.1) { new.strong() } else { new };
            let transaction = random.random_bool(0.2);
            let caller = callers.choose_mut(&mut random);
            match write(caller, place, new, removes, transaction, a_deadline(&mut random)).await {
                Ok(()) => register.is_written(written, Instant::now()),
                Err(Failed::Refused(code, text)) => {
                    let example = format!("{} {key}: {code:?} {text}", place.name());
                    ground.record.find(Kind::State, "a good write was refused", example);
                }
                Err(Failed::Unknown) => register.unknown.push((written, Instant::now())),
            }
        }
        let deadline = a_deadline(&mut random);
        let in_bulk = random.random_bool(0.2);
        match read(callers.choose_mut(&mut random), place, &key, in_bulk, deadline).await {
            Ok(data) => {
                let text = String::from_utf8_lossy(&data);
                let version =
                    if text.is_empty() { Some(0) } else { text.split(':').next().and_then(|text| text.parse().ok()) };
                if !version.is_some_and(|version| register.allows(version, Instant::now())) {
                    let example =
                        format!("{} {key}: {text:.20?} was read; it may be {register:?} (0: none)", place.name());
                    ground.record.find(Kind::State, "a value was read that was not the last written", example);
                    // It is told once, not at every read from now on.
                    register.written = version.unwrap_or_default();
                }
            }
            Err(Failed::Refused(code, text)) => {
                let example = format!("{} {key}: {code:?} {text}", place.name());
                ground.record.find(Kind::State, "a good read was refused", example);
            }
            Err(Failed::Unknown) => {}
        }
        if random.random_bool(0.02) {
            callers.choose_mut(&mut random).reconnect();
        }
        ground.pause(Duration::from_millis(random.random_range(0..40))).await;
    }
}

async fn read(
    caller: &mut Caller,
    place: Place,
    key: &str,
    in_bulk: bool,
    deadline: Option<Duration>,
) -> Result<Bytes, Failed> {
    let (store_name, key) = (place.name().to_owned(), key.to_owned());
    if !in_bulk {
        let request = dapr::GetStateRequest { store_name, key, ..Default::default() };
        return caller.unary::<dapr::GetStateResponse>("GetState", &request, deadline).await.map(|reply| reply.data);
    }
    let keys = vec!["no such key".to_owned(), key.clone()];
    let request = dapr::GetBulkStateRequest { store_name, keys, ..Default::default() };
    let reply: dapr::GetBulkStateResponse = caller.unary("GetBulkState", &request, deadline).await?;
    // A failure of one key is told with that key.
    let item = reply.items.into_iter().find(|item| item.key == key && item.error.is_empty());
    item.map(|item| item.data).ok_or(Failed::Unknown)
}

async fn write(
    caller: &mut Caller,
    place: Place,
    new: envoy_runtime_proto::dapr::common::v1::StateItem,
    removes: bool,
    transaction: bool,
    deadline: Option<Duration>,
) -> Result<(), Failed> {
    let store_name = place.name().to_owned();
    if transaction {
        let operation = if removes { delete(item(&new.key, "")) } else { upsert(new) };
        let request =
            dapr::ExecuteStateTransactionRequest { store_name, operations: vec![operation], ..Default::default() };
        return caller.unary("ExecuteStateTransaction", &request, deadline).await;
    }
    if removes {
        let request = dapr::DeleteStateRequest { store_name, key: new.key, ..Default::default() };
        return caller.unary("DeleteState", &request, deadline).await;
    }
    caller.unary("SaveState", &dapr::SaveStateRequest { store_name, states: vec![new] }, deadline).await
}

/// How often a counter was increased, and how often it may have been.
#[derive(Debug, Default)]
struct Counter {
    certain: AtomicU64,
    unknown: AtomicU64,
}

/// The counters of all clients.
#[derive(Debug, Default)]
pub(super) struct Counters([Counter; 3]);

const COUNTER: &str = "counter";

impl Counters {
    /// Writes a zero into each.
    pub(super) async fn prepare(&self, ground: &Arc<Ground>) {
        let mut caller = Caller::new(ground, Kind::Etags, Dialect::Dapr);
        for place in PLACES {
            let states = vec![item(COUNTER, "0")];
            let request = dapr::SaveStateRequest { store_name: place.name().into(), states };
            caller
                .unary::<()>("SaveState", &request, None)
                .await
                .expect("a counter is written before there are faults");
        }
    }

    /// Compares what is there when all is over.
    pub(super) async fn check(&self, ground: &Arc<Ground>) {
        let mut caller = Caller::new(ground, Kind::Etags, Dialect::Dapr);
        for place in PLACES {
            // A worker that still waits before it connects anew refuses meanwhile.
            let mut read = None;
            for _ in 0..5 {
                read = read_counter(&mut caller, place).await;
                if read.is_some() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
            let Some((value, _)) = read else {
                ground.record.find(Kind::Etags, "a counter cannot be read when all is over", place.name());
                continue;
            };
            let counter = &self.0[place as usize];
            let (certain, unknown) = (counter.certain.load(Ordering::SeqCst), counter.unknown.load(Ordering::SeqCst));
            if value < certain || value > certain + unknown {
                let example = format!("{}: {value}, after {certain} additions and {unknown} that may be", place.name());
                ground.record.find(Kind::Etags, "a counter is wrong when all is over", example);
            }
        }
    }
}

async fn read_counter(caller: &mut Caller, place: Place) -> Option<(u64, String)> {
    let request = dapr::GetStateRequest { store_name: place.name().into(), key: COUNTER.into(), ..Default::default() };
    let reply: dapr::GetStateResponse = caller.unary("GetState", &request, Some(Duration::from_secs(5))).await.ok()?;
    let value = String::from_utf8_lossy(&reply.data).parse();
    if value.is_err() {
        let example = format!("{}: {:?}", place.name(), reply.data);
        caller.ground.record.find(Kind::Etags, "a counter is no number", example);
    }
    Some((value.ok()?, reply.etag))
}

/// Adds to the counters of all, by their etags.
pub(super) async fn etags(ground: Arc<Ground>, counters: Arc<Counters>, number: usize) {
    let mut random = ground.random(Kind::Etags, number);
    let mut caller = Caller::new(&ground, Kind::Etags, a_dialect(&mut random));
    while ground.goes_on().await {
        let place = *PLACES.choose(&mut random).expect("there are some");
        let counter = &counters.0[place as usize];
        let least = counter.certain.load(Ordering::SeqCst);
        if let Some((value, etag)) = read_counter(&mut caller, place).await {
            if value < least {
                let example = format!("{}: {value}, after {least} additions", place.name());
                ground.record.find(Kind::Etags, "an addition was lost", example);
                counter.certain.store(value, Ordering::SeqCst);
            }
            let new = item(COUNTER, (value + 1).to_string()).if_etag(&etag).first_write();
            let deadline = a_deadline(&mut random);
            let transaction = random.random_bool(0.2);
            match write(&mut caller, place, new, false, transaction, deadline).await {
                Ok(()) => drop(counter.certain.fetch_add(1, Ordering::SeqCst)),
                // Another was faster.
                Err(Failed::Refused(tonic::Code::Aborted, _)) => {}
                Err(Failed::Refused(code, text)) => {
                    let example = format!("{}: {code:?} {text}", place.name());
                    ground.record.find(Kind::Etags, "a good write with an etag was refused", example);
                }
                Err(Failed::Unknown) => drop(counter.unknown.fetch_add(1, Ordering::SeqCst)),
            }
        }
        ground.pause(Duration::from_millis(random.random_range(0..40))).await;
    }
}

/// A time in which a lock is held for certain.
#[derive(Clone, Debug)]
struct Hold {
    owner: String,
    from: Instant,
    until: Instant,
}

/// A lock: its place and its number.
type Name = (Place, usize);

/// The locks of all clients.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<Name, Vec<Hold>>>);

impl Locks {
    /// Notes that `owner` got a lock by a call that was sent and answered then. Returns who had it from before the one
    /// until after the other, and for how long yet: it can't have been free at any moment between.
    fn take(
        &self,
        lock: Name,
        owner: &str,
        sent: Instant,
        answered: Instant,
        until: Instant,
    ) -> Option<(String, Duration)> {
        let mut all = self.0.lock().unwrap();
        let holds = all.entry(lock).or_default();
        holds.retain(|hold| hold.until.elapsed() < LATEST);
        let other = holds.iter().find(|hold| hold.from <= sent && hold.until >= answered);
        let other = other.map(|hold| (hold.owner.clone(), hold.until - answered));
        holds.push(Hold { owner: owner.to_owned(), from: answered, until });
        other
    }

    /// Changes until when `owner` has a lock, and returns until when that was.
    fn change(&self, lock: Name, owner: &str, until: Instant) -> Option<Instant> {
        let mut all = self.0.lock().unwrap();
        let hold = all.get_mut(&lock)?.iter_mut().find(|hold| hold.owner == owner)?;
        Some(std::mem::replace(&mut hold.until, until))
    }
}

/// Takes, keeps and gives back locks.
pub(super) async fn locks(ground: Arc<Ground>, locks: Arc<Locks>, number: usize) {
    let mut random = ground.random(Kind::Locks, number);
    let mut caller = Caller::new(&ground, Kind::Locks, Dialect::Layotto);
    let mut attempt = 0;
    while ground.goes_on().await {
        let place = *PLACES.choose(&mut random).expect("there are some");
        let lock = (place, random.random_range(0..2));
        attempt += 1;
        let owner = format!("{number}-{attempt}");
        let (store_name, resource_id) = (place.name().to_owned(), format!("lock{}", lock.1));
        let seconds = random.random_range(1..6);
        let expiry = |sent: Instant, seconds: i32| {
            sent + Duration::from_secs(u64::try_from(seconds).expect("it is positive")) - DRIFT
        };
        let request = layotto::TryLockRequest {
            store_name: store_name.clone(),
            resource_id: resource_id.clone(),
            lock_owner: owner.clone(),
            expire: seconds,
        };
        let sent = Instant::now();
        let deadline = a_deadline(&mut random);
        let answer = caller.unary::<layotto::TryLockResponse>("TryLock", &request, deadline).await;
        let taken = Instant::now();
        if answer.is_ok_and(|reply| reply.success) {
            if let Some((other, left)) = locks.take(lock, &owner, sent, taken, expiry(sent, seconds)) {
                let example = format!("{store_name} {resource_id}: {owner} got what {other} had for {left:.2?} more");
                ground.record.find(Kind::Locks, "a lock has two holders", example);
            }
            ground.pause(Duration::from_millis(random.random_range(0..1500))).await;
            if random.random_bool(0.3) {
                let request = layotto::LockKeepAliveRequest {
                    store_name: store_name.clone(),
                    resource_id: resource_id.clone(),
                    lock_owner: owner.clone(),
                    expire: seconds,
                };
                let sent = Instant::now();
                let answer = caller.unary::<layotto::LockKeepAliveResponse>("LockKeepAlive", &request, None).await;
                if answer.is_ok_and(|reply| reply.status == 0) {
                    locks.change(lock, &owner, expiry(sent, seconds));
                }
            }
            // From here on it may be free. Some are left to expire.
            if random.random_bool(0.8) {
                let until = locks.change(lock, &owner, Instant::now());
                let request =
                    layotto::UnlockRequest { store_name: store_name.clone(), resource_id, lock_owner: owner.clone() };
                let answer = caller.unary::<layotto::UnlockResponse>("Unlock", &request, None).await;
                if let (Ok(reply), Some(until)) = (answer, until)
                    && reply.status != 0
                    && until > Instant::now()
                {
                    let left = until - Instant::now();
                    let example =
                        format!("{store_name}: status {} to {owner}, whose lock had {left:.2?} left", reply.status);
                    ground.record.find(Kind::Locks, "a lock was lost", example);
                }
            }
        }
        ground.pause(Duration::from_millis(random.random_range(0..200))).await;
    }
}

/// All ids that were given.
#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<HashSet<(Place, usize, i64)>>);

/// Takes ids.
pub(super) async fn sequences(ground: Arc<Ground>, ids: Arc<Ids>, number: usize) {
    let mut random = ground.random(Kind::Sequences, number);
    let mut caller = Caller::new(&ground, Kind::Sequences, Dialect::Layotto);
    while ground.goes_on().await {
        let place = *PLACES.choose(&mut random).expect("there are some");
        let key = random.random_range(0..2);
        let increment = random.random_range(0..2);
        let request = layotto::GetNextIdRequest {
            store_name: place.name().into(),
            key: format!("sequence{key}"),
            options: Some(layotto::SequencerOptions { increment }),
            ..Default::default()
        };
        let deadline = a_deadline(&mut random);
        match caller.unary::<layotto::GetNextIdResponse>("GetNextId", &request, deadline).await {
            Ok(reply) => {
                if reply.next_id <= 0 || !ids.0.lock().unwrap().insert((place, key, reply.next_id)) {
                    let example = format!("{} sequence{key}: {} (increment {increment})", place.name(), reply.next_id);
                    ground.record.find(Kind::Sequences, "an id was given twice, or is none", example);
                }
            }
            Err(Failed::Refused(code, text)) => {
                ground.record.find(Kind::Sequences, "an id was refused", format!("{}: {code:?} {text}", place.name()));
            }
            Err(Failed::Unknown) => {}
        }
        if random.random_bool(0.02) {
            caller.reconnect();
        }
        ground.pause(Duration::from_millis(random.random_range(0..30))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_register_allows_what_was_written_last_and_what_may_have_been() {
        let now = Instant::now();
        let mut register = Register { written: 3, unknown: vec![(4, now), (0, now)] };
        assert!([3, 4, 0].into_iter().all(|version| register.allows(version, now)));
        assert!(!register.allows(2, now) && !register.allows(5, now));
        let later = now + LATEST;
        assert!(register.allows(3, later) && !register.allows(4, later));
    }

    #[test]
    fn a_lock_has_two_holders_only_if_the_first_had_it_all_the_time() {
        let (locks, lock, start) = (Locks::default(), (Place::Redis, 0), Instant::now());
        assert_eq!(locks.take(lock, "one", start, start + SECOND, start + 10 * SECOND), None);
        // It may have been taken before the first got it.
        assert_eq!(locks.take(lock, "two", start, start + 2 * SECOND, start + 2 * SECOND), None);
        // It may have ended before the second got it.
        assert_eq!(locks.take(lock, "three", start + 9 * SECOND, start + 11 * SECOND, start + 11 * SECOND), None);
        let other = locks.take(lock, "four", start + 2 * SECOND, start + 3 * SECOND, start + 3 * SECOND);
        assert_eq!(other, Some(("one".to_owned(), 7 * SECOND)));
        assert_eq!(locks.change(lock, "one", start + 4 * SECOND), Some(start + 10 * SECOND));
        assert_eq!(locks.take(lock, "five", start + 5 * SECOND, start + 6 * SECOND, start + 9 * SECOND), None);
    }
}
