//! The filter as it is built and put into an Envoy: the two builds answer alike, and what is missing around it is told.

use envoy_runtime_proto::dapr::runtime::v1::{GetSecretRequest, TryLockRequest, UnlockRequest};
use integration_tests::wire::{Connection, frame};
use integration_tests::{Config, Dialect, Envoy, Store};
use prost::Message;
use serde_json::Value;
use tonic::Code;

const DAPR: &str = "dapr.proto.runtime.v1.Dapr";
const LAYOTTO: &str = "spec.proto.runtime.v1.Runtime";

/// The methods of all blocks but state, with a request that names a store.
fn calls() -> Vec<(String, Vec<u8>)> {
    let named = GetSecretRequest { store_name: "s".into(), ..Default::default() }.encode_to_vec();
    let unlock = UnlockRequest { store_name: "s".into(), resource_id: "r".into(), lock_owner: "o".into() };
    let lock = |expiry_in_seconds| {
        let (store_name, resource_id, lock_owner) = ("s".into(), "r".into(), "o".into());
        TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds }.encode_to_vec()
    };
    let mut calls = Vec::new();
    for (service, methods) in [
        (DAPR, ["GetSecret", "GetBulkSecret", "GetConfiguration", "GetConfigurationAlpha1"].as_slice()),
        (DAPR, &["SubscribeConfiguration", "SubscribeConfigurationAlpha1", "UnsubscribeConfiguration"]),
        (LAYOTTO, &["GetSecret", "GetBulkSecret", "GetNextId", "GetConfiguration", "SaveConfiguration"]),
        (LAYOTTO, &["DeleteConfiguration", "SubscribeConfiguration"]),
    ] {
        calls.extend(methods.iter().map(|method| (format!("/{service}/{method}"), named.clone())));
    }
    for (service, alpha) in [(DAPR, "Alpha1"), (LAYOTTO, "")] {
        for expiry in [1, 0, -1] {
            calls.push((format!("/{service}/TryLock{alpha}"), lock(expiry)));
        }
        calls.push((format!("/{service}/Unlock{alpha}"), unlock.encode_to_vec()));
    }
    calls.push((format!("/{LAYOTTO}/LockKeepAlive"), lock(1)));
    calls
}

#[tokio::test]
async fn a_block_without_a_component_is_refused_alike() {
    let state = Config::new("orders").component("statestore", "state.in-memory", &[]);
    let small = Envoy::start(state.clone()).await;
    let full = Envoy::start(state.component("other", "state.etcd", &[("endpoints", "127.0.0.1:1")])).await;
    let (small, full) = (Connection::open(small.dapr_grpc).await, Connection::open(full.dapr_grpc).await);
    for (path, request) in calls() {
        let said = small.unary(&path, &[], frame(&request)).await.status();
        let expected = full.unary(&path, &[], frame(&request)).await.status();
        // Dapr tells by a field that there is no such subscription.
        assert_eq!(said.code() == Code::Ok, path.ends_with("/UnsubscribeConfiguration"), "{path}");
        assert_eq!(said.code(), expected.code(), "{path}: {said:?}");
        assert_eq!(said.message(), expected.message(), "{path}");
        assert_eq!(said.details(), expected.details(), "{path}");
        let broken = small.unary(&path, &[], frame(b"\xff")).await.status();
        assert_eq!(broken.code(), Code::InvalidArgument, "{path}: {broken:?}");
    }
}

#[tokio::test]
async fn a_lua_filter_that_is_missing_is_told() {
    let config = Config::new("orders").component("statestore", "state.in-memory", &[]);
    let envoy = Envoy::start(config.change_bootstrap(|bootstrap, _| {
        for listener in bootstrap["static_resources"]["listeners"].as_array_mut().unwrap() {
            let filters = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters");
            if let Some(filters) = filters.and_then(Value::as_array_mut) {
                filters.retain(|filter| filter["name"] != "body");
            }
        }
    }))
    .await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    let status = store.get("k").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert!(status.message().contains("render the configuration again"), "{status:?}");
    // A failure needs no body.
    let store = Store::new(envoy.client(Dialect::Dapr).await, "other");
    assert_eq!(store.get("k").await.unwrap_err().code(), Code::InvalidArgument);
}
