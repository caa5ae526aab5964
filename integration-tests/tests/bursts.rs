//! Thousands of calls that are answered at once: a store that wakes up, a deadline that many have, a connection that
//! ends under them, one answer that all were waiting for. Each call is answered, and the filter's VM lives on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1::GetStateRequest;
use integration_tests::etcd::{Etcd, Options as EtcdOptions};
use integration_tests::listener_file::serve_listener_from_a_file;
use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Config, Dialect, Envoy, Store, wait};
use prost::Message;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

const STORE: &str = "statestore";
const GET: &str = "/dapr.proto.runtime.v1.Dapr/GetState";

/// What is in flight on one worker at a time.
const MANY: usize = 20_000;

/// What Envoy lets one connection have in flight, halved.
const PER_CONNECTION: usize = 5000;

/// A limit that a slow machine does not reach.
fn patient(config: Config) -> Config {
    config.set("limits", json!({"timeout": "50s"}))
}

/// Calls that are under way.
struct Burst(JoinSet<(Code, String)>);

impl Burst {
    /// Starts so many calls and returns when Envoy has them all.
    async fn of(calls: usize, envoy: &Envoy) -> Self {
        let burst = Self::start(calls, envoy).await;
        wait::eventually("all calls are in flight", async || {
            match envoy.stat("http.dapr_grpc.downstream_rq_active").await {
                active if usize::try_from(active).unwrap() == calls => Ok(()),
                active => Err(active),
            }
        })
        .await;
        burst
    }

    /// Starts so many calls.
    async fn start(calls: usize, envoy: &Envoy) -> Self {
        let request = GetStateRequest { store_name: STORE.into(), key: "k".into(), ..Default::default() };
        let body = frame(&request.encode_to_vec());
        let mut burst = JoinSet::new();
        for first in (0..calls).step_by(PER_CONNECTION) {
            let connection = Connection::open(envoy.dapr_grpc).await;
            for _ in first..calls.min(first + PER_CONNECTION) {
                burst.spawn(call(connection.clone(), body.clone()));
            }
        }
        Self(burst)
    }

    /// How the calls ended: how many with which status. The first text of each status is printed.
    async fn outcome(self) -> BTreeMap<String, usize> {
        let (start, mut outcome) = (Instant::now(), BTreeMap::new());
        for (code, text) in self.0.join_all().await {
            let count = outcome.entry(format!("{code:?}")).or_insert(0);
            if *count == 0 {
                println!("{code:?}: {text}");
            }
            *count += 1;
        }
        println!("{outcome:?} in {:?}", start.elapsed());
        outcome
    }
}

async fn call(connection: Connection, body: Bytes) -> (Code, String) {
    let answer = connection.unary(GET, &[], body).await;
    (answer.code(), answer.message().to_owned())
}

fn all(calls: usize, code: Code) -> BTreeMap<String, usize> {
    BTreeMap::from([(format!("{code:?}"), calls)])
}

async fn with_redis(change: impl Fn(Config) -> Config, workers: u32) -> (Redis, Envoy) {
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").component(STORE, "state.redis", &[("redisHost", &redis.address())]);
    let envoy = Envoy::start(change(config).concurrency(workers)).await;
    Store::new(envoy.client(Dialect::Dapr).await, STORE).save(item("k", "v")).await.unwrap();
    (redis, envoy)
}

async fn a_store_wakes_up(workers: u32) {
    let (redis, envoy) = with_redis(patient, workers).await;
    redis.pause().await;
    let burst = Burst::of(MANY, &envoy).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.resume().await;
    assert_eq!(burst.outcome().await, all(MANY, Code::Ok));
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_wakes_up_with_twenty_thousand_calls_in_flight_on_one_worker() {
    a_store_wakes_up(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_wakes_up_with_twenty_thousand_calls_in_flight_on_two_workers() {
    a_store_wakes_up(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_wakes_up_with_twenty_thousand_calls_in_flight() {
    let etcd = Etcd::start(EtcdOptions::default()).await;
    let config = Config::new("orders").component(STORE, "state.etcd", &[("endpoints", &etcd.address())]);
    let envoy = Envoy::start(patient(config)).await;
    Store::new(envoy.client(Dialect::Dapr).await, STORE).save(item("k", "v")).await.unwrap();
    etcd.pause().await;
    let burst = Burst::start(MANY, &envoy).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    etcd.resume().await;
    let mut outcome = burst.outcome().await;
    // A call to etcd may take ten seconds, in which a slow machine does not come to the end of so many.
    let answered: usize =
        ["Ok", "Unavailable", "DeadlineExceeded"].iter().filter_map(|code| outcome.remove(*code)).sum();
    assert!(answered == MANY && outcome.is_empty(), "{answered} are answered, and {outcome:?}");
    let store = Store::new(envoy.client(Dialect::Dapr).await, STORE);
    wait::eventually("the store is served", async || store.get("k").await).await;
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_answers_as_they_come() {
    let config = Config::new("orders").component(STORE, "state.in-memory", &[]);
    let envoy = Envoy::start(config).await;
    assert_eq!(Burst::start(MANY, &envoy).await.outcome().await, all(MANY, Code::Ok));
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_many() {
    let (redis, envoy) = with_redis(|config| config.set("limits", json!({"timeout": "8s"})), 1).await;
    redis.pause().await;
    // As many as a slow machine starts within the deadline of the first.
    let burst = Burst::of(2000, &envoy).await;
    let mut outcome = burst.outcome().await;
    // The store that owes replies for as long is given up, which ends the last of them.
    outcome.remove("Unavailable");
    assert_eq!(outcome.keys().collect::<Vec<_>>(), ["DeadlineExceeded"]);
    envoy.assert_no_filter_crashed().await;
    redis.resume().await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, STORE);
    wait::eventually("the store is served again", async || store.get("k").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_under_many() {
    let (mut redis, envoy) = with_redis(patient, 1).await;
    for calls in [600, 5000] {
        redis.pause().await;
        let burst = Burst::of(calls, &envoy).await;
        redis.kill().await;
        assert_eq!(burst.outcome().await, all(calls, Code::Unavailable));
        envoy.assert_no_filter_crashed().await;
        redis.restart().await;
        let store = Store::new(envoy.client(Dialect::Dapr).await, STORE);
        wait::eventually("the store is served again", async || store.get("k").await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_is_that_of_many() {
    // All wait for the token that the first of them has asked for, and etcd refuses it.
    let etcd = Etcd::start(EtcdOptions { root_password: Some("right"), ..EtcdOptions::default() }).await;
    let access = [("endpoints", etcd.address()), ("username", "root".into()), ("password", "wrong".into())];
    let access = access.each_ref().map(|(name, value)| (*name, value.as_str()));
    let envoy = Envoy::start(patient(Config::new("orders").component(STORE, "state.etcd", &access))).await;
    etcd.pause().await;
    let burst = Burst::of(2000, &envoy).await;
    etcd.resume().await;
    let outcome = burst.outcome().await;
    assert!(!outcome.contains_key("Ok") && outcome.values().sum::<usize>() == 2000, "{outcome:?}");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_configuration_comes_under_many() {
    let redis = Redis::start(Options::default()).await;
    let config = patient(Config::new("orders"))
        .component(STORE, "state.redis", &[("redisHost", &redis.address())])
        .change_bootstrap(serve_listener_from_a_file);
    let envoy = Envoy::start(config).await;
    let listener = envoy.listener_of_the_file().await;
    Store::new(envoy.client(Dialect::Dapr).await, STORE).save(item("k", "v")).await.unwrap();
    redis.pause().await;
    let burst = Burst::of(2000, &envoy).await;
    let changed = listener.to_string().replace("50s", "51s");
    envoy.replace_listener_of_the_file(serde_json::from_str(&changed).unwrap(), 1).await;
    redis.resume().await;
    assert_eq!(burst.outcome().await, all(2000, Code::Ok));
    envoy.old_listeners_are_gone().await;
    envoy.assert_no_filter_crashed().await;
}
