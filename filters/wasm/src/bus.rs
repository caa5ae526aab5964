//! The publisher's side of the bus: how a root context sends to the streams of apps.
//!
//! A wasm filter cannot begin to send on a stream of an app, but it can send at any time on a gRPC stream that it
//! opened itself. Streams of apps are routed to a small server within Envoy, the bus (`filters/bus`), and so is a
//! gRPC stream of the root context, a link. The bus writes to a subscriber what comes on the link of its connection.
//! As a rule a worker has one connection to the bus and one link.
//!
//! What was sent and not acknowledged is kept: when a link is lost and opened again, it is sent again, and the bus
//! drops what it had. So nothing is lost or doubled as long as the connection of the subscriber lives; when that
//! ends, Envoy ends the app's stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use runtime_api::proxy::{Level, Method, Proxy, Stream};
use runtime_bus::message::{FromBus, MAX_UNACKNOWLEDGED, ToBus};
use rustc_hash::FxHashMap;

use crate::host::Host;

/// The cluster that leads to the bus.
const CLUSTER: &str = "runtime.bus";
const PUBLISH: Method = ("runtime.Bus", "Publish");

/// How often a link is opened that turns out to be on another connection than the subscriber's, before that is given
/// up. Envoy has two connections only for the while in which one drains.
const MOST_ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a link stays open that nobody needs.
const LINGER: Duration = Duration::from_secs(10);

/// Cheap to clone: all clones are the same publisher.
#[derive(Clone)]
pub(crate) struct Bus(Rc<Shared>);

struct Shared {
    host: Host,
    /// The open links, by connection.
    links: RefCell<Vec<(u64, Rc<dyn Stream>)>>,
    /// Whether a link is being opened.
    opening: Cell<bool>,
    /// Links that could not be opened or were of no use, one after the other.
    failures: Cell<u32>,
    entries: RefCell<FxHashMap<u64, Rc<Entry>>>,
    next: Cell<u64>,
}

/// A subscription as the publisher sees it.
#[derive(Default)]
struct Entry {
    /// The connection that the subscriber is on, once the bus has told it.
    connection: Cell<Option<u64>>,
    /// Whether that connection has had a link, so that the subscriber was within reach.
    linked: Cell<bool>,
    sequence: Cell<u64>,
    unacknowledged: RefCell<VecDeque<Sent>>,
    unacknowledged_bytes: Cell<usize>,
    /// Whether nothing can reach the subscriber any more.
    lost: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A message that the bus has not acknowledged; without bytes it is the end.
struct Sent {
    sequence: u64,
    bytes: Option<Bytes>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

impl Bus {
    pub(crate) fn new(host: Host) -> Self {
        let mut first = [0; 8];
        host.random(&mut first); // a VM that was made anew must not take up the numbers of the one before
        Self(Rc::new(Shared {
            host,
            links: RefCell::default(),
            opening: Cell::new(false),
            failures: Cell::new(0),
            entries: RefCell::default(),
            next: Cell::new(u64::from_le_bytes(first)),
        }))
    }

    /// A new subscription, to which the stream of an app is to be tied.
    pub(crate) fn subscribe(&self) -> Subscription {
        let number = self.0.next.get();
        self.0.next.set(number.wrapping_add(1));
        let entry = Rc::new(Entry::default());
        self.0.entries.borrow_mut().insert(number, Rc::clone(&entry));
        if self.0.links.borrow().is_empty() {
            self.open_link();
        }
        Subscription { bus: self.clone(), number, entry }
    }

    /// The link on a connection.
    fn link(&self, connection: u64) -> Option<Rc<dyn Stream>> {
        let links = self.0.links.borrow();
        links.iter().find(|(known, _)| *known == connection).map(|(_, link)| Rc::clone(link))
    }

    fn open_link(&self) {
        if self.0.opening.replace(true) {
            return;
        }
        let bus = self.clone();
        self.0.host.executor().spawn(async move {
            let failures = bus.0.failures.get();
            if failures > 0 {
                let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
                bus.0.host.sleep(pause).await;
            }
            bus.run_link().await;
            bus.0.opening.set(false);
            if bus.is_link_missing() {
                bus.open_link();
            }
        });
    }

    /// Opens a link. It then runs by itself, and this ends when it is known what became of the attempt.
    async fn run_link(&self) {
        let stream: Rc<dyn Stream> = self.0.host.grpc_stream(CLUSTER, PUBLISH, &[]).into();
        stream.send(&ToBus::Open.encode());
        let connection = match stream.receive().await.map(|bytes| FromBus::decode_all(&bytes)) {
            Ok(Ok(messages)) => match messages.first() {
                Some(FromBus::Hello { connection }) => *connection,
                _ => return self.failed("the bus began with another message than its hello"),
            },
            Ok(Err(_)) => return self.failed("what the bus sent is no message of it"),
            Err(closed) => return self.failed(&closed.to_string()),
        };
        if self.link(connection).is_some() {
            return self.failed("it came to be on a connection that has a link");
        }
        if self.is_link_missing() && !self.is_needed(connection) {
            return self.failed("it came to be on a connection that no subscriber is on");
        }
        self.0.failures.set(0);
        self.0.links.borrow_mut().push((connection, Rc::clone(&stream)));
        for (number, entry) in &*self.0.entries.borrow() {
            if entry.connection.get() == Some(connection) {
                entry.link();
                for sent in &*entry.unacknowledged.borrow() {
                    stream.send(&sent.encode(*number));
                }
            }
        }
        let bus = self.clone();
        self.0.host.executor().spawn(async move {
            bus.serve_link(connection, &*stream).await;
            bus.0.links.borrow_mut().retain(|(known, _)| *known != connection);
            if bus.is_link_missing() {
                bus.open_link();
            }
        });
    }

    /// Takes what the bus tells until the link ends, or until nobody has needed it for a while.
    async fn serve_link(&self, connection: u64, stream: &dyn Stream) {
        let idle = async {
            let mut was_needed = true;
            loop {
                self.0.host.sleep(LINGER).await;
                let needed = self.is_needed(connection);
                if !needed && !was_needed {
                    return;
                }
                was_needed = needed;
            }
        };
        let receive = async {
            loop {
                match stream.receive().await.map(|bytes| FromBus::decode_all(&bytes)) {
                    Ok(Ok(messages)) => messages.into_iter().for_each(|message| self.take(message)),
                    Ok(Err(_)) => return "what the bus sent is no message of it".to_owned(),
                    Err(closed) => return closed.to_string(),
                }
            }
        };
        if let Either::Right((why, _)) = select(std::pin::pin!(idle), std::pin::pin!(receive)).await {
            let line = format!("event=bus_link_lost connection={connection} reason={why:?}");
            self.0.host.log(Level::Warn, &line);
        }
    }

    fn is_needed(&self, connection: u64) -> bool {
        self.0.entries.borrow().values().any(|entry| entry.connection.get().is_none_or(|on| on == connection))
    }

    fn failed(&self, why: &str) {
        let failures = self.0.failures.get() + 1;
        self.0.failures.set(failures);
        self.0.host.log(Level::Warn, &format!("event=bus_link_failed failures={failures} reason={why:?}"));
        if failures >= MOST_ATTEMPTS {
            for entry in self.0.entries.borrow().values() {
                if entry.connection.get().is_some_and(|connection| self.link(connection).is_none()) {
                    entry.lose();
                }
            }
        }
    }

    /// Whether a subscriber is on a connection without a link.
    fn is_link_missing(&self) -> bool {
        let without = |entry: &Rc<Entry>| {
            !entry.lost.get() && entry.connection.get().is_some_and(|connection| self.link(connection).is_none())
        };
        self.0.entries.borrow().values().any(without)
    }

    fn take(&self, message: FromBus) {
        let entry = |number: u64| self.0.entries.borrow().get(&number).map(Rc::clone);
        match message {
            FromBus::Hello { .. } => {}
            FromBus::Ack { subscription, sequence } => {
                if let Some(entry) = entry(subscription) {
                    entry.acknowledge(sequence);
                }
            }
            FromBus::Unknown { subscription } => match entry(subscription) {
                // The bus forgets a subscriber when its end is written: sent again, the end is answered so.
                Some(entry) if entry.is_ending() => entry.acknowledge(u64::MAX),
                Some(entry) => entry.lose(),
                None => {}
            },
            FromBus::Gone { subscription } => {
                if let Some(entry) = entry(subscription) {
                    entry.lose();
                }
            }
        }
    }
}

impl Sent {
    fn encode(&self, subscription: u64) -> Vec<u8> {
        let sequence = self.sequence;
        match &self.bytes {
            Some(bytes) => ToBus::Data { subscription, sequence, bytes },
            None => ToBus::End { subscription, sequence },
        }
        .encode()
    }
}

impl Entry {
    fn acknowledge(&self, sequence: u64) {
        let mut unacknowledged = self.unacknowledged.borrow_mut();
        while let Some(sent) = unacknowledged.pop_front_if(|sent| sent.sequence <= sequence) {
            let bytes = sent.bytes.as_ref().map_or(0, Bytes::len);
            self.unacknowledged_bytes.set(self.unacknowledged_bytes.get().saturating_sub(bytes));
        }
        drop(unacknowledged);
        self.wake();
    }

    fn link(&self) {
        self.linked.set(true);
        self.wake();
    }

    /// Whether the end was sent.
    fn is_ending(&self) -> bool {
        self.unacknowledged.borrow().back().is_some_and(|last| last.bytes.is_none())
    }

    fn lose(&self) {
        self.lost.set(true);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The stream of an app, as something to send to. Dropping it forgets it; the stream itself ends by
/// [`Subscription::end`], or has ended.
pub(crate) struct Subscription {
    bus: Bus,
    pub(crate) number: u64,
    entry: Rc<Entry>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.0.entries.borrow_mut().remove(&self.number);
    }
}

/// Nothing can reach the subscriber any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost;

impl Subscription {
    /// What the bus told in its response: the stream is on this connection of it. Says whether there is a link already.
    pub(crate) fn attach(&self, connection: u64) -> bool {
        self.entry.connection.set(Some(connection));
        if self.bus.link(connection).is_some() {
            self.entry.link();
        } else {
            self.bus.open_link();
        }
        self.entry.linked.get()
    }

    /// Waits until there is a link to the app, and room for a message on it.
    pub(crate) async fn ready(&self) -> Result<(), Lost> {
        self.until(|entry| entry.linked.get() && entry.unacknowledged_bytes.get() < MAX_UNACKNOWLEDGED).await
    }

    /// Sends to the app. To be called when it is [`Subscription::ready`].
    pub(crate) fn send(&self, bytes: Bytes) {
        self.entry.unacknowledged_bytes.set(self.entry.unacknowledged_bytes.get() + bytes.len());
        self.transmit(Some(bytes));
    }

    /// Ends the stream of the app after what was sent, and waits until that is done.
    pub(crate) async fn end(&self) -> Result<(), Lost> {
        self.until(|entry| entry.linked.get()).await?;
        self.transmit(None);
        self.until(|entry| entry.unacknowledged.borrow().is_empty()).await
    }

    fn transmit(&self, bytes: Option<Bytes>) {
        let sequence = self.entry.sequence.get() + 1;
        self.entry.sequence.set(sequence);
        let sent = Sent { sequence, bytes };
        if let Some(link) = self.entry.connection.get().and_then(|connection| self.bus.link(connection)) {
            link.send(&sent.encode(self.number));
        }
        self.entry.unacknowledged.borrow_mut().push_back(sent);
    }

    async fn until(&self, holds: impl Fn(&Entry) -> bool) -> Result<(), Lost> {
        poll_fn(|context| {
            if self.entry.lost.get() {
                return Poll::Ready(Err(Lost));
            }
            if holds(&self.entry) {
                return Poll::Ready(Ok(()));
            }
            *self.entry.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
