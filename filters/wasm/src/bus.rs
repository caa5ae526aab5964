//! The publisher's side of the bus: how a root context serves the streams of apps.
//!
//! A wasm filter cannot begin to send on a stream of an app, but it can send at any time on a gRPC stream that it opened
//! itself. So streams of apps go to a small server within Envoy, the bus (`filters/bus`), and so does a gRPC stream of
//! the root context, a link. What apps say comes on the link of their connection, and so goes what they get. As a rule a
//! worker has one connection to the bus and one link, and keeps both.
//!
//! A link is opened with the configuration, and whenever the bus asks for one by a request to this filter. On the main
//! thread there is no bus, and a few attempts fail. What was under way on a link that ends is given up: the bus has
//! ended these streams, or its connection is gone.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use runtime_api::Runtime;
use runtime_api::api::call::{ACCEPTED_ENCODINGS, Head, trailers};
use runtime_api::exchange::{Downstream, Talk};
use runtime_api::executor::Task;
use runtime_api::proxy::{Closed, Level, Proxy, Stream};
use runtime_bus::message::{
    BEAT, CONFIGURATION_HEADER, FromBus, Garbled, INSTANCE_HEADER, MAX_UNACKNOWLEDGED, PUBLISH, STREAM_WINDOW, ToBus,
    add_trailer, each_header,
};
use rustc_hash::FxHashMap;
use tonic::{Code, Status};

use crate::host::Host;

/// The cluster that leads to the bus.
const CLUSTER: &str = "runtime.bus";

/// How much is put together for the bus before it is sent, though more may follow in the same turn.
const LARGE: usize = 64 * 1024;

/// How often a link is tried that nobody has asked for, with a pause that doubles. Where there is no bus that is the end of
/// it; elsewhere the bus asks.
const MOST_ATTEMPTS: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// For how many beats a link is kept that serves nobody and has a newer one beside it: its connection drains.
const LINGER: u32 = 5;

/// Cheap to clone: all clones are the same publisher.
#[derive(Clone)]
pub(crate) struct Bus(Rc<Shared>);

struct Shared {
    host: Host,
    runtime: Rc<Runtime>,
    /// What the streams of this configuration have in their header.
    configuration: String,
    /// What tells this publisher from that of a VM which was before it.
    instance: String,
    /// The open links, the newest last.
    links: RefCell<Vec<Rc<Link>>>,
    /// Whether a link is being opened.
    opening: Cell<bool>,
}

/// A link and the streams of apps on its connection.
struct Link {
    stream: Box<dyn Stream>,
    streams: RefCell<FxHashMap<u32, AppStream>>,
    /// Messages that are sent at the end of the turn.
    out: RefCell<Vec<u8>>,
    /// Who sends them.
    sender: RefCell<Option<Waker>>,
}

/// A stream of an app.
struct AppStream {
    talk: Talk,
    flow: Rc<Flow>,
    /// The call; dropping this ends it.
    _call: Task,
}

/// How much of a stream is under way.
#[derive(Default)]
struct Flow {
    /// How many bytes for the app the bus has not written yet.
    sent: Cell<usize>,
    /// The call, when it waits for room.
    waiting: RefCell<Option<Waker>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

impl Bus {
    pub(crate) fn new(host: Host, runtime: Rc<Runtime>, configuration: String) -> Self {
        let mut instance = [0; 8];
        host.random(&mut instance);
        let bus = Self(Rc::new(Shared {
            host,
            runtime,
            configuration,
            instance: format!("{:016x}", u64::from_le_bytes(instance)),
            links: RefCell::default(),
            opening: Cell::new(false),
        }));
        bus.keep_trying();
        bus
    }

    /// Opens a link, if need be by several attempts. Not at once: while a configuration is loaded a worker has no bus yet,
    /// and Envoy crashes when a stream to it is opened.
    fn keep_trying(&self) {
        let bus = self.clone();
        let mut pause = FIRST_PAUSE;
        self.0.host.executor().spawn(async move {
            for _ in 0..MOST_ATTEMPTS {
                bus.0.host.sleep(pause).await;
                if !bus.0.links.borrow().is_empty() {
                    return;
                }
                bus.open_link();
                pause = pause.saturating_mul(2);
            }
        });
    }

    /// Opens a link, which then serves by itself. On a connection that has one the bus refuses it.
    pub(crate) fn open_link(&self) {
        if self.0.opening.replace(true) {
            return;
        }
        let bus = self.clone();
        self.0.host.executor().spawn(async move {
            let metadata = [(CONFIGURATION_HEADER, &*bus.0.configuration), (INSTANCE_HEADER, &*bus.0.instance)];
            let stream = bus.0.host.grpc_stream(CLUSTER, PUBLISH, &metadata);
            let first = stream.receive().await;
            bus.0.opening.set(false);
            match first {
                Ok(messages) => bus.serve(stream, messages).await,
                Err(closed) => bus.0.host.log(Level::Debug, &format!("event=bus_link_failed reason={:?}", closed.text)),
            }
        });
    }

    /// Serves what comes on a link until it ends.
    async fn serve(&self, stream: Box<dyn Stream>, first: Bytes) {
        let link = Serving { bus: self, link: Rc::new(Link::new(stream)) };
        let link = &link.link;
        self.0.links.borrow_mut().push(Rc::clone(link));
        let receive = async {
            let mut messages: Result<Bytes, Closed> = Ok(first);
            loop {
                match messages.map(|messages| self.take_all(link, &messages)) {
                    Ok(Ok(())) => messages = link.stream.receive().await,
                    Ok(Err(Garbled)) => return "what the bus sent is no message of it".to_owned(),
                    Err(closed) => return closed.text,
                }
            }
        };
        let (beat, send) = (pin!(self.beat(link)), pin!(link.send_out()));
        let why = match select(select(pin!(receive), beat), send).await {
            Either::Left((Either::Left((why, _)), _)) => why,
            Either::Left((Either::Right(((), _)), _)) => return,
            Either::Right((never, _)) => match never {},
        };
        let line = format!("event=bus_link_lost streams={} reason={why:?}", link.streams.borrow().len());
        self.0.host.log(Level::Warn, &line);
        self.keep_trying();
    }

    /// Tells the bus that this VM is alive, until nobody needs the link.
    async fn beat(&self, link: &Rc<Link>) {
        let mut idle = 0;
        while idle < LINGER {
            self.0.host.sleep(Duration::from_millis(BEAT.into())).await;
            link.push(ToBus::Beat);
            let newest = self.0.links.borrow().last().is_some_and(|newest| Rc::ptr_eq(newest, link));
            idle = if newest || !link.streams.borrow().is_empty() { 0 } else { idle + 1 };
        }
    }

    fn take_all(&self, link: &Rc<Link>, mut messages: &[u8]) -> Result<(), Garbled> {
        while let Some(message) = FromBus::take(&mut messages)? {
            self.take(link, message);
        }
        Ok(())
    }

    fn take(&self, link: &Rc<Link>, message: FromBus<'_>) {
        let streams = link.streams.borrow();
        match message {
            FromBus::Hello { connection } => {
                self.0.host.log(Level::Debug, &format!("event=bus_link_opened connection={connection}"));
            }
            FromBus::Head { stream, headers } => {
                drop(streams);
                self.begin(link, stream, headers);
            }
            FromBus::Data { stream, bytes } => {
                if let Some(stream) = streams.get(&stream) {
                    stream.talk.receive(bytes);
                }
            }
            FromBus::HalfClose { stream } => {
                if let Some(stream) = streams.get(&stream) {
                    stream.talk.half_close();
                }
            }
            FromBus::Gone { stream } => {
                drop(streams);
                let gone = link.streams.borrow_mut().remove(&stream);
                drop(gone);
            }
            FromBus::Written { stream, bytes } => {
                if let Some(stream) = streams.get(&stream) {
                    stream.flow.written(usize::try_from(bytes).unwrap_or(usize::MAX));
                }
            }
        }
    }

    /// An app has opened a stream.
    fn begin(&self, link: &Rc<Link>, stream: u32, headers: &[u8]) {
        let mut head = Head::default();
        each_header(headers, |name, value| head.header(name, value));
        let flow = Rc::new(Flow::default());
        let downstream = ToApp { link: Rc::clone(link), stream, flow: Rc::clone(&flow) };
        let Some((talk, call)) = Talk::begin(&self.0.runtime, head, downstream, STREAM_WINDOW) else { return };
        let call = self.0.host.executor().spawn_cancellable(call);
        link.streams.borrow_mut().insert(stream, AppStream { talk, flow, _call: call });
    }
}

/// The way to an app over a link.
struct ToApp {
    link: Rc<Link>,
    stream: u32,
    flow: Rc<Flow>,
}

#[async_trait(?Send)]
impl Downstream for ToApp {
    fn most(&self) -> usize {
        MAX_UNACKNOWLEDGED
    }

    async fn ready(&self) {
        self.flow.ready().await;
    }

    fn begin(&self) {
        self.link.push(ToBus::Begin { stream: self.stream });
    }

    fn send(&self, bytes: &[u8]) {
        self.flow.sent.set(self.flow.sent.get() + bytes.len());
        self.link.push(ToBus::Data { stream: self.stream, bytes });
    }

    fn grant(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.link.push(ToBus::Grant { stream: self.stream, bytes });
    }

    /// It is forgotten when the bus has told that it is gone.
    fn end(&self, status: &Status) {
        let mut block = Vec::new();
        for (name, value) in trailers(status) {
            add_trailer(&mut block, name, &value);
        }
        if status.code() == Code::Unimplemented {
            add_trailer(&mut block, "grpc-accept-encoding", ACCEPTED_ENCODINGS);
        }
        self.link.push(ToBus::End { stream: self.stream, trailers: &block });
    }
}

/// A link that is being served. However that ends, its streams end with it, which hold the link themselves.
struct Serving<'a> {
    bus: &'a Bus,
    link: Rc<Link>,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.bus.0.links.borrow_mut().retain(|link| !Rc::ptr_eq(link, &self.link));
        let streams = self.link.streams.take();
        drop(streams);
    }
}

impl Link {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, streams: RefCell::default(), out: RefCell::default(), sender: RefCell::default() }
    }

    /// Sends a message, together with others of the same turn.
    fn push(&self, message: ToBus<'_>) {
        let mut out = self.out.borrow_mut();
        message.encode(&mut out);
        if out.len() >= LARGE {
            self.stream.send(&out);
            out.clear();
        } else if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// Sends what was put together, whenever all that could run has run.
    async fn send_out(&self) -> Infallible {
        poll_fn(|context| {
            let out = self.out.take();
            if !out.is_empty() {
                self.stream.send(&out);
            }
            *self.sender.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Flow {
    fn written(&self, bytes: usize) {
        self.sent.set(self.sent.get().saturating_sub(bytes));
        let waiting = self.waiting.take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Waits until there is room for a message.
    async fn ready(&self) {
        poll_fn(|context| {
            if self.sent.get() < MAX_UNACKNOWLEDGED {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
