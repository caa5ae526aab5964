//! What a host environment can do for the core. Nothing else enters it: no socket, clock, thread or file.
//!
//! Envoy's proxy-wasm edition implements the trait over host calls, the tests by a script
//! ([`crate::testing`]). Everything is local to one worker; only the shared area is seen by all workers.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::LocalBoxFuture;

/// A point in time on a clock that never goes back, as the time since an arbitrary start.
pub type Instant = Duration;

/// The way to the outside.
pub trait Proxy {
    /// Opens a byte stream to a server of the cluster. It never fails at once: a server that cannot be reached ends
    /// the stream, which [`Stream::receive`] reports. Dropping the stream closes it.
    fn connect(&self, cluster: &str) -> Box<dyn Stream>;

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

    /// Writes the shared area, if the value still has this version. `None` writes whatever is there: it is for making
    /// a value that is missing while the configuration is loaded, before workers run that could write it too.
    fn shared_set(&self, key: &str, value: &[u8], version: Option<Version>) -> Result<(), Changed>;

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

/// A byte stream to a server.
#[async_trait(?Send)]
pub trait Stream {
    /// Sends bytes. Before the connection is there they wait; after it ended they are lost, which
    /// [`Stream::receive`] tells.
    fn send(&self, bytes: &[u8]);

    /// The next bytes, or why there will be none. Only one caller at a time may wait.
    async fn receive(&self) -> Result<Bytes, Closed>;
}

/// Why a stream ended, in words for a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Closed(pub String);

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
