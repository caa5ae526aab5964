//! The service logic of the Layotto and Dapr runtime APIs.
//!
//! Async Rust over one trait, [`proxy::Proxy`], and free of everything else: no I/O, clock, threads, Envoy or wasm in
//! it. A filter makes a [`Runtime`] for each worker, hands it calls and gives back its replies.
//!
//! Where things live:
//! - [`api`]: one module per building block, once for both dialects; framing, deadlines and statuses around them.
//! - [`exchange`]: a request from its first header to its answer, as a host feeds it.
//! - [`component`]: one module per driver, and the registry that lists them.
//! - [`protocol`]: thin clients of what servers speak.
//! - [`config`]: the configuration and its checks.
//! - [`testing`]: a scripted outside for tests, with virtual time.

#![cfg_attr(test, allow(clippy::missing_panics_doc))]

pub mod api;
mod backoff;
pub mod budget;
pub mod component;
pub mod config;
pub mod exchange;
pub mod executor;
mod lasting;
pub mod metrics;
pub mod outbox;
pub mod pace;
pub mod protocol;
pub mod proxy;
pub mod slot;
pub mod testing;
mod text;
pub mod timers;
mod trace;

pub use api::Runtime;

/// The version of the runtime, as GetMetadata tells it: the tag's that a release is built of, else the workspace's.
pub const VERSION: &str = match option_env!("ENVOY_RUNTIME_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
