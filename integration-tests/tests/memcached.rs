//! `state.memcached` and real servers: how data lies there, what they have no room for, and what happens when one is
//! gone.

use integration_tests::status::expect_status;
use integration_tests::store::{ItemOptions, item};
use integration_tests::{Config, Dialect, Envoy, Memcached, Store, wait};
use tonic::Code;

async fn store(servers: &[&Memcached]) -> (Envoy, Store) {
    let hosts = servers.iter().map(|server| server.address()).collect::<Vec<_>>().join(",");
    let config = Config::new("orders").component("statestore", "state.memcached", &[("hosts", &hosts)]);
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    (envoy, store)
}

#[tokio::test]
async fn values_lie_as_they_are_and_what_others_wrote_is_read() {
    let memcached = Memcached::start().await;
    let (envoy, store) = store(&[&memcached]).await;
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(memcached.say("get orders||k\r\n").await, "VALUE orders||k 0 1\r\nv\r\nEND\r\n");
    // Another client may have set flags.
    assert_eq!(memcached.say("set orders||theirs 7 0 2\r\nab\r\n").await, "STORED\r\n");
    assert_eq!(store.value("theirs").await, "ab");
    store.save(item("far", "v").ttl(40 * 24 * 3600)).await.unwrap();
    assert_eq!(store.value("far").await, "v", "the time of day is right");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn keys_are_spread_as_other_clients_do() {
    let servers = [Memcached::start().await, Memcached::start().await, Memcached::start().await];
    let (_envoy, store) = store(&servers.each_ref()).await;
    // CRC-32 (IEEE) modulo 3, as Python's zlib.crc32 has it.
    let places = [("k", 1), ("a", 0), ("i", 2), ("order-2", 1)];
    for (key, place) in places {
        store.save(item(key, "v")).await.unwrap();
        for (number, server) in servers.iter().enumerate() {
            let said = server.say(&format!("get orders||{key}\r\n")).await;
            assert_eq!(said.starts_with("VALUE"), number == place, "{key} at {number}");
        }
    }
}

#[tokio::test]
async fn values_of_nearly_a_mebibyte_and_over() {
    let memcached = Memcached::start().await;
    let (envoy, store) = store(&[&memcached]).await;
    let large = vec![b'\n'; 1_048_000];
    store.save(item("k", large.clone())).await.unwrap();
    assert_eq!(store.value("k").await, large);
    let result = store.save(item("k", vec![0; 2_000_000])).await;
    expect_status(result, Code::ResourceExhausted, "memcached says: SERVER_ERROR object too large for cache");
    assert_eq!(store.value("k").await, "", "memcached has dropped the old value");
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(store.value("k").await, "v");
    assert_eq!(envoy.stat("cluster.runtime_state_statestore.upstream_cx_total").await, 1, "the connection goes on");
}

#[tokio::test]
async fn keys_of_the_longest_length() {
    let memcached = Memcached::start().await;
    let (_envoy, store) = store(&[&memcached]).await;
    let longest = "x".repeat(250 - "orders||".len());
    store.save(item(&longest, "v")).await.unwrap();
    assert_eq!(store.value(&longest).await, "v");
    let result = store.save(item(&(longest + "x"), "v")).await;
    expect_status(result, Code::InvalidArgument, "it has 251 bytes with its prefix");
}

#[tokio::test]
async fn a_server_that_was_killed_is_used_again_when_it_is_back() {
    let mut memcached = Memcached::start().await;
    let (_envoy, store) = store(&[&memcached]).await;
    store.save(item("k", "v")).await.unwrap();
    memcached.kill().await;
    let status = store.get("k").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    memcached.restart().await;
    let found = wait::eventually("it is used again", async || store.get("k").await).await;
    assert_eq!(found.data, "", "it has lost all");
}

#[tokio::test]
async fn a_stalled_server_costs_the_deadline_and_its_connection() {
    let memcached = Memcached::start().await;
    let hosts = memcached.address();
    let config = Config::new("orders").set("limits", serde_json::json!({"timeout": "500ms"})).component(
        "statestore",
        "state.memcached",
        &[("hosts", &hosts)],
    );
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    store.save(item("k", "v")).await.unwrap();
    memcached.pause().await;
    expect_status(store.get("k").await, Code::DeadlineExceeded, "has not answered within 500ms");
    memcached.resume().await;
    let found = wait::eventually("it answers again", async || store.get("k").await).await;
    assert_eq!(found.data, "v");
}
