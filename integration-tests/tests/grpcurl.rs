//! The runtime as a gRPC client sees it that shares no code with the runtime: grpcurl.

use std::process::{Command, Output};

use integration_tests::{Config, Envoy, installed};
use serde_json::{Value, json};

/// Calls a method; a failure is printed as JSON on stderr.
async fn call(envoy: &Envoy, method: &str, request: Value) -> Output {
    let mut grpcurl = Command::new(installed::grpcurl());
    grpcurl.args(["-plaintext", "-format-error", "-import-path"]).arg(installed::workspace().join("proto"));
    grpcurl.args(["-proto", "dapr/proto/runtime/v1/dapr.proto", "-d", &request.to_string()]);
    grpcurl.args([format!("127.0.0.1:{}", envoy.dapr_grpc), format!("dapr.proto.runtime.v1.Dapr/{method}")]);
    tokio::task::spawn_blocking(move || grpcurl.output()).await.unwrap().expect("grpcurl starts")
}

#[tokio::test]
async fn state() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    let states = json!([{"key": "k", "value": "dmFsdWU="}]);
    let saved = call(&envoy, "SaveState", json!({"storeName": "statestore", "states": states})).await;
    assert!(saved.status.success(), "{saved:?}");
    let got = call(&envoy, "GetState", json!({"storeName": "statestore", "key": "k"})).await;
    let reply: Value = serde_json::from_slice(&got.stdout).unwrap_or_else(|_| panic!("{got:?}"));
    assert_eq!(reply["data"], "dmFsdWU=");
}

#[tokio::test]
async fn a_failure_has_its_status_and_details() {
    let envoy = Envoy::start(Config::new("orders")).await;
    let refused = call(&envoy, "GetState", json!({"storeName": "absent", "key": "k"})).await;
    assert_eq!(refused.status.code(), Some(64 + 9), "64 and the code of gRPC, here FailedPrecondition: {refused:?}");
    let status: Value = serde_json::from_slice(&refused.stderr).unwrap_or_else(|_| panic!("{refused:?}"));
    assert_eq!(status["code"], 9);
    assert!(status["message"].as_str().unwrap().contains("absent"), "{status}");
    assert_eq!(status["details"][0]["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
}

#[tokio::test]
async fn details_are_readable_by_reflection() {
    let envoy = Envoy::start(Config::new("orders")).await;
    let mut grpcurl = Command::new(installed::grpcurl());
    grpcurl.args(["-plaintext", "-d", r#"{"storeName": "absent", "key": "k"}"#]);
    grpcurl.args([&format!("127.0.0.1:{}", envoy.dapr_grpc), "dapr.proto.runtime.v1.Dapr/GetState"]);
    let refused = tokio::task::spawn_blocking(move || grpcurl.output()).await.unwrap().expect("grpcurl starts");
    let said = String::from_utf8(refused.stderr).unwrap();
    for text in ["DAPR_STATE_NOT_CONFIGURED", "dapr.io"] {
        assert!(said.contains(text), "{said}");
    }
}
