//! How each driver's store is started and configured for a conformance suite.

use crate::apollo::{self, Apollo};
use crate::config::Config;
use crate::envoy::Envoy;
use crate::etcd::{self, Etcd};
use crate::redis::{self, Redis};
use serde_json::json;

/// A running store with an Envoy in front of it.
#[derive(Debug)]
pub struct World {
    /// The Envoy.
    pub envoy: Envoy,
    /// The component under test.
    pub component: &'static str,
    /// The Redis servers behind it, kept running.
    pub redis: Vec<Redis>,
    /// The etcd behind it, kept running.
    pub etcd: Option<Etcd>,
}

impl World {
    /// A component without a server.
    async fn alone(kind: &str, component: &'static str) -> Self {
        let config = Config::new("conformance").component(component, kind, &[]);
        Self { envoy: Envoy::start(config).await, component, redis: Vec::new(), etcd: None }
    }

    /// A component in so many servers of Redis, which are told it in this field.
    async fn in_redis(kind: &str, component: &'static str, field: &str, servers: usize) -> Self {
        let mut redis = Vec::new();
        for _ in 0..servers {
            redis.push(Redis::start(redis::Options::default()).await);
        }
        let hosts = redis.iter().map(Redis::address).collect::<Vec<_>>().join(",");
        let config = Config::new("conformance").component(component, kind, &[(field, &hosts)]);
        Self { envoy: Envoy::start(config).await, component, redis, etcd: None }
    }

    /// A component in etcd, with a version of its configuration.
    async fn in_etcd(kind: &str, component: &'static str, configuration: &str, version: etcd::Version) -> Self {
        let etcd = Etcd::start(etcd::Options { version, ..etcd::Options::default() }).await;
        let document = json!({
            "name": component,
            "type": kind,
            "version": configuration,
            "metadata": {"endpoints": etcd.address()},
        });
        let envoy = Envoy::start(Config::new("conformance").component_document(document)).await;
        Self { envoy, component, redis: Vec::new(), etcd: Some(etcd) }
    }
}

/// `state.in-memory`
pub async fn in_memory() -> World {
    World::alone("state.in-memory", "statestore").await
}

/// `state.redis`
pub async fn redis() -> World {
    World::in_redis("state.redis", "statestore", "redisHost", 1).await
}

/// `state.etcd`, values as they are, in the newest etcd.
pub async fn etcd_v1() -> World {
    World::in_etcd("state.etcd", "statestore", "v1", etcd::Version::V37).await
}

/// `state.etcd`, version v2, in the newest etcd.
pub async fn etcd_v2() -> World {
    World::in_etcd("state.etcd", "statestore", "v2", etcd::Version::V37).await
}

/// `state.etcd`, version v2, in etcd 3.4.
pub async fn etcd_of_debian() -> World {
    World::in_etcd("state.etcd", "statestore", "v2", etcd::Version::Debian34).await
}

/// `lock.in-memory`
pub async fn lock_in_memory() -> World {
    World::alone("lock.in-memory", "lockstore").await
}

/// `lock.redis`
pub async fn lock_redis() -> World {
    World::in_redis("lock.redis", "lockstore", "redisHost", 1).await
}

/// `lock.redis.cluster` on three servers.
pub async fn lock_redis_cluster() -> World {
    World::in_redis("lock.redis.cluster", "lockstore", "redisHosts", 3).await
}

/// `lock.etcd`, in the newest etcd.
pub async fn lock_etcd() -> World {
    World::in_etcd("lock.etcd", "lockstore", "v1", etcd::Version::V37).await
}

/// `lock.etcd`, in etcd 3.4.
pub async fn lock_etcd_of_debian() -> World {
    World::in_etcd("lock.etcd", "lockstore", "v1", etcd::Version::Debian34).await
}

/// `configuration.in-memory`
pub async fn configuration_in_memory() -> World {
    World::alone("configuration.in-memory", "config").await
}

/// `configuration.redis`
pub async fn configuration_redis() -> World {
    World::in_redis("configuration.redis", "config", "redisHost", 1).await
}

/// `configuration.etcd`, in the newest etcd.
pub async fn configuration_etcd() -> World {
    World::in_etcd("configuration.etcd", "config", "v1", etcd::Version::V37).await
}

/// `configuration.etcd`, in etcd 3.4.
pub async fn configuration_etcd_of_debian() -> World {
    World::in_etcd("configuration.etcd", "config", "v1", etcd::Version::Debian34).await
}

/// The cases of the suite of configuration: each has a group of its own, which Apollo must have as a namespace.
const CONFIGURATION_CASES: [&str; 10] = [
    "items_are_read_by_their_keys",
    "without_keys_all_items_are_read",
    "a_save_replaces_the_value",
    "a_deleted_item_is_gone",
    "many_items_are_saved_at_once",
    "texts_survive",
    "an_unknown_store_and_an_empty_key_are_refused",
    "subscribers_are_told_of_their_keys",
    "a_subscription_ends_with_its_stream",
    "many_changes_come_once_and_in_order",
];

/// `configuration.apollo`
pub async fn configuration_apollo() -> World {
    let namespaces: Vec<String> = ["dapr", "layotto"]
        .iter()
        .flat_map(|dialect| CONFIGURATION_CASES.map(|case| format!("{dialect}-{}", case.replace('_', "-"))))
        .collect();
    let listed = namespaces.join(",");
    let (sender, started) = tokio::sync::oneshot::channel();
    // In a runtime of its own: that of a test ends with it.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let apollo = Apollo::start(apollo::Options::default()).await;
            for namespace in &namespaces {
                apollo.create_namespace("shop", namespace);
            }
            sender.send((apollo.config.url(), apollo.portal.url())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (config, portal) = started.await.unwrap();
    let metadata = [
        ("address", config.as_str()),
        ("app_id", "shop"),
        ("namespace_name", &listed),
        ("open_api_address", &portal),
        ("open_api_token", apollo::TOKEN),
        ("open_api_user", apollo::OPERATOR),
    ];
    let config = Config::new("conformance").component("config", "configuration.apollo", &metadata);
    World { envoy: Envoy::start(config).await, component: "config", redis: Vec::new(), etcd: None }
}
