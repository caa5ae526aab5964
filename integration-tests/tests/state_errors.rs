//! What a state call answers when it cannot be served: codes, texts and Dapr's error details.

use std::fmt::Debug;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1::{ConversationRequest, GetStateRequest};
use envoy_runtime_proto::spec::runtime::v1::SayHelloRequest;
use integration_tests::redis::{Options, Redis};
use integration_tests::status::{expect_reason, expect_status};
use integration_tests::store::{ItemOptions, delete, item, key, upsert};
use integration_tests::{Config, Dialect, Envoy, Store};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Every state call on the store, by name, with the error it gives.
async fn every_call(store: &Store) -> Vec<(&'static str, Status)> {
    fn error<T: Debug>(result: Result<T, Status>) -> Status {
        result.expect_err("the call is refused")
    }
    vec![
        ("GetState", error(store.get("k").await)),
        ("GetBulkState", error(store.bulk_get(&["k"], 0).await)),
        ("SaveState", error(store.save(item("k", "v")).await)),
        ("DeleteState", error(store.delete(key("k")).await)),
        ("DeleteBulkState", error(store.bulk_delete(vec![key("k")]).await)),
        ("ExecuteStateTransaction", error(store.transaction(vec![upsert(item("k", "v"))]).await)),
    ]
}

fn expect(call: &str, status: &Status, code: Code, text: &str) {
    assert_eq!((status.code(), status.message()), (code, text), "{call}");
}

#[tokio::test]
async fn without_any_store_nothing_is_configured() {
    let envoy = Envoy::start(Config::new("orders")).await;
    for dialect in Dialect::ALL {
        let store = Store::new(envoy.client(dialect).await, "nowhere");
        for (call, status) in every_call(&store).await {
            match dialect {
                Dialect::Dapr => {
                    expect(call, &status, Code::FailedPrecondition, "state store nowhere is not configured");
                    expect_reason(&status, "DAPR_STATE_NOT_CONFIGURED");
                }
                Dialect::Layotto => expect(call, &status, Code::FailedPrecondition, "state store is not configured"),
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_store_is_not_found() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    for dialect in Dialect::ALL {
        let store = Store::new(envoy.client(dialect).await, "nowhere");
        for (call, status) in every_call(&store).await {
            expect(call, &status, Code::InvalidArgument, "state store nowhere is not found");
            if dialect == Dialect::Dapr {
                expect_reason(&status, "DAPR_STATE_NOT_FOUND");
            }
        }
    }
}

#[tokio::test]
async fn a_store_in_whose_scopes_the_app_is_not_is_not_found() {
    let component =
        |name: &str, scopes: &[&str]| serde_json::json!({"name": name, "type": "state.in-memory", "scopes": scopes});
    let config = Config::new("orders")
        .component_document(component("ours", &["orders", "billing"]))
        .component_document(component("theirs", &["billing"]));
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    Store::new(client.clone(), "ours").save(item("k", "v")).await.unwrap();
    let theirs = Store::new(client, "theirs");
    expect_status(theirs.get("k").await, Code::InvalidArgument, "state store theirs is not found");
}

#[tokio::test]
async fn a_key_must_not_hold_the_separator_of_prefixes() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    for dialect in Dialect::ALL {
        let store = Store::new(envoy.client(dialect).await, "statestore");
        let text = "input key/keyPrefix 'a||b' can't contain '||'";
        let code = match dialect {
            Dialect::Dapr => Code::InvalidArgument,
            Dialect::Layotto => Code::Unknown,
        };
        let calls = [
            expect_status(store.get("a||b").await, code, text),
            expect_status(store.bulk_get(&["a||b"], 0).await, code, text),
            expect_status(store.save(item("a||b", "v")).await, code, text),
            expect_status(store.delete(key("a||b")).await, code, text),
            expect_status(store.bulk_delete(vec![key("a||b")]).await, code, text),
            expect_status(store.transaction(vec![delete(key("a||b"))]).await, code, text),
        ];
        if dialect == Dialect::Dapr {
            for status in calls {
                expect_reason(&status, "DAPR_STATE_ILLEGAL_KEY");
                let resource = status.get_details_resource_info().expect("the store is named");
                assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("state", "statestore"));
            }
        }
    }
}

#[tokio::test]
async fn dapr_wants_a_key_to_save_under() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    expect_status(store.save(item("", "v")).await, Code::InvalidArgument, "state key cannot be empty");
}

#[tokio::test]
async fn dapr_says_when_the_json_is_none() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    let status = store.save(item("k", "{not json").json()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert_eq!(store.value("k").await, "");
}

#[tokio::test]
async fn a_store_that_is_down_makes_a_call_unavailable() {
    let mut redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").component("statestore", "state.redis", &[("redisHost", &redis.address())]);
    let envoy = Envoy::start(config).await;
    redis.kill().await;
    for dialect in Dialect::ALL {
        let store = Store::new(envoy.client(dialect).await.with_deadline(Duration::from_secs(10)), "statestore");
        let calls = [
            store.get("k").await.map(|_| ()),
            store.save(item("k", "v")).await,
            store.delete(key("k")).await,
            store.bulk_delete(vec![key("k")]).await,
            store.transaction(vec![upsert(item("k", "v"))]).await,
        ];
        for call in calls {
            expect_status(call, Code::Unavailable, "");
        }
        let items = store.bulk_get(&["k", "l"], 0).await.expect("a bulk get says it item by item");
        assert!(items.len() == 2 && items.iter().all(|item| !item.error.is_empty()), "{items:?}");
    }
}

#[tokio::test]
async fn what_redis_says_is_handed_on() {
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").component(
        "statestore",
        "state.redis",
        &[("redisHost", &redis.address()), ("keyPrefix", "none")],
    );
    let envoy = Envoy::start(config).await;
    // What no runtime has written, and is neither a hash nor a text.
    let _: i64 = redis.command(&["RPUSH", "odd", "value"]).await;
    for dialect in Dialect::ALL {
        let store = Store::new(envoy.client(dialect).await, "statestore");
        let status =
            expect_status(store.get("odd").await, Code::Internal, "fail to get odd from state store statestore: ");
        assert!(status.message().len() > "fail to get odd from state store statestore: ".len(), "{status}");
        let items = store.bulk_get(&["odd"], 0).await.unwrap();
        assert!(items[0].data.is_empty() && !items[0].error.is_empty(), "{items:?}");
    }
}

#[tokio::test]
async fn a_method_that_is_not_served_names_itself() {
    let envoy = Envoy::start(Config::new("orders")).await;
    let client = envoy.client(Dialect::Dapr).await;
    expect_status(
        client.dapr().converse_alpha1(ConversationRequest::default()).await,
        Code::Unimplemented,
        "ConverseAlpha1",
    );
    expect_status(client.layotto().say_hello(SayHelloRequest::default()).await, Code::Unimplemented, "SayHello");
}

#[tokio::test]
async fn an_error_text_may_hold_any_character() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    let client = envoy.client(Dialect::Dapr).await;
    let name = "ключ 100%\n✓";
    let request = GetStateRequest { store_name: name.into(), ..Default::default() };
    let status = client.get_state(request).await.unwrap_err();
    assert_eq!(status.message(), format!("state store {name} is not found"));
    assert_eq!(client.get_state(GetStateRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_refused_and_what_was_saved_can_be_read() {
    for (limit, size) in [(4 << 20, 4_100_000), (20 << 20, 20_000_000)] {
        let config = Config::new("orders").set("limits", serde_json::json!({"maxRequestBytes": limit}));
        let envoy = Envoy::start(config.component("statestore", "state.in-memory", &[])).await;
        for dialect in Dialect::ALL {
            let store = Store::new(envoy.client(dialect).await, "statestore");
            let keys = ["a", "b", "c", "d", "e"];
            for key in keys {
                store.save(item(key, "x".repeat(size))).await.unwrap();
                assert_eq!(store.get(key).await.unwrap().data.len(), size);
            }
            expect_status(store.bulk_get(&keys, 0).await, Code::ResourceExhausted, "ask for fewer items");
        }
        envoy.assert_no_filter_crashed().await;
    }
}
