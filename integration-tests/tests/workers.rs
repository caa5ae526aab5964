//! Two worker threads of one Envoy.

use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::{Config, Dialect, Envoy, Store, workers};

const STORE: &str = "statestore";

async fn a_store_on_each_worker(envoy: &Envoy) -> [Store; 2] {
    workers::one_each(envoy, async || {
        let store = Store::new(envoy.client(Dialect::Dapr).await, STORE);
        store.get("hello").await.unwrap();
        store
    })
    .await
}

#[tokio::test]
async fn what_one_worker_saves_in_memory_the_other_reads() {
    let envoy = Envoy::start(Config::new("orders").component(STORE, "state.in-memory", &[]).concurrency(2)).await;
    let [one, other] = a_store_on_each_worker(&envoy).await;
    for n in 0..100 {
        let key = n.to_string();
        one.save(item(&key, "from one")).await.unwrap();
        let read = other.get(&key).await.unwrap();
        assert_eq!(read.data, "from one");
        other.save(item(&key, "from the other")).await.unwrap();
        assert_eq!(one.value(&key).await, "from the other");
    }
}

#[tokio::test]
async fn an_etag_holds_across_workers() {
    use integration_tests::store::ItemOptions;

    let envoy = Envoy::start(Config::new("orders").component(STORE, "state.in-memory", &[]).concurrency(2)).await;
    let stores = a_store_on_each_worker(&envoy).await;
    stores[0].save(item("counter", "0")).await.unwrap();

    // Two writers on two workers count with nothing but etags: none of their additions may get lost.
    let count = async |store: &Store| {
        let mut added = 0;
        while added < 200 {
            let current = store.get("counter").await.unwrap();
            let number: u32 = String::from_utf8(current.data.to_vec()).unwrap().parse().unwrap();
            match store.save(item("counter", (number + 1).to_string()).if_etag(&current.etag)).await {
                Ok(()) => added += 1,
                Err(status) => assert_eq!(status.code(), tonic::Code::Aborted, "{status}"),
            }
        }
    };
    tokio::join!(count(&stores[0]), count(&stores[1]));
    assert_eq!(stores[0].value("counter").await, "400");
}

#[tokio::test]
async fn each_worker_has_its_own_connection_to_redis() {
    let redis = Redis::start(Options::default()).await;
    let config =
        Config::new("orders").component(STORE, "state.redis", &[("redisHost", &redis.address())]).concurrency(2);
    let envoy = Envoy::start(config).await;
    let [one, other] = a_store_on_each_worker(&envoy).await;
    one.save(item("k", "v")).await.unwrap();
    assert_eq!(other.value("k").await, "v");
    // The main thread has a VM, too, but no calls and so no connection.
    assert_eq!(envoy.stat("wasmcustom.runtime.upstream.statestore.connects").await, 2);
}
