//! An app with Dapr's SDK for Go, which sends last-write with every call that says nothing else: an etag that it gives
//! counts all the same. The app is `tools/dapr-go`.

use std::process::Command;

use integration_tests::etcd::{self, Etcd};
use integration_tests::redis::{self, Redis};
use integration_tests::{Config, Envoy, installed};
use serde_json::{Value, json};

/// What the SDK was told, a line for each call.
async fn told(config: Config) -> Vec<Value> {
    let envoy = Envoy::start(config).await;
    let mut app = Command::new(installed::dapr_go());
    app.args([&format!("127.0.0.1:{}", envoy.dapr_grpc), "statestore"]);
    // The SDK prefers what the environment says; and what a proxy of the machine would do is not the subject.
    app.env_remove("DAPR_API_TOKEN").env_remove("DAPR_GRPC_ENDPOINT").env("NO_PROXY", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || app.output()).await.unwrap().expect("the app starts");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    envoy.assert_no_filter_crashed().await;
    // The SDK logs to the same place.
    printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[track_caller]
fn expect_refused(outcome: &Value, call: &str, code: &str, reason: &str) {
    assert_eq!(
        (&outcome["call"], &outcome["code"], &outcome["reason"], &outcome["value"]),
        (&json!(call), &json!(code), &json!(reason), &json!("second")),
        "{outcome}"
    );
    // grpc-go takes the text from the details.
    assert!(outcome["text"].as_str().unwrap().contains("possible etag mismatch"), "{outcome}");
}

fn expect_removals_refused(outcomes: &[Value]) {
    let [one, many, transaction] = outcomes else { panic!("{outcomes:?}") };
    expect_refused(one, "DeleteStateWithETag", "Aborted", "ERR_STATE_DELETE");
    expect_refused(many, "DeleteBulkStateItems", "Aborted", "ERR_STATE_BULK_DELETE");
    expect_refused(transaction, "ExecuteStateTransaction", "Internal", "ERR_STATE_TRANSACTION");
}

#[tokio::test]
async fn in_memory() {
    let outcomes = told(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    expect_refused(&outcomes[0], "SaveStateWithETag", "Aborted", "ERR_STATE_SAVE");
    expect_removals_refused(&outcomes[1..]);
}

#[tokio::test]
async fn in_etcd() {
    let etcd = Etcd::start(etcd::Options::default()).await;
    let endpoints = [("endpoints", etcd.address())];
    let endpoints = endpoints.each_ref().map(|(name, value)| (*name, value.as_str()));
    let outcomes = told(Config::new("orders").component("statestore", "state.etcd", &endpoints)).await;
    expect_refused(&outcomes[0], "SaveStateWithETag", "Aborted", "ERR_STATE_SAVE");
    expect_removals_refused(&outcomes[1..]);
}

#[tokio::test]
async fn in_redis_the_last_write_alone_ignores_its_etag_as_with_dapr() {
    let redis = Redis::start(redis::Options::default()).await;
    let host = [("redisHost", redis.address())];
    let host = host.each_ref().map(|(name, value)| (*name, value.as_str()));
    let outcomes = told(Config::new("orders").component("statestore", "state.redis", &host)).await;
    assert_eq!((&outcomes[0]["code"], &outcomes[0]["value"]), (&json!("OK"), &json!("late")), "{outcomes:?}");
    expect_removals_refused(&outcomes[1..]);
}
