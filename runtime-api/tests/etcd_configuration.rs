//! Configuration in etcd: what is asked of the server, and what subscribers are told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test ends by a panic

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use envoy_runtime_proto::etcd::etcdserverpb::response_op::Response;
use envoy_runtime_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd};
use envoy_runtime_proto::etcd::mvccpb::{Event, KeyValue, event::EventType};
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::testing::{Connection, Talk, World, call, talk, worker};
use serde_json::json;
use support::{DAPR, LAYOTTO, message, status};
use tonic::Code;

const CLUSTER: &str = "runtime.configuration.s";

fn store() -> (World, Rc<Runtime>) {
    let world = World::default();
    let component = json!({"name": "s", "type": "configuration.etcd", "metadata": {"endpoints": "etcd:2379"}});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    (world, worker)
}

#[allow(clippy::unnecessary_wraps)] // as the messages have it
fn header(revision: i64) -> Option<etcd::ResponseHeader> {
    Some(etcd::ResponseHeader { revision, ..Default::default() })
}

fn kv(key: &str, value: &str, mod_revision: i64) -> KeyValue {
    KeyValue { key: key.to_owned().into(), value: value.to_owned().into(), mod_revision, ..Default::default() }
}

fn put(key: &str, value: &str, revision: i64) -> Event {
    Event { r#type: EventType::Put.into(), kv: Some(kv(key, value, revision)), prev_kv: None }
}

fn gone(key: &str, revision: i64) -> Event {
    Event { r#type: EventType::Delete.into(), kv: Some(kv(key, "", revision)), prev_kv: None }
}

/// Takes a transaction.
#[track_caller]
fn transaction(world: &World) -> (runtime_api::testing::GrpcCall, etcd::TxnRequest) {
    let call = world.grpc_call(CLUSTER).unwrap();
    assert_eq!(call.method, "etcdserverpb.KV/Txn");
    let request = etcd::TxnRequest::decode(call.message.clone()).unwrap();
    (call, request)
}

fn read(kvs: Vec<KeyValue>) -> etcd::ResponseOp {
    let range = etcd::RangeResponse { header: header(9), kvs, ..Default::default() };
    etcd::ResponseOp { response: Some(Response::ResponseRange(range)) }
}

fn done(responses: Vec<etcd::ResponseOp>) -> etcd::TxnResponse {
    etcd::TxnResponse { header: header(9), succeeded: true, responses }
}

/// The steps of a transaction in words.
fn steps(request: &etcd::TxnRequest) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let step = |step: &etcd::RequestOp| match step.request.as_ref().unwrap() {
        Request::RequestRange(range) if range.range_end.is_empty() => format!("read {}", text(&range.key)),
        Request::RequestRange(range) => format!("read {}..{}", text(&range.key), text(&range.range_end)),
        Request::RequestPut(put) => format!("put {}={}", text(&put.key), text(&put.value)),
        Request::RequestDeleteRange(delete) if delete.range_end.is_empty() => format!("remove {}", text(&delete.key)),
        Request::RequestDeleteRange(delete) => format!("remove {}..{}", text(&delete.key), text(&delete.range_end)),
    };
    request.success.iter().map(step).collect()
}

/// Begins a subscription to keys of an app, and lets it come into force.
fn subscribed(world: &World, worker: &Rc<Runtime>, keys: &[&str]) -> (Talk, Connection) {
    let stream = talk(world, worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    stream.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
    let range = world.grpc_call(CLUSTER).unwrap();
    let request = etcd::RangeRequest::decode(range.message.clone()).unwrap();
    assert_eq!((request.key, request.range_end, request.keys_only), ("/a/".into(), "/a0".into(), true));
    range.reply(&etcd::RangeResponse { header: header(9), ..Default::default() });
    let server = world.accept(CLUSTER).unwrap();
    let request: etcd::WatchRequest = server.message().unwrap();
    let Some(RequestUnion::CreateRequest(create)) = request.request_union else { panic!("{request:?}") };
    assert_eq!(create.start_revision, 10);
    let watch_id = create.watch_id;
    server.send_message(&etcd::WatchResponse { header: header(9), watch_id, created: true, ..Default::default() });
    (stream, server)
}

/// The next message of a stream, as `key=content` with tags and version behind.
fn told(stream: &Talk) -> Vec<String> {
    let message: Option<layotto::SubscribeConfigurationResponse> = stream.next();
    let item = |item: &layotto::ConfigurationItem| format!("{}={} {:?}", item.key, item.content, item.tags);
    message.iter().flat_map(|message| &message.items).map(item).collect()
}

fn events(server: &Connection, events: Vec<Event>) {
    server.send_message(&etcd::WatchResponse { header: header(99), watch_id: 1, events, ..Default::default() });
}

#[test]
fn an_item_is_told_with_the_tags_of_its_own_revision() {
    let (world, worker) = store();
    let (stream, server) = subscribed(&world, &worker, &["k"]);
    events(
        &server,
        vec![
            put("/a/default/default/k", "one", 10),
            put("/a/default/default/k/old", "1", 10),
            put("/a/default/default/k", "two", 11),
            gone("/a/default/default/k/old", 11),
            put("/a/default/default/k/new", "2", 11),
            put("/a/default/default/k/later", "3", 12),
        ],
    );
    assert_eq!(told(&stream), [r#"k=one {"old": "1"}"#, r#"k=two {"new": "2"}"#]);
    // A change of tags alone is none of an item, and what comes before the item of its revision counts too.
    events(&server, vec![put("/a/default/default/k/new", "5", 13)]);
    assert_eq!(told(&stream), [""; 0]);
    events(&server, vec![put("/a/default/default/k/t", "6", 14), put("/a/default/default/k", "three", 14)]);
    assert_eq!(told(&stream), [r#"k=three {"t": "6"}"#]);
    events(&server, vec![gone("/a/default/default/k", 15), gone("/a/default/default/k/t", 15)]);
    assert_eq!(told(&stream), ["k= {}"]);
}

#[test]
fn tags_are_of_one_item_alone() {
    let (world, worker) = store();
    let (stream, server) = subscribed(&world, &worker, &[]);
    events(
        &server,
        vec![
            put("/a/default/default/k", "one", 10),
            put("/a/default/default/kk", "two", 10),
            put("/a/default/default/kk/t", "2", 10),
            put("/a/other/default/k", "not subscribed", 10),
            put("/a/other/default/k/t", "3", 10),
            put("/a/default", "no item", 10),
        ],
    );
    assert_eq!(told(&stream), ["k=one {}", r#"kk=two {"t": "2"}"#]);
}

#[test]
fn what_cannot_be_watched_is_refused_before_anything() {
    let refused = |what: &str, text: &str| {
        format!(
            "the {what} {text:?} is empty or has a / in it, which etcd keys of configuration have between their parts"
        )
    };
    for (what, place) in [("app", 0), ("group", 1), ("label", 2), ("key", 3)] {
        let (world, worker) = store();
        let mut parts = ["", "", "", "k"];
        parts[place] = "x/y";
        let [app_id, group, label, key] = parts.map(str::to_owned);
        let keys = vec![key];
        let request = layotto::SubscribeConfigurationRequest {
            store_name: "s".into(),
            app_id: app_id.clone(),
            group: group.clone(),
            label: label.clone(),
            keys: keys.clone(),
            ..Default::default()
        };
        let stream = talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
        stream.send(&request);
        let ended = stream.status().unwrap();
        assert_eq!(ended.code(), Code::InvalidArgument);
        assert!(ended.message().ends_with(&refused(what, "x/y")), "{}", ended.message());

        let metadata =
            BTreeMap::from([("appId".to_owned(), app_id), ("group".to_owned(), group), ("label".to_owned(), label)]);
        let stream = talk(&world, &worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
        stream.send(&dapr::SubscribeConfigurationRequest { store_name: "s".into(), keys, metadata });
        assert_eq!(stream.status().unwrap().code(), Code::InvalidArgument, "{what}");
        assert!(world.grpc_call(CLUSTER).is_none() && world.accept(CLUSTER).is_none());
        assert_eq!(world.timers(), 0);
    }
}

#[test]
fn one_that_is_refused_takes_no_other_along() {
    let (world, worker) = store();
    let (stream, server) = subscribed(&world, &worker, &["k"]);
    let other = talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    let keys = vec!["x/y".to_owned()];
    other.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
    assert_eq!(other.status().unwrap().code(), Code::InvalidArgument);
    events(&server, vec![put("/a/default/default/k", "v", 10)]);
    assert_eq!(told(&stream), ["k=v {}"]);
}

#[test]
fn a_server_that_is_not_there_refuses_a_subscription_in_the_time_of_a_call() {
    let (world, worker) = store();
    let stream = talk(&world, &worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    let keys = vec!["k".to_owned()];
    stream.send(&dapr::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
    world.grpc_call(CLUSTER).unwrap().fail(Code::Unavailable, "connection refused");
    world.advance(Duration::from_millis(4999));
    assert!(stream.status().is_none());
    world.advance(Duration::from_millis(1));
    let ended = stream.status().unwrap();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("connection refused"), "{}", ended.message());
}

#[test]
fn a_save_is_one_transaction_that_leaves_no_tag_of_before() {
    let (world, worker) = store();
    let item = |key: &str, content: &str, tags: &[(&str, &str)]| layotto::ConfigurationItem {
        key: key.into(),
        content: content.into(),
        tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let items = vec![item("k", "v", &[("new", "1"), ("kept", "2")]), item("l", "w", &[]), item("l", "x", &[])];
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    let saved = call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request);
    let (look, request) = transaction(&world);
    assert_eq!(
        steps(&request),
        [
            "read /a/default/default/k/../a/default/default/k0",
            "read /a/default/default/l/../a/default/default/l0",
            "read /a/default/default/l/../a/default/default/l0",
        ]
    );
    let before = vec![kv("/a/default/default/k/old", "", 5), kv("/a/default/default/k/kept", "", 5)];
    look.reply(&done(vec![read(before), read(vec![]), read(vec![])]));
    let (write, request) = transaction(&world);
    assert_eq!(
        steps(&request),
        [
            "put /a/default/default/k=v",
            "remove /a/default/default/k/old",
            "put /a/default/default/k/kept=2",
            "put /a/default/default/k/new=1",
            "put /a/default/default/l=x",
        ]
    );
    write.reply(&done(vec![]));
    message::<()>(&saved);
}

#[test]
fn a_tag_without_a_name_is_refused() {
    let (world, worker) = store();
    let tags = BTreeMap::from([(String::new(), "x".to_owned())]);
    let items = vec![layotto::ConfigurationItem { key: "k".into(), tags, ..Default::default() }];
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    let saved = call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request);
    assert_eq!(
        status(&saved),
        (Code::InvalidArgument, r#"configuration store s: the item k has a tag without a name, """#.into())
    );
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn many_items_take_as_few_transactions_as_the_servers_let_there_be() {
    let (world, worker) = store();
    for (count, expected) in [(64, vec![128]), (65, vec![128, 2]), (129, vec![128, 128, 2])] {
        let keys = (0..count).map(|key| key.to_string()).collect();
        let request = layotto::GetConfigurationRequest { store_name: "s".into(), keys, ..Default::default() };
        let call = call(&world, &worker, &format!("{LAYOTTO}/GetConfiguration"), &request);
        for steps in expected {
            let (read_all, request) = transaction(&world);
            assert_eq!(request.success.len(), steps);
            read_all.reply(&done(vec![]));
        }
        assert!(message::<layotto::GetConfigurationResponse>(&call).items.is_empty());
    }
}

#[test]
fn items_are_read_with_their_tags_in_the_order_of_the_keys() {
    let (world, worker) = store();
    let keys = vec!["l".to_owned(), "k".to_owned(), "none".to_owned()];
    let request = layotto::GetConfigurationRequest { store_name: "s".into(), keys, ..Default::default() };
    let call = call(&world, &worker, &format!("{LAYOTTO}/GetConfiguration"), &request);
    let (look, request) = transaction(&world);
    assert_eq!(
        steps(&request)[..2],
        ["read /a/default/default/l", "read /a/default/default/l/../a/default/default/l0",]
    );
    look.reply(&done(vec![
        read(vec![kv("/a/default/default/l", "w", 6)]),
        read(vec![]),
        read(vec![kv("/a/default/default/k", "v", 5)]),
        read(vec![kv("/a/default/default/k/t", "1", 5)]),
        read(vec![]),
        read(vec![kv("/a/default/default/none/t", "a tag without its item", 5)]),
    ]));
    let items = message::<layotto::GetConfigurationResponse>(&call).items;
    let short: Vec<_> = items.iter().map(|item| format!("{}={} {:?}", item.key, item.content, item.tags)).collect();
    assert_eq!(short, ["l=w {}", r#"k=v {"t": "1"}"#]);
}

#[test]
fn a_removal_takes_the_tags_along_and_nothing_else() {
    let (world, worker) = store();
    let keys = vec!["k".to_owned(), "l".to_owned()];
    let request = layotto::DeleteConfigurationRequest { store_name: "s".into(), keys, ..Default::default() };
    let call = call(&world, &worker, &format!("{LAYOTTO}/DeleteConfiguration"), &request);
    let (removal, request) = transaction(&world);
    assert_eq!(
        steps(&request),
        [
            "remove /a/default/default/k",
            "remove /a/default/default/k/../a/default/default/k0",
            "remove /a/default/default/l",
            "remove /a/default/default/l/../a/default/default/l0",
        ]
    );
    removal.reply(&done(vec![]));
    message::<()>(&call);
}
