//! What a host environment can do for the core. Nothing else enters it: no socket, clock, thread or file.
//!
//! Envoy's proxy-wasm edition implements the trait over host calls, the tests by a script
//! ([`crate::testing`]). Everything is local to one worker; only the shared area is seen by all workers. A future that
//! is dropped cancels what it waits for.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tonic::Code;

use crate::budget::Budget;

/// A point in time on a clock that never goes back, as the time since an arbitrary start.
pub type Instant = Duration;

/// How many bytes the name of a cluster may have that streams and gRPC calls go to: Envoy is told it in a message whose
/// length is one byte.
pub const MAX_CLUSTER_NAME: usize = 125;

/// The way to the outside.
pub trait Proxy {
    /// Opens a byte stream to a server of the cluster. It never fails at once: a server that cannot be reached ends
    /// the stream, which [`Stream::receive`] reports. Dropping the stream closes it.
    fn connect(&self, cluster: &str) -> Box<dyn Stream>;

    /// Opens a gRPC stream to a server of the cluster: each [`Stream::send`] is a message, and so is what
    /// [`Stream::receive`] gives. It fails as [`Proxy::connect`] does.
    fn grpc_stream(&self, cluster: &str, method: Method, metadata: Metadata<'_>) -> Box<dyn Stream>;

    /// Makes a unary gRPC call to a server of the cluster and gives the message of the answer.
    fn grpc(
        &self,
        cluster: &str,
        method: Method,
        metadata: Metadata<'_>,
        message: &[u8],
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, Closed>>;

    /// Makes an HTTP request to a server of the cluster. Whatever the server answers is a response; an error is that
    /// it has not answered.
    fn http(
        &self,
        cluster: &str,
        request: HttpRequest<'_>,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<HttpResponse, Closed>>;

    /// Waits. Dropping the future ends the wait.
    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()>;

    /// Runs a future to its end, apart from the call that asked for it.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);

    /// The time on the clock that never goes back.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall_clock(&self) -> SystemTime;

    /// Fills the buffer with random bytes fit for identifiers.
    fn random(&self, buffer: &mut [u8]);

    /// Reads the shared area: what all workers see.
    fn shared_get(&self, key: &str) -> Option<(Bytes, Version)>;

    /// Writes the shared area, if the value still has this version, or is not there. `None` writes whatever is there: it
    /// is for making a value that is missing while the configuration is loaded.
    fn shared_set(&self, key: &str, value: &[u8], version: Option<Version>) -> Result<(), Changed>;

    /// What this worker holds in memory.
    fn budget(&self) -> &Budget;

    /// Whether lines of this level are kept, so that one that costs something to make is worth making.
    fn logs(&self, level: Level) -> bool;

    /// Writes a line to the log, at the level that an operator would look for it.
    fn log(&self, level: Level, line: &str);

    /// The counter of this name, made when it is first asked for.
    fn counter(&self, name: &str) -> Metric;

    /// The histogram of this name, made when it is first asked for.
    fn histogram(&self, name: &str) -> Metric;

    /// Adds to a counter.
    fn add(&self, counter: Metric, by: u64);

    /// Adds an observation to a histogram.
    fn record(&self, histogram: Metric, value: u64);
}

/// Makes a value of the shared area that is missing, empty. To be called while the configuration is loaded.
pub fn shared_init(proxy: &dyn Proxy, key: &str) {
    if proxy.shared_get(key).is_none() {
        let _ = proxy.shared_set(key, &[], None);
    }
}

/// What is read in the place of a value that is not there. No write ever has this version, so a write with it makes the
/// value, unless another worker has made it meanwhile.
pub const MISSING: (Bytes, Version) = (Bytes::new(), Version(u32::MAX));

// A trait of the outside does not ask for Debug: through it the words of all types would get into the filters.
impl fmt::Debug for dyn Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy")
    }
}

impl fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// A metric of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Metric(pub u32);

/// A method of a gRPC service: the full name of the service, and its own.
pub type Method = (&'static str, &'static str);

/// Metadata of a gRPC call, or headers of an HTTP request, as names in lower case and values.
pub type Metadata<'a> = &'a [(&'a str, &'a str)];

/// An HTTP request. What names the server and the protocol, Envoy adds.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// The path with the query.
    pub path: &'a str,
    /// The header `host`.
    pub host: &'a str,
    /// Further headers.
    pub headers: Metadata<'a>,
    /// The body; empty for none.
    pub body: &'a [u8],
}

/// What an HTTP server answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpResponse {
    /// Such as 200.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// A stream to a server, of bytes or of messages.
#[async_trait(?Send)]
pub trait Stream {
    /// Sends bytes or a message. Before the connection is there they wait; after it ended they are lost, which
    /// [`Stream::receive`] tells.
    fn send(&self, bytes: &[u8]);

    /// The next bytes or message, or why there will be none. Only one caller at a time may wait.
    async fn receive(&self) -> Result<Bytes, Closed>;
}

/// Why a stream or a call ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Closed {
    /// The status that a gRPC server gave; [`Code::Unavailable`] where no server answered.
    pub code: Code,
    /// In words for a message.
    pub text: String,
}

impl Closed {
    /// No server answered, and why.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self { code: Code::Unavailable, text: text.into() }
    }
}

/// The version of a value in the shared area: it changes with each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(pub u32);

/// Another worker wrote in between: read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value has changed")]
pub struct Changed;

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who develop the runtime.
    Debug,
    /// What an operator may like to know.
    Info,
    /// Something failed and will be tried again.
    Warn,
    /// Something failed and needs an operator.
    Error,
}
