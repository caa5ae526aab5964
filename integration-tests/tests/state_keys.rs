//! Under which key an item lies in the store: `keyPrefix`, and the defaults of the two dialects.

use integration_tests::redis::{Options, Redis};
use integration_tests::store::{delete, item, key, upsert};
use integration_tests::{Config, Dialect, Envoy, Store};

/// Saves under `k` in each dialect, in each way there is, and tells the keys that Redis then has.
async fn keys_in_redis(metadata: &[(&str, &str)]) -> [Vec<String>; 2] {
    let redis = Redis::start(Options::default()).await;
    let address = redis.address();
    let metadata: Vec<_> = metadata.iter().copied().chain([("redisHost", address.as_str())]).collect();
    let config = Config::new("orders").set("namespace", "shop").component("statestore", "state.redis", &metadata);
    let envoy = Envoy::start(config).await;
    let mut found = vec![];
    for dialect in [Dialect::Dapr, Dialect::Layotto] {
        let store = Store::new(envoy.client(dialect).await, "statestore");
        store.save(item("k", "v")).await.unwrap();
        store.transaction(vec![upsert(item("t", "v")), upsert(item("gone", "v")), delete(key("gone"))]).await.unwrap();
        found.push(redis.keys().await);

        assert_eq!(store.value("k").await, "v");
        let names: Vec<_> = store.bulk_get(&["k", "t"], 0).await.unwrap().into_iter().map(|item| item.key).collect();
        assert_eq!(names, ["k", "t"], "the app sees its own keys");
        store.delete(key("k")).await.unwrap();
        store.bulk_delete(vec![key("t")]).await.unwrap();
        assert_eq!(redis.keys().await, Vec::<String>::new(), "they are deleted where they were saved");
    }
    found.try_into().unwrap()
}

#[tokio::test]
async fn by_default_dapr_prefixes_the_app_id_and_layotto_nothing() {
    assert_eq!(keys_in_redis(&[]).await, [["orders||k", "orders||t"], ["k", "t"]]);
}

#[tokio::test]
async fn none_is_the_key_itself() {
    assert_eq!(keys_in_redis(&[("keyPrefix", "none")]).await, [["k", "t"], ["k", "t"]]);
}

#[tokio::test]
async fn appid_is_the_app_id() {
    assert_eq!(
        keys_in_redis(&[("keyPrefix", "appid")]).await,
        [["orders||k", "orders||t"], ["orders||k", "orders||t"]]
    );
}

#[tokio::test]
async fn name_is_the_name_of_the_store() {
    let expected = ["statestore||k", "statestore||t"];
    assert_eq!(keys_in_redis(&[("keyPrefix", "name")]).await, [expected, expected]);
}

#[tokio::test]
async fn namespace_is_dapr_s_namespace_and_app_id() {
    let [dapr, layotto] = keys_in_redis(&[("keyPrefix", "namespace")]).await;
    assert_eq!(dapr, ["shop.orders||k", "shop.orders||t"]);
    assert_eq!(layotto, ["namespace||k", "namespace||t"], "to Layotto this is a text like any other");
}

#[tokio::test]
async fn any_other_text_is_the_prefix() {
    let expected = ["shared||k", "shared||t"];
    assert_eq!(keys_in_redis(&[("keyPrefix", "shared")]).await, [expected, expected]);
}

#[tokio::test]
async fn a_word_with_a_meaning_is_read_without_regard_to_case() {
    assert_eq!(
        keys_in_redis(&[("keyPrefix", "AppID")]).await,
        [["orders||k", "orders||t"], ["orders||k", "orders||t"]]
    );
}

#[tokio::test]
async fn the_name_of_the_field_is_read_without_regard_to_case() {
    assert_eq!(keys_in_redis(&[("KEYPREFIX", "none")]).await, [["k", "t"], ["k", "t"]]);
}

#[tokio::test]
async fn with_the_same_prefix_the_dialects_share_their_data() {
    let config = Config::new("orders").component("statestore", "state.in-memory", &[("keyPrefix", "appid")]);
    let envoy = Envoy::start(config).await;
    let dapr = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    let layotto = Store::new(envoy.client(Dialect::Layotto).await, "statestore");
    dapr.save(item("k", "from Dapr")).await.unwrap();
    assert_eq!(layotto.value("k").await, "from Dapr");
    layotto.delete(key("k")).await.unwrap();
    assert_eq!(dapr.value("k").await, "");
}

#[tokio::test]
async fn two_stores_do_not_share_their_data() {
    let config = Config::new("orders").component("one", "state.in-memory", &[("keyPrefix", "none")]).component(
        "two",
        "state.in-memory",
        &[("keyPrefix", "none")],
    );
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    Store::new(client.clone(), "one").save(item("k", "v")).await.unwrap();
    assert_eq!(Store::new(client, "two").value("k").await, "");
}
