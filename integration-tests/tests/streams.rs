//! Streaming calls over a real Envoy: the app's stream, the bus, and the filter that sends to it at any time.

use std::process::Command;
use std::time::Duration;

use envoy_runtime_proto::grpc::health::v1::health_check_response::ServingStatus;
use envoy_runtime_proto::grpc::health::v1::health_client::HealthClient;
use envoy_runtime_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use envoy_runtime_proto::grpc::reflection::v1::ServerReflectionRequest;
use envoy_runtime_proto::grpc::reflection::v1::server_reflection_client::ServerReflectionClient;
use envoy_runtime_proto::grpc::reflection::v1::server_reflection_request::MessageRequest;
use futures::channel::mpsc;
use integration_tests::{Client, Config, Configuration, Dialect, Envoy, installed, ports};
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

async fn envoy() -> Envoy {
    Envoy::start(Config::new("app").component("statestore", "state.in-memory", &[])).await
}

async fn health(envoy: &Envoy) -> HealthClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.dapr_grpc)).unwrap();
    HealthClient::new(endpoint.connect().await.unwrap())
}

async fn watch(envoy: &Envoy, service: &str) -> Streaming<HealthCheckResponse> {
    health(envoy).await.watch(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner()
}

fn list() -> ServerReflectionRequest {
    ServerReflectionRequest { message_request: Some(MessageRequest::ListServices(String::new())), ..Default::default() }
}

#[tokio::test]
async fn health_is_watched() {
    let envoy = envoy().await;
    for (service, expected) in [("", ServingStatus::Serving), ("no.such.Service", ServingStatus::ServiceUnknown)] {
        let mut watch = watch(&envoy, service).await;
        assert_eq!(watch.message().await.unwrap().unwrap().status(), expected);
        let more = tokio::time::timeout(Duration::from_millis(300), watch.message()).await;
        assert!(more.is_err(), "the stream stays open: {more:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_that_the_app_gave() {
    let envoy = envoy().await;
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut watch = health(&envoy).await.watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let status: Status = watch.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("300ms"), "{status}");
}

#[tokio::test]
async fn requests_are_answered_one_by_one_and_the_stream_ends_with_the_app() {
    let envoy = envoy().await;
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.layotto_grpc)).unwrap();
    let mut reflection = ServerReflectionClient::new(endpoint.connect().await.unwrap());
    let (sender, requests) = mpsc::unbounded();
    sender.unbounded_send(list()).unwrap(); // the response begins with the first message
    let mut responses = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    for _ in 0..100 {
        assert!(responses.message().await.unwrap().is_some());
        sender.unbounded_send(list()).unwrap();
    }
    assert!(responses.message().await.unwrap().is_some());
    drop(sender);
    assert!(responses.message().await.unwrap().is_none(), "half-closed: the stream ends with OK");
}

#[tokio::test]
async fn a_stream_without_a_message_is_answered_with_a_status() {
    let envoy = envoy().await;
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.layotto_grpc)).unwrap();
    let mut reflection = ServerReflectionClient::new(endpoint.connect().await.unwrap());
    let nothing = futures::stream::empty::<ServerReflectionRequest>();
    let mut responses = reflection.server_reflection_info(nothing).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().is_none());
}

/// Two listeners with filters of their own on one worker, as an Envoy that serves two apps has them.
#[tokio::test]
async fn a_stream_is_served_by_the_configuration_of_its_listener() {
    let port = ports::free_port();
    let config = Config::new("app").component("firststore", "configuration.in-memory", &[]);
    let envoy = Envoy::start(config.change_bootstrap(move |bootstrap, _| {
        let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
        let first = listeners.iter().find(|listener| listener["name"] == "dapr_grpc").unwrap();
        let filter = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/root_id";
        let id = first.pointer(filter).and_then(Value::as_str).unwrap();
        let text = first.to_string().replace(id, "runtime-other").replace("firststore", "secondstore");
        let mut second: Value = serde_json::from_str(&text).unwrap();
        second["name"] = "second".into();
        second["address"]["socket_address"]["port_value"] = port.into();
        listeners.push(second);
    }))
    .await;
    let first = envoy.client(Dialect::Dapr).await;
    let second = Client::connect(port, Dialect::Dapr).await;
    for _ in 0..3 {
        for (client, own, others) in [(&first, "firststore", "secondstore"), (&second, "secondstore", "firststore")] {
            let mut stream = Configuration::new(client.clone(), own, "").stream(&[]).await.unwrap();
            assert!(!stream.message().await.unwrap().unwrap().id.is_empty());
            let refused = Configuration::new(client.clone(), others, "").stream(&[]).await.unwrap_err();
            assert_ne!(refused.code(), Code::Unavailable, "{refused}");
            assert!(refused.message().contains(others), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_no_route_leads_to_the_bus_is_told_why() {
    let config = Config::new("app").change_bootstrap(|bootstrap, _| {
        for listener in bootstrap["static_resources"]["listeners"].as_array_mut().unwrap() {
            let routes = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
            if let Some(routes) = listener.pointer_mut(routes).and_then(Value::as_array_mut) {
                routes.retain(|route| route["match"]["path"].is_null());
            }
        }
    });
    let envoy = Envoy::start(config).await;
    let status = health(&envoy).await.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert!(status.message().contains("render Envoy's configuration again"), "{status}");
}

#[tokio::test]
async fn streams_that_come_and_go_leave_nothing() {
    let envoy = envoy().await;
    let mut before = 0;
    for round in 0..60 {
        // Envoy ends a connection on which it has seen several hundred streams be reset soon after they began.
        let mut client = health(&envoy).await;
        for _ in 0..200 {
            let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
            assert!(watch.message().await.unwrap().is_some());
        }
        if round == 10 {
            before = envoy.stat("server.memory_allocated").await;
        }
    }
    let after = envoy.stat("server.memory_allocated").await;
    assert!(after < before + 8 * 1024 * 1024, "{before} bytes, then {after}");
    let active = envoy.stat("cluster.runtime_bus.upstream_rq_active").await;
    assert!(active <= 2, "{active} streams are left on the bus");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn grpcurl_lists_describes_and_calls() {
    let envoy = envoy().await;
    let address = format!("127.0.0.1:{}", envoy.dapr_grpc);
    let grpcurl = |arguments: &[&str]| {
        let output = Command::new(installed::grpcurl())
            .args(["-plaintext", "-max-time", "10"])
            .args(arguments)
            .output()
            .expect("grpcurl runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let services = grpcurl(&[&address, "list"]);
    for service in ["dapr.proto.runtime.v1.Dapr", "spec.proto.runtime.v1.Runtime", "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{services}");
        let methods = grpcurl(&[&address, "list", service]);
        for method in methods.lines() {
            assert!(grpcurl(&[&address, "describe", method]).contains("rpc "), "{method}");
        }
    }
    let data = r#"{"store_name": "statestore", "states": [{"key": "k", "value": "dg=="}]}"#;
    grpcurl(&["-d", data, &address, "dapr.proto.runtime.v1.Dapr/SaveState"]);
    let found = grpcurl(&[
        "-d",
        r#"{"store_name": "statestore", "key": "k"}"#,
        &address,
        "dapr.proto.runtime.v1.Dapr/GetState",
    ]);
    assert!(found.contains(r#""data": "dg==""#), "{found}");
}
