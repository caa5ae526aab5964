//! The layout of data in Redis, field by field: what Dapr's `state.redis` writes is read, and the other way round.

use std::collections::BTreeMap;

use integration_tests::redis::{Options, Redis};
use integration_tests::status::expect_status;
use integration_tests::store::{ItemOptions, delete, item, key, upsert};
use integration_tests::{Config, Dialect, Envoy, Store};
use serde_json::{Value, json};
use tonic::Code;

struct Setup {
    redis: Redis,
    _envoy: Envoy,
    store: Store,
}

async fn setup() -> Setup {
    setup_with(&[]).await
}

async fn setup_with(metadata: &[(&str, &str)]) -> Setup {
    let redis = Redis::start(Options::default()).await;
    let address = redis.address();
    let metadata: Vec<_> = metadata.iter().copied().chain([("redisHost", address.as_str())]).collect();
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.redis", &metadata)).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    Setup { redis, _envoy: envoy, store }
}

fn fields<const N: usize>(fields: [(&str, &str); N]) -> BTreeMap<String, String> {
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[tokio::test]
async fn a_save_writes_data_and_version() {
    let Setup { redis, store, .. } = &setup().await;
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "v"), ("version", "1")]));
    store.save(item("k", "w")).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "w"), ("version", "2")]));
    assert_eq!(redis.command::<String>(&["TYPE", "orders||k"]).await, "hash");
}

#[tokio::test]
async fn a_first_write_leaves_its_mark() {
    let Setup { redis, store, .. } = &setup().await;
    store.save(item("k", "v").first_write()).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "v"), ("version", "1"), ("first-write", "0")]));
    store.save(item("k", "w").if_etag("1")).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "w"), ("version", "2"), ("first-write", "0")]));
}

#[tokio::test]
async fn a_transaction_writes_the_same_but_no_mark() {
    let Setup { redis, store, .. } = &setup().await;
    store
        .transaction(vec![upsert(item("k", "v").first_write()), upsert(item("l", "v")), delete(key("l"))])
        .await
        .unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "v"), ("version", "1")]));
    assert_eq!(redis.keys().await, ["orders||k"]);
}

#[tokio::test]
async fn json_is_written_in_its_shortest_form() {
    let Setup { redis, store, .. } = &setup().await;
    store.save(item("k", "{ \"b\" : 1,\n \"a\" : [ true ] }").json()).await.unwrap();
    let data = redis.hash("orders||k").await.remove("data").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({"a": [true], "b": 1}));
    assert!(!data.contains([' ', '\n']), "{data}");
}

#[tokio::test]
async fn what_daprd_has_written_is_read() {
    let Setup { redis, store, .. } = &setup().await;
    let _: i64 = redis.command(&["HSET", "orders||k", "data", "{\"order\":7}", "version", "41"]).await;
    let answer = store.get("k").await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&br#"{"order":7}"#[..], "41"));
    let bulk = store.bulk_get(&["k"], 0).await.unwrap();
    assert_eq!((bulk[0].data.as_ref(), bulk[0].etag.as_str()), (&br#"{"order":7}"#[..], "41"));

    expect_status(store.save(item("k", "no").if_etag("40")).await, Code::Aborted, "possible etag mismatch");
    store.save(item("k", "new").if_etag("41")).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "new"), ("version", "42")]));
}

#[tokio::test]
async fn the_mark_that_daprd_has_left_counts() {
    let Setup { redis, store, .. } = &setup().await;
    let _: i64 = redis.command(&["HSET", "orders||k", "data", "v", "version", "3", "first-write", "0"]).await;
    assert_eq!(store.value("k").await, "v");
    expect_status(store.save(item("k", "no")).await, Code::Internal, "failed saving state in state store statestore: ");
    expect_status(store.save(item("k", "no").last_write()).await, Code::Internal, "failed saving state");
    store.save(item("k", "new").if_etag("3")).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "new"), ("version", "4"), ("first-write", "0")]));
    store.delete(key("k")).await.unwrap();
    assert_eq!(redis.keys().await, Vec::<String>::new(), "the mark does not guard against a delete");
}

#[tokio::test]
async fn a_plain_string_is_read_without_an_etag() {
    let Setup { redis, store, .. } = &setup().await;
    let _: String = redis.command(&["SET", "orders||book1", "100"]).await;
    let answer = store.get("book1").await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b"100"[..], ""));
    let bulk = store.bulk_get(&["book1", "missing"], 0).await.unwrap();
    assert_eq!((bulk[0].data.as_ref(), bulk[0].etag.as_str(), bulk[0].error.as_str()), (&b"100"[..], "", ""));
}

#[tokio::test]
async fn a_plain_string_becomes_a_hash_when_it_is_saved() {
    let Setup { redis, store, .. } = &setup().await;
    for (name, value) in [("a", item("a", "v")), ("b", item("b", "v").if_etag("5"))] {
        let _: String = redis.command(&["SET", &format!("orders||{name}"), "100"]).await;
        store.save(value).await.unwrap();
        assert_eq!(redis.hash(&format!("orders||{name}")).await, fields([("data", "v"), ("version", "1")]));
    }
}

#[tokio::test]
async fn a_plain_string_is_deleted() {
    let Setup { redis, store, .. } = &setup().await;
    let _: String = redis.command(&["SET", "orders||k", "100"]).await;
    store.delete(key("k").if_etag("5")).await.unwrap();
    assert_eq!(redis.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_time_to_live_is_redis_s_own() {
    let Setup { redis, store, .. } = &setup().await;
    let remaining = async || redis.command::<i64>(&["TTL", "orders||k"]).await;

    store.save(item("k", "v").ttl(1000)).await.unwrap();
    assert!((900..=1000).contains(&remaining().await));
    store.save(item("k", "v")).await.unwrap();
    assert!((900..=1000).contains(&remaining().await), "a save that says nothing leaves it");
    store.save(item("k", "v").ttl(2000)).await.unwrap();
    assert!((1900..=2000).contains(&remaining().await));
    store.save(item("k", "v").ttl(-1)).await.unwrap();
    assert_eq!(remaining().await, -1, "minus one takes it away");
    store.transaction(vec![upsert(item("k", "v").ttl(1000))]).await.unwrap();
    assert!((900..=1000).contains(&remaining().await));
    store.transaction(vec![upsert(item("k", "v").ttl(-1))]).await.unwrap();
    assert_eq!(remaining().await, -1);
}

#[tokio::test]
async fn the_component_s_time_to_live_is_the_default() {
    let Setup { redis, store, .. } = &setup_with(&[("ttlInSeconds", "1000")]).await;
    let remaining = async |key: &str| redis.command::<i64>(&["TTL", key]).await;
    store.save(item("k", "v")).await.unwrap();
    assert!((900..=1000).contains(&remaining("orders||k").await));
    store.save(item("k", "v").ttl(5000)).await.unwrap();
    assert!((4900..=5000).contains(&remaining("orders||k").await), "the item's own comes first");
    store.transaction(vec![upsert(item("t", "v"))]).await.unwrap();
    assert!((900..=1000).contains(&remaining("orders||t").await));
}

#[tokio::test]
async fn strong_consistency_without_replicas_waits_for_nobody() {
    let Setup { redis, store, .. } = &setup().await;
    store.save(item("k", "v").strong()).await.unwrap();
    assert_eq!(redis.hash("orders||k").await, fields([("data", "v"), ("version", "1")]));
}

#[tokio::test]
async fn an_item_of_a_failed_transaction_s_other_operations_stays() {
    let Setup { redis, store, .. } = &setup().await;
    store.save(item("guarded", "1")).await.unwrap();
    let result = store.transaction(vec![upsert(item("other", "2")), upsert(item("guarded", "2").if_etag("9"))]).await;
    expect_status(result, Code::Internal, "error while executing state transaction: ");
    assert_eq!(
        redis.hash("orders||other").await,
        fields([("data", "2"), ("version", "1")]),
        "Redis rolls nothing back"
    );
    assert_eq!(redis.hash("orders||guarded").await, fields([("data", "1"), ("version", "1")]));
}
