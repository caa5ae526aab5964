//! What is asked of etcd, what becomes of its answers, and how a login is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::common::v1::{StateItem, StateOptions};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use envoy_runtime_proto::etcd::etcdserverpb::response_op::Response;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd, compare::TargetUnion};
use envoy_runtime_proto::etcd::mvccpb::KeyValue;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{BEGINNING, Call, Started, World, call, worker};
use serde_json::json;
use support::{DAPR, LAYOTTO, etag, get, item, message, save, status, value};
use tonic::Code;

const CLUSTER: &str = "runtime.state.s";

fn store(version: &str, metadata: serde_json::Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let mut all = json!({"endpoints": "etcd:2379"});
    all.as_object_mut().unwrap().append(&mut metadata.as_object().unwrap().clone());
    let component = json!({"name": "s", "type": "state.etcd", "version": version, "metadata": all});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    (world, worker)
}

/// Takes a call of this method, with its message.
#[track_caller]
fn take<M: Message + Default>(world: &World, method: &str) -> (Call, M) {
    take_of(world, CLUSTER, method)
}

#[track_caller]
fn take_of<M: Message + Default>(world: &World, cluster: &str, method: &str) -> (Call, M) {
    let call = world.grpc_call(cluster).unwrap_or_else(|| panic!("a call of {method} is expected"));
    assert_eq!(call.method, format!("etcdserverpb.{method}"));
    let message = M::decode(call.message.clone()).unwrap();
    (call, message)
}

#[allow(clippy::unnecessary_wraps)] // as answers have it
fn header(revision: i64) -> Option<etcd::ResponseHeader> {
    Some(etcd::ResponseHeader { revision, ..Default::default() })
}

fn found(key: &str, value: impl Into<bytes::Bytes>, mod_revision: i64) -> etcd::RangeResponse {
    let kv = KeyValue { key: key.to_owned().into(), value: value.into(), mod_revision, ..Default::default() };
    etcd::RangeResponse { header: header(mod_revision), kvs: vec![kv], ..Default::default() }
}

fn done(succeeded: bool, read: Vec<etcd::RangeResponse>) -> etcd::TxnResponse {
    let response = |range| etcd::ResponseOp { response: Some(Response::ResponseRange(range)) };
    etcd::TxnResponse { header: header(9), succeeded, responses: read.into_iter().map(response).collect() }
}

/// What a transaction puts, as key, value and lease.
fn puts(transaction: &etcd::TxnRequest) -> Vec<(String, String, i64)> {
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    let put = |step: &etcd::RequestOp| match &step.request {
        Some(Request::RequestPut(put)) => Some((text(&put.key), text(&put.value), put.lease)),
        _ => None,
    };
    transaction.success.iter().filter_map(put).collect()
}

fn expect_metadata(call: &Call, name: &str, value: Option<&str>) {
    let found = call.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(found, value, "{name} of {}", call.method);
}

fn with_ttl(key: &str, value: &str, seconds: &str) -> StateItem {
    StateItem { metadata: [("ttlInSeconds".to_owned(), seconds.to_owned())].into(), ..item(key, value) }
}

fn save_one(world: &World, worker: &Rc<Runtime>, item: StateItem) -> Started<Reply> {
    save(world, worker, vec![item])
}

#[test]
fn an_item_is_the_value_under_its_key() {
    let (world, worker) = store("v1", json!({"keyPrefixPath": "p"}));
    let call = get(&world, &worker, "k");
    let (range, request) = take::<etcd::RangeRequest>(&world, "KV/Range");
    assert_eq!((request.key, request.range_end.len(), request.serializable), ("p/a||k".into(), 0, false));
    range.reply(&found("p/a||k", "v", 7));
    let reply: dapr::GetStateResponse = message(&call);
    assert_eq!((reply.data, reply.etag, reply.metadata.len()), ("v".into(), "7".into(), 0));

    let call = save_one(&world, &worker, item("k", "w"));
    let (txn, request) = take::<etcd::TxnRequest>(&world, "KV/Txn");
    assert_eq!(puts(&request), [("p/a||k".into(), "w".into(), 0)]);
    assert!(request.compare.is_empty());
    txn.reply(&done(true, vec![]));
    assert!(matches!(call.outcome(), Some(Reply::Message(_))));
}

#[test]
fn a_key_that_is_not_there_is_an_empty_answer() {
    let (world, worker) = store("v1", json!({}));
    let call = get(&world, &worker, "k");
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&etcd::RangeResponse::default());
    assert_eq!(value(&call), "");
}

#[test]
fn who_comes_second_is_told_so() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, StateItem { etag: etag("7"), ..with_ttl("k", "v", "60") });
    let (grant, request) = take::<etcd::LeaseGrantRequest>(&world, "Lease/LeaseGrant");
    assert_eq!(request.ttl, 60);
    grant.reply(&etcd::LeaseGrantResponse { id: 11, ttl: 60, ..Default::default() });
    let (txn, request) = take::<etcd::TxnRequest>(&world, "KV/Txn");
    assert_eq!(puts(&request), [("a||k".into(), "v".into(), 11)]);
    assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(7)));
    txn.reply(&done(false, vec![found("a||k", "", 8)]));
    assert_eq!(
        status(&call),
        (
            Code::Aborted,
            "failed saving state in state store s: possible etag mismatch. error from state store: \
             key k: etag 7 was given and 8 is stored"
                .into()
        )
    );
    let (_, request) = take::<etcd::LeaseRevokeRequest>(&world, "Lease/LeaseRevoke");
    assert_eq!(request.id, 11, "the lease that holds nothing is given back");
}

#[test]
fn a_first_write_is_decided_by_etcd() {
    let (world, worker) = store("v1", json!({}));
    let options = Some(StateOptions { concurrency: 1, consistency: 0 });
    let call = save_one(&world, &worker, StateItem { options, ..item("k", "v") });
    let (txn, request) = take::<etcd::TxnRequest>(&world, "KV/Txn");
    assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(0)));
    txn.reply(&done(false, vec![found("a||k", "", 8)]));
    let (code, text) = status(&call);
    assert_eq!(code, Code::Aborted);
    assert!(text.contains("there is an item already"), "{text}");
}

#[test]
fn what_is_no_revision_is_an_etag_that_no_item_has() {
    let (world, worker) = store("v1", json!({}));
    let call = save_one(&world, &worker, StateItem { etag: etag("x"), ..item("k", "v") });
    assert_eq!(status(&call).0, Code::Aborted);
    assert!(world.grpc_call(CLUSTER).is_none(), "etcd is not asked");
}

/// Grants a lease for an item, with the number that is asked for.
#[track_caller]
fn granted(world: &World, cluster: &str, seconds: i64) -> i64 {
    let (grant, request) = take_of::<etcd::LeaseGrantRequest>(world, cluster, "Lease/LeaseGrant");
    assert_eq!(request.ttl, seconds);
    assert!(request.id > 0);
    grant.reply(&etcd::LeaseGrantResponse { id: request.id, ttl: seconds, ..Default::default() });
    request.id
}

/// Has it told what is under a lease.
#[track_caller]
fn looked_at(world: &World, cluster: &str, lease: i64, keys: &[&'static str]) {
    let (look, request) = take_of::<etcd::LeaseTimeToLiveRequest>(world, cluster, "Lease/LeaseTimeToLive");
    assert_eq!((request.id, request.keys), (lease, true));
    let keys = keys.iter().map(|key| (*key).into()).collect();
    look.reply(&etcd::LeaseTimeToLiveResponse { id: lease, ttl: 9, granted_ttl: 60, keys, ..Default::default() });
}

/// Expects a lease to be given back, and nothing else.
#[track_caller]
fn given_back(world: &World, cluster: &str, lease: i64) {
    let (revoke, request) = take_of::<etcd::LeaseRevokeRequest>(world, cluster, "Lease/LeaseRevoke");
    assert_eq!(request.id, lease);
    revoke.reply(&etcd::LeaseRevokeResponse::default());
    assert!(world.grpc_call(cluster).is_none());
}

/// An answer to a write that had found this lease over the key.
fn over(lease: i64) -> etcd::TxnResponse {
    let kv = KeyValue { key: "a||k".into(), lease, ..Default::default() };
    done(true, vec![etcd::RangeResponse { kvs: vec![kv], ..Default::default() }])
}

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

#[test]
fn version_v2_says_when_an_item_ends() {
    let (world, worker) = store("v2", json!({}));
    let call = save_one(&world, &worker, with_ttl("k", "v", "60"));
    let grant = take::<etcd::LeaseGrantRequest>(&world, "Lease/LeaseGrant").0;
    grant.reply(&etcd::LeaseGrantResponse { id: 11, ttl: 60, ..Default::default() });
    let (txn, request) = take::<etcd::TxnRequest>(&world, "KV/Txn");
    let Some(Request::RequestPut(put)) = &request.success[1].request else { panic!("{request:?}") };
    // Value{data=1: "v", ts=2: Timestamp{seconds=1: the beginning}, ttl=3: Duration{seconds=1: 60}}
    let mut expected = vec![0x0a, 1, b'v', 0x12, 6, 0x08];
    prost::encoding::encode_varint(BEGINNING.as_secs(), &mut expected);
    expected.extend([0x1a, 2, 0x08, 60]);
    assert_eq!(put.value, expected);
    txn.reply(&done(true, vec![]));
    assert!(matches!(call.outcome(), Some(Reply::Message(_))));

    let call = get(&world, &worker, "k");
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("a||k", expected.clone(), 7));
    let reply: dapr::GetStateResponse = message(&call);
    assert_eq!((reply.data, reply.metadata["ttlExpireTime"].as_str()), ("v".into(), "2027-01-15T08:01:00Z"));

    // Dapr writes a span of nothing where there is no end.
    let endless = [&expected[..expected.len() - 4], &[0x1a, 0]].concat();
    let call = get(&world, &worker, "k");
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("a||k", endless, 7));
    assert_eq!(message::<dapr::GetStateResponse>(&call).metadata.len(), 0);
}

#[test]
fn a_plain_value_under_version_v2_says_what_is_wrong() {
    let (world, worker) = store("v2", json!({}));
    let call = get(&world, &worker, "k");
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("a||k", "plain", 7));
    let (code, text) = status(&call);
    assert_eq!(code, Code::Internal);
    assert!(text.contains("is it one of version v1?"), "{text}");
}

#[test]
fn a_transaction_is_one_and_has_a_bound() {
    let (world, worker) = store("v1", json!({"maxTxnOps": 2}));
    let operation =
        |kind: &str, item| dapr::TransactionalStateOperation { operation_type: kind.to_owned(), request: Some(item) };
    let transact = |operations| {
        let store_name = "s".to_owned();
        let request = dapr::ExecuteStateTransactionRequest { store_name, operations, ..Default::default() };
        call(&world, &worker, &format!("{DAPR}/ExecuteStateTransaction"), &request)
    };
    let done_with = StateItem { etag: etag("7"), ..item("b", "") };
    let call = transact(vec![operation("upsert", item("a", "1")), operation("delete", done_with)]);
    let (txn, request) = take::<etcd::TxnRequest>(&world, "KV/Txn");
    assert_eq!((request.success.len(), request.compare.len(), request.failure.len()), (2, 1, 1));
    for step in &request.success {
        let asked = match &step.request {
            Some(Request::RequestPut(put)) => put.prev_kv,
            Some(Request::RequestDeleteRange(delete)) => delete.prev_kv,
            _ => false,
        };
        assert!(asked, "without room for looks the steps say what they replace: {step:?}");
    }
    txn.reply(&done(false, vec![etcd::RangeResponse::default()]));
    let (code, text) = status(&call);
    assert_eq!(code, Code::Internal);
    assert!(text.ends_with("key a||b: there is no item, and etag 7 was given"), "{text}");

    let three = ["a", "b", "c"].map(|key| operation("upsert", item(key, "1"))).to_vec();
    assert_eq!(
        status(&transact(three)),
        (
            Code::InvalidArgument,
            "the transaction contains 3 operations, which is more than what the state store supports: 2".into()
        )
    );
}

#[test]
fn an_outage_is_unavailable_and_a_refusal_is_not() {
    let (world, worker) = store("v1", json!({}));
    for (code, text, expected) in [
        (Code::Unavailable, "etcdserver: no leader", Code::Unavailable),
        (Code::Unavailable, "upstream connect error", Code::Unavailable),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Code::Internal),
        (Code::PermissionDenied, "etcdserver: permission denied", Code::Internal),
    ] {
        let call = get(&world, &worker, "k");
        take::<etcd::RangeRequest>(&world, "KV/Range").0.fail(code, text);
        let (code, said) = status(&call);
        assert_eq!(code, expected, "{text}");
        assert!(said.starts_with("fail to get k from state store s: etcd ") && said.ends_with(text), "{said}");
    }
}

#[test]
fn a_call_that_is_given_up_is_cancelled() {
    let (world, worker) = store("v1", json!({}));
    let call = get(&world, &worker, "k");
    let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
    assert!(!range.is_cancelled());
    call.cancel();
    assert!(range.is_cancelled());
}

#[test]
fn several_members_may_be_tried() {
    let (world, worker) = store("v1", json!({"endpoints": "a:1, b:2;http://c:3"}));
    let _read = get(&world, &worker, "k");
    let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
    expect_metadata(&range, "x-envoy-max-retries", Some("4"));
    expect_metadata(&range, "x-envoy-retry-grpc-on", Some("unavailable"));
    let _write = save_one(&world, &worker, item("k", "v"));
    let txn = take::<etcd::TxnRequest>(&world, "KV/Txn").0;
    expect_metadata(&txn, "x-envoy-max-retries", Some("4"));
    expect_metadata(&txn, "x-envoy-retry-grpc-on", None);
}

fn token(token: &str) -> etcd::AuthenticateResponse {
    etcd::AuthenticateResponse { header: header(1), token: token.to_owned() }
}

fn with_login() -> (World, Rc<Runtime>) {
    store("v1", json!({"username": "u", "password": "hunter2"}))
}

#[test]
fn all_calls_wait_for_one_login_and_send_its_token() {
    let (world, worker) = with_login();
    let calls = [get(&world, &worker, "1"), get(&world, &worker, "2")];
    let (login, request) = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate");
    assert_eq!((request.name.as_str(), request.password.as_str()), ("u", "hunter2"));
    assert!(world.grpc_call(CLUSTER).is_none());
    login.reply(&token("t1"));
    for call in calls {
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        expect_metadata(&range, "token", Some("t1"));
        range.reply(&found("k", "v", 1));
        assert_eq!(value(&call), "v");
    }
}

#[test]
fn a_token_that_has_ended_is_renewed_once_for_all() {
    let (world, worker) = with_login();
    let calls = [get(&world, &worker, "1"), get(&world, &worker, "2")];
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    let [first, second] = [(); 2].map(|()| take::<etcd::RangeRequest>(&world, "KV/Range").0);
    first.fail(Code::Unauthenticated, "etcdserver: invalid auth token");
    second.fail(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t2"));
    for call in calls {
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        expect_metadata(&range, "token", Some("t2"));
        range.reply(&found("k", "v", 1));
        assert_eq!(value(&call), "v");
    }
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn a_token_that_is_refused_again_is_no_loop() {
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    for name in ["t1", "t2"] {
        take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token(name));
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        range.fail(Code::Unauthenticated, "etcdserver: invalid auth token");
    }
    assert_eq!(status(&call).0, Code::Internal);
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn a_refused_login_says_so_without_the_password_and_is_not_repeated_at_once() {
    const REFUSED: &str = "etcdserver: authentication failed, invalid user ID or password";
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.fail(Code::InvalidArgument, REFUSED);
    let expected = format!("fail to get k from state store s: etcd says: {REFUSED}");
    assert_eq!(status(&call), (Code::Internal, expected.clone()));
    assert_eq!(status(&get(&world, &worker, "k")).1, expected);
    assert!(world.grpc_call(CLUSTER).is_none());
    world.advance(Duration::from_secs(2));
    let _call = get(&world, &worker, "k");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert!(!world.log_lines().join("\n").contains("hunter2"));
    assert!(!format!("{worker:?}").contains("hunter2"));
}

#[test]
fn a_login_that_is_given_up_does_not_hold_up_others() {
    let (world, worker) = with_login();
    let (first, second) = (get(&world, &worker, "1"), get(&world, &worker, "2"));
    first.cancel();
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&second), "v");
}

#[test]
fn a_login_that_nobody_waits_for_any_more_is_begun_anew() {
    let (world, worker) = with_login();
    get(&world, &worker, "1").cancel();
    let stale = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0;
    let call = get(&world, &worker, "2");
    stale.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&call), "v");
}

#[test]
fn a_server_without_authentication_needs_no_token_until_it_does() {
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    let login = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0;
    login.fail(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
    expect_metadata(&range, "token", None);
    range.fail(Code::InvalidArgument, "etcdserver: user name is empty");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&call), "v");
}

#[test]
fn fields_are_checked() {
    let problems = |version: &str, metadata: serde_json::Value| -> Vec<String> {
        let component = json!({"name": "s", "type": "state.etcd", "version": version, "metadata": metadata});
        let document = json!({"appId": "a", "components": [component]});
        let report = runtime_api::config::Config::check(&document).1;
        report.0.iter().map(|problem| problem.to_string().replace("components[0].", "")).collect()
    };
    assert_eq!(problems("v2", json!({"endpoints": "a:1,b:2"})), [""; 0]);
    assert_eq!(problems("v3", json!({"endpoints": "a:1"})), ["version: v1 or v2 is expected, not \"v3\""]);
    assert_eq!(
        problems("v1", json!({"endpoints": "a:1,b", "username": "u", "cert": "c", "ca": "-----BEGIN X"})),
        [
            "metadata.endpoints: addresses as host:port with commas between are expected, not \"b\"",
            "metadata.username: username and password are expected together",
            "metadata.cert: cert and key are expected together",
            "metadata.ca: the path of a file is expected, not what is in it",
            "metadata.ca: needs tlsEnable: true",
            "metadata.cert: needs tlsEnable: true",
        ]
    );
    assert_eq!(
        problems("v1", json!({"endpoints": "https://a:1"})),
        ["metadata.endpoints: \"https://a:1\" needs tlsEnable: true"]
    );
}

// Locks

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

// Sequences

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
