//! Envoy as the core sees it: [`Proxy`] over host calls. One [`Host`] belongs to one root context, that is to one
//! configuration on one worker.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{LogLevel, MetricType};
use runtime_api::executor::Executor;
use runtime_api::proxy::{Changed, Closed, Instant, Level, Metric, Proxy, Stream, Version};

use crate::abi;

/// Cheap to clone: all clones are the same host.
#[derive(Clone)]
pub(crate) struct Host(Rc<Shared>);

struct Shared {
    executor: Executor,
    start: std::time::Instant,
    /// The time when the clock was last read, which is an expense of each call: what timers count from.
    now: Cell<Instant>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_timer: Cell<u64>,
    /// When Envoy will tick next, if it will.
    tick: Cell<Option<Instant>>,
    /// Streams that are to be opened: only in a callback of the root context, which they shall belong to.
    opening: RefCell<VecDeque<Rc<Pipe>>>,
    open: RefCell<BTreeMap<u32, Rc<Pipe>>>,
    /// Streams that are to be cancelled at the next tick: up to 1.37 Envoy crashes when a stream is cancelled in one
    /// of its own callbacks.
    closing: RefCell<Vec<u32>>,
    /// Whether there will be no more ticks.
    ended: Cell<bool>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// Envoy's timer counts whole milliseconds.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

impl Host {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Shared {
            executor: Executor::new(),
            start: std::time::Instant::now(),
            now: Cell::new(Instant::ZERO),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            tick: Cell::new(None),
            opening: RefCell::default(),
            open: RefCell::default(),
            closing: RefCell::default(),
            ended: Cell::new(false),
        }))
    }

    /// To be called last in each callback of Envoy: runs what can go on.
    pub(crate) fn run(&self) {
        self.0.executor.run();
    }

    /// Ends all that is under way: the configuration is gone, and with it the root context.
    pub(crate) fn end(&self) {
        self.0.ended.set(true);
        self.cancel_closing();
        self.0.executor.end();
        self.0.opening.borrow_mut().clear();
        self.0.open.borrow_mut().clear();
        self.0.timers.borrow_mut().clear();
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// A tick of the root context: opens streams and wakes those whose time has come.
    pub(crate) fn on_tick(&self) {
        self.cancel_closing();
        loop {
            let next = self.0.opening.borrow_mut().pop_front(); // a statement of its own: opening may ask for more
            let Some(pipe) = next else { break };
            self.open(pipe);
        }
        let now = self.now();
        loop {
            let mut timers = self.0.timers.borrow_mut();
            let Some(first) = timers.first_entry().filter(|first| first.key().0 <= now) else { break };
            let waker = first.remove();
            drop(timers);
            waker.wake();
        }
        self.0.executor.run();
        self.0.tick.set(None);
        let next = self.0.timers.borrow().keys().next().map(|(at, _)| *at);
        match next {
            _ if !self.0.opening.borrow().is_empty() || !self.0.closing.borrow().is_empty() => {
                self.tick_within(SHORTEST_TICK);
            }
            Some(at) => self.tick_within(at.saturating_sub(now)),
            None => {
                let _ = hostcalls::set_tick_period(Duration::ZERO); // no more ticks
            }
        }
    }

    fn cancel_closing(&self) {
        for token in self.0.closing.take() {
            let _ = hostcalls::cancel_grpc_stream(token);
        }
    }

    /// Sees to it that Envoy ticks before this time is over.
    fn tick_within(&self, time: Duration) {
        let at = self.0.now.get() + time;
        if self.0.tick.get().is_none_or(|tick| at < tick) {
            self.0.tick.set(Some(at));
            // Rounded up, so that a tick never comes before its time.
            let _ = hostcalls::set_tick_period((time + Duration::from_micros(999)).max(SHORTEST_TICK));
        }
    }

    fn open(&self, pipe: Rc<Pipe>) {
        if pipe.dropped.get() {
            return;
        }
        // Envoy reads the argument as a serialized GrpcService{envoy_grpc{cluster_name}}; a bare name can abort it.
        let cluster = pipe.cluster.as_bytes();
        let (Ok(inner), Ok(outer)) = (u8::try_from(cluster.len()), u8::try_from(cluster.len() + 2)) else {
            return pipe.arrive(Err(Closed(NAME_TOO_LONG.to_owned())));
        };
        let service = [&[0x0a, outer, 0x0a, inner], cluster].concat();
        let Some(service) = String::from_utf8(service).ok().filter(|_| outer < 0x80) else {
            return pipe.arrive(Err(Closed(NAME_TOO_LONG.to_owned())));
        };
        match hostcalls::open_grpc_stream(&service, "runtime.Tunnel", "Connect", Vec::new()) {
            Ok(token) => {
                pipe.token.set(Some(token));
                let early = std::mem::take(&mut *pipe.early.borrow_mut());
                if !early.is_empty() {
                    let _ = hostcalls::send_grpc_stream_message(token, Some(&early), false);
                }
                self.0.open.borrow_mut().insert(token, pipe);
            }
            Err(status) => {
                let text = format!(
                    "Envoy has no server to offer in cluster {} ({status:?}): its host name cannot be looked up, \
                     or there is no such cluster",
                    pipe.cluster
                );
                pipe.arrive(Err(Closed(text)));
            }
        }
    }

    /// Bytes came on a stream.
    pub(crate) fn on_stream_message(&self, token: u32, size: usize) {
        let pipe = self.0.open.borrow().get(&token).cloned();
        if let (Some(pipe), Ok(bytes)) = (pipe, abi::body(abi::Buffer::GrpcMessage, size)) {
            pipe.arrive(Ok(bytes.into()));
        }
    }

    /// A stream ended.
    pub(crate) fn on_stream_close(&self, token: u32) {
        self.0.closing.borrow_mut().retain(|closing| *closing != token);
        let Some(pipe) = self.0.open.borrow_mut().remove(&token) else { return };
        pipe.token.set(None);
        let message = hostcalls::get_grpc_status().ok().and_then(|(_, message)| message).unwrap_or_default();
        // The second is how Envoy calls an end that came from the server in the course of things.
        let plain = matches!(message.as_str(), "" | "via_upstream");
        let why = if plain { "the server closed the connection".to_owned() } else { message };
        pipe.arrive(Err(Closed(why)));
    }
}

const NAME_TOO_LONG: &str = "the name of the cluster is longer than 120 bytes";

impl Proxy for Host {
    fn connect(&self, cluster: &str) -> Box<dyn Stream> {
        let pipe = Rc::new(Pipe { cluster: cluster.to_owned(), ..Pipe::default() });
        self.0.opening.borrow_mut().push_back(Rc::clone(&pipe));
        self.tick_within(SHORTEST_TICK);
        Box::new(Connection { host: self.clone(), pipe })
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        let timer = (self.0.now.get() + time, self.0.next_timer.get());
        self.0.next_timer.set(timer.1.wrapping_add(1));
        let guard = Timer { host: self.clone(), timer };
        poll_fn(move |context| {
            let host = &guard.host;
            if host.0.now.get() >= timer.0 {
                return Poll::Ready(());
            }
            host.0.timers.borrow_mut().insert(timer, context.waker().clone());
            host.tick_within(timer.0.saturating_sub(host.0.now.get()));
            Poll::Pending
        })
        .boxed_local()
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.executor.spawn(task);
    }

    fn now(&self) -> Instant {
        let now = self.0.start.elapsed();
        self.0.now.set(now);
        now
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self, buffer: &mut [u8]) {
        // Refused never, by the documentation of Envoy's WASI; left as they are the bytes would still be bytes.
        let _ = getrandom::fill(buffer);
    }

    fn shared_get(&self, key: &str) -> Option<(Bytes, Version)> {
        abi::shared(key).map(|(value, version)| (value.into(), Version(version)))
    }

    fn shared_set(&self, key: &str, value: &[u8], version: Option<Version>) -> Result<(), Changed> {
        abi::set_shared(key, value, version.map_or(0, |Version(version)| version)).map_err(|_| Changed)
    }

    fn log(&self, level: Level, line: &str) {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = hostcalls::log(level, line);
    }

    fn counter(&self, name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Counter, name).unwrap_or_default())
    }

    fn histogram(&self, name: &str) -> Metric {
        Metric(hostcalls::define_metric(MetricType::Histogram, name).unwrap_or_default())
    }

    fn add(&self, counter: Metric, by: u64) {
        let _ = hostcalls::increment_metric(counter.0, i64::try_from(by).unwrap_or(i64::MAX));
    }

    fn record(&self, histogram: Metric, value: u64) {
        let _ = hostcalls::record_metric(histogram.0, value);
    }
}

/// Takes its timer along when it ends.
struct Timer {
    host: Host,
    timer: (Instant, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.host.0.timers.borrow_mut().remove(&self.timer);
    }
}

/// A stream as both sides see it.
#[derive(Debug, Default)]
struct Pipe {
    cluster: String,
    token: Cell<Option<u32>>,
    /// What was sent before the stream was opened.
    early: RefCell<Vec<u8>>,
    arrived: RefCell<VecDeque<Result<Bytes, Closed>>>,
    waker: RefCell<Option<Waker>>,
    dropped: Cell<bool>,
}

impl Pipe {
    fn arrive(&self, what: Result<Bytes, Closed>) {
        self.arrived.borrow_mut().push_back(what);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The core's end of a stream.
#[derive(Debug)]
struct Connection {
    host: Host,
    pipe: Rc<Pipe>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pipe.dropped.set(true);
        if let Some(token) = self.pipe.token.take() {
            self.host.0.open.borrow_mut().remove(&token);
            if self.host.0.ended.get() {
                let _ = hostcalls::cancel_grpc_stream(token);
            } else {
                self.host.0.closing.borrow_mut().push(token);
                self.host.tick_within(SHORTEST_TICK);
            }
        }
    }
}

#[async_trait(?Send)]
impl Stream for Connection {
    fn send(&self, bytes: &[u8]) {
        match self.pipe.token.get() {
            // Refused when the stream has just ended, which the close that follows tells.
            Some(token) => {
                let _ = hostcalls::send_grpc_stream_message(token, Some(bytes), false);
            }
            None => self.pipe.early.borrow_mut().extend_from_slice(bytes),
        }
    }

    async fn receive(&self) -> Result<Bytes, Closed> {
        poll_fn(|context| match self.pipe.arrived.borrow_mut().pop_front() {
            Some(arrived) => Poll::Ready(arrived),
            None => {
                *self.pipe.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
