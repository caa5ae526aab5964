//! How each driver's store is started and configured for a conformance suite.

use crate::config::Config;
use crate::envoy::Envoy;
use crate::redis::{self, Redis};

/// A running store with an Envoy in front of it.
#[derive(Debug)]
pub struct World {
    /// The Envoy.
    pub envoy: Envoy,
    /// The component under test.
    pub component: &'static str,
    /// The server behind it, kept running.
    pub redis: Option<Redis>,
}

/// `state.in-memory`
pub async fn in_memory() -> World {
    let config = Config::new("conformance").component("statestore", "state.in-memory", &[]);
    World { envoy: Envoy::start(config).await, component: "statestore", redis: None }
}

/// `state.redis`
pub async fn redis() -> World {
    let redis = Redis::start(redis::Options::default()).await;
    let config = Config::new("conformance").component("statestore", "state.redis", &[("redisHost", &redis.address())]);
    World { envoy: Envoy::start(config).await, component: "statestore", redis: Some(redis) }
}

/// `configuration.in-memory`
pub async fn configuration_in_memory() -> World {
    let config = Config::new("conformance").component("config", "configuration.in-memory", &[]);
    World { envoy: Envoy::start(config).await, component: "config", redis: None }
}

/// `configuration.redis`
pub async fn configuration_redis() -> World {
    let redis = Redis::start(redis::Options::default()).await;
    let address = redis.address();
    let config = Config::new("conformance").component("config", "configuration.redis", &[("redisHost", &address)]);
    World { envoy: Envoy::start(config).await, component: "config", redis: Some(redis) }
}
