//! How each driver's store is started and configured for a conformance suite.

use std::fmt::Debug;

use serde_json::json;

use crate::apollo::{self, Apollo};
use crate::config::Config;
use crate::envoy::Envoy;
use crate::etcd::{self, Etcd};
use crate::memcached::Memcached;
use crate::redis::{self, Redis};

/// A running store with an Envoy in front of it.
#[derive(Debug)]
pub struct Deployment {
    /// The Envoy.
    pub envoy: Envoy,
    /// The component under test.
    pub component: &'static str,
    /// The servers behind it, kept running.
    _servers: Box<dyn Servers>,
}

/// Whatever runs until it is dropped.
trait Servers: Debug + Send + Sync {}

impl<T: Debug + Send + Sync> Servers for T {}

impl Deployment {
    /// This component, and the servers that it is told of.
    async fn of(component: &'static str, config: Config, servers: impl Servers + 'static) -> Self {
        Self { envoy: Envoy::start(config).await, component, _servers: Box::new(servers) }
    }

    /// A component without a server.
    async fn alone(kind: &str, component: &'static str) -> Self {
        Self::of(component, Config::new("conformance").component(component, kind, &[]), ()).await
    }

    /// A component in so many servers of Redis, which are told it in this field.
    async fn in_redis(kind: &str, component: &'static str, field: &str, servers: usize) -> Self {
        let mut redis = Vec::new();
        for _ in 0..servers {
            redis.push(Redis::start(redis::Options::default()).await);
        }
        let hosts = redis.iter().map(Redis::address).collect::<Vec<_>>().join(",");
        let config = Config::new("conformance").component(component, kind, &[(field, &hosts)]);
        Self::of(component, config, redis).await
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
        Self::of(component, Config::new("conformance").component_document(document), etcd).await
    }
}

/// `state.in-memory`
pub async fn in_memory() -> Deployment {
    Deployment::alone("state.in-memory", "statestore").await
}

/// `state.redis`
pub async fn redis() -> Deployment {
    Deployment::in_redis("state.redis", "statestore", "redisHost", 1).await
}

/// `state.memcached` on two servers.
pub async fn memcached() -> Deployment {
    let servers = [Memcached::start().await, Memcached::start().await];
    let hosts = servers.each_ref().map(Memcached::address).join(",");
    let config = Config::new("conformance").component("statestore", "state.memcached", &[("hosts", &hosts)]);
    Deployment::of("statestore", config, servers).await
}

/// `state.etcd`, values as they are, in the newest etcd.
pub async fn etcd_v1() -> Deployment {
    Deployment::in_etcd("state.etcd", "statestore", "v1", etcd::Version::V37).await
}

/// `state.etcd`, version v2, in the newest etcd.
pub async fn etcd_v2() -> Deployment {
    Deployment::in_etcd("state.etcd", "statestore", "v2", etcd::Version::V37).await
}

/// `state.etcd`, version v2, in etcd 3.4.
pub async fn etcd_of_debian() -> Deployment {
    Deployment::in_etcd("state.etcd", "statestore", "v2", etcd::Version::Debian34).await
}

/// `lock.in-memory`
pub async fn lock_in_memory() -> Deployment {
    Deployment::alone("lock.in-memory", "lockstore").await
}

/// `lock.redis`
pub async fn lock_redis() -> Deployment {
    Deployment::in_redis("lock.redis", "lockstore", "redisHost", 1).await
}

/// `lock.redis.cluster` on three servers.
pub async fn lock_redis_cluster() -> Deployment {
    Deployment::in_redis("lock.redis.cluster", "lockstore", "redisHosts", 3).await
}

/// `lock.etcd`, in the newest etcd.
pub async fn lock_etcd() -> Deployment {
    Deployment::in_etcd("lock.etcd", "lockstore", "v1", etcd::Version::V37).await
}

/// `lock.etcd`, in etcd 3.4.
pub async fn lock_etcd_of_debian() -> Deployment {
    Deployment::in_etcd("lock.etcd", "lockstore", "v1", etcd::Version::Debian34).await
}

/// `configuration.in-memory`
pub async fn configuration_in_memory() -> Deployment {
    Deployment::alone("configuration.in-memory", "config").await
}

/// `configuration.redis`
pub async fn configuration_redis() -> Deployment {
    Deployment::in_redis("configuration.redis", "config", "redisHost", 1).await
}

/// `configuration.etcd`, in the newest etcd.
pub async fn configuration_etcd() -> Deployment {
    Deployment::in_etcd("configuration.etcd", "config", "v1", etcd::Version::V37).await
}

/// `configuration.etcd`, in etcd 3.4.
pub async fn configuration_etcd_of_debian() -> Deployment {
    Deployment::in_etcd("configuration.etcd", "config", "v1", etcd::Version::Debian34).await
}

/// The cases of the suite of configuration: each has a group of its own, which Apollo must have as a namespace.
const CONFIGURATION_CASES: [&str; 11] = [
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
    "items_over_http",
];

/// `configuration.apollo`
pub async fn configuration_apollo() -> Deployment {
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
    Deployment::of("config", config, ()).await
}
