//! The leases under which items with an end stand, and how each is given back.

use std::rc::Rc;
use std::time::Duration;

use crate::support::{DAPR, item, status};
use crate::{CLUSTER, done, found, given_back, granted, looked_at, over, save_one, store, take, with_ttl};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb as etcd;
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Started, World, call};
use serde_json::json;
use tonic::Code;

fn remove(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    let request = dapr::DeleteStateRequest { store_name: "s".into(), key: key.into(), ..Default::default() };
    call(world, worker, &format!("{DAPR}/DeleteState"), &request)
}

#[test]
fn the_lease_of_what_was_replaced_or_removed_is_given_back() {
    type Write = fn(&World, &Rc<Runtime>) -> Started<Reply>;
    let (world, worker) = store("v1", json!({}));
    let writes: [Write; 3] = [
        |world, worker| save_one(world, worker, with_ttl("k", "v", "60")),
        |world, worker| save_one(world, worker, item("k", "v")),
        |world, worker| remove(world, worker, "k"),
    ];
    for write in writes {
        let call = write(&world, &worker);
        let (txn, request) = loop {
            let call = world.grpc_call(CLUSTER).unwrap();
            if call.method.ends_with("Txn") {
                let request = etcd::TxnRequest::decode(call.message.clone()).unwrap();
                break (call, request);
            }
            call.reply(&etcd::LeaseGrantResponse { id: 12, ttl: 60, ..Default::default() });
        };
        let Some(Request::RequestRange(look)) = &request.success[0].request else { panic!("{request:?}") };
        assert_eq!((&look.key, look.keys_only), (&"a||k".into(), false), "of keys alone the lease is not told");
        txn.reply(&over(11));
        assert!(matches!(call.outcome(), Some(Reply::Message(_))), "the app does not wait for it");
        looked_at(&world, CLUSTER, 11, &[]);
        given_back(&world, CLUSTER, 11);
    }
}

#[test]
fn a_lease_with_something_else_under_it_is_left() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, item("k", "v"));
    take::<etcd::TxnRequest>(&world, "KV/Txn").0.reply(&over(11));
    assert!(matches!(call.outcome(), Some(Reply::Message(_))));
    for pause in [0, 1, 10, 120] {
        world.advance(Duration::from_secs(pause));
        looked_at(&world, CLUSTER, 11, &["of another"]);
    }
    world.advance(Duration::from_secs(3600));
    assert!(world.grpc_call(CLUSTER).is_none(), "it ends by itself");
}

#[test]
fn a_lease_that_a_member_still_sees_in_use_is_given_back_a_moment_later() {
    let (world, worker) = store("v1", json!({}));
    let _call = save_one(&world, &worker, item("k", "v"));
    take::<etcd::TxnRequest>(&world, "KV/Txn").0.reply(&over(11));
    looked_at(&world, CLUSTER, 11, &["a||k"]);
    world.advance(Duration::from_secs(1));
    take::<etcd::LeaseTimeToLiveRequest>(&world, "Lease/LeaseTimeToLive").0.fail(Code::Unavailable, "no leader");
    world.advance(Duration::from_secs(10));
    looked_at(&world, CLUSTER, 11, &[]);
    given_back(&world, CLUSTER, 11);
}

#[test]
fn a_lease_that_has_ended_needs_no_giving_back() {
    let (world, worker) = store("v1", json!({}));
    let _call = save_one(&world, &worker, item("k", "v"));
    take::<etcd::TxnRequest>(&world, "KV/Txn").0.reply(&over(11));
    let look = take::<etcd::LeaseTimeToLiveRequest>(&world, "Lease/LeaseTimeToLive").0;
    look.reply(&etcd::LeaseTimeToLiveResponse { id: 11, ttl: -1, ..Default::default() });
    world.advance(Duration::from_secs(3600));
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn the_lease_of_a_refused_write_is_given_back() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    let lease = granted(&world, CLUSTER, 60);
    take::<etcd::TxnRequest>(&world, "KV/Txn").0.fail(Code::InvalidArgument, "etcdserver: it is so");
    assert_eq!(status(&call).0, Code::Internal);
    given_back(&world, CLUSTER, lease);
}

#[test]
fn the_lease_of_a_write_that_was_lost_is_given_back_unless_the_item_is_there() {
    for keys in [&[][..], &["a||k"]] {
        let (world, worker) = store("v1", json!({}));
        let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
        let lease = granted(&world, CLUSTER, 60);
        take::<etcd::TxnRequest>(&world, "KV/Txn").0.fail(Code::Unavailable, "connection lost");
        assert_eq!(status(&call).0, Code::Unavailable);
        assert!(world.grpc_call(CLUSTER).is_none(), "the write may still be on its way");
        world.advance(Duration::from_secs(10));
        looked_at(&world, CLUSTER, lease, keys);
        if keys.is_empty() {
            given_back(&world, CLUSTER, lease);
        } else {
            assert!(world.grpc_call(CLUSTER).is_none());
        }
    }
}

#[test]
fn a_lease_whose_grant_was_lost_is_given_back_by_its_number() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    let (grant, request) = take::<etcd::LeaseGrantRequest>(&world, "Lease/LeaseGrant");
    grant.fail(Code::Unavailable, "connection lost");
    assert_eq!(status(&call).0, Code::Unavailable);
    world.advance(Duration::from_secs(10));
    looked_at(&world, CLUSTER, request.id, &[]);
    given_back(&world, CLUSTER, request.id);
}

#[test]
fn one_refused_lease_is_the_end_of_all_of_a_transaction() {
    let (world, worker) = store("v1", json!({}));
    let operation = |key: &str| dapr::TransactionalStateOperation {
        operation_type: "upsert".to_owned(),
        request: Some(with_ttl(key, "v", "60")),
    };
    let operations = vec![operation("a"), operation("b")];
    let request = dapr::ExecuteStateTransactionRequest { store_name: "s".to_owned(), operations, ..Default::default() };
    let call = call(&world, &worker, &format!("{DAPR}/ExecuteStateTransaction"), &request);
    let lease = granted(&world, CLUSTER, 60);
    take::<etcd::LeaseGrantRequest>(&world, "Lease/LeaseGrant").0.fail(Code::PermissionDenied, "no");
    assert_eq!(status(&call), (Code::Internal, "error while executing state transaction: etcd says: no".into()));
    given_back(&world, CLUSTER, lease);
}

#[test]
fn a_write_that_is_given_up_before_it_has_begun_is_not_carried_out() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    call.cancel();
    let lease = granted(&world, CLUSTER, 60);
    given_back(&world, CLUSTER, lease);
}

#[test]
fn a_write_that_is_given_up_comes_to_its_end() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    let lease = granted(&world, CLUSTER, 60);
    let txn = take::<etcd::TxnRequest>(&world, "KV/Txn").0;
    call.cancel();
    assert!(!txn.is_cancelled());
    txn.reply(&done(false, vec![found("a||k", "", 8)]));
    given_back(&world, CLUSTER, lease);

    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    granted(&world, CLUSTER, 60);
    let txn = take::<etcd::TxnRequest>(&world, "KV/Txn").0;
    call.cancel();
    txn.reply(&over(11));
    looked_at(&world, CLUSTER, 11, &[]);
    given_back(&world, CLUSTER, 11);
}

#[test]
fn a_long_outage_fills_no_memory_with_leases() {
    let (world, worker) = store("v1", json!({}));
    for _ in 0..3000 {
        let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
        world.advance(Duration::from_millis(1)); // many writes at one time are done in turns
        take::<etcd::LeaseGrantRequest>(&world, "Lease/LeaseGrant").0.fail(Code::Unavailable, "connection refused");
        assert_eq!(status(&call).0, Code::Unavailable);
    }
    assert_eq!(world.timers(), 1024);
    world.advance(Duration::from_secs(10));
    for _ in 0..1024 {
        take::<etcd::LeaseTimeToLiveRequest>(&world, "Lease/LeaseTimeToLive").0.fail(Code::Unavailable, "refused");
    }
    assert!(world.grpc_call(CLUSTER).is_none());
    world.advance(Duration::from_secs(120));
    for _ in 0..1024 {
        take::<etcd::LeaseTimeToLiveRequest>(&world, "Lease/LeaseTimeToLive").0.fail(Code::Unavailable, "refused");
    }
    assert_eq!(world.timers(), 0);
}

#[test]
fn a_lease_that_cannot_be_given_back_is_told_in_the_log() {
    let (world, worker) = store("v1", json!({}));
    let _call = save_one(&world, &worker, item("k", "v"));
    take::<etcd::TxnRequest>(&world, "KV/Txn").0.reply(&over(11));
    looked_at(&world, CLUSTER, 11, &[]);
    take::<etcd::LeaseRevokeRequest>(&world, "Lease/LeaseRevoke").0.fail(Code::PermissionDenied, "no");
    let line = "component=s event=lease_left lease=b reason=\"etcd says: no\"";
    assert!(world.log_lines().iter().any(|known| known == line), "{:?}", world.log_lines());
}
