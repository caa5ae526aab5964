//! An Envoy about which nothing has happened for a while: the time that its filter goes by is that of now.

use std::time::{Duration, Instant};

use envoy_runtime_proto::grpc::health::v1::HealthCheckRequest;
use envoy_runtime_proto::grpc::health::v1::health_client::HealthClient;
use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::{Config, Dialect, Envoy, Store};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// Longer than any limit here, and than the timers that a worker has when nothing happens.
const IDLE: Duration = Duration::from_secs(50);

type Watch = Streaming<envoy_runtime_proto::grpc::health::v1::HealthCheckResponse>;

/// A stream that lasts until its deadline. Its first message has come.
async fn watch(envoy: &Envoy, deadline: Duration) -> Watch {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.dapr_grpc)).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut request = Request::new(HealthCheckRequest::default());
    // By hand: a client library would end the call itself.
    request.metadata_mut().insert("grpc-timeout", format!("{}m", deadline.as_millis()).parse().unwrap());
    let mut watch = client.watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    watch
}

#[tokio::test]
async fn a_stream_has_all_of_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let envoy = Envoy::start(Config::new("app").component("statestore", "state.in-memory", &[])).await;
    tokio::time::sleep(IDLE).await;
    let start = Instant::now();
    let mut watch = watch(&envoy, DEADLINE).await;
    let status: Status = watch.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let took = start.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(10), "it ended after {took:?}");
}

#[tokio::test]
async fn a_far_timer_holds_up_no_other() {
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").set("limits", json!({"timeout": "2s"})).component(
        "statestore",
        "state.redis",
        &[("redisHost", &redis.address())],
    );
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    store.save(item("k", "v")).await.unwrap();
    redis.pause().await;
    tokio::time::sleep(IDLE).await;
    let _far = watch(&envoy, Duration::from_secs(50)).await;
    for _ in 0..2 {
        let start = Instant::now();
        let status = store.get("k").await.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status}");
        assert!(start.elapsed() < Duration::from_secs(12), "the call took {:?}", start.elapsed());
    }
}
