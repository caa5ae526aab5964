//! What becomes of streams when the filter's VM of their worker traps: they end with a status, those of the other
//! worker go on, and new ones are served though no app makes a unary call.

use std::time::{Duration, Instant};

use envoy_runtime_proto::dapr::runtime::v1::SubscribeConfigurationResponse;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Client, Config, Configuration, Dialect, Envoy, TRAP, wait, workers};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

const STORE: &str = "config";

/// What is promised, and what a loaded machine takes besides.
const LIMIT: Duration = Duration::from_secs(20);

type Subscription = Streaming<SubscribeConfigurationResponse>;

async fn subscribe(client: &Client) -> Result<Subscription, Status> {
    let mut stream = Configuration::new(client.clone(), STORE, "").stream(&["k"]).await?;
    let first = stream.message().await?.expect("the id comes first");
    assert!(!first.id.is_empty() && first.items.is_empty(), "{first:?}");
    Ok(stream)
}

/// The next value that a subscription tells.
async fn next(stream: &mut Subscription) -> Result<String, Status> {
    let message = timeout(wait::PATIENCE, stream.message()).await.expect("something is told");
    Ok(message?.expect("the stream goes on").items.remove("k").expect("the change of k").value)
}

/// Ends the VM of the worker that has this connection.
async fn trap(connection: &Connection) {
    let mut call = connection.call(TRAP, &[]).await;
    call.finish(frame(b""));
    let _ = timeout(Duration::from_secs(5), call.try_answer()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_worker_that_trapped_end_and_new_ones_are_served() {
    let config = Config::new("orders").component(STORE, "configuration.in-memory", &[]).trap().concurrency(2);
    let envoy = Envoy::start(config).await;
    let clients = workers::one_each(&envoy, async || envoy.client(Dialect::Dapr).await).await;
    let connections = workers::one_each(&envoy, async || Connection::open(envoy.dapr_grpc).await).await;
    // Writes go to the worker that lives.
    let store = Configuration::new(clients[1].clone().with_dialect(Dialect::Layotto), STORE, "");
    let (mut trapped, mut spared) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        trapped.push(subscribe(&clients[0]).await.unwrap());
        spared.push(subscribe(&clients[1]).await.unwrap());
    }
    store.save(&[("k", "1")]).await.unwrap();
    for stream in trapped.iter_mut().chain(&mut spared) {
        assert_eq!(next(stream).await.unwrap(), "1");
    }

    let start = Instant::now();
    trap(&connections[0]).await;
    for stream in &mut trapped {
        let status = next(stream).await.expect_err("it ends");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.message(), "the stream to the runtime was lost; subscribe again");
    }
    assert!(start.elapsed() < LIMIT, "after {:?}", start.elapsed());
    // Nothing but subscriptions on the worker that has trapped.
    let mut again = wait::eventually("a new subscription is served", async || subscribe(&clients[0]).await).await;
    store.save(&[("k", "2")]).await.unwrap();
    assert_eq!(next(&mut again).await.unwrap(), "2");
    for stream in &mut spared {
        assert_eq!(next(stream).await.unwrap(), "2", "the other worker has noticed nothing");
    }
    assert!(envoy.stat("wasm.runtime.vm_reload_success").await > 0, "there is a new VM");
}

/// A stream that comes while the VM is dead, and before that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_comes_after_a_trap_ends_or_is_served() {
    let config = Config::new("orders").component(STORE, "configuration.in-memory", &[]).trap();
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    let _first = subscribe(&client).await.unwrap();
    trap(&Connection::open(envoy.dapr_grpc).await).await;
    let start = Instant::now();
    let early = timeout(wait::PATIENCE, subscribe(&client)).await.expect("it is served or ends");
    assert!(early.is_ok() || start.elapsed() < LIMIT, "{early:?}");
    if let Err(status) = early {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    wait::eventually("a new subscription is served", async || subscribe(&client).await).await;
}
