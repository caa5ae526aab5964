//! Watching etcd: one stream for all, and what a subscriber sees when it is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by a panic

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::etcd::etcdserverpb::watch_request::RequestUnion;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd};
use envoy_runtime_proto::etcd::mvccpb::event::EventType;
use envoy_runtime_proto::etcd::mvccpb::{Event, KeyValue};
use prost::Message;
use runtime_api::protocol::etcd::{Client, Login};
use runtime_api::testing::{Connection, Started, World};
use tonic::Code;

const CLUSTER: &str = "c";

fn client(world: &World, login: Option<Login>) -> Client {
    Client::new(Rc::new(world.clone()), "s", CLUSTER, login, Duration::from_secs(5), 1)
}

/// Who watches a prefix, and what it was told: `key=value@revision`, and `key gone@revision`.
struct Subscriber {
    told: Rc<RefCell<Vec<String>>>,
    task: Started<()>,
}

impl Subscriber {
    fn new(world: &World, client: &Client, prefix: &'static str) -> Self {
        let (told, client) = (Rc::<RefCell<Vec<String>>>::default(), client.clone());
        let place = Rc::clone(&told);
        let task = world.start(async move {
            let mut watch = client.watch(prefix.as_bytes());
            watch.established().await;
            place.borrow_mut().push("established".to_owned());
            loop {
                for change in watch.next().await.changes {
                    let (key, revision) = (String::from_utf8_lossy(&change.key).into_owned(), change.revision);
                    place.borrow_mut().push(match change.value {
                        Some(value) => format!("{key}={}@{revision}", String::from_utf8_lossy(&value)),
                        None => format!("{key} gone@{revision}"),
                    });
                }
            }
        });
        Self { told, task }
    }

    fn told(&self) -> Vec<String> {
        self.told.take()
    }
}

fn header(revision: i64) -> etcd::ResponseHeader {
    etcd::ResponseHeader { revision, ..Default::default() }
}

fn kv(key: &str, value: &str, mod_revision: i64) -> KeyValue {
    KeyValue { key: key.to_owned().into(), value: value.to_owned().into(), mod_revision, ..Default::default() }
}

/// Answers the next range, and says whether it was for keys alone.
#[track_caller]
fn answer_range(world: &World, revision: i64, kvs: &[KeyValue]) -> bool {
    let call = world.grpc_call(CLUSTER).expect("a range");
    assert_eq!(call.method, "etcdserverpb.KV/Range");
    let request = etcd::RangeRequest::decode(call.message.clone()).unwrap();
    let header = Some(header(revision));
    call.reply(&etcd::RangeResponse { header, kvs: kvs.to_vec(), ..Default::default() });
    request.keys_only
}

#[track_caller]
fn created(server: &Connection, revision: i64) -> etcd::WatchCreateRequest {
    let Some(RequestUnion::CreateRequest(create)) = request(server) else { panic!("a watch is expected") };
    let header = Some(header(revision));
    let watch_id = create.watch_id;
    server.send_message(&etcd::WatchResponse { header, watch_id, created: true, ..Default::default() });
    create
}

fn request(server: &Connection) -> Option<RequestUnion> {
    server.message::<etcd::WatchRequest>()?.request_union
}

fn event(kind: EventType, kv: KeyValue) -> Event {
    Event { r#type: kind.into(), kv: Some(kv), ..Default::default() }
}

fn send(server: &Connection, watch_id: i64, events: Vec<Event>) {
    server.send_message(&etcd::WatchResponse { watch_id, events, ..Default::default() });
}

fn put(key: &str, value: &str, revision: i64) -> Event {
    event(EventType::Put, kv(key, value, revision))
}

/// A subscriber to `/a/` with a stream that is established at revision 10, when there are the keys x and y.
fn established() -> (World, Client, Subscriber, Connection) {
    let world = World::default();
    let client = client(&world, None);
    let subscriber = Subscriber::new(&world, &client, "/a/");
    let server = world.accept(CLUSTER).expect("a stream");
    assert_eq!(server.method, "etcdserverpb.Watch/Watch");
    assert!(answer_range(&world, 10, &[kv("/a/x", "", 3), kv("/a/y", "", 4)]));
    let create = created(&server, 10);
    assert_eq!((create.key, create.range_end, create.start_revision), ("/a/".into(), "/a0".into(), 11));
    assert_eq!(subscriber.told(), ["established"]);
    (world, client, subscriber, server)
}

/// Lets the back-off pass and takes the new stream.
#[track_caller]
fn reopened(world: &World) -> Connection {
    assert!(world.accept(CLUSTER).is_none(), "not before the back-off");
    world.advance(Duration::from_secs(2));
    world.accept(CLUSTER).expect("a new stream")
}

#[test]
fn changes_are_told_in_order() {
    let (_world, _client, subscriber, server) = established();
    let gone = event(EventType::Delete, kv("/a/x", "", 12));
    send(&server, 1, vec![put("/a/x", "1", 11), gone, put("/a/z", "2", 12)]);
    assert_eq!(subscriber.told(), ["/a/x=1@11", "/a/x gone@12", "/a/z=2@12"]);
}

#[test]
fn all_who_watch_share_a_stream_which_ends_with_the_last() {
    let (world, client, first, server) = established();
    let same = Subscriber::new(&world, &client, "/a/");
    assert_eq!(same.told(), ["established"]);
    let other = Subscriber::new(&world, &client, "/b/");
    answer_range(&world, 12, &[]);
    assert_eq!(created(&server, 12).watch_id, 2);
    assert!(world.accept(CLUSTER).is_none());
    send(&server, 1, vec![put("/a/x", "1", 13)]);
    send(&server, 2, vec![put("/b/x", "2", 14)]);
    assert_eq!((first.told(), same.told()), (vec!["/a/x=1@13".to_owned()], vec!["/a/x=1@13".to_owned()]));
    assert_eq!(other.told(), ["established", "/b/x=2@14"]);

    other.task.cancel();
    world.run();
    let Some(RequestUnion::CancelRequest(cancel)) = request(&server) else { panic!("it is given up") };
    assert_eq!(cancel.watch_id, 2);
    first.task.cancel();
    world.run();
    assert!(!server.is_dropped());
    same.task.cancel();
    assert!(server.is_dropped());
    world.advance(Duration::from_secs(60));
    assert!(world.accept(CLUSTER).is_none() && world.timers() == 0);
    let again = Subscriber::new(&world, &client, "/a/");
    assert!(world.accept(CLUSTER).is_some());
    drop(again);
}

#[test]
fn a_lost_stream_goes_on_after_the_last_revision() {
    let (world, _client, subscriber, server) = established();
    send(&server, 1, vec![put("/a/x", "1", 15)]);
    server.close("reset by peer");
    assert!(server.is_dropped());
    let server = reopened(&world);
    assert_eq!(created(&server, 17).start_revision, 16);
    send(&server, 1, vec![put("/a/x", "2", 16)]);
    assert_eq!(subscriber.told(), ["/a/x=1@15", "/a/x=2@16",].map(str::to_owned), "told once that it is established");
    assert!(world.log_lines().join("\n").contains("event=watch_lost reason=\"reset by peer\""));
    assert_eq!(world.metric("runtime.upstream.s.watches_lost"), Some(1));
}

#[test]
fn what_was_compacted_is_told_as_differences() {
    let (world, _client, subscriber, server) = established();
    server.close("reset by peer");
    let server = reopened(&world);
    let Some(RequestUnion::CreateRequest(create)) = request(&server) else { panic!("a watch") };
    let answer = etcd::WatchResponse { header: Some(header(30)), watch_id: create.watch_id, ..Default::default() };
    server.send_message(&etcd::WatchResponse { created: true, ..answer.clone() });
    server.send_message(&etcd::WatchResponse { canceled: true, compact_revision: 25, ..answer });
    // x is as it was, y is gone, z is new.
    assert!(!answer_range(&world, 30, &[kv("/a/x", "1", 3), kv("/a/z", "2", 20)]));
    assert_eq!(subscriber.told(), ["/a/z=2@20", "/a/y gone@30"]);
    let create = created(&server, 30);
    assert_eq!(create.start_revision, 31);
    send(&server, create.watch_id, vec![put("/a/z", "3", 31)]);
    assert_eq!(subscriber.told(), ["/a/z=3@31"]);
}

#[test]
fn a_store_that_is_not_what_it_was_is_read_anew() {
    let (world, _client, subscriber, server) = established();
    server.close("reset by peer");
    let server = reopened(&world);
    let create = created(&server, 2);
    answer_range(&world, 2, &[kv("/a/x", "other", 2)]);
    assert_eq!(subscriber.told(), ["/a/x=other@2", "/a/y gone@2"]);
    let Some(RequestUnion::CancelRequest(cancel)) = request(&server) else { panic!("the old one is given up") };
    assert_eq!(cancel.watch_id, create.watch_id);
    assert_eq!(created(&server, 2).start_revision, 3);
}

#[test]
fn a_server_that_falls_silent_is_asked_and_given_up() {
    let (world, _client, subscriber, server) = established();
    for _ in 0..3 {
        world.advance(Duration::from_secs(15));
        assert!(matches!(request(&server), Some(RequestUnion::ProgressRequest(_))));
        server.send_message(&etcd::WatchResponse { header: Some(header(50)), watch_id: -1, ..Default::default() });
    }
    world.advance(Duration::from_secs(29));
    assert!(matches!(request(&server), Some(RequestUnion::ProgressRequest(_))));
    assert!(!server.is_dropped());
    world.advance(Duration::from_secs(1));
    assert!(server.is_dropped());
    let server = reopened(&world);
    assert_eq!(created(&server, 50).start_revision, 11, "progress may run ahead of events");
    assert!(subscriber.told().is_empty());
}

#[test]
fn a_watch_that_the_server_ends_is_begun_anew() {
    let (world, _client, subscriber, server) = established();
    let cancel_reason = "etcdserver: no leader".to_owned();
    server.send_message(&etcd::WatchResponse { watch_id: 1, canceled: true, cancel_reason, ..Default::default() });
    let server = reopened(&world);
    assert_eq!(created(&server, 12).start_revision, 11);
    send(&server, 1, vec![put("/a/x", "1", 12)]);
    assert_eq!(subscriber.told(), ["/a/x=1@12"]);
}

#[test]
fn a_store_that_is_not_there_yet_is_waited_for() {
    let world = World::default();
    let client = client(&world, None);
    let subscriber = Subscriber::new(&world, &client, "/a/");
    for _ in 0..5 {
        let server = world.accept(CLUSTER).expect("a stream");
        world.grpc_call(CLUSTER).expect("a range").fail(Code::Unavailable, "connection refused");
        assert!(server.is_dropped());
        world.advance(Duration::from_secs(2));
    }
    assert!(client.why_not_watching().contains("connection refused"));
    let server = world.accept(CLUSTER).expect("a stream");
    answer_range(&world, 1, &[]);
    created(&server, 1);
    assert_eq!(subscriber.told(), ["established"]);
}

#[test]
fn the_stream_has_a_token_and_another_when_that_no_longer_holds() {
    let world = World::default();
    let client = client(&world, Some(Login { name: "u".into(), password: "hunter2".into() }));
    let subscriber = Subscriber::new(&world, &client, "/a/");
    let authenticate = |token: &str| {
        let call = world.grpc_call(CLUSTER).expect("a login");
        assert_eq!(call.method, "etcdserverpb.Auth/Authenticate");
        call.reply(&etcd::AuthenticateResponse { header: None, token: token.to_owned() });
    };
    let token = |server: &Connection| server.metadata.iter().find(|(name, _)| name == "token").map(|(_, t)| t.clone());
    authenticate("t1");
    let server = world.accept(CLUSTER).expect("a stream");
    assert_eq!(token(&server).as_deref(), Some("t1"));
    answer_range(&world, 10, &[]);
    created(&server, 10);
    // 3.4 says no more than this when a token has ended.
    let cancel_reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied".to_owned();
    let refused =
        etcd::WatchResponse { watch_id: -1, created: true, canceled: true, cancel_reason, ..Default::default() };
    server.send_message(&refused);
    world.advance(Duration::from_secs(2));
    authenticate("t2");
    let server = world.accept(CLUSTER).expect("a stream");
    assert_eq!(token(&server).as_deref(), Some("t2"));
    created(&server, 10);
    assert_eq!(subscriber.told(), ["established"]);
    assert!(!world.log_lines().join("\n").contains("hunter2"));
}

#[test]
fn a_prefix_that_may_not_be_read_holds_up_nobody_else() {
    let (world, client, subscriber, server) = established();
    let refused = Subscriber::new(&world, &client, "/b/");
    let range = world.grpc_call(CLUSTER).expect("a range");
    range.fail(Code::PermissionDenied, "etcdserver: permission denied");
    assert!(client.why_not_watching().contains("permission denied"));
    send(&server, 1, vec![put("/a/x", "1", 11)]);
    assert_eq!(subscriber.told(), ["/a/x=1@11"]);
    assert!(world.grpc_call(CLUSTER).is_none(), "not asked again at once");
    world.advance(Duration::from_secs(15));
    answer_range(&world, 11, &[]);
    assert!(matches!(request(&server), Some(RequestUnion::ProgressRequest(_))));
    created(&server, 11);
    assert_eq!(refused.told(), ["established"]);
}
