//! The harness of the integration tests: real Envoys with the configuration that the CLI renders, real servers behind
//! them, and clients of both dialects in front. Each module is about one thing; the tests in `tests/` read as the
//! specification of the product.

pub mod apollo;
pub mod certificates;
pub mod client;
pub mod config;
pub mod configuration;
pub mod conformance;
#[cfg(feature = "containers")]
pub mod container;
pub mod envoy;
pub mod etcd;
pub mod fresh;
pub mod hostile;
pub mod http1;
pub mod installed;
pub mod kubernetes;
pub mod listener_file;
pub mod lock;
pub mod memcached;
pub mod middleman;
pub mod pages;
pub mod ports;
pub mod process;
pub mod recorded;
pub mod redis;
pub mod scratch;
pub mod sequencer;
pub mod server;
pub mod stand_in;
pub mod status;
pub mod store;
pub mod vault;
pub mod wait;
pub mod wire;
pub mod workers;

pub use client::{Client, Dialect};
pub use config::Config;
pub use configuration::Configuration;
pub use envoy::{Envoy, REENTER, TRAP};
pub use etcd::Etcd;
pub use lock::Lock;
pub use memcached::Memcached;
pub use redis::Redis;
pub use sequencer::Sequencer;
pub use store::Store;
