//! What goes wrong in a day: servers that die, hang or cut a reply, apps that lose interest, configurations that
//! change. The runtime answers every call, and never with what belongs to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1::GetStateRequest;
use futures::future::join_all;
use integration_tests::listener_file::serve_listener_from_a_file;
use integration_tests::middleman::{Middleman, Replies};
use integration_tests::redis::{Options, Redis};
use integration_tests::store::{ItemOptions, item};
use integration_tests::wire::{Connection, frame};
use integration_tests::{Client, Config, Dialect, Envoy, Store, wait};
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tonic::Code;

const KEYS: u32 = 500;

/// Every value says whose it is, so that a reply to another call is noticed.
fn value_of(key: &str) -> String {
    format!("the value of {key}, which is {}", key.repeat(1 + key.len() % 7))
}

const GET: &str = "/dapr.proto.runtime.v1.Dapr/GetState";

/// The body of a request for `key`.
fn get(key: &str) -> Bytes {
    let request = GetStateRequest { store_name: "statestore".into(), key: key.into(), ..Default::default() };
    frame(&request.encode_to_vec())
}

async fn fill(store: &Store) {
    store.bulk_save((0..KEYS).map(|n| item(&n.to_string(), value_of(&n.to_string()))).collect()).await.unwrap();
}

/// How the calls of a load ended.
#[derive(Debug, Default)]
struct Outcome {
    ok: AtomicU64,
    unavailable: AtomicU64,
    late: AtomicU64,
}

impl Outcome {
    fn calls(&self) -> u64 {
        [&self.ok, &self.unavailable, &self.late].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Reads and writes at random until `calls` are made and `go_on` is false; panics at the first wrong answer.
struct Load {
    outcome: Arc<Outcome>,
    go_on: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The deadline of a call for which the app says none: what the configuration has by default.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a slow machine may add to it.
const LATE: Duration = Duration::from_secs(20);

impl Load {
    async fn start(envoy: &Envoy, in_flight: u64, calls_at_least: u64) -> Self {
        let outcome = Arc::new(Outcome::default());
        let go_on = Arc::new(AtomicBool::new(true));
        let mut clients = vec![];
        for _ in 0..4 {
            clients.push(envoy.client(Dialect::Dapr).await);
        }
        let tasks = (0..in_flight)
            .map(|number| {
                let store = Store::new(clients[usize::try_from(number).unwrap() % clients.len()].clone(), "statestore");
                let (outcome, go_on) = (outcome.clone(), go_on.clone());
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(number);
                    while go_on.load(Ordering::Relaxed) || outcome.calls() < calls_at_least {
                        one_call(&store, &mut random, &outcome).await;
                    }
                })
            })
            .collect();
        Self { outcome, go_on, tasks }
    }

    async fn finish(self) -> Arc<Outcome> {
        self.go_on.store(false, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call got a wrong answer");
        }
        self.outcome
    }
}

async fn one_call(store: &Store, random: &mut StdRng, outcome: &Outcome) {
    let key = random.random_range(0..KEYS).to_string();
    let start = Instant::now();
    let result = match random.random_range(0..10) {
        0 => store.save(item(&key, value_of(&key))).await,
        1 => {
            let other = random.random_range(0..KEYS).to_string();
            store.bulk_get(&[&key, &other], 0).await.map(|items| {
                for item in items.iter().filter(|item| item.error.is_empty()) {
                    assert_eq!(item.data, value_of(&item.key), "bulk get of {key} and {other}");
                }
            })
        }
        _ => store.get(&key).await.map(|answer| assert_eq!(answer.data, value_of(&key), "get of {key}")),
    };
    assert!(start.elapsed() < DEADLINE + LATE, "a call took {:?}", start.elapsed());
    match result {
        Ok(()) => outcome.ok.fetch_add(1, Ordering::Relaxed),
        Err(status) => {
            let count = match status.code() {
                Code::Unavailable => &outcome.unavailable,
                Code::DeadlineExceeded => &outcome.late,
                _ => panic!("{status}"),
            };
            // A refusal is quick; do not spin.
            tokio::time::sleep(Duration::from_millis(5)).await;
            count.fetch_add(1, Ordering::Relaxed)
        }
    };
}

async fn world() -> (Redis, Envoy, Store) {
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").component("statestore", "state.redis", &[("redisHost", &redis.address())]);
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    fill(&store).await;
    (redis, envoy, store)
}

/// An Envoy with a middleman between it and Redis.
async fn world_with_middleman() -> (Redis, Middleman, Envoy, Store) {
    let redis = Redis::start(Options::default()).await;
    let middleman = Middleman::before(redis.port).await;
    let address = format!("127.0.0.1:{}", middleman.port);
    let config = Config::new("orders").set("limits", json!({"timeout": "1s"})).component(
        "statestore",
        "state.redis",
        &[("redisHost", &address)],
    );
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    fill(&store).await;
    (redis, middleman, envoy, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_under_load_and_comes_back() {
    let (mut redis, envoy, store) = world().await;
    let load = Load::start(&envoy, 64, 100_000).await;
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        redis.kill().await;
        tokio::time::sleep(Duration::from_millis(100 + 400 * round)).await;
        let refused = store.get("0").await.expect_err("Redis is gone");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        redis.restart().await;
        let back = Instant::now();
        wait::within(Duration::from_secs(2), "the service is back", async || store.get("0").await).await;
        println!("back {:?} after Redis", back.elapsed());
    }
    let outcome = load.finish().await;
    println!("{outcome:?}");
    let [ok, unavailable, late] =
        [&outcome.ok, &outcome.unavailable, &outcome.late].map(|count| count.load(Ordering::Relaxed));
    assert!(ok + unavailable >= 100_000 && ok > unavailable, "{outcome:?}");
    assert!(unavailable > 0, "the faults were felt");
    assert_eq!(late, 0, "a connection that is gone is no reason to wait");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stops_answering_and_goes_on() {
    let (redis, envoy, store) = world().await;
    let load = Load::start(&envoy, 32, 10_000).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.pause().await;
    // By hand: a client library would end the call itself.
    let connection = Connection::open(envoy.dapr_grpc).await;
    let start = Instant::now();
    let answers = join_all((0..50).map(|n| {
        let connection = connection.clone();
        async move { connection.unary(GET, &[("grpc-timeout", "500m")], get(&n.to_string())).await }
    }))
    .await;
    for answer in answers {
        assert!(matches!(answer.code(), Code::DeadlineExceeded | Code::Unavailable), "{answer:?}");
    }
    assert!(start.elapsed() < Duration::from_millis(500) + LATE, "{:?}", start.elapsed());
    // Longer than the deadline of the load, so that all its calls run into it.
    tokio::time::sleep(DEADLINE + Duration::from_secs(1)).await;
    redis.resume().await;
    wait::eventually("the service is back", async || store.get("0").await).await;
    let outcome = load.finish().await;
    assert!(outcome.unavailable.load(Ordering::Relaxed) + outcome.late.load(Ordering::Relaxed) > 0, "{outcome:?}");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn redis_closes_in_the_middle_of_a_reply() {
    let (_redis, middleman, envoy, store) = world_with_middleman().await;
    let large = "x".repeat(100_000);
    store.save(item("large", large.clone())).await.unwrap();
    for cut in [0, 1, 2, 10, 50, 5_000, 99_000] {
        wait::eventually("the runtime is connected", async || store.get("0").await).await;
        middleman.replies(Replies::CloseAfter(cut));
        let status = store.get("large").await.expect_err("the reply is not whole");
        assert_eq!(status.code(), Code::Unavailable, "after {cut} bytes: {status}");
        middleman.replies(Replies::Pass);
        let value = wait::eventually("the service is back", async || store.get("1").await).await.data;
        assert_eq!(value, value_of("1"), "not the rest of the cut reply");
    }
    assert_eq!(store.value("large").await, large);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_closes_in_the_middle_of_replies_under_load() {
    let (_redis, middleman, envoy, store) = world_with_middleman().await;
    let load = Load::start(&envoy, 64, 20_000).await;
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..20 {
        middleman.replies(Replies::CloseAfter(random.random_range(0..20_000)));
        tokio::time::sleep(Duration::from_millis(150)).await;
        middleman.replies(Replies::Pass);
        wait::eventually("the service is back", async || store.get("1").await).await;
    }
    let outcome = load.finish().await;
    println!("{outcome:?}, {} connections", middleman.connections());
    assert!(middleman.connections() > 10, "the faults were felt");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn redis_answers_what_is_no_redis_protocol() {
    let port = integration_tests::ports::free_port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        }
    });
    let config =
        Config::new("orders").component("statestore", "state.redis", &[("redisHost", &format!("127.0.0.1:{port}"))]);
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    for _ in 0..10 {
        let status = store.get("k").await.unwrap_err();
        assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status}");
    }
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_resets_streams_at_random_while_another_works() {
    let (_redis, envoy, _store) = world().await;
    let load = Load::start(&envoy, 32, 20_000).await;
    let port = envoy.dapr_grpc;
    let vandals = (0..4).map(|seed| {
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut connection = Connection::open(port).await;
            for n in 0..2_000 {
                let key = random.random_range(0..KEYS).to_string();
                let body = get(&key);
                let Ok(mut call) = connection.try_call(GET, &[]).await else {
                    // Envoy closes a connection on which too many streams are reset at once.
                    connection = Connection::open(port).await;
                    continue;
                };
                match random.random_range(0..4) {
                    0 => call.reset(),
                    1 => {
                        call.send(body.slice(..random.random_range(0..body.len())));
                        call.reset();
                    }
                    2 => {
                        call.finish(body);
                        tokio::time::sleep(Duration::from_micros(random.random_range(0..1000))).await;
                        call.reset();
                    }
                    _ => {
                        call.finish(body);
                        let _ = call.try_answer().await;
                    }
                }
                if n % 100 == 99 && random.random() {
                    // The whole connection goes, with what is in flight on it.
                    connection = Connection::open(port).await;
                }
            }
        })
    });
    for vandal in join_all(vandals).await {
        vandal.unwrap();
    }
    let outcome = load.finish().await;
    assert_eq!(outcome.unavailable.load(Ordering::Relaxed), 0, "the other app notices nothing");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_replaced_under_load() {
    const LIMIT: u32 = 1_234_000;
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders")
        .set("limits", json!({"maxRequestBytes": LIMIT}))
        .component("statestore", "state.redis", &[("redisHost", &redis.address())])
        .component("memory", "state.in-memory", &[])
        .change_bootstrap(serve_listener_from_a_file);
    let envoy = Envoy::start(config).await;
    let first = envoy.listener_of_the_file().await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    fill(&store).await;
    let memory = Store::new(store.client().clone(), "memory");
    memory.save(item("kept", "v")).await.unwrap();

    let port = envoy.dapr_grpc;
    let go_on = Arc::new(AtomicBool::new(true));
    let workers: Vec<_> = (0..16)
        .map(|number| {
            let go_on = go_on.clone();
            tokio::spawn(async move {
                // A draining listener ends its connections after five seconds, in whatever they are doing: none here
                // gets that old.
                let mut random = StdRng::seed_from_u64(number);
                let mut calls = 0;
                while go_on.load(Ordering::Relaxed) {
                    let store = Store::new(Client::connect(port, Dialect::Dapr).await, "statestore");
                    for _ in 0..50 {
                        let key = random.random_range(0..KEYS).to_string();
                        match store.get(&key).await {
                            Ok(answer) => assert_eq!(answer.data, value_of(&key)),
                            // The connection was closed before the request left: other clients than tonic try again by
                            // themselves.
                            Err(status) if status.message() == "operation was canceled" => break,
                            Err(status) => panic!("get of {key}: {status}"),
                        }
                        calls += 1;
                    }
                }
                calls
            })
        })
        .collect();

    for version in 1..=10 {
        let mut listener = first.clone();
        // Every second version changes the configuration of the filter as well, so that Envoy configures it anew.
        if version % 2 == 0 {
            let changed = listener.to_string().replace(&LIMIT.to_string(), &(LIMIT + version).to_string());
            assert!(changed.contains(&(LIMIT + version).to_string()), "the limit stands in the listener");
            listener = serde_json::from_str(&changed).unwrap();
        }
        envoy.replace_listener_of_the_file(listener, version).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The load goes on until the last of the old listeners is gone, with the filters that it had.
    envoy.old_listeners_are_gone().await;
    go_on.store(false, Ordering::Relaxed);
    let mut calls = 0;
    for worker in workers {
        calls += worker.await.expect("every call is answered, and rightly");
    }
    println!("{calls} calls over 10 configurations");
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
    let memory = Store::new(envoy.client(Dialect::Dapr).await, "memory");
    assert_eq!(memory.value("kept").await, "v", "what is in memory outlives the configuration");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_write_that_was_not_answered_is_not_sent_twice() {
    let (redis, middleman, envoy, store) = world_with_middleman().await;
    store.save(item("counted", "1")).await.unwrap();
    middleman.replies(Replies::CloseAfter(0));
    let status = store.save(item("counted", "2").strong()).await.expect_err("the reply is lost");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    middleman.replies(Replies::Pass);
    wait::eventually("the service is back", async || store.get("0").await).await;
    let version: u32 = redis.hash("orders||counted").await["version"].parse().unwrap();
    assert!(version <= 2, "it was written {} times", version - 1);
    envoy.assert_no_filter_crashed().await;
}
