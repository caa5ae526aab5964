//! A scripted outside for tests: servers that say what the test has them say, and time that passes when told to.

#![allow(clippy::panic)] // a test may end by one

mod app;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};

use crate::budget::Budget;
use crate::executor::Executor;
use crate::proxy::{
    Changed, Closed, HttpRequest, HttpResponse, Instant, Level, Metadata, Method, Metric, Proxy, Stream, Version,
};

use crate::slot::Slot;
use crate::timers::{Timer as Key, Timers};

pub use app::{Talk, call, call_with, talk, worker};

/// An outside under the control of a test. Clones are the same outside: give one to each worker of a test.
#[derive(Clone, Default)]
pub struct World(Rc<Shared>);

#[derive(Default)]
struct Shared {
    executor: Executor,
    budget: Budget,
    now: Cell<Instant>,
    timers: RefCell<Timers>,
    next_timer: Cell<u64>,
    connections: RefCell<VecDeque<(String, Connection)>>,
    calls: RefCell<VecDeque<(String, GrpcCall)>>,
    requests: RefCell<VecDeque<(String, Request)>>,
    area: RefCell<HashMap<String, (Bytes, u32)>>,
    /// How many bytes were ever written to the area.
    written: Cell<usize>,
    /// How many were read.
    read: Cell<usize>,
    writes_left: Cell<Option<usize>>,
    random: Cell<u64>,
    metrics: RefCell<Vec<(String, u64)>>,
    log: RefCell<Vec<String>>,
    /// Whether lines of the level debug are wanted.
    explains: Cell<bool>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// The time of day when a world begins.
pub const BEGINNING: Duration = Duration::from_secs(1_800_000_000);

impl World {
    /// Starts a future and runs it as far as it goes; the call gives its outcome once it has one.
    pub fn start<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Started<T> {
        let outcome = Rc::new(RefCell::new(None));
        let place = Rc::clone(&outcome);
        let task = self.0.executor.spawn_cancellable(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        self.run();
        Started { outcome, task }
    }

    /// Runs what can be run.
    pub fn run(&self) {
        self.0.executor.run();
    }

    /// Lets time pass, timer by timer.
    pub fn advance(&self, time: Duration) {
        let end = self.0.now.get() + time;
        loop {
            let due = self.0.timers.borrow_mut().take_due(end);
            let Some(((at, _), waker)) = due else { break };
            self.0.now.set(at.max(self.0.now.get()));
            waker.wake();
            self.run();
        }
        self.0.now.set(end);
    }

    /// The oldest connection to the cluster that the test has not taken yet.
    pub fn accept(&self, cluster: &str) -> Option<Connection> {
        self.run();
        let mut connections = self.0.connections.borrow_mut();
        let at = connections.iter().position(|(name, _)| name == cluster)?;
        connections.remove(at).map(|(_, connection)| connection)
    }

    /// The oldest unary gRPC call to the cluster that the test has not taken yet.
    pub fn grpc_call(&self, cluster: &str) -> Option<GrpcCall> {
        self.run();
        let mut calls = self.0.calls.borrow_mut();
        let at = calls.iter().position(|(name, _)| name == cluster)?;
        calls.remove(at).map(|(_, call)| call)
    }

    /// The oldest HTTP request to the cluster that the test has not taken yet.
    pub fn http_request(&self, cluster: &str) -> Option<Request> {
        self.run();
        let mut requests = self.0.requests.borrow_mut();
        let at = requests.iter().position(|(name, _)| name == cluster)?;
        requests.remove(at).map(|(_, request)| request)
    }

    /// The value of a counter, or the sum of what a histogram has seen; nothing if it was never made.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.0.metrics.borrow().iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Has calls explained in the log, as the level debug does.
    pub fn explain(&self) {
        self.0.explains.set(true);
    }

    /// What was logged.
    pub fn log_lines(&self) -> Vec<String> {
        self.0.log.borrow().clone()
    }

    /// How many bytes the values of the shared area have.
    pub fn shared_bytes(&self) -> usize {
        self.0.area.borrow().values().map(|(value, _)| value.len()).sum()
    }

    /// How many bytes have been written to the shared area so far.
    pub fn shared_bytes_written(&self) -> usize {
        self.0.written.get()
    }

    /// How many bytes have been read from the shared area so far.
    pub fn shared_bytes_read(&self) -> usize {
        self.0.read.get()
    }

    /// How many names the shared area has.
    pub fn shared_names(&self) -> usize {
        self.0.area.borrow().len()
    }

    /// What comes after this one, where all workers have ended and nothing is left but the shared area and the time.
    #[must_use]
    pub fn successor(&self) -> Self {
        let next = Self::default();
        next.0.area.replace(self.0.area.borrow().clone());
        next.0.now.set(self.0.now.get());
        next.0.random.set(self.0.random.get());
        next
    }

    /// How many timers wait.
    pub fn timers(&self) -> usize {
        self.0.timers.borrow().len()
    }

    /// Runs `work` as a worker that ends after so many writes to the shared area: the later ones never happen.
    pub fn end_worker_after(&self, writes: usize, work: impl FnOnce()) {
        self.0.writes_left.set(Some(writes));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        self.0.writes_left.set(None);
        drop(ended);
    }

    fn metric_of(&self, name: &str) -> Metric {
        let mut metrics = self.0.metrics.borrow_mut();
        let at = metrics.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            metrics.push((name.to_owned(), 0));
            metrics.len() - 1
        });
        Metric(u32::try_from(at).unwrap_or(u32::MAX))
    }
}

/// A future under way.
#[derive(Debug)]
pub struct Started<T> {
    outcome: Rc<RefCell<Option<T>>>,
    task: crate::executor::Task,
}

impl<T> Started<T> {
    /// The outcome, once.
    pub fn outcome(&self) -> Option<T> {
        self.outcome.borrow_mut().take()
    }

    /// Cancels the future, as a client that goes away does.
    pub fn cancel(self) {
        drop(self.task);
    }
}

/// The server's end of a unary gRPC call.
#[derive(Debug)]
pub struct GrpcCall {
    /// The method, as `service/method`.
    pub method: String,
    /// What the client sent along.
    pub metadata: Vec<(String, String)>,
    /// The message of the request.
    pub message: Bytes,
    world: World,
    answer: oneshot::Sender<Result<Bytes, Closed>>,
}

impl GrpcCall {
    /// Answers with a message.
    pub fn reply(self, message: &impl prost::Message) {
        let _ = self.answer.send(Ok(message.encode_to_vec().into()));
        self.world.run();
    }

    /// Answers with a status.
    pub fn fail(self, code: tonic::Code, text: &str) {
        let _ = self.answer.send(Err(Closed { code, text: text.to_owned() }));
        self.world.run();
    }

    /// Whether the client has let go of the call.
    pub fn is_cancelled(&self) -> bool {
        self.world.run();
        self.answer.is_canceled()
    }
}

/// The server's end of an HTTP request.
#[derive(Debug)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// All other headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    world: World,
    answer: oneshot::Sender<Result<HttpResponse, Closed>>,
}

impl Request {
    /// Answers.
    pub fn reply(self, status: u16, body: impl Into<Bytes>) {
        let _ = self.answer.send(Ok(HttpResponse { status, body: body.into() }));
        self.world.run();
    }

    /// Ends the connection without an answer.
    pub fn fail(self, why: &str) {
        let _ = self.answer.send(Err(Closed::unavailable(why)));
        self.world.run();
    }

    /// Whether the client has let go of the request.
    pub fn is_cancelled(&self) -> bool {
        self.world.run();
        self.answer.is_canceled()
    }

    /// A header of the request.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The server's end of a stream.
#[derive(Clone)]
pub struct Connection {
    /// The method, as `service/method`; empty for a stream of bytes.
    pub method: String,
    /// What the client sent along when it opened the stream.
    pub metadata: Vec<(String, String)>,
    world: World,
    pipe: Rc<Pipe>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

#[derive(Default)]
struct Pipe {
    sent: RefCell<BytesMut>,
    /// Where in `sent` each message ends.
    messages: RefCell<VecDeque<usize>>,
    arriving: RefCell<VecDeque<Result<Bytes, Closed>>>,
    receiver: Slot,
    dropped: Cell<bool>,
}

impl Connection {
    /// What the client has sent since the last time.
    pub fn received(&self) -> Bytes {
        self.world.run();
        self.pipe.messages.borrow_mut().clear();
        self.pipe.sent.take().freeze()
    }

    /// In how many writes that came which the client has sent since the last time.
    pub fn writes(&self) -> usize {
        self.world.run();
        self.pipe.messages.borrow().len()
    }

    /// The next message that the client has sent on a gRPC stream.
    pub fn message<M: prost::Message + Default>(&self) -> Option<M> {
        self.world.run();
        let length = self.pipe.messages.borrow_mut().pop_front()?;
        M::decode(self.pipe.sent.borrow_mut().split_to(length)).ok()
    }

    /// Sends a message to the client.
    pub fn send_message(&self, message: &impl prost::Message) {
        self.arrive(Ok(message.encode_to_vec().into()));
    }

    /// Ends the stream with a status.
    pub fn fail(&self, code: tonic::Code, text: &str) {
        self.arrive(Err(Closed { code, text: text.to_owned() }));
    }

    /// Sends bytes to the client.
    pub fn send(&self, bytes: &[u8]) {
        self.arrive(Ok(Bytes::copy_from_slice(bytes)));
    }

    /// Ends the stream.
    pub fn close(&self, why: &str) {
        self.arrive(Err(Closed::unavailable(why)));
    }

    /// Whether the client has let go of the stream.
    pub fn is_dropped(&self) -> bool {
        self.world.run();
        self.pipe.dropped.get()
    }

    fn arrive(&self, what: Result<Bytes, Closed>) {
        self.pipe.arriving.borrow_mut().push_back(what);
        self.pipe.receiver.wake();
        self.world.run();
    }
}

struct ClientEnd(Rc<Pipe>);

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientEnd")
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        self.0.dropped.set(true);
    }
}

#[async_trait(?Send)]
impl Stream for ClientEnd {
    fn send(&self, bytes: &[u8]) {
        self.0.sent.borrow_mut().extend_from_slice(bytes);
        self.0.messages.borrow_mut().push_back(bytes.len());
    }

    async fn receive(&self) -> Result<Bytes, Closed> {
        self.0.receiver.until(|| self.0.arriving.borrow_mut().pop_front()).await
    }
}

fn owned(metadata: Metadata<'_>) -> Vec<(String, String)> {
    metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What comes, or an end when the time is over.
fn within<T: 'static>(
    time: LocalBoxFuture<'static, ()>,
    coming: oneshot::Receiver<Result<T, Closed>>,
    code: tonic::Code,
) -> LocalBoxFuture<'static, Result<T, Closed>> {
    let closed = |code, text: &str| Err(Closed { code, text: text.to_owned() });
    async move {
        match select(coming, time).await {
            Either::Left((answer, _)) => {
                answer.unwrap_or_else(|_| closed(tonic::Code::Unavailable, "the server went away"))
            }
            Either::Right(((), _)) => closed(code, "no answer came in time"),
        }
    }
    .boxed_local()
}

impl World {
    fn open(&self, cluster: &str, method: String, metadata: Metadata<'_>) -> Box<dyn Stream> {
        let pipe = Rc::new(Pipe::default());
        let connection = Connection { method, metadata: owned(metadata), world: self.clone(), pipe: Rc::clone(&pipe) };
        self.0.connections.borrow_mut().push_back((cluster.to_owned(), connection));
        Box::new(ClientEnd(pipe))
    }
}

impl Proxy for World {
    fn connect(&self, cluster: &str) -> Box<dyn Stream> {
        self.open(cluster, String::new(), &[])
    }

    fn grpc_stream(&self, cluster: &str, (service, method): Method, metadata: Metadata<'_>) -> Box<dyn Stream> {
        self.open(cluster, format!("{service}/{method}"), metadata)
    }

    fn grpc(
        &self,
        cluster: &str,
        (service, method): Method,
        metadata: Metadata<'_>,
        message: &[u8],
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, Closed>> {
        let (answer, coming) = oneshot::channel();
        let call = GrpcCall {
            method: format!("{service}/{method}"),
            metadata: owned(metadata),
            message: Bytes::copy_from_slice(message),
            world: self.clone(),
            answer,
        };
        self.0.calls.borrow_mut().push_back((cluster.to_owned(), call));
        within(self.sleep(timeout), coming, tonic::Code::DeadlineExceeded)
    }

    fn http(
        &self,
        cluster: &str,
        request: HttpRequest<'_>,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<HttpResponse, Closed>> {
        let (answer, coming) = oneshot::channel();
        let mut headers = owned(request.headers);
        headers.push(("host".to_owned(), request.host.to_owned()));
        let request = Request {
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            headers,
            body: Bytes::copy_from_slice(request.body),
            world: self.clone(),
            answer,
        };
        self.0.requests.borrow_mut().push_back((cluster.to_owned(), request));
        within(self.sleep(timeout), coming, tonic::Code::Unavailable)
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        let timer = (self.0.now.get() + time, self.0.next_timer.get());
        self.0.next_timer.set(timer.1 + 1);
        let world = self.clone();
        let guard = Timer { world: world.clone(), timer };
        poll_fn(move |context| {
            let _ = &guard; // ends with the future, and takes the timer with it
            if world.0.now.get() >= timer.0 {
                return Poll::Ready(());
            }
            world.0.timers.borrow_mut().insert(timer, context.waker().clone());
            Poll::Pending
        })
        .boxed_local()
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.executor.spawn(task);
    }

    fn now(&self) -> Instant {
        self.0.now.get()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + BEGINNING + self.0.now.get()
    }

    /// The same numbers in each run, and never twice the same.
    fn random(&self, buffer: &mut [u8]) {
        for byte in buffer {
            let state =
                self.0.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0.random.set(state);
            *byte = state.to_be_bytes()[0];
        }
    }

    fn shared_get(&self, key: &str) -> Option<(Bytes, Version)> {
        let found = self.0.area.borrow().get(key).map(|(value, version)| (value.clone(), Version(*version)))?;
        self.0.read.set(self.0.read.get() + found.0.len());
        Some(found)
    }

    fn shared_set(&self, key: &str, value: &[u8], version: Option<Version>) -> Result<(), Changed> {
        match self.0.writes_left.get() {
            Some(0) => std::panic::panic_any("the worker ends here"),
            left => self.0.writes_left.set(left.map(|left| left - 1)),
        }
        let mut shared = self.0.area.borrow_mut();
        let known = shared.get(key).map(|(_, version)| *version);
        // As in Envoy: what is not there is made whatever the version.
        if let (Some(known), Some(Version(version))) = (known, version)
            && known != version
        {
            return Err(Changed);
        }
        let current = known.unwrap_or_default();
        self.0.written.set(self.0.written.get() + value.len());
        shared.insert(key.to_owned(), (Bytes::copy_from_slice(value), current + 1));
        Ok(())
    }

    fn budget(&self) -> &Budget {
        &self.0.budget
    }

    fn logs(&self, level: Level) -> bool {
        level > Level::Debug || self.0.explains.get()
    }

    fn log(&self, _level: Level, line: &str) {
        self.0.log.borrow_mut().push(line.to_owned());
    }

    fn counter(&self, name: &str) -> Metric {
        self.metric_of(name)
    }

    fn histogram(&self, name: &str) -> Metric {
        self.metric_of(name)
    }

    fn add(&self, counter: Metric, by: u64) {
        let at = usize::try_from(counter.0).unwrap_or(usize::MAX);
        if let Some((_, value)) = self.0.metrics.borrow_mut().get_mut(at) {
            *value += by;
        }
    }

    fn record(&self, histogram: Metric, value: u64) {
        self.add(histogram, value);
    }
}

struct Timer {
    world: World,
    timer: Key,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.world.0.timers.borrow_mut().remove(self.timer);
    }
}
