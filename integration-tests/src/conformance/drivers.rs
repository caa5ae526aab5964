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
    /// The servers behind it, kept running.
    pub redis: Vec<Redis>,
}

/// `state.in-memory`
pub async fn in_memory() -> World {
    let config = Config::new("conformance").component("statestore", "state.in-memory", &[]);
    World { envoy: Envoy::start(config).await, component: "statestore", redis: Vec::new() }
}

/// `state.redis`
pub async fn redis() -> World {
    let redis = Redis::start(redis::Options::default()).await;
    let config = Config::new("conformance").component("statestore", "state.redis", &[("redisHost", &redis.address())]);
    World { envoy: Envoy::start(config).await, component: "statestore", redis: vec![redis] }
}

/// `lock.in-memory`
pub async fn lock_in_memory() -> World {
    let config = Config::new("conformance").component("lockstore", "lock.in-memory", &[]);
    World { envoy: Envoy::start(config).await, component: "lockstore", redis: Vec::new() }
}

/// `lock.redis`
pub async fn lock_redis() -> World {
    let redis = Redis::start(redis::Options::default()).await;
    let config = Config::new("conformance").component("lockstore", "lock.redis", &[("redisHost", &redis.address())]);
    World { envoy: Envoy::start(config).await, component: "lockstore", redis: vec![redis] }
}

/// `lock.redis.cluster` on three servers.
pub async fn lock_redis_cluster() -> World {
    let mut redis = Vec::new();
    for _ in 0..3 {
        redis.push(Redis::start(redis::Options::default()).await);
    }
    let hosts = redis.iter().map(Redis::address).collect::<Vec<_>>().join(",");
    let config = Config::new("conformance").component("lockstore", "lock.redis.cluster", &[("redisHosts", &hosts)]);
    World { envoy: Envoy::start(config).await, component: "lockstore", redis }
}
