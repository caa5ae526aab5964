//! What an SDK needs to start: metadata, health, the HTTP endpoints, tokens, and where the API listens.

use envoy_runtime_proto::dapr::runtime::v1::{GetMetadataRequest, GetMetadataResponse, SetMetadataRequest};
use envoy_runtime_proto::grpc::health::v1::HealthCheckRequest;
use envoy_runtime_proto::grpc::health::v1::health_check_response::ServingStatus;
use envoy_runtime_proto::grpc::health::v1::health_client::HealthClient;
use http::Method;
use integration_tests::store::item;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Client, Config, Dialect, Envoy, Store, http1};
use serde_json::{Value, json};
use tonic::Code;

async fn envoy() -> Envoy {
    let config = Config::new("orders").component("statestore", "state.in-memory", &[]).component(
        "redis",
        "state.redis",
        &[("redisHost", "127.0.0.1:1")],
    );
    Envoy::start(config).await
}

async fn metadata(client: &Client) -> GetMetadataResponse {
    client.dapr().get_metadata(client.request(GetMetadataRequest {})).await.unwrap().into_inner()
}

#[tokio::test]
async fn metadata_lists_the_components() {
    let envoy = envoy().await;
    let metadata = metadata(&envoy.client(Dialect::Dapr).await).await;
    assert_eq!(metadata.id, "orders");
    assert_ne!(metadata.runtime_version, "");
    assert_eq!(metadata.extended_metadata.get("daprRuntimeVersion"), Some(&metadata.runtime_version));
    let components: Vec<_> = metadata
        .registered_components
        .iter()
        .map(|c| (c.name.as_str(), c.r#type.as_str(), c.version.as_str()))
        .collect();
    assert_eq!(components, [("statestore", "state.in-memory", "v1"), ("redis", "state.redis", "v1")]);
    for component in &metadata.registered_components {
        for capability in ["ETAG", "TRANSACTIONAL", "TTL"] {
            assert!(component.capabilities.iter().any(|known| known == capability), "{component:?}");
        }
    }
}

#[tokio::test]
async fn metadata_can_be_added() {
    let envoy = envoy().await;
    let client = envoy.client(Dialect::Dapr).await;
    let request = SetMetadataRequest { key: "cliPID".into(), value: "4711 ✓".into() };
    client.dapr().set_metadata(request).await.unwrap();
    assert_eq!(metadata(&client).await.extended_metadata.get("cliPID").map(String::as_str), Some("4711 ✓"));

    let answer = envoy.http(Method::PUT, "/v1.0/metadata/appCommand", "python app.py").await;
    assert_eq!(answer.status(), 204);
    let extended = metadata(&client).await.extended_metadata;
    assert_eq!(extended.get("appCommand").map(String::as_str), Some("python app.py"));
    assert_eq!(extended.get("cliPID").map(String::as_str), Some("4711 ✓"));
}

#[tokio::test]
async fn metadata_over_http_is_json() {
    let envoy = envoy().await;
    let answer = envoy.http(Method::GET, "/v1.0/metadata", "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let document: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(document["id"], "orders");
    let names: Vec<_> =
        document["components"].as_array().unwrap().iter().map(|c| (&c["name"], &c["type"], &c["version"])).collect();
    assert_eq!(
        names,
        [
            (&json!("statestore"), &json!("state.in-memory"), &json!("v1")),
            (&json!("redis"), &json!("state.redis"), &json!("v1"))
        ]
    );
    assert!(document["components"][0]["capabilities"].as_array().unwrap().contains(&json!("ETAG")));
    assert_eq!(document["extended"]["daprRuntimeVersion"], document["runtimeVersion"]);
}

#[tokio::test]
async fn health_is_answered_over_http() {
    let envoy = envoy().await;
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound", "/v1.0/healthz?appid=orders"] {
        let answer = envoy.http(Method::GET, path, "").await;
        assert_eq!((answer.status().as_u16(), answer.body().as_ref()), (204, &b""[..]), "{path}");
    }
    assert_eq!(envoy.http(Method::GET, "/v1.0/healthz?appid=other", "").await.status(), 500);
}

#[tokio::test]
async fn health_is_answered_over_grpc() {
    let envoy = envoy().await;
    for dialect in Dialect::ALL {
        let mut health = HealthClient::new(envoy.client(dialect).await.channel());
        for service in ["", "dapr.proto.runtime.v1.Dapr", "spec.proto.runtime.v1.Runtime"] {
            let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
        }
        let unknown = health.check(HealthCheckRequest { service: "my.Service".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn what_http_does_not_know_is_not_found() {
    let envoy = envoy().await;
    for path in ["/", "/v1.0", "/v1.0/nonsense", "/favicon.ico"] {
        assert_eq!(envoy.http(Method::GET, path, "").await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn both_dialects_answer_on_both_ports() {
    let envoy = envoy().await;
    for port in [envoy.dapr_grpc, envoy.layotto_grpc] {
        for dialect in Dialect::ALL {
            let store = Store::new(Client::connect(port, dialect).await, "statestore");
            store.save(item("k", format!("{port} {dialect:?}"))).await.unwrap();
            assert_eq!(store.value("k").await, format!("{port} {dialect:?}"));
        }
    }
}

#[tokio::test]
async fn the_api_token_is_asked_for() {
    let envoy =
        Envoy::start(Config::new("orders").set("apiToken", "secret").component("statestore", "state.in-memory", &[]))
            .await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await;
        for stranger in
            [client.clone(), client.clone().with_api_token("wrong"), client.clone().with_api_token("secret2")]
        {
            let status = Store::new(stranger, "statestore").get("k").await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert!(!status.message().contains("secret"), "{status}");
        }
        let store = Store::new(client.with_api_token("secret"), "statestore");
        store.save(item("k", "v")).await.unwrap();
        assert_eq!(store.value("k").await, "v");
    }
    // Health is for everyone, as with Dapr; metadata is not.
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound"] {
        assert_eq!(envoy.http(Method::GET, path, "").await.status(), 204, "{path}");
    }
    let refused = envoy.http(Method::GET, "/v1.0/metadata", "").await;
    assert_eq!((refused.status().as_u16(), refused.body().as_ref()), (401, &b"invalid api token\n"[..]));
    let token = [("dapr-api-token", "secret")];
    let answer = http1::request(envoy.dapr_http, Method::GET, "/v1.0/metadata", &token, "").await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn unix_sockets_serve_as_listeners() {
    let directory = integration_tests::scratch::directory("sockets");
    let [layotto, dapr, http] = ["layotto", "dapr", "http"].map(|name| directory.path().join(name));
    let config = Config::new("orders")
        .component("statestore", "state.in-memory", &[])
        .listener("layottoGrpc", &format!("unix://{}", layotto.display()))
        .listener("daprGrpc", &format!("unix://{}", dapr.display()))
        .listener("daprHttp", &format!("unix://{}", http.display()));
    let _envoy = Envoy::start(config).await;
    for (socket, dialect) in [(&dapr, Dialect::Dapr), (&layotto, Dialect::Layotto), (&dapr, Dialect::Layotto)] {
        let store = Store::new(Client::connect_to_socket(socket.clone(), dialect).await, "statestore");
        store.save(item("k", "v")).await.unwrap();
        assert_eq!(store.value("k").await, "v");
    }
    let answer = http1::request_on_socket(&http, Method::GET, "/v1.0/healthz/outbound").await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn a_listener_may_be_off() {
    let config = Config::new("orders")
        .component("statestore", "state.in-memory", &[])
        .listener("layottoGrpc", "off")
        .listener("daprHttp", "off");
    let envoy = Envoy::start(config).await;
    Store::new(envoy.client(Dialect::Dapr).await, "statestore").save(item("k", "v")).await.unwrap();
    let (_, listeners) = http1::get(envoy.admin, "/listeners").await.unwrap();
    assert!(
        listeners.contains("dapr_grpc::")
            && !listeners.contains("layotto_grpc::")
            && !listeners.contains("dapr_http::"),
        "{listeners}"
    );
}

#[tokio::test]
async fn envoy_refuses_a_configuration_that_the_filter_does_not_know() {
    // The CLI would not render it: the mistake is put into the bootstrap past it.
    let config =
        Config::new("orders").component("statestore", "state.in-memory", &[]).change_bootstrap(|bootstrap, _| {
            let text = bootstrap.to_string().replace("state.in-memory", "state.in-memroy");
            *bootstrap = serde_json::from_str(&text).unwrap();
        });
    let log = Envoy::refuses(config).await;
    assert!(log.contains("state.in-memroy"), "the log says what is wrong:\n{log}");
}

#[tokio::test]
async fn calls_are_counted() {
    let envoy = envoy().await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    store.save(item("k", "v")).await.unwrap();
    for _ in 0..5 {
        store.get("k").await.unwrap();
    }
    store.save(item("k", "v")).await.unwrap();
    store.get("a||b").await.unwrap_err();
    let stats = envoy.stats().await;
    let count = |name: &str| stats.get(&format!("wasmcustom.runtime.requests.state.statestore.{name}")).copied();
    assert_eq!(count("GetState.OK"), Some(5));
    assert_eq!(count("SaveState.OK"), Some(2));
    assert_eq!(count("GetState.INVALID_ARGUMENT"), Some(1));
    let (_, histograms) = http1::get(envoy.admin, "/stats?type=Histograms").await.unwrap();
    assert!(histograms.contains("wasmcustom.runtime.duration_us.state.statestore.GetState: "), "{histograms}");
}

#[tokio::test]
async fn prometheus_sees_labels() {
    let envoy = envoy().await;
    Store::new(envoy.client(Dialect::Dapr).await, "statestore").get("k").await.unwrap();
    let (_, text) = http1::get(envoy.admin, "/stats/prometheus").await.unwrap();
    let line =
        text.lines().find(|line| line.contains("requests") && line.contains(r#"component="statestore""#)).expect(&text);
    for label in [r#"block="state""#, r#"method="GetState""#, r#"status="OK""#] {
        assert!(line.contains(label), "{line}");
    }
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test]
async fn a_request_that_is_not_grpc_is_told_so() {
    let envoy = envoy().await;
    let connection = Connection::open(envoy.dapr_grpc).await;
    let answer = connection
        .unary("/dapr.proto.runtime.v1.Dapr/GetState", &[("content-type", "application/json")], frame(b""))
        .await;
    assert!((400..500).contains(&answer.http_status), "{answer:?}");
}
