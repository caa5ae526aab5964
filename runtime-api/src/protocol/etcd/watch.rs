//! Watches: what changes under prefixes, told to any number of subscribers over one stream to the server.
//!
//! A stream may end at any time, and is opened again after a back-off, from the revision after the last that was told
//! of. If the server has forgotten what was between (it compacts) or is not the store that it was (restored from a
//! backup), the prefix is read anew and compared with what is known, so that a subscriber sees every key that is
//! different now, if not every step that led there. To be able to, a watch keeps the revision of each key.
//!
//! Progress is told by revisions of events alone, not by those of progress notifications: in servers before 3.5.8 these
//! may run ahead of the events.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use envoy_runtime_proto::etcd::etcdserverpb as etcd;
use envoy_runtime_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use envoy_runtime_proto::etcd::mvccpb;
use futures::StreamExt;
use futures::channel::mpsc;
use futures::future::{Either, select};
use prost::Message;
use tonic::Code;

use super::{Client, Error, Token, after, all, is_about_token};
use crate::backoff::backoff;
use crate::metrics::metric_part;
use crate::proxy::{Instant, Level, Method, Stream};

const WATCH: Method = ("etcdserverpb.Watch", "Watch");

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// When nothing has come for so long the server is asked whether it is still there, and after as long again without
/// a word the stream is taken for dead.
const SILENCE: Duration = Duration::from_secs(15);

/// What has changed, as of one revision of the store or a few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The store is at least at this revision.
    pub revision: i64,
    /// What has changed, in order. Never empty.
    pub changes: Vec<Change>,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// What it holds now; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// The revision of the store at which it changed; of a deletion that was missed, when it was noticed.
    pub revision: i64,
}

/// One who watches. Dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::UnboundedReceiver<Told>,
    established: bool,
    /// What came while it was waited for the beginning.
    waiting: VecDeque<Batch>,
    /// Tells the hub to look who is still there.
    wake: mpsc::UnboundedSender<()>,
}

#[derive(Debug, Clone)]
enum Told {
    /// From now on nothing is missed.
    Established,
    Changed(Batch),
}

impl Watch {
    /// Waits until nothing will be missed that happens from now on. What has happened meanwhile is kept.
    pub async fn established(&mut self) {
        poll_fn(|context| {
            while !self.established {
                match ready!(self.batches.poll_next_unpin(context)) {
                    Some(Told::Established) => self.established = true,
                    Some(Told::Changed(batch)) => self.waiting.push_back(batch),
                    None => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The next changes. Pending for as long as there are none, whatever becomes of the server.
    pub async fn next(&mut self) -> Batch {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Watch::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Batch> {
        if let Some(batch) = self.waiting.pop_front() {
            return Poll::Ready(batch);
        }
        loop {
            match ready!(self.batches.poll_next_unpin(context)) {
                Some(Told::Changed(batch)) => return Poll::Ready(batch),
                Some(Told::Established) => self.established = true,
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.batches.close();
        let _ = self.wake.unbounded_send(()); // refused when there is no stream, and so nothing to end
    }
}

/// All that is watched at one store.
#[derive(Debug, Default)]
pub(super) struct Hub {
    ranges: RefCell<Vec<Rc<Watched>>>,
    /// To the task that serves the stream, while there is one.
    wake: RefCell<Option<mpsc::UnboundedSender<()>>>,
    /// Why the last stream ended.
    lost: RefCell<Option<String>>,
}

/// A prefix that is watched.
#[derive(Debug)]
struct Watched {
    prefix: Vec<u8>,
    subscribers: RefCell<Vec<mpsc::UnboundedSender<Told>>>,
    /// What has been told of; `None` before the first read.
    known: RefCell<Option<Known>>,
    /// What the watch is called on the stream, once it has been asked for there.
    id: Cell<Option<i64>>,
    /// Whether the server has confirmed that.
    created: Cell<bool>,
    /// When to ask again after the server refused to let the prefix be read, as to a user who may not.
    refused_until: Cell<Instant>,
}

/// What subscribers know.
#[derive(Debug)]
struct Known {
    /// All that happened up to this revision has been told.
    revision: i64,
    /// The revision of each key.
    keys: BTreeMap<Bytes, i64>,
}

impl Watched {
    fn is_wanted(&self) -> bool {
        self.subscribers.borrow_mut().retain(|subscriber| !subscriber.is_closed());
        !self.subscribers.borrow().is_empty()
    }

    fn tell(&self, told: &Told) {
        for subscriber in self.subscribers.borrow().iter() {
            let _ = subscriber.unbounded_send(told.clone()); // refused by one who has just gone
        }
    }

    /// Takes in what the server has told, and tells those who watch.
    fn take(&self, events: Vec<mvccpb::Event>) {
        let mut known = self.known.borrow_mut();
        let Some(known) = known.as_mut() else { return };
        let mut changes = Vec::with_capacity(events.len());
        for event in events {
            let deleted = event.r#type() == mvccpb::event::EventType::Delete;
            let Some(kv) = event.kv else { continue };
            if deleted {
                known.keys.remove(&kv.key);
            } else {
                known.keys.insert(kv.key.clone(), kv.mod_revision);
            }
            known.revision = known.revision.max(kv.mod_revision);
            changes.push(Change { key: kv.key, value: (!deleted).then_some(kv.value), revision: kv.mod_revision });
        }
        if !changes.is_empty() {
            self.tell(&Told::Changed(Batch { revision: known.revision, changes }));
        }
    }

    /// Compares what was read with what is known, and tells the differences.
    fn catch_up(&self, read: etcd::RangeResponse) {
        let revision = read.header.map(|header| header.revision).unwrap_or_default();
        let keys = read.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let before = self.known.replace(Some(Known { revision, keys }));
        let Some(before) = before else { return }; // the first read: what is there is no change
        let mut changes = Vec::new();
        let mut gone = before.keys;
        for kv in read.kvs {
            if gone.remove(&kv.key) != Some(kv.mod_revision) {
                changes.push(Change { key: kv.key, value: Some(kv.value), revision: kv.mod_revision });
            }
        }
        changes.extend(gone.into_keys().map(|key| Change { key, value: None, revision }));
        changes.sort_by_key(|change| change.revision);
        if !changes.is_empty() {
            self.tell(&Told::Changed(Batch { revision, changes }));
        }
    }
}

impl Client {
    /// Watches all keys that begin with `prefix`, from now on. It never fails: while the server cannot be reached
    /// nothing comes, and what was missed comes later.
    pub fn watch(&self, prefix: &[u8]) -> Watch {
        let hub = &self.0.watches;
        let (subscriber, batches) = mpsc::unbounded();
        let mut ranges = hub.ranges.borrow_mut();
        let known = ranges.iter().find(|watched| watched.prefix == prefix && watched.is_wanted());
        if let Some(watched) = known {
            if watched.created.get() {
                let _ = subscriber.unbounded_send(Told::Established);
            }
            watched.subscribers.borrow_mut().push(subscriber);
        } else {
            ranges.push(Rc::new(Watched {
                prefix: prefix.to_vec(),
                subscribers: RefCell::new(vec![subscriber]),
                known: RefCell::default(),
                id: Cell::default(),
                created: Cell::default(),
                refused_until: Cell::default(),
            }));
        }
        drop(ranges);
        let serving = hub.wake.borrow().clone();
        let wake = serving.unwrap_or_else(|| {
            let (wake, woken) = mpsc::unbounded();
            *hub.wake.borrow_mut() = Some(wake.clone());
            let client = self.clone();
            self.0.proxy.spawn(Box::pin(async move { client.serve_watches(woken).await }));
            wake
        });
        let _ = wake.unbounded_send(());
        Watch { batches, established: false, waiting: VecDeque::new(), wake }
    }

    /// Why a watch is not established, for a message.
    pub fn why_not_watching(&self) -> String {
        let lost = self.0.watches.lost.borrow().clone();
        lost.unwrap_or_else(|| "etcd does not answer".to_owned())
    }

    /// Keeps a stream open for as long as anybody watches.
    async fn serve_watches(&self, mut woken: mpsc::UnboundedReceiver<()>) {
        let shared = &self.0;
        let mut failures = 0_u32;
        loop {
            let worked = Cell::new(false);
            let ended = self.serve_stream(&mut woken, &worked).await;
            let Err(why) = ended else {
                *shared.watches.wake.borrow_mut() = None;
                return;
            };
            for watched in shared.watches.ranges.borrow().iter() {
                watched.id.set(None);
                watched.created.set(false);
            }
            failures = if worked.get() { 1 } else { failures.saturating_add(1) };
            let pause = backoff(&*self.0.proxy, failures, FIRST_BACKOFF, LONGEST_BACKOFF);
            let metric = shared.watch_lost.get().unwrap_or_else(|| {
                shared.proxy.counter(&format!("runtime.upstream.{}.watches_lost", metric_part(&shared.component)))
            });
            shared.watch_lost.set(Some(metric));
            shared.proxy.add(metric, 1);
            let (component, pause_ms) = (&shared.component, pause.as_millis());
            shared.proxy.log(
                Level::Warn,
                &format!(
                    "component={component} event=watch_lost reason={why:?} failures={failures} retry_after_ms={pause_ms}"
                ),
            );
            *shared.watches.lost.borrow_mut() = Some(why);
            shared.proxy.sleep(pause).await;
        }
    }

    /// Serves one stream. `Ok` means that nobody watches any more.
    async fn serve_stream(&self, woken: &mut mpsc::UnboundedReceiver<()>, worked: &Cell<bool>) -> Result<(), String> {
        let shared = &self.0;
        if !self.tidy() {
            return Ok(());
        }
        let token = self.token().await.map_err(|error| error.to_string())?;
        let metadata = token.metadata();
        let session = Session {
            client: self,
            stream: shared.proxy.grpc_stream(&shared.cluster, WATCH, &metadata),
            token: &token,
            next_id: Cell::new(1),
        };
        let mut silent = 0;
        loop {
            session.begin_new().await?;
            let heard = {
                let message = select(session.stream.receive(), woken.next());
                select(message, shared.proxy.sleep(SILENCE)).await
            };
            match heard {
                Either::Left((Either::Left((message, _)), _)) => {
                    silent = 0;
                    let message = message.map_err(|closed| session.ended(closed.code, &closed.text))?;
                    let response = etcd::WatchResponse::decode(message)
                        .map_err(|_| "what came is no answer to a watch".to_owned())?;
                    session.take(response, worked).await?;
                }
                Either::Left((Either::Right(_), _)) => {
                    session.end_unwanted();
                    if !self.tidy() {
                        return Ok(());
                    }
                }
                Either::Right(_) if silent > 0 => {
                    return Err(format!("it has not answered for {}", humantime::format_duration(SILENCE)));
                }
                Either::Right(_) => {
                    silent += 1;
                    session.send(RequestUnion::ProgressRequest(etcd::WatchProgressRequest {}));
                }
            }
        }
    }

    /// Forgets what nobody watches any more. Whether anything is left.
    fn tidy(&self) -> bool {
        let mut ranges = self.0.watches.ranges.borrow_mut();
        ranges.retain(|watched| watched.is_wanted());
        !ranges.is_empty()
    }
}

/// A stream and what is watched on it.
struct Session<'a> {
    client: &'a Client,
    stream: Box<dyn Stream>,
    token: &'a Token,
    /// Never used twice on a stream: a server may still speak of a watch that was given up.
    next_id: Cell<i64>,
}

impl Session<'_> {
    /// Asks for what is not watched on this stream yet.
    async fn begin_new(&self) -> Result<(), String> {
        let shared = &self.client.0;
        let now = shared.proxy.now();
        let is_new = |watched: &Rc<Watched>| {
            watched.id.get().is_none() && watched.refused_until.get() <= now && watched.is_wanted()
        };
        for watched in self.ranges().into_iter().filter(is_new) {
            if watched.known.borrow().is_none() {
                // Only revisions are of interest: what is there now is no change.
                match self.read(&watched, true).await {
                    Err(Error::Refused(why)) => {
                        // The others go on.
                        watched.refused_until.set(now + SILENCE);
                        let (component, prefix) = (&shared.component, String::from_utf8_lossy(&watched.prefix));
                        let line =
                            format!("component={component} event=watch_refused prefix={prefix:?} reason={why:?}");
                        shared.proxy.log(Level::Warn, &line);
                        *shared.watches.lost.borrow_mut() = Some(Error::Refused(why).to_string());
                        continue;
                    }
                    read => read.map_err(|error| error.to_string())?,
                }
            }
            self.create(&watched);
        }
        Ok(())
    }

    fn create(&self, watched: &Watched) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        watched.id.set(Some(id));
        let known = watched.known.borrow().as_ref().map_or(0, |known| known.revision);
        self.send(RequestUnion::CreateRequest(etcd::WatchCreateRequest {
            key: watched.prefix.clone().into(),
            range_end: after(&watched.prefix).into(),
            start_revision: known + 1,
            watch_id: id,
            ..Default::default()
        }));
    }

    async fn read(&self, watched: &Watched, keys_only: bool) -> Result<(), Error> {
        let request = etcd::RangeRequest { keys_only, ..all(&watched.prefix) };
        watched.catch_up(self.client.range(request).await?);
        Ok(())
    }

    /// Reads anew what the server can no longer tell step by step, and goes on from there.
    async fn begin_anew(&self, watched: &Watched) -> Result<(), String> {
        self.read(watched, false).await.map_err(|error| error.to_string())?;
        self.create(watched);
        Ok(())
    }

    async fn take(&self, response: etcd::WatchResponse, worked: &Cell<bool>) -> Result<(), String> {
        let found = self.ranges().into_iter().find(|watched| watched.id.get() == Some(response.watch_id));
        if response.canceled && response.compact_revision > 0 {
            return match found {
                Some(watched) => self.begin_anew(&watched).await,
                None => Ok(()),
            };
        }
        if response.canceled && (found.is_some() || response.created) {
            return Err(self.ended(Code::Unknown, &response.cancel_reason));
        }
        let Some(watched) = found else { return Ok(()) }; // progress, or of a watch that was given up
        if response.created {
            worked.set(true);
            let revision = response.header.as_ref().map_or(i64::MAX, |header| header.revision);
            let known = watched.known.borrow().as_ref().map_or(0, |known| known.revision);
            if revision < known {
                // A member that lags behind, or a store that is not what it was: reading it anew is right for both.
                self.send(RequestUnion::CancelRequest(etcd::WatchCancelRequest { watch_id: response.watch_id }));
                self.begin_anew(&watched).await?;
            } else if !watched.created.replace(true) {
                watched.tell(&Told::Established);
            }
        }
        watched.take(response.events);
        Ok(())
    }

    /// Ends on the stream what nobody watches any more.
    fn end_unwanted(&self) {
        for watched in self.ranges() {
            if let Some(watch_id) = watched.id.get().filter(|_| !watched.is_wanted()) {
                self.send(RequestUnion::CancelRequest(etcd::WatchCancelRequest { watch_id }));
            }
        }
    }

    /// Why the server has ended the stream or a watch, in words; a login that no longer holds is forgotten. Before
    /// 3.6 a server that does not take a token says only that the watch is not permitted.
    fn ended(&self, code: Code, why: &str) -> String {
        if is_about_token(code, why) || why.contains("permission denied") {
            self.client.forget(self.token);
        }
        if why.is_empty() { "the server has ended the watch".to_owned() } else { why.to_owned() }
    }

    fn send(&self, request: RequestUnion) {
        self.stream.send(&etcd::WatchRequest { request_union: Some(request) }.encode_to_vec());
    }

    fn ranges(&self) -> Vec<Rc<Watched>> {
        self.client.0.watches.ranges.borrow().clone()
    }
}
