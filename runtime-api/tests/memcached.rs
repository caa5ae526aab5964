//! What is said to memcached, what becomes of its answers, and how its connections are kept. What it has in common with
//! Redis by `protocol/pipeline` is in `redis_connection.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::common::v1::state_options::StateConcurrency;
use envoy_runtime_proto::dapr::common::v1::{StateItem, StateOptions};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::api::http::Request;
use runtime_api::config::{Config, Severity};
use runtime_api::proxy::Proxy;
use runtime_api::testing::{Connection, Started, World, call, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, etag, get, item, message, received, save, status, value};
use tonic::Code;

const CLUSTER: &str = "runtime.state.s";

fn document(metadata: &Value) -> Value {
    json!({"appId": "a", "components": [{"name": "s", "type": "state.memcached", "metadata": metadata}]})
}

fn memcached() -> (World, Rc<Runtime>) {
    let world = World::default();
    let worker = worker(&world, &document(&json!({"hosts": "cache:11211"})));
    (world, worker)
}

/// Takes the connection and lets the client in.
#[track_caller]
fn accept(world: &World, cluster: &str) -> Connection {
    let server = world.accept(cluster).expect("a connection");
    assert_eq!(received(&server), "version\r\n", "commands wait for the answer");
    server.send(b"VERSION 1.6.18\r\n");
    server
}

fn found(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("VALUE a||{key} 0 {}\r\n", value.len()).as_bytes(), value, b"\r\nEND\r\n"].concat()
}

fn delete(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    let request = dapr::DeleteStateRequest { store_name: "s".into(), key: key.into(), ..Default::default() };
    call(world, worker, &format!("{DAPR}/DeleteState"), &request)
}

#[test]
fn values_are_read_as_they_are_and_have_no_etag() {
    let (world, worker) = memcached();
    let there = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    assert_eq!(received(&server), "get a||k\r\n");
    server.send(&found("k", b"END\r\nv"));
    let reply: dapr::GetStateResponse = message(&there);
    assert_eq!((reply.data.as_ref(), reply.etag.as_str()), (&b"END\r\nv"[..], ""));

    let missing = get(&world, &worker, "k");
    server.send(b"END\r\n");
    assert_eq!(value(&missing), "");
}

#[test]
fn writes_and_removals() {
    let (world, worker) = memcached();
    let saved = save(&world, &worker, vec![item("k", "v\r\n")]);
    let server = accept(&world, CLUSTER);
    assert_eq!(received(&server), "set a||k 0 0 3\r\nv\r\n\r\n");
    server.send(b"STORED\r\n");
    let () = message(&saved);

    for said in ["DELETED\r\n", "NOT_FOUND\r\n"] {
        let deleted = delete(&world, &worker, "k");
        assert_eq!(received(&server), "delete a||k\r\n");
        server.send(said.as_bytes());
        let () = message(&deleted);
    }
}

/// The wall clock of the tests stands at 1,800,000,000.
#[test]
fn life_times() {
    let (world, worker) = memcached();
    let times =
        [("1", "2"), ("2591999", "2592000"), ("2592000", "1802592001"), ("9999999999", "2147483647"), ("-1", "0")];
    let with_ttl = |seconds: &str| {
        let mut item = item(seconds, "v");
        item.metadata.insert("ttlInSeconds".into(), seconds.into());
        item
    };
    let saved = save(&world, &worker, times.map(|(seconds, _)| with_ttl(seconds)).to_vec());
    let server = accept(&world, CLUSTER);
    let expected = times.map(|(seconds, expiry)| format!("set a||{seconds} 0 {expiry} 1\r\nv\r\n"));
    assert_eq!(received(&server), expected.concat());
    server.send(&b"STORED\r\n".repeat(times.len()));
    let () = message(&saved);
}

/// As with Dapr's driver, which has no etags and looks at none.
#[test]
fn etags_and_concurrency_count_for_nothing() {
    let (world, worker) = memcached();
    let options = StateOptions { concurrency: StateConcurrency::ConcurrencyFirstWrite.into(), ..Default::default() };
    let saved = save(&world, &worker, vec![StateItem { etag: etag("x"), options: Some(options), ..item("k", "v") }]);
    let request = dapr::DeleteStateRequest {
        store_name: "s".into(),
        key: "k".into(),
        etag: etag("x"),
        options: Some(options),
        ..Default::default()
    };
    let deleted = call(&world, &worker, &format!("{DAPR}/DeleteState"), &request);
    let server = accept(&world, CLUSTER);
    assert_eq!(received(&server), "set a||k 0 0 1\r\nv\r\ndelete a||k\r\n");
    server.send(b"STORED\r\nDELETED\r\n");
    let () = message(&saved);
    let () = message(&deleted);
}

#[test]
fn transactions_are_not_supported() {
    let (world, worker) = memcached();
    let upsert = dapr::TransactionalStateOperation { operation_type: "upsert".into(), request: Some(item("k", "v")) };
    let request =
        dapr::ExecuteStateTransactionRequest { store_name: "s".into(), operations: vec![upsert], ..Default::default() };
    let refused = call(&world, &worker, &format!("{DAPR}/ExecuteStateTransaction"), &request);
    assert_eq!(status(&refused).0, Code::Unimplemented);
}

#[test]
fn keys_that_the_protocol_cannot_say_are_refused() {
    let (world, worker) = memcached();
    let long = "x".repeat(248);
    for (key, problem) in [
        ("a b", "invalid key: memcached takes no spaces and control characters in keys"),
        ("a\r\nflush_all", "memcached takes no spaces and control characters in keys"),
        (long.as_str(), "it has 251 bytes with its prefix, and memcached takes 250 at most"),
    ] {
        for refused in [get(&world, &worker, key), delete(&world, &worker, key)] {
            let (code, text) = status(&refused);
            assert!(code == Code::InvalidArgument && text.ends_with(problem), "{code:?} {text}");
        }
        let (code, text) = status(&save(&world, &worker, vec![item(key, "v")]));
        assert!(code == Code::InvalidArgument && text.contains("state store s: invalid key: key "), "{code:?} {text}");
    }
    // Layotto's API has no prefix, and takes an empty key.
    let request = layotto::GetStateRequest { store_name: "s".into(), ..Default::default() };
    let empty = call(&world, &worker, &format!("{LAYOTTO}/GetState"), &request);
    assert!(status(&empty).1.ends_with("memcached has no empty keys"));
    assert!(world.accept(CLUSTER).is_none(), "the server is not asked");
}

#[test]
fn a_key_has_one_server_by_its_checksum() {
    let world = World::default();
    let worker = worker(&world, &document(&json!({"hosts": "one:11211, two:11211,[::1]:11212"})));
    let clusters = [CLUSTER, "runtime.state.s.2", "runtime.state.s.3"];
    // CRC-32 of `a||k` and so on, modulo 3: as Python's zlib.crc32 has it.
    let keys = [("k", 2), ("d", 1), ("a", 0), ("c", 0)];
    let calls = keys.map(|(key, _)| get(&world, &worker, key));
    for (number, cluster) in clusters.iter().enumerate() {
        let server = accept(&world, cluster);
        let own: Vec<&str> = keys.iter().filter(|(_, at)| *at == number).map(|(key, _)| *key).collect();
        let asked: Vec<String> = own.iter().map(|key| format!("get a||{key}\r\n")).collect();
        assert_eq!(received(&server), asked.concat(), "{cluster}");
        for key in own {
            server.send(&found(key, key.as_bytes()));
        }
    }
    assert_eq!(calls.each_ref().map(value), keys.map(|(key, _)| key));
}

#[test]
fn a_server_that_is_down_keeps_its_keys() {
    let world = World::default();
    let worker = worker(&world, &document(&json!({"hosts": "one:11211,two:11211,three:11211"})));
    let (lost, kept) = (get(&world, &worker, "k"), get(&world, &worker, "a"));
    world.accept("runtime.state.s.3").unwrap().close("connection refused");
    assert_eq!(status(&lost).0, Code::Unavailable);
    accept(&world, CLUSTER).send(&found("a", b"v"));
    assert_eq!(value(&kept), "v");
    assert_eq!(status(&get(&world, &worker, "k")).0, Code::Unavailable, "no other server is asked");
}

#[test]
fn what_the_server_has_no_room_for_is_told() {
    for refusal in ["object too large for cache", "out of memory storing object"] {
        let (world, worker) = memcached();
        let refused = save(&world, &worker, vec![item("k", "v")]);
        let kept = get(&world, &worker, "k");
        let server = accept(&world, CLUSTER);
        server.send(format!("SERVER_ERROR {refusal}\r\nEND\r\n").as_bytes());
        let text = format!("failed saving state in state store s: key k: memcached says: SERVER_ERROR {refusal}");
        assert_eq!(status(&refused), (Code::ResourceExhausted, text));
        assert_eq!(value(&kept), "", "the connection goes on");
    }
    let (world, worker) = memcached();
    let failed = get(&world, &worker, "k");
    accept(&world, CLUSTER).send(b"SERVER_ERROR backend failure\r\n");
    assert_eq!(status(&failed).0, Code::Internal);
}

#[test]
fn values_of_a_mebibyte_come_in_parts() {
    let (world, worker) = memcached();
    let large = vec![b'\n'; 1 << 20];
    let there = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    found("k", &large).chunks(16_000).for_each(|part| server.send(part));
    assert_eq!(message::<dapr::GetStateResponse>(&there).data, large);
}

#[test]
fn a_value_without_measure_ends_the_connection() {
    let world = World::default();
    let mut document = document(&json!({"hosts": "cache:11211"}));
    document["limits"] = json!({"maxMemoryBytes": 64 << 20});
    let worker = worker(&world, &document);
    let call = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    server.send(b"VALUE a||k 0 1300000000\r\nv");
    let (code, text) = status(&call);
    assert_eq!(code, Code::Unavailable);
    assert!(text.contains("it announces a reply of 13000000"), "{text}");
    assert!(server.is_dropped());
}

#[test]
fn a_worker_whose_memory_is_full_refuses_a_write() {
    let (world, worker) = memcached();
    world.budget().set_limit(1 << 20);
    let _others = world.budget().reserve(1 << 20).unwrap();
    let refused = save(&world, &worker, vec![item("k", "v")]);
    assert_eq!(status(&refused).0, Code::ResourceExhausted);
}

#[test]
fn replies_cut_anywhere_reach_their_calls_in_order() {
    let replies = [found("1", b"one"), found("2", b"t\r\nwo"), b"END\r\n".to_vec()].concat();
    for at in 1..replies.len() {
        let (world, worker) = memcached();
        let calls = ["1", "2", "3"].map(|key| get(&world, &worker, key));
        let server = accept(&world, CLUSTER);
        server.send(&replies[..at]);
        server.send(&replies[at..]);
        assert_eq!(calls.each_ref().map(value), ["one", "t\r\nwo", ""], "cut at {at}");
    }
}

#[test]
fn a_cancelled_call_leaves_its_reply_to_nobody() {
    let (world, worker) = memcached();
    let (gone, stays) = (get(&world, &worker, "1"), get(&world, &worker, "2"));
    let server = accept(&world, CLUSTER);
    gone.cancel();
    server.send(&found("1", b"one"));
    assert!(stays.outcome().is_none());
    server.send(&found("2", b"two"));
    assert_eq!(value(&stays), "two");
}

#[test]
fn calls_in_flight_learn_that_the_connection_broke_and_the_next_call_opens_another() {
    let (world, worker) = memcached();
    let call = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    server.send(b"VALUE a||k 0");
    server.close("reset by peer");
    let text = "fail to get k from state store s: memcached closed the connection before it answered (reset by peer); \
                whether the command ran is unknown";
    assert_eq!(status(&call), (Code::Unavailable, text.into()));

    let call = get(&world, &worker, "k");
    accept(&world, CLUSTER).send(&found("k", b"mine"));
    assert_eq!(value(&call), "mine");
    assert_eq!(world.metric("runtime.upstream.s.connects"), Some(2));
    assert_eq!(world.metric("runtime.upstream.s.disconnects"), Some(1));
}

#[test]
fn a_server_that_is_not_there_is_tried_again_after_a_pause() {
    let (world, worker) = memcached();
    let text = "fail to get k from state store s: memcached is unreachable: connection refused";
    for _ in 0..8 {
        let call = get(&world, &worker, "k");
        world.accept(CLUSTER).expect("an attempt").close("connection refused");
        assert_eq!(status(&call), (Code::Unavailable, text.into()));
        let call = get(&world, &worker, "k");
        assert_eq!(status(&call), (Code::Unavailable, text.into()), "until the pause is over calls fail at once");
        assert!(world.accept(CLUSTER).is_none());
        world.advance(Duration::from_secs(1));
    }
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    let (world, worker) = memcached();
    let call = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    world.advance(Duration::from_secs(5));
    assert_eq!(status(&call).0, Code::DeadlineExceeded);
    world.advance(Duration::from_secs(5));
    assert!(server.is_dropped(), "the connection is taken for dead");
}

#[test]
fn an_idle_connection_is_kept() {
    let (world, worker) = memcached();
    let call = get(&world, &worker, "k");
    let server = accept(&world, CLUSTER);
    server.send(b"END\r\n");
    assert_eq!(value(&call), "");
    world.advance(Duration::from_secs(3600));
    assert!(!server.is_dropped());
}

#[test]
fn what_is_not_memcached_ends_the_connection() {
    for said in ["HTTP/1.1 400 Bad Request\r\n", "ERROR\r\n", "SERVER_ERROR out of memory\r\n", "END\r\n"] {
        let (world, worker) = memcached();
        let call = get(&world, &worker, "k");
        let server = world.accept(CLUSTER).unwrap();
        server.send(said.as_bytes());
        assert_eq!(status(&call).0, Code::Unavailable, "{said}");
        assert!(server.is_dropped(), "{said}");
    }
    for said in
        ["+OK\r\n", "CLIENT_ERROR bad command line format\r\n", "END\r\nEND\r\n", "VALUE a||k 0 1\r\nvEND\r\n  "]
    {
        let (world, worker) = memcached();
        let _call = get(&world, &worker, "k");
        let server = accept(&world, CLUSTER);
        server.send(said.as_bytes());
        assert!(server.is_dropped(), "{said}");
    }
    let (world, worker) = memcached();
    let call = get(&world, &worker, "k");
    accept(&world, CLUSTER).send(b"STORED\r\n");
    let text = "fail to get k from state store s: unexpected reply of memcached to get";
    assert_eq!(status(&call), (Code::Internal, text.into()));
}

#[test]
fn over_http_it_has_neither_etags_nor_transactions() {
    let (world, worker) = memcached();
    let ask = |method: http::Method, target: &str, body: &str| {
        let (target, body) = (target.to_owned(), body.to_owned().into());
        let request = Request { method, target, body, ..Request::default() };
        let worker = Rc::clone(&worker);
        world.start(async move { worker.http(&request).await })
    };
    let read = ask(http::Method::GET, "/v1.0/state/s/k", "");
    let server = accept(&world, CLUSTER);
    assert_eq!(received(&server), "get a||k\r\n");
    server.send(&found("k", b"{\"n\":1}"));
    let read = read.outcome().unwrap();
    assert_eq!((read.status.as_u16(), &*read.body), (200, &b"{\"n\":1}"[..]));
    assert!(read.headers.iter().all(|(name, _)| name != "etag"), "{:?}", read.headers);
    let body = r#"{"operations":[{"operation":"upsert","request":{"key":"k"}}]}"#;
    let refused = ask(http::Method::POST, "/v1.0/state/s/transaction", body).outcome().unwrap();
    let said: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.status.as_u16(), &said["errorCode"]), (501, &json!("ERR_STATE_STORE_NOT_SUPPORTED")));
    assert_eq!(said["details"][0]["@type"], "type.googleapis.com/google.rpc.Help");
}

#[test]
fn mistakes_of_the_configuration() {
    for (hosts, expected) in [
        (json!("cache:11211"), &[][..]),
        (json!("a:1, b:2"), &[]),
        (json!("cache"), &["host:port is expected between commas, not \"cache\""]),
        (json!("a:1,/run/memcached.sock,"), &["not \"/run/memcached.sock\"", "not \"\""]),
        (json!(""), &["not \"\""]),
        (json!([]), &["host:port, possibly more than one with commas between, is expected, not a list"]),
    ] {
        let metadata = json!({"hosts": hosts, "maxIdleConnections": 2, "timeout": 1000});
        let (_, report) = Config::check(&document(&metadata));
        let is_error = |problem: &&runtime_api::config::Problem| problem.severity == Severity::Error;
        let errors: Vec<String> = report.0.iter().filter(is_error).map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with("components[0].metadata.hosts: ") && error.ends_with(expected), "{error}");
        }
        assert_eq!(report.0.len() - errors.len(), 2, "both other fields have no effect");
    }
}
