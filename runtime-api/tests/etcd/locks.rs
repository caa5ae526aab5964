//! Locks and sequences: what of etcd's they are.

use std::rc::Rc;

use crate::support::{LAYOTTO, message, status};
use crate::{done, found, given_back, granted, looked_at, over, puts, take_of};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd, compare::TargetUnion};
use envoy_runtime_proto::etcd::mvccpb::KeyValue;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Started, World, call, worker};
use serde_json::json;

const LOCKS: &str = "runtime.lock.l";

fn locks(metadata: &serde_json::Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let mut all = json!({"endpoints": "etcd:2379"});
    all.as_object_mut().unwrap().append(&mut metadata.as_object().unwrap().clone());
    let component = json!({"name": "l", "type": "lock.etcd", "metadata": all});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    (world, worker)
}

fn try_lock(world: &World, worker: &Rc<Runtime>) -> Started<Reply> {
    let request = dapr::TryLockRequest {
        store_name: "l".into(),
        resource_id: "r".into(),
        lock_owner: "me".into(),
        expiry_in_seconds: 30,
    };
    call(world, worker, &format!("{LAYOTTO}/TryLock"), &request)
}

fn unlock(world: &World, worker: &Rc<Runtime>) -> Started<Reply> {
    let request = dapr::UnlockRequest { store_name: "l".into(), resource_id: "r".into(), lock_owner: "me".into() };
    call(world, worker, &format!("{LAYOTTO}/Unlock"), &request)
}

fn keep_alive(world: &World, worker: &Rc<Runtime>) -> Started<Reply> {
    let request = layotto::LockKeepAliveRequest {
        store_name: "l".into(),
        resource_id: "r".into(),
        lock_owner: "me".into(),
        expire: 60,
    };
    call(world, worker, &format!("{LAYOTTO}/LockKeepAlive"), &request)
}

/// Grants a lease of so many seconds.
fn grant(world: &World, seconds: i64, id: i64) {
    let (grant, request) = take_of::<etcd::LeaseGrantRequest>(world, LOCKS, "Lease/LeaseGrant");
    assert_eq!(request.ttl, seconds);
    grant.reply(&etcd::LeaseGrantResponse { id, ttl: seconds, ..Default::default() });
}

#[test]
fn a_lock_is_an_item_with_the_owner_under_a_lease() {
    for (path, key) in [(json!({}), "/layotto/lock|||a||r"), (json!({"keyPrefixPath": "x"}), "/x/lock|||a||r")] {
        let (world, worker) = locks(&path);
        let call = try_lock(&world, &worker);
        grant(&world, 30, 11);
        let (txn, request) = take_of::<etcd::TxnRequest>(&world, LOCKS, "KV/Txn");
        assert_eq!(puts(&request), [(key.into(), "me".into(), 11)]);
        assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(0)));
        txn.reply(&done(true, vec![]));
        assert!(message::<dapr::TryLockResponse>(&call).success);
        assert!(world.grpc_call(LOCKS).is_none());
    }
}

#[test]
fn a_lock_that_is_held_is_no_error_and_leaves_no_lease() {
    let (world, worker) = locks(&json!({}));
    let call = try_lock(&world, &worker);
    grant(&world, 30, 11);
    let txn = take_of::<etcd::TxnRequest>(&world, LOCKS, "KV/Txn").0;
    txn.reply(&done(false, vec![found("/layotto/lock|||a||r", "other", 5)]));
    assert!(!message::<dapr::TryLockResponse>(&call).success);
    assert_eq!(take_of::<etcd::LeaseRevokeRequest>(&world, LOCKS, "Lease/LeaseRevoke").1.id, 11);
}

#[test]
fn a_release_says_whose_the_lock_is() {
    let (world, worker) = locks(&json!({}));
    let key = "/layotto/lock|||a||r";
    for (read, status) in [(vec![found(key, "other", 5)], 2), (vec![etcd::RangeResponse::default()], 1)] {
        let call = unlock(&world, &worker);
        let (txn, request) = take_of::<etcd::TxnRequest>(&world, LOCKS, "KV/Txn");
        assert_eq!(request.compare[0].target_union, Some(TargetUnion::Value("me".into())));
        txn.reply(&done(false, read));
        assert_eq!(message::<dapr::UnlockResponse>(&call).status, status);
    }
    let call = unlock(&world, &worker);
    take_of::<etcd::TxnRequest>(&world, LOCKS, "KV/Txn").0.reply(&over(11));
    assert_eq!(message::<dapr::UnlockResponse>(&call).status, 0);
    looked_at(&world, LOCKS, 11, &[]);
    given_back(&world, LOCKS, 11);
}

#[test]
fn a_lock_is_kept_alive_by_a_new_lease() {
    let (world, worker) = locks(&json!({}));
    let call = keep_alive(&world, &worker);
    grant(&world, 60, 12);
    let (txn, request) = take_of::<etcd::TxnRequest>(&world, LOCKS, "KV/Txn");
    assert_eq!(puts(&request), [("/layotto/lock|||a||r".into(), "me".into(), 12)]);
    txn.reply(&over(11));
    assert_eq!(message::<layotto::LockKeepAliveResponse>(&call).status, 0);
    looked_at(&world, LOCKS, 11, &[]);
    given_back(&world, LOCKS, 11);
}

#[test]
fn a_try_that_is_given_up_leaves_no_lease() {
    let (world, worker) = locks(&json!({}));
    let call = try_lock(&world, &worker);
    call.cancel();
    let lease = granted(&world, LOCKS, 30);
    given_back(&world, LOCKS, lease);
}

const SEQUENCES: &str = "runtime.sequencer.q";

fn next_id(bigger_than: Option<i64>, succeeded: bool, version: i64) -> (etcd::TxnRequest, Started<Reply>) {
    let world = World::default();
    let mut metadata = json!({"endpoints": "etcd:2379"});
    if let Some(least) = bigger_than {
        metadata["biggerThan"] = json!({"k": least});
    }
    let component = json!({"name": "q", "type": "sequencer.etcd", "metadata": metadata});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    let request = layotto::GetNextIdRequest { store_name: "q".into(), key: "k".into(), ..Default::default() };
    let call = call(&world, &worker, &format!("{LAYOTTO}/GetNextId"), &request);
    let (txn, request) = take_of::<etcd::TxnRequest>(&world, SEQUENCES, "KV/Txn");
    let kvs = vec![KeyValue { version, ..Default::default() }];
    let range = etcd::RangeResponse { kvs, ..Default::default() };
    txn.reply(&done(succeeded, vec![range]));
    (request, call)
}

#[test]
fn an_id_is_how_often_the_key_was_written() {
    let (request, call) = next_id(None, true, 3);
    assert_eq!(puts(&request), [("/layotto/sequencer|||a||k".into(), String::new(), 0)]);
    assert_eq!(message::<layotto::GetNextIdResponse>(&call).next_id, 3);
}

#[test]
fn ids_that_are_too_small_are_not_given() {
    let (request, call) = next_id(Some(100), true, 101);
    assert_eq!(request.compare[0].target_union, Some(TargetUnion::Version(99)), "more than 99 were given");
    assert_eq!(message::<layotto::GetNextIdResponse>(&call).next_id, 101);
    let (_, call) = next_id(Some(100), false, 42);
    let (_, text) = status(&call);
    assert!(text.contains("the last id of /layotto/sequencer|||a||k in etcd is 42"), "{text}");
}
