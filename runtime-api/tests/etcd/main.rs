//! What is asked of etcd, and what becomes of its answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test ends by a panic

#[path = "../support/mod.rs"]
mod support;

mod leases;
mod locks;
mod logins;

use std::rc::Rc;

use envoy_runtime_proto::dapr::common::v1::{StateItem, StateOptions};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use envoy_runtime_proto::etcd::etcdserverpb::response_op::Response;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd, compare::TargetUnion};
use envoy_runtime_proto::etcd::mvccpb::KeyValue;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{BEGINNING, GrpcCall, Started, World, call, worker};
use serde_json::json;
use support::{DAPR, etag, get, item, message, save, status, value};
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
fn take<M: Message + Default>(world: &World, method: &str) -> (GrpcCall, M) {
    take_of(world, CLUSTER, method)
}

#[track_caller]
fn take_of<M: Message + Default>(world: &World, cluster: &str, method: &str) -> (GrpcCall, M) {
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

fn expect_metadata(call: &GrpcCall, name: &str, value: Option<&str>) {
    let found = call.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(found, value, "{name} of {}", call.method);
}

fn with_ttl(key: &str, value: &str, seconds: &str) -> StateItem {
    StateItem { metadata: [("ttlInSeconds".to_owned(), seconds.to_owned())].into(), ..item(key, value) }
}

fn save_one(world: &World, worker: &Rc<Runtime>, item: StateItem) -> Started<Reply> {
    save(world, worker, vec![item])
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
