//! Envoy as the core sees it: [`Proxy`] over host calls. One [`Host`] belongs to one root context, that is to one
//! configuration on one worker, and so does all that it opens: Envoy tells the root context how it goes on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{poll_fn, ready};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use runtime_api::budget::{Budget, Exhausted};
use runtime_api::executor::Executor;
use runtime_api::outbox::Outbox;
use runtime_api::proxy::{
    Changed, Closed, HttpRequest, HttpResponse, Instant, Level, MAX_CLUSTER_NAME, Metadata, Method, Metric, Proxy,
    Stream, Version,
};
use runtime_api::timers::{Timer as Key, Timers};
use rustc_hash::FxHashMap;
use tonic::Code;

use crate::abi::{self, Buffer, Map, MetricKind, Refused};
use crate::act::Act;
use crate::entry::Entry;

/// Cheap to clone: all clones are the same host.
#[derive(Clone)]
pub(crate) struct Host(Rc<Shared>);

struct Shared {
    executor: Executor,
    budget: Budget,
    /// What is to be done with streams of apps.
    outbox: Outbox<Act>,
    start: std::time::Instant,
    /// The time, once it was read in this call of Envoy: reading it is an expense, and one reading serves for all of a call.
    now: Cell<Option<Instant>>,
    timers: RefCell<Timers>,
    next_timer: Cell<u64>,
    /// When Envoy will tick next, if it will.
    tick: Cell<Option<Instant>>,
    /// gRPC calls and streams under way, by token.
    grpc: RefCell<FxHashMap<u32, Grpc>>,
    /// HTTP requests under way, by token.
    http: RefCell<Vec<(u32, oneshot::Sender<Answer<HttpResponse>>)>>,
    /// gRPC calls and streams that are to be cancelled at the next tick: up to 1.37 Envoy crashes when a stream is
    /// cancelled in one of its own callbacks.
    closing: RefCell<Vec<u32>>,
    /// Whether there will be no more ticks.
    ended: Cell<bool>,
    /// The least level whose lines Envoy keeps, and when it was looked at.
    log_level: Cell<Option<(Instant, u32)>>,
}

/// Who waits for what comes under a token.
enum Grpc {
    Call(oneshot::Sender<Answer<Bytes>>),
    Stream(Rc<Pipe>),
}

type Answer<T> = Result<T, Closed>;

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

thread_local! {
    /// What this VM holds, whichever of its root contexts does.
    static BUDGET: Budget = Budget::default();
}

/// The level of Envoy's log can be set while it runs, by its admin interface.
const LOOK_AT_LEVEL: Duration = Duration::from_secs(1);

/// A level as Envoy counts them.
fn number(level: Level) -> u32 {
    match level {
        Level::Debug => 1,
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
    }
}

/// Envoy's timer counts whole milliseconds.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

impl Default for Host {
    fn default() -> Self {
        Self(Rc::new(Shared {
            executor: Executor::new(),
            budget: BUDGET.with(Budget::clone),
            outbox: Outbox::default(),
            start: std::time::Instant::now(),
            now: Cell::new(None),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            tick: Cell::new(None),
            grpc: RefCell::default(),
            http: RefCell::default(),
            closing: RefCell::default(),
            ended: Cell::new(false),
            log_level: Cell::new(None),
        }))
    }
}

impl Host {
    /// To be called first in each callback of Envoy.
    pub(crate) fn enter(&self, entry: Entry) {
        self.0.now.set(None);
        match entry {
            Entry::Alone => self.0.outbox.all_done(),
            Entry::Request(context) => {
                self.0.outbox.all_done();
                self.0.outbox.begin_own(context);
            }
            Entry::PerhapsPutOff | Entry::Within => {}
        }
    }

    /// Runs what can go on.
    pub(crate) fn run(&self) {
        self.0.executor.run();
    }

    /// To be called last in each callback of Envoy, when the filter can be entered again: does with streams what has its
    /// turn and may be done. A tick sees to the rest, if nothing else comes before it.
    ///
    /// Whether a stream is still there `may_answer` has to know: Envoy tells of its end, but deletes its context later, and what is
    /// done to it in between ends Envoy.
    pub(crate) fn leave(&self, entry: Entry, may_answer: impl Fn(u32) -> bool) {
        let outbox = &self.0.outbox;
        match entry {
            Entry::Alone | Entry::PerhapsPutOff => {
                while let Some((context, act)) = outbox.take() {
                    if may_answer(context) && abi::set_effective_context(context).is_ok() {
                        act.carry_out();
                    }
                }
            }
            Entry::Request(context) => {
                if let Some(act) = outbox.take_own()
                    && may_answer(context)
                {
                    act.carry_out();
                }
            }
            Entry::Within => {}
        }
        if !outbox.is_empty() && !self.0.ended.get() {
            self.tick_within(SHORTEST_TICK);
        }
    }

    /// Has something done with the stream of an app, soon.
    pub(crate) fn put(&self, context: u32, act: Act) {
        self.0.outbox.put(context, act);
    }

    /// Ends all that is under way: the configuration is gone, and with it the root context.
    pub(crate) fn end(&self) {
        self.0.ended.set(true);
        self.cancel_closing();
        self.0.executor.end();
        self.0.grpc.borrow_mut().clear();
        self.0.http.borrow_mut().clear();
        drop(self.0.timers.take());
        self.0.executor.run(); // what that has woken ends too
        self.0.outbox.clear();
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.0.executor
    }

    /// A tick of the root context: wakes those whose time has come.
    pub(crate) fn on_tick(&self) {
        self.cancel_closing();
        let now = self.now();
        loop {
            let due = self.0.timers.borrow_mut().take_due(now);
            let Some((_, waker)) = due else { break };
            waker.wake();
        }
        self.0.executor.run();
        self.0.tick.set(None);
        let next = self.0.timers.borrow().next();
        match next {
            _ if !self.0.closing.borrow().is_empty() => self.tick_within(SHORTEST_TICK),
            Some(at) => self.tick_at(at),
            None => abi::set_tick_period(Duration::ZERO), // no more ticks
        }
    }

    fn cancel_closing(&self) {
        for token in self.0.closing.take() {
            abi::grpc_cancel(token);
        }
    }

    /// Sees to it that Envoy ticks before this time is over.
    fn tick_within(&self, time: Duration) {
        self.tick_at(self.now() + time);
    }

    /// Sees to it that Envoy ticks at this time or before.
    fn tick_at(&self, at: Instant) {
        if self.0.tick.get().is_none_or(|tick| at < tick) {
            self.0.tick.set(Some(at));
            // Rounded up, so that a tick never comes before its time.
            let time = at.saturating_sub(self.now()) + Duration::from_micros(999);
            abi::set_tick_period(time.max(SHORTEST_TICK));
        }
    }

    /// Lets go of a gRPC call or stream that nobody waits for any more.
    fn give_up(&self, token: u32) {
        if self.0.grpc.borrow_mut().remove(&token).is_none() {
            return; // it has ended
        }
        if self.0.ended.get() {
            abi::grpc_cancel(token);
        } else {
            self.0.closing.borrow_mut().push(token);
            self.tick_within(SHORTEST_TICK);
        }
    }

    fn open(&self, cluster: &str, method: Method, metadata: Metadata<'_>, raw: bool) -> Box<dyn Stream> {
        let pipe = Rc::new(Pipe { raw, ..Pipe::default() });
        let opened = grpc_service(cluster).and_then(|service| {
            abi::grpc_stream(&service, method, &values(metadata)).map_err(|refused| no_server(cluster, refused))
        });
        match opened {
            Ok(token) => {
                pipe.token.set(Some(token));
                self.0.grpc.borrow_mut().insert(token, Grpc::Stream(Rc::clone(&pipe)));
            }
            Err(closed) => pipe.arrive(Err(closed)),
        }
        Box::new(Connection { host: self.clone(), pipe })
    }

    /// A message came on a stream, or as the answer to a call, which ends it.
    pub(crate) fn on_grpc_message(&self, token: u32, size: usize) {
        let mut grpc = self.0.grpc.borrow_mut();
        match grpc.get(&token) {
            // Without bytes it is a call of the tunnel's, for the sake of those who wait to be answered.
            Some(Grpc::Stream(pipe)) if pipe.raw && size == 0 => {}
            Some(Grpc::Stream(pipe)) => pipe.arrive(self.counted(Buffer::GrpcMessage, size)),
            Some(Grpc::Call(_)) => {
                if let Some(Grpc::Call(caller)) = grpc.remove(&token) {
                    let _ = caller.send(self.counted(Buffer::GrpcMessage, size)); // refused when it was given up
                }
            }
            None => {}
        }
        drop(grpc);
        self.run();
    }

    /// What a server has sent, unless there is no room for it.
    fn counted(&self, buffer: Buffer, size: usize) -> Answer<Bytes> {
        // Shorter ones go on at once to whoever waits for them.
        const LARGE: usize = 256 << 10;
        if size < LARGE {
            return Ok(abi::bytes(buffer, size).unwrap_or_default().into());
        }
        let full = |exhausted: Exhausted| Closed::unavailable(exhausted.to_string());
        // Before it is copied, which ends the VM where there is no memory for it.
        drop(self.0.budget.reserve(size).map_err(full)?);
        let bytes = abi::bytes(buffer, size).unwrap_or_default();
        self.0.budget.hold(bytes.into()).map_err(full)
    }

    /// A stream ended, or a call without an answer.
    pub(crate) fn on_grpc_close(&self, token: u32, status: u32) {
        self.0.closing.borrow_mut().retain(|closing| *closing != token);
        let ended = self.0.grpc.borrow_mut().remove(&token);
        let Some(ended) = ended else { return };
        let message = abi::grpc_status_message();
        // What Envoy adds to a status that came from the server, and what it says of an end in the course of things.
        let message = message.strip_suffix("{via_upstream}").unwrap_or(&message);
        let plain = matches!(message, "" | "via_upstream");
        let text = if plain { "the server closed the connection" } else { message }.to_owned();
        let closed = Err(Closed { code: Code::from_i32(status.cast_signed()), text });
        match ended {
            Grpc::Stream(pipe) => {
                pipe.token.set(None);
                pipe.arrive(closed.map(|()| Bytes::new()));
            }
            Grpc::Call(caller) => drop(caller.send(closed.map(|()| Bytes::new()))),
        }
        self.run();
    }

    /// An HTTP request was answered; no headers tell that it was not.
    pub(crate) fn on_http_response(&self, token: u32, headers: usize, size: usize) {
        let at = self.0.http.borrow().iter().position(|(known, _)| *known == token);
        let Some((_, caller)) = at.map(|at| self.0.http.borrow_mut().swap_remove(at)) else { return };
        let mut status = None;
        if headers > 0
            && let Ok(headers) = abi::headers(Map::CallHeaders)
        {
            headers.each(|name, value| {
                if name == b":status" {
                    status = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                }
            });
        }
        let answer = match status {
            Some(status) => self.counted(Buffer::CallBody, size).map(|body| HttpResponse { status, body }),
            None => Err(Closed::unavailable("no server answered, or not in time")),
        };
        let _ = caller.send(answer);
        self.run();
    }
}

/// Envoy reads its argument as a serialized `GrpcService{envoy_grpc{cluster_name}}`; a bare name can abort it.
fn grpc_service(cluster: &str) -> Result<Vec<u8>, Closed> {
    let name = cluster.as_bytes();
    match u8::try_from(name.len()) {
        Ok(length) if name.len() <= MAX_CLUSTER_NAME => Ok([&[0x0a, length + 2, 0x0a, length], name].concat()),
        _ => Err(Closed::unavailable(format!("the name of cluster {cluster} is longer than {MAX_CLUSTER_NAME} bytes"))),
    }
}

fn no_server(cluster: &str, Refused(status): Refused) -> Closed {
    Closed::unavailable(format!(
        "Envoy has no server to offer in cluster {cluster} (status {status}): its host name cannot be looked up, or \
         there is no such cluster"
    ))
}

fn values(metadata: Metadata<'_>) -> Vec<(&str, &[u8])> {
    metadata.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

impl Proxy for Host {
    fn connect(&self, cluster: &str) -> Box<dyn Stream> {
        self.open(cluster, ("runtime.Tunnel", "Connect"), &[], true)
    }

    fn grpc_stream(&self, cluster: &str, method: Method, metadata: Metadata<'_>) -> Box<dyn Stream> {
        self.open(cluster, method, metadata, false)
    }

    fn grpc(
        &self,
        cluster: &str,
        method: Method,
        metadata: Metadata<'_>,
        message: &[u8],
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, Closed>> {
        let called = grpc_service(cluster).and_then(|service| {
            let metadata = values(metadata);
            let called = abi::grpc_call(&service, method, &metadata, message, timeout);
            called.map_err(|refused| no_server(cluster, refused))
        });
        let token = match called {
            Ok(token) => token,
            Err(closed) => return ready(Err(closed)).boxed_local(),
        };
        let (caller, answer) = oneshot::channel();
        self.0.grpc.borrow_mut().insert(token, Grpc::Call(caller));
        let guard = Call { host: self.clone(), token };
        async move {
            let answer =
                answer.await.unwrap_or_else(|_| Err(Closed::unavailable("the call was given up before a reply came")));
            drop(guard);
            answer
        }
        .boxed_local()
    }

    fn http(
        &self,
        cluster: &str,
        request: HttpRequest<'_>,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<HttpResponse, Closed>> {
        let pseudo = [(":method", request.method), (":path", request.path), (":authority", request.host)];
        let headers = [values(&pseudo), values(request.headers)].concat();
        match abi::http_call(cluster, &headers, request.body, timeout) {
            Ok(token) => {
                let (caller, answer) = oneshot::channel();
                self.0.http.borrow_mut().push((token, caller));
                answer
                    .map(|answer| {
                        answer.unwrap_or_else(|_| Err(Closed::unavailable("the call was given up before a reply came")))
                    })
                    .boxed_local()
            }
            Err(refused) => ready(Err(no_server(cluster, refused))).boxed_local(),
        }
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        let timer = (self.now() + time, self.0.next_timer.get());
        self.0.next_timer.set(timer.1.wrapping_add(1));
        let guard = Timer { host: self.clone(), timer };
        poll_fn(move |context| {
            let host = &guard.host;
            if host.now() >= timer.0 {
                return Poll::Ready(());
            }
            host.0.timers.borrow_mut().insert(timer, context.waker().clone());
            host.tick_at(timer.0);
            Poll::Pending
        })
        .boxed_local()
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.executor.spawn(task);
    }

    fn now(&self) -> Instant {
        self.0.now.get().unwrap_or_else(|| {
            let now = self.0.start.elapsed();
            self.0.now.set(Some(now));
            now
        })
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

    fn budget(&self) -> &Budget {
        &self.0.budget
    }

    fn logs(&self, level: Level) -> bool {
        let now = self.now();
        let known = self.0.log_level.get().filter(|(at, _)| now.saturating_sub(*at) < LOOK_AT_LEVEL);
        let (_, least) = known.unwrap_or_else(|| {
            let looked = (now, abi::log_level());
            self.0.log_level.set(Some(looked));
            looked
        });
        number(level) >= least
    }

    fn log(&self, level: Level, line: &str) {
        abi::log(number(level), line);
    }

    fn counter(&self, name: &str) -> Metric {
        Metric(abi::metric(MetricKind::Counter, name))
    }

    fn histogram(&self, name: &str) -> Metric {
        Metric(abi::metric(MetricKind::Histogram, name))
    }

    fn add(&self, counter: Metric, by: u64) {
        abi::increment(counter.0, by);
    }

    fn record(&self, histogram: Metric, value: u64) {
        abi::record(histogram.0, value);
    }
}

/// Takes its timer along when it ends.
struct Timer {
    host: Host,
    timer: Key,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.host.0.timers.borrow_mut().remove(self.timer);
    }
}

/// Cancels its call when it ends before an answer has come.
struct Call {
    host: Host,
    token: u32,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.host.give_up(self.token);
    }
}

/// A stream as both sides see it.
#[derive(Debug, Default)]
struct Pipe {
    /// Whether it carries bytes, and not messages.
    raw: bool,
    token: Cell<Option<u32>>,
    arrived: RefCell<VecDeque<Result<Bytes, Closed>>>,
    waker: RefCell<Option<Waker>>,
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
        if let Some(token) = self.pipe.token.take() {
            self.host.give_up(token);
        }
    }
}

#[async_trait(?Send)]
impl Stream for Connection {
    fn send(&self, bytes: &[u8]) {
        if let Some(token) = self.pipe.token.get() {
            let _ = abi::grpc_send(token, bytes); // refused when it has just ended, which the close that follows tells
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
