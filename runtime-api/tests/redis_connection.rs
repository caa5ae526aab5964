//! The one connection to Redis that all calls of a worker share: how it is opened, what ends it, and that no reply
//! ever reaches another call.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::common::v1::StateItem;
use envoy_runtime_proto::dapr::common::v1::StateOptions;
use envoy_runtime_proto::dapr::common::v1::state_options::StateConsistency;
use envoy_runtime_proto::dapr::runtime::v1::{GetBulkStateRequest, GetBulkStateResponse};
use runtime_api::Runtime;
use runtime_api::api::call::{Head, Reply};
use runtime_api::testing::{Connection, Started, World, call, call_with, worker};
use serde_json::json;
use support::{DAPR, get, item, message, received, resp, save, status, value};
use tonic::Code;

fn redis(metadata: serde_json::Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let mut all = json!({"redisHost": "redis:6379"});
    all.as_object_mut().unwrap().append(&mut metadata.as_object().unwrap().clone());
    let component = json!({"name": "s", "type": "state.redis", "metadata": all});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    (world, worker)
}

/// Takes the connection and lets the client in.
fn accept(world: &World) -> Connection {
    let server = world.accept("runtime.state.s").expect("a connection");
    assert_eq!(server.received(), "*1\r\n$4\r\nPING\r\n");
    server.send(b"+PONG\r\n");
    server
}

fn hash(value: &str) -> Vec<u8> {
    let length = value.len();
    format!("*2\r\n${length}\r\n{value}\r\n$1\r\n1\r\n").into_bytes()
}

const GET_K: &[u8] = b"*4\r\n$5\r\nHMGET\r\n$4\r\na||k\r\n$4\r\ndata\r\n$7\r\nversion\r\n";
/// Of a key that is not there.
const NONE: &[u8] = b"*2\r\n$-1\r\n$-1\r\n";

#[test]
fn nothing_is_connected_before_the_first_call() {
    let (world, worker) = redis(json!({}));
    assert!(world.accept("runtime.state.s").is_none());
    let call = get(&world, &worker, "k");
    let server = accept(&world);
    assert_eq!(server.received(), GET_K);
    server.send(&hash("v"));
    assert_eq!(value(&call), "v");
    assert_eq!(world.metric("runtime.requests.state.s.GetState.OK"), Some(1));
    assert_eq!(world.metric("runtime.upstream.s.connects"), Some(1));
}

#[test]
fn the_login_goes_first() {
    let (world, worker) = redis(json!({"redisUsername": "u", "redisPassword": "p", "redisDB": 3}));
    let call = get(&world, &worker, "k");
    let server = world.accept("runtime.state.s").unwrap();
    let login = "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n";
    assert_eq!(server.received(), login);
    server.send(b"+OK\r\n+OK\r\n");
    assert_eq!(server.received(), "", "commands wait for the end of the login");
    server.send(b"+PONG\r\n");
    assert_eq!(server.received(), GET_K);
    server.send(NONE);
    assert_eq!(value(&call), "");
}

#[test]
fn a_refused_login_says_so_without_the_password() {
    let (world, worker) = redis(json!({"redisPassword": "hunter2"}));
    let call = get(&world, &worker, "k");
    let server = world.accept("runtime.state.s").unwrap();
    server.send(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH\r\n");
    let (code, text) = status(&call);
    assert_eq!(code, Code::Unavailable);
    assert_eq!(
        text,
        "fail to get k from state store s: redis is unreachable: it refuses AUTH: \
         WRONGPASS invalid username-password pair or user is disabled."
    );
    assert!(!world.log_lines().join("\n").contains("hunter2"));
}

#[test]
fn a_server_without_auth_repeats_the_password_and_we_do_not() {
    let (world, worker) = redis(json!({"redisPassword": "hunter2"}));
    let call = get(&world, &worker, "k");
    let server = world.accept("runtime.state.s").unwrap();
    server.send(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n-NOAUTH\r\n");
    let (_, text) = status(&call);
    assert!(text.ends_with("it refuses AUTH: ERR unknown command 'AUTH'"), "{text}");
    assert!(!world.log_lines().join("\n").contains("hunter2"));
}

#[test]
fn replies_cut_anywhere_reach_their_calls_in_order() {
    let replies = [hash("one"), hash("two\r\n$3"), NONE.to_vec()].concat();
    for at in 1..replies.len() {
        let (world, worker) = redis(json!({}));
        let calls: Vec<_> = ["1", "2", "3"].iter().map(|key| get(&world, &worker, key)).collect();
        let server = accept(&world);
        server.send(&replies[..at]);
        server.send(&replies[at..]);
        let values: Vec<_> = calls.iter().map(value).collect();
        assert_eq!(values, ["one", "two\r\n$3", ""], "cut at {at}");
    }
}

#[test]
fn calls_in_flight_learn_that_the_connection_broke_and_the_next_call_opens_another() {
    let (world, worker) = redis(json!({}));
    let (first, second) = (get(&world, &worker, "1"), save(&world, &worker, vec![item("2", "x")]));
    let server = accept(&world);
    server.send(&hash("one")[..10]);
    server.close("reset by peer");
    assert_eq!(
        status(&first),
        (
            Code::Unavailable,
            "fail to get 1 from state store s: redis closed the connection before it answered (reset by peer); \
         whether the command ran is unknown"
                .into()
        )
    );
    assert_eq!(status(&second).0, Code::Unavailable);
    assert!(server.is_dropped());

    // What the old connection still says can reach nobody.
    let third = get(&world, &worker, "k");
    server.send(&hash("of another"));
    let server = accept(&world);
    assert_eq!(server.received(), GET_K);
    server.send(&hash("mine"));
    assert_eq!(value(&third), "mine");
}

#[test]
fn a_server_that_is_not_there_is_tried_again_after_a_growing_pause() {
    let (world, worker) = redis(json!({}));
    let mut waited = Duration::ZERO;
    for _ in 0..8 {
        let call = get(&world, &worker, "k");
        world.accept("runtime.state.s").expect("an attempt").close("connection refused");
        let unreachable = "fail to get k from state store s: redis is unreachable: connection refused";
        assert_eq!(status(&call), (Code::Unavailable, unreachable.into()));
        // Until the pause is over calls fail at once.
        let call = get(&world, &worker, "k");
        assert_eq!(status(&call), (Code::Unavailable, unreachable.into()));
        assert!(world.accept("runtime.state.s").is_none());
        let pause = Duration::from_secs(1);
        world.advance(pause);
        waited += pause;
    }
    let call = get(&world, &worker, "k");
    accept(&world).send(&hash("back"));
    assert_eq!(value(&call), "back");
}

#[test]
fn a_server_that_loads_its_data_is_not_there_yet() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    world.accept("runtime.state.s").unwrap().send(b"-LOADING Redis is loading the dataset in memory\r\n");
    assert_eq!(status(&call).0, Code::Unavailable);
}

#[test]
fn a_cancelled_call_leaves_its_reply_to_nobody() {
    let (world, worker) = redis(json!({}));
    let (gone, stays) = (get(&world, &worker, "1"), get(&world, &worker, "2"));
    let server = accept(&world);
    gone.cancel();
    server.send(&hash("for the one that is gone"));
    assert!(stays.outcome().is_none());
    server.send(&hash("two"));
    assert_eq!(value(&stays), "two");
}

#[test]
fn a_deadline_ends_the_call_and_not_the_connection() {
    let (world, worker) = redis(json!({}));
    let head = Head {
        target: format!("{DAPR}/GetState").as_str().into(),
        timeout: Some(Duration::from_millis(250)),
        ..Head::default()
    };
    let request = envoy_runtime_proto::dapr::runtime::v1::GetStateRequest {
        store_name: "s".into(),
        key: "1".into(),
        ..Default::default()
    };
    let slow = call_with(&world, &worker, head, &request);
    let server = accept(&world);
    world.advance(Duration::from_millis(249));
    assert!(slow.outcome().is_none());
    world.advance(Duration::from_millis(1));
    assert_eq!(status(&slow), (Code::DeadlineExceeded, "state component s has not answered within 250ms".into()));
    let next = get(&world, &worker, "2");
    server.send(&hash("late"));
    server.send(&hash("two"));
    assert_eq!(value(&next), "two");
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    let server = accept(&world);
    world.advance(Duration::from_secs(5));
    assert_eq!(status(&call).0, Code::DeadlineExceeded);
    let call = get(&world, &worker, "k");
    world.advance(Duration::from_millis(4999));
    assert!(!server.is_dropped() || call.outcome().is_some());
    world.advance(Duration::from_secs(5));
    assert!(server.is_dropped(), "the connection is taken for dead");
    let call = get(&world, &worker, "k");
    accept(&world).send(&hash("back"));
    assert_eq!(value(&call), "back");
}

#[test]
fn an_idle_connection_is_kept() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    let server = accept(&world);
    server.send(&hash("v"));
    assert_eq!(value(&call), "v");
    world.advance(Duration::from_secs(3600));
    assert!(!server.is_dropped());
}

#[test]
fn what_is_not_resp_ends_the_connection() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    let server = accept(&world);
    server.send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(status(&call).0, Code::Unavailable);
    assert!(server.is_dropped());
}

#[test]
fn a_reply_that_nobody_asked_for_ends_the_connection() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    let server = accept(&world);
    server.send(&[hash("v"), hash("odd")].concat());
    assert_eq!(value(&call), "v");
    assert!(server.is_dropped());
}

#[test]
fn calls_beyond_what_may_wait_are_refused() {
    let (world, worker) = redis(json!({}));
    let calls: Vec<_> = (0..40_000).map(|_| get(&world, &worker, "k")).collect();
    let refused = calls.iter().filter_map(runtime_api::testing::Started::outcome).count();
    assert_eq!(refused, 40_000 - (32 * 1024 - 1), "the PING of the login waits too");
}

/// At the level debug of the log, which costs nothing at others.
#[test]
fn a_call_is_explained_in_a_line() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "secret-key");
    accept(&world).send(&hash("secret-value"));
    assert_eq!(value(&call), "secret-value");
    assert!(!world.log_lines().join("\n").contains("event=call "));
    world.explain();
    let call = get(&world, &worker, "secret-key");
    world.advance(Duration::from_millis(3));
    assert!(call.outcome().is_none());
    world.advance(Duration::from_secs(5));
    assert_eq!(status(&call).0, Code::DeadlineExceeded);
    let lines = world.log_lines();
    let line = lines.iter().find(|line| line.starts_with("event=call ")).unwrap();
    assert_eq!(
        line,
        "event=call method=GetState api=dapr component=s request_bytes=20 sent=\"1 to runtime.state.s, 58 bytes\" took_us=5000000 \
         status=DeadlineExceeded reply_bytes=0 message=\"state component s has not answered within 5s\""
    );
    let request = dapr_get("unknown");
    let call = runtime_api::testing::call(&world, &worker, &format!("{DAPR}/GetState"), &request);
    assert_eq!(status(&call).0, Code::InvalidArgument);
    let lines = world.log_lines().join("\n");
    assert!(lines.contains("component=none") && lines.contains("sent=\"nothing\""), "{lines}");
    assert!(lines.contains("event=component_unknown block=state name=\"unknown\" known=\"s\""), "{lines}");
    assert!(!lines.contains("secret-"), "{lines}");
}

fn dapr_get(store: &str) -> envoy_runtime_proto::dapr::runtime::v1::GetStateRequest {
    envoy_runtime_proto::dapr::runtime::v1::GetStateRequest {
        store_name: store.into(),
        key: "k".into(),
        ..Default::default()
    }
}

/// Of a hash that others wrote the two fields alone are asked for, whatever else is in it.
#[test]
fn a_hash_of_others_is_no_item_or_names_the_field_that_it_lacks() {
    let lacks = |field: &str| {
        let text = format!("the hash under the key lacks the field {field}; no runtime wrote it");
        (Code::Internal, format!("fail to get k from state store s: {text}"))
    };
    let cases: [(&[u8], _); 3] = [
        (NONE, None),
        (b"*2\r\n$1\r\nv\r\n$-1\r\n", Some(lacks("version"))),
        (b"*2\r\n$-1\r\n$1\r\n1\r\n", Some(lacks("data"))),
    ];
    for (reply, refusal) in cases {
        let (world, worker) = redis(json!({}));
        let call = get(&world, &worker, "k");
        let server = accept(&world);
        assert_eq!(server.received(), GET_K);
        server.send(reply);
        match refusal {
            Some(refusal) => assert_eq!(status(&call), refusal),
            None => assert_eq!(value(&call), ""),
        }
    }
}

/// A strongly consistent write waits for the replicas, but never so long that its connection passes for dead.
#[test]
fn redis_waits_for_its_replicas_within_the_limit_of_a_call() {
    for (limit, patience) in [("5s", "1000"), ("500ms", "250"), ("1ms", "1")] {
        let world = World::default();
        let component = json!({"name": "s", "type": "state.redis", "metadata": {"redisHost": "redis:6379"}});
        let document = json!({"appId": "a", "limits": {"timeout": limit}, "components": [component]});
        let worker = worker(&world, &document);
        let options = Some(StateOptions { consistency: StateConsistency::ConsistencyStrong.into(), concurrency: 0 });
        let call = save(&world, &worker, vec![StateItem { options, ..item("k", "v") }]);
        let server = accept(&world);
        assert_eq!(received(&server), resp(&["INFO", "replication"]));
        let info = "role:master\r\nconnected_slaves:1\r\n";
        server.send(format!("${}\r\n{info}\r\n", info.len()).as_bytes());
        let written = received(&server);
        server.send(b":1\r\n");
        let sent = written + &received(&server);
        assert!(sent.ends_with(&resp(&["WAIT", "1", patience])), "{limit}: {sent}");
        server.send(b":0\r\n");
        let (code, text) = status(&call);
        let expected = format!("only 0 of 1 replicas have it after {patience} ms");
        assert!(code == Code::Unavailable && text.ends_with(&expected), "{code:?} {text}");
    }
}

// ---- What goes out together ----

fn gets(keys: &[String]) -> String {
    keys.iter().map(|key| resp(&["HMGET", &format!("a||{key}"), "data", "version"])).collect()
}

/// Reads that many keys at once.
fn bulk(world: &World, worker: &Rc<Runtime>, keys: usize) -> (Started<Reply>, String) {
    let keys: Vec<String> = (0..keys).map(|key| key.to_string()).collect();
    let sent = gets(&keys);
    let request = GetBulkStateRequest { store_name: "s".into(), keys, ..Default::default() };
    (call(world, worker, &format!("{DAPR}/GetBulkState"), &request), sent)
}

/// A worker whose connection has been used.
fn used() -> (World, Rc<Runtime>, Connection) {
    let (world, worker) = redis(json!({}));
    let first = get(&world, &worker, "k");
    let server = accept(&world);
    assert_eq!(server.received(), GET_K);
    server.send(NONE);
    assert_eq!(value(&first), "");
    (world, worker, server)
}

#[test]
fn what_one_call_asks_for_takes_one_round_trip() {
    for keys in [2, 3, 128] {
        let (world, worker, server) = used();
        let (read, sent) = bulk(&world, &worker, keys);
        assert_eq!((server.writes(), server.received()), (1, sent.into()), "no reply and no time is waited for");
        server.send(&NONE.repeat(keys));
        assert_eq!(message::<GetBulkStateResponse>(&read).items.len(), keys);
    }
}

#[test]
fn what_many_calls_ask_for_in_one_turn_is_one_write() {
    let (world, worker, server) = used();
    let (read, _) = bulk(&world, &worker, 128);
    server.received();
    // Each of the 128 reads goes on by itself, all with what one buffer of the server has brought.
    server.send(&b"-WRONGTYPE it is a string\r\n".repeat(128));
    let sent: String = (0..128).map(|key| resp(&["GET", &format!("a||{key}")])).collect();
    assert_eq!((server.writes(), server.received()), (1, sent.into()));
    server.send(&b"$1\r\nv\r\n".repeat(128));
    assert_eq!(message::<GetBulkStateResponse>(&read).items.len(), 128);
}

#[test]
fn a_third_write_waits_for_a_reply_or_a_millisecond() {
    for far in [false, true] {
        let (world, worker, server) = used();
        let calls: Vec<_> = ["1", "2", "3", "4"].iter().map(|key| get(&world, &worker, key)).collect();
        let keys: Vec<String> = ["1", "2", "3", "4"].map(str::to_owned).into();
        assert_eq!((server.writes(), server.received()), (2, gets(&keys[..2]).into()));
        let mut replies = 4;
        if far {
            world.advance(Duration::from_micros(999));
            assert_eq!(server.received(), "");
            world.advance(Duration::from_micros(1));
        } else {
            server.send(NONE);
            replies -= 1;
        }
        assert_eq!((server.writes(), server.received()), (1, gets(&keys[2..]).into()), "far: {far}");
        server.send(&NONE.repeat(replies));
        assert!(calls.iter().all(|call| value(call).is_empty()));
        assert_eq!(world.timers(), 1, "what is left is the watch over the server");
    }
}

#[test]
fn what_was_held_back_when_the_connection_ends_is_known_not_to_have_run() {
    let (world, worker, server) = used();
    let calls: Vec<_> = ["1", "2", "3"].iter().map(|key| get(&world, &worker, key)).collect();
    server.close("reset by peer");
    let said: Vec<_> = calls.iter().map(|call| status(call).1).collect();
    assert!(said[0].contains("unknown") && said[1].contains("unknown"), "{said:?}");
    assert_eq!(said[2], "fail to get 3 from state store s: redis is unreachable: reset by peer");
    assert!(server.is_dropped());
}
