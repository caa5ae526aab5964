//! What becomes of all that a worker had open when the filter's VM of that worker traps.

use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1::GetStateRequest;
use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Config, Dialect, Envoy, REENTER, Store, TRAP, wait, workers};
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

const STORE: &str = "statestore";
const GET: &str = "/dapr.proto.runtime.v1.Dapr/GetState";
const LOST: &str = "the worker that had this call was lost; it is unknown whether the call was carried out";

/// A connection to each of two workers, and a store on it.
async fn on_each_worker(envoy: &Envoy) -> [Connection; 2] {
    workers::one_each(envoy, async || {
        let connection = Connection::open(envoy.dapr_grpc).await;
        let answer = connection.unary("/grpc.health.v1.Health/Check", &[], frame(b"")).await;
        assert_eq!(answer.code(), tonic::Code::Ok);
        connection
    })
    .await
}

/// Ends the VM of the worker that has this connection.
async fn trap(connection: &Connection) {
    let mut call = connection.call(TRAP, &[]).await;
    call.finish(frame(b""));
    let _ = call.try_answer().await;
}

/// What a worker that trapped had open ends within this time, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(20 + 5);

#[tokio::test]
async fn the_next_call_is_served_by_a_new_vm() {
    let envoy =
        Envoy::start(Config::new("orders").component(STORE, "state.in-memory", &[]).trap().concurrency(2)).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, STORE);
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(envoy.crashes().await, [""; 0]);
    for connection in on_each_worker(&envoy).await {
        trap(&connection).await;
    }
    assert!(!envoy.crashes().await.is_empty(), "the filter has the method");
    wait::eventually("the call is served again", async || match store.get("k").await {
        Ok(read) if read.data == "v" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(envoy.stat("wasm.runtime.vm_reload_success").await > 0);
}

fn get(store: &str) -> Bytes {
    let request = GetStateRequest { store_name: store.into(), key: "k".into(), ..Default::default() };
    frame(&request.encode_to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_open_end_and_the_other_worker_notices_nothing() {
    const CALLS: usize = 50;
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders")
        .component(STORE, "state.in-memory", &[])
        .component("slow", "state.redis", &[("redisHost", &redis.address())])
        .trap()
        .concurrency(2);
    let envoy = Envoy::start(config).await;
    let [one, other] = on_each_worker(&envoy).await;
    assert_eq!(one.unary(GET, &[], get("slow")).await.code(), Code::Ok);
    redis.pause().await;
    let mut open = JoinSet::new();
    for _ in 0..CALLS {
        let one = one.clone();
        open.spawn(async move { one.unary(GET, &[], get("slow")).await });
    }
    wait::eventually("the calls are open", async || match envoy.stat("http.dapr_grpc.downstream_rq_active").await {
        active if active == CALLS as u64 => Ok(()),
        active => Err(active),
    })
    .await;
    let start = Instant::now();
    trap(&one).await;

    let neighbour = tokio::spawn(async move {
        let mut calls = 0;
        while start.elapsed() < SOON {
            let answer = other.unary(GET, &[], get(STORE)).await;
            assert_eq!(answer.code(), Code::Ok, "{}", answer.message());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        calls
    });
    for answer in open.join_all().await {
        assert_eq!(answer.code(), Code::Unavailable, "{answer:?}");
        assert_eq!(answer.message(), LOST, "{answer:?}");
    }
    println!("ended after {:?}", start.elapsed());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    redis.resume().await;
    wait::eventually("a new VM serves the worker", async || {
        let answer = one.unary(GET, &[], get("slow")).await;
        if answer.code() == Code::Ok { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(neighbour.await.unwrap() > 0);
}

#[tokio::test]
async fn a_call_of_the_filter_within_a_call_of_it_is_logged_once() {
    let envoy = Envoy::start(Config::new("orders").component(STORE, "state.in-memory", &[]).trap()).await;
    let connection = Connection::open(envoy.dapr_grpc).await;
    for _ in 0..3 {
        assert_eq!(connection.unary(REENTER, &[], frame(b"")).await.code(), Code::Unimplemented);
    }
    assert_eq!(connection.unary(GET, &[], get(STORE)).await.code(), Code::Ok);
    assert_eq!(envoy.log().await.matches("event=filter_entered_twice").count(), 1);
    envoy.assert_no_filter_crashed().await;
}
