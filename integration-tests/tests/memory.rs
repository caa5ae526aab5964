//! What a client or a store makes large, on a real Envoy: it ends with a status, the worker goes on, and others are
//! served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_runtime_proto::dapr::common::v1::StateItem;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use integration_tests::redis::Options;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Client, Config, Dialect, Envoy, Redis};
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Code, Status};

const SAVE: &str = "/dapr.proto.runtime.v1.Dapr/SaveState";

fn config() -> Config {
    Config::new("orders").component("mem", "state.in-memory", &[])
}

fn item(key: &str, bytes: usize) -> StateItem {
    StateItem { key: key.into(), value: vec![b'x'; bytes].into(), ..Default::default() }
}

async fn save(client: &Client, store: &str, key: &str, bytes: usize) -> Result<(), Status> {
    client.save_state(dapr::SaveStateRequest { store_name: store.into(), states: vec![item(key, bytes)] }).await
}

async fn get(client: &Client, store: &str, key: &str) -> Result<Bytes, Status> {
    let request = dapr::GetStateRequest { store_name: store.into(), key: key.into(), ..Default::default() };
    client.get_state(request).await.map(|reply| reply.data)
}

async fn bulk(client: &Client, keys: Vec<String>) -> Result<dapr::GetBulkStateResponse, Status> {
    let request = dapr::GetBulkStateRequest { store_name: "mem".into(), keys, parallelism: 128, ..Default::default() };
    client.get_bulk_state(request).await
}

async fn transact(client: &Client, count: usize) -> Result<(), Status> {
    let operation = |number| dapr::TransactionalStateOperation {
        operation_type: "upsert".into(),
        request: Some(item(&format!("t{number}"), 1)),
    };
    let request = dapr::ExecuteStateTransactionRequest {
        store_name: "mem".into(),
        operations: (0..count).map(operation).collect(),
        ..Default::default()
    };
    client.execute_state_transaction(request).await
}

/// A short call again and again on a connection of its own, while something long goes on.
struct Pulse {
    go_on: Arc<AtomicBool>,
    beats: tokio::task::JoinHandle<Duration>,
}

impl Pulse {
    async fn start(envoy: &Envoy) -> Self {
        let client = envoy.client(Dialect::Dapr).await;
        save(&client, "mem", "pulse", 1).await.unwrap();
        let go_on = Arc::new(AtomicBool::new(true));
        let own = go_on.clone();
        let beats = tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while own.load(Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(get(&client, "mem", "pulse").await.unwrap().len(), 1);
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            slowest
        });
        Self { go_on, beats }
    }

    /// How long the slowest call took.
    async fn stop(self) -> Duration {
        self.go_on.store(false, Ordering::Relaxed);
        self.beats.await.unwrap()
    }
}

#[tokio::test]
async fn a_small_request_for_much_is_refused() {
    let envoy = Envoy::start(config()).await;
    let client = envoy.client(Dialect::Dapr).await;
    save(&client, "mem", "b", 4_000_000).await.unwrap();
    for _ in 0..3 {
        let status = bulk(&client, vec!["b".into(); 1200]).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("that can be sent at once"), "{status}");
    }
    assert_eq!(get(&client, "mem", "b").await.unwrap().len(), 4_000_000);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_a_call_is_long() {
    let envoy = Envoy::start(config().set("limits", json!({"maxItems": 100_000, "timeout": "60s"}))).await;
    let client = envoy.client(Dialect::Dapr).await;
    let keys = |count: usize| (0..count).map(|number| format!("{:x}", number % 50_000)).collect::<Vec<_>>();
    let pulse = Pulse::start(&envoy).await;
    let began = Instant::now();
    let reply = bulk(&client, keys(100_000)).await.unwrap();
    let took = began.elapsed();
    assert_eq!(reply.items.len(), 100_000);
    let read = pulse.stop().await;
    println!("100,000 keys: {took:?}, the slowest other call {read:?}");

    let pulse = Pulse::start(&envoy).await;
    let began = Instant::now();
    transact(&client, 50_000).await.unwrap();
    println!("50,000 operations: {:?}", began.elapsed());
    let written = pulse.stop().await;
    println!("the slowest other call {written:?}");
    // What is decoded and encoded in one piece takes some of it.
    assert!(read < Duration::from_millis(1500) && written < Duration::from_millis(1500), "{read:?}, {written:?}");
    assert_eq!(get(&client, "mem", "t49999").await.unwrap().len(), 1);

    let status = bulk(&client, keys(300_000)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("limits.maxItems"), "{status}");
    let empty = vec![String::new(); 1_000_000];
    assert_eq!(bulk(&client, empty).await.unwrap_err().code(), Code::ResourceExhausted);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn the_deadline_of_a_long_call_runs() {
    let envoy = Envoy::start(config().set("limits", json!({"maxItems": 100_000}))).await;
    let client = envoy.client(Dialect::Dapr).await.with_deadline(Duration::from_millis(20));
    let began = Instant::now();
    let status = transact(&client, 100_000).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    println!("{status} after {:?}", began.elapsed());
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_transaction_costs_its_own_size() {
    let config = Config::new("orders").component("mem", "state.in-memory", &[("maxBytes", "536870912")]);
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    for number in 0..100 {
        save(&client, "mem", &format!("big{number}"), 4_000_000).await.unwrap();
    }
    for count in [100, 1000, 3000, 6000] {
        let began = Instant::now();
        transact(&client, count).await.unwrap();
        println!("{count} operations beside 400 MB: {:?}", began.elapsed());
    }
    let status = save(&client, "mem", "one", 4_000_000).await;
    assert!(status.is_ok());
    for number in 100..140 {
        if let Err(status) = save(&client, "mem", &format!("big{number}"), 4_000_000).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("maxBytes") && number > 120, "{number}: {status}");
        }
    }
    assert_eq!(get(&client, "mem", "big0").await.unwrap().len(), 4_000_000);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_server_that_announces_a_value_without_measure_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let answer =
                        if text.contains("PING") { "+PONG\r\n" } else { "*4\r\n$4\r\ndata\r\n$1300000000\r\n" };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    let megabyte = vec![b'x'; 1_000_000];
                    for _ in 0..if answer.starts_with('*') { 1300 } else { 0 } {
                        if stream.write_all(&megabyte).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    let envoy = Envoy::start(config().component("statestore", "state.redis", &[("redisHost", &address)])).await;
    let client = envoy.client(Dialect::Dapr).await;
    for _ in 0..3 {
        let status = get(&client, "statestore", "k").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    save(&client, "mem", "k", 1).await.unwrap();
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_large_value_is_written_or_refused_and_never_busy() {
    let redis = Redis::start(Options::default()).await;
    let limits = json!({"maxRequestBytes": 100 << 20, "maxMemoryBytes": 512 << 20, "timeout": "60s"});
    let config =
        config().set("limits", limits).component("statestore", "state.redis", &[("redisHost", &redis.address())]);
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    save(&client, "statestore", "huge", 70 << 20).await.unwrap();
    let status = save(&client, "mem", "huge", 70 << 20).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let status = save(&client, "statestore", "larger", 101 << 20).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    save(&client, "statestore", "small", 10).await.unwrap();
    assert_eq!(get(&client, "statestore", "small").await.unwrap().len(), 10);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn requests_that_do_not_end_are_bounded_together() {
    let limits = json!({"maxRequestBytes": 16 << 20, "maxMemoryBytes": 64 << 20});
    let envoy = Envoy::start(config().set("limits", limits)).await;
    let connection = Connection::open(envoy.dapr_grpc).await;
    let message = dapr::SaveStateRequest { store_name: "mem".into(), states: vec![item("k", 15 << 20)] };
    let whole = frame(&message.encode_to_vec());
    let mut calls = Vec::new();
    for _ in 0..20 {
        let mut call = connection.call(SAVE, &[]).await;
        call.send(whole.slice(..15 << 20));
        calls.push(tokio::spawn(async move { call.answer().await }));
    }
    let mut refused = 0;
    for call in &mut calls {
        if let Ok(answer) = tokio::time::timeout(Duration::from_secs(3), call).await {
            let answer = answer.unwrap();
            assert_eq!(answer.code(), Code::ResourceExhausted, "{answer:?}");
            assert!(answer.message().contains("limits.maxMemoryBytes"), "{answer:?}");
            refused += 1;
        }
    }
    assert!(refused >= 14, "{refused} of 20 requests were refused");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    drop((calls, connection));
    let client = envoy.client(Dialect::Dapr).await;
    integration_tests::wait::eventually("there is room again", async || save(&client, "mem", "k", 4 << 20).await).await;
    envoy.assert_no_filter_crashed().await;
}
