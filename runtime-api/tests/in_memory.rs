//! The in-memory store: one for all workers, whatever they do at the same time and wherever they end.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use proptest::prelude::*;
use runtime_api::Runtime;
use runtime_api::testing::{World, call, worker};
use serde_json::json;
use support::{DAPR, etag, get, item, message, save, status, value};
use tonic::Code;

fn store() -> (World, Rc<Runtime>) {
    let world = World::default();
    let worker = join(&world);
    (world, worker)
}

fn join(world: &World) -> Rc<Runtime> {
    worker(world, &json!({"appId": "a", "components": [{"name": "s", "type": "state.in-memory"}]}))
}

fn ok(world: &World, worker: &Rc<Runtime>, items: Vec<envoy_runtime_proto::dapr::common::v1::StateItem>) {
    let () = message(&save(world, worker, items));
}

#[test]
fn workers_see_the_same_store() {
    let (world, one) = store();
    let other = join(&world);
    ok(&world, &one, vec![item("k", "v")]);
    assert_eq!(value(&get(&world, &other, "k")), "v");
}

#[test]
fn items_end_when_their_time_is_over_and_free_their_memory() {
    let (world, worker) = store();
    let mut mortal = item("k", "v");
    mortal.metadata.insert("ttlInSeconds".into(), "2".into());
    ok(&world, &worker, vec![mortal, item("stays", "v")]);
    let reply: dapr::GetStateResponse = message(&get(&world, &worker, "k"));
    assert_eq!(reply.metadata["ttlExpireTime"], "2027-01-15T08:00:02Z");
    world.advance(Duration::from_millis(1999));
    assert_eq!(value(&get(&world, &worker, "k")), "v");
    let before = world.shared_bytes();
    world.advance(Duration::from_millis(1));
    assert_eq!(value(&get(&world, &worker, "k")), "");
    world.advance(Duration::from_secs(130));
    assert!(world.shared_bytes() < before, "the item is gone from memory too");
    assert_eq!(value(&get(&world, &worker, "stays")), "v");
    assert_eq!(world.timers(), 0, "nothing is left to look after");
}

/// How long a pass of the sweep lasts.
const SWEEP_SECONDS: u64 = 64;

#[test]
fn an_item_that_is_written_behind_the_sweep_is_freed_too() {
    let (world, worker) = store();
    let mortal = |key: &str| {
        let mut item = item(key, &"x".repeat(1000));
        item.metadata.insert("ttlInSeconds".into(), "1".into());
        item
    };
    ok(&world, &worker, vec![mortal("first")]);
    // The first pass removes it, and the second would be the last.
    world.advance(Duration::from_secs(SWEEP_SECONDS + SWEEP_SECONDS - 1));
    ok(&world, &worker, (0..100).map(|number| mortal(&format!("late-{number}"))).collect());
    assert!(world.shared_bytes() > 100_000);
    world.advance(Duration::from_secs(3 * SWEEP_SECONDS));
    assert!(world.shared_bytes() < 10_000, "{} bytes are left", world.shared_bytes());
    assert_eq!(world.timers(), 0, "nothing is left to look after");
}

#[test]
fn a_reply_that_envoy_would_cut_off_is_refused() {
    let (world, worker) = store();
    let keys: Vec<String> = (0..5).map(|number| number.to_string()).collect();
    for key in &keys {
        ok(&world, &worker, vec![item(key, &"x".repeat(4_000_000))]);
    }
    let bulk = |keys: &[String]| {
        let request = dapr::GetBulkStateRequest { store_name: "s".into(), keys: keys.to_vec(), ..Default::default() };
        let reply = call(&world, &worker, &format!("{DAPR}/GetBulkState"), &request);
        world.advance(Duration::from_millis(10)); // what takes long is done in turns
        reply
    };
    let reply: dapr::GetBulkStateResponse = message(&bulk(&keys[..4]));
    assert_eq!(reply.items.len(), 4);
    let (code, text) = status(&bulk(&keys));
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    assert!(text.starts_with("the reply has 200"), "{text}");
}

#[test]
fn a_failed_transaction_changes_nothing() {
    let (world, worker) = store();
    ok(&world, &worker, vec![item("a", "1"), item("b", "1")]);
    let mut stale = item("b", "2");
    stale.etag = etag("stale");
    let operation =
        |request| dapr::TransactionalStateOperation { operation_type: "upsert".into(), request: Some(request) };
    let request = dapr::ExecuteStateTransactionRequest {
        store_name: "s".into(),
        operations: vec![operation(item("a", "2")), operation(stale)],
        ..Default::default()
    };
    let failed = call(&world, &worker, &format!("{DAPR}/ExecuteStateTransaction"), &request);
    assert_eq!(status(&failed).0, Code::Internal);
    assert_eq!(value(&get(&world, &worker, "a")), "1");
}

#[test]
fn what_a_worker_decided_before_it_ended_is_carried_out_by_the_next_to_come() {
    // The worker ends after each of its writes to the shared area in turn: the items are both old or both new.
    for survived in 0..8 {
        let (world, one) = store();
        let other = join(&world);
        ok(&world, &one, vec![item("a", "old"), item("b", "old")]);
        let upsert = |key: &str| dapr::TransactionalStateOperation {
            operation_type: "upsert".into(),
            request: Some(item(key, "new")),
        };
        let request = dapr::ExecuteStateTransactionRequest {
            store_name: "s".into(),
            operations: vec![upsert("a"), upsert("b")],
            ..Default::default()
        };
        world.end_worker_after(survived, || {
            let _ = call(&world, &one, &format!("{DAPR}/ExecuteStateTransaction"), &request);
        });
        let seen = (value(&get(&world, &other, "a")), value(&get(&world, &other, "b")));
        let decided = survived > 0;
        let expected = if decided { "new" } else { "old" };
        assert_eq!(seen, (expected.into(), expected.into()), "ended after {survived} writes");
        ok(&world, &other, vec![item("a", "later")]);
        assert_eq!(value(&get(&world, &join(&world), "a")), "later");
    }
}

proptest! {
    /// Against a plain map: whatever two workers do in whatever order.
    #[test]
    fn it_does_what_a_map_does(steps in prop::collection::vec((any::<bool>(), 0..6u8, 0..4u8), 1..60)) {
        let (world, one) = store();
        let other = join(&world);
        let mut model = std::collections::BTreeMap::new();
        for (which, key, action) in steps {
            let worker = if which { &one } else { &other };
            let key = format!("k{key}");
            if action == 0 {
                let request = dapr::DeleteStateRequest { store_name: "s".into(), key: key.clone(), ..Default::default() };
                let () = message(&call(&world, worker, &format!("{DAPR}/DeleteState"), &request));
                model.remove(&key);
            } else {
                let text = format!("v{action}");
                ok(&world, worker, vec![item(&key, &text)]);
                model.insert(key.clone(), text);
            }
            for worker in [&one, &other] {
                prop_assert_eq!(value(&get(&world, worker, &key)), model.get(&key).cloned().unwrap_or_default());
            }
        }
    }
}
