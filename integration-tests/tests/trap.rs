//! What becomes of all that a worker had open when the filter's VM of that worker traps.

use integration_tests::store::item;
use integration_tests::wire::{Connection, frame};
use integration_tests::{Config, Dialect, Envoy, Store, TRAP, wait, workers};

const STORE: &str = "statestore";

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
