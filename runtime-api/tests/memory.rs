//! What a worker holds has a bound, and what an app or a server makes large ends with a status and not with the worker.

#![allow(clippy::unwrap_used, clippy::panic)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::common::v1::StateItem;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::grpc::health::v1::HealthCheckResponse;
use runtime_api::Runtime;
use runtime_api::api::call::{Head, Reply};
use runtime_api::proxy::Proxy;
use runtime_api::testing::{Started, World, call, call_with, worker};
use serde_json::{Value, json};
use support::{DAPR, get, item, let_in, message, received, resp, save, status, value};
use tonic::Code;

/// The least that can be configured.
const MEMORY: usize = 64 << 20;

fn world(limits: Value, kind: &str, metadata: Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let component = json!({"name": "s", "type": kind, "metadata": metadata});
    let worker = worker(&world, &json!({"appId": "a", "limits": limits, "components": [component]}));
    (world, worker)
}

fn in_memory(limits: Value, metadata: Value) -> (World, Rc<Runtime>) {
    world(limits, "state.in-memory", metadata)
}

fn redis(limits: Value) -> (World, Rc<Runtime>) {
    world(limits, "state.redis", json!({"redisHost": "redis:6379"}))
}

fn large(key: &str, bytes: usize) -> StateItem {
    item(key, &"x".repeat(bytes))
}

fn bulk(world: &World, worker: &Rc<Runtime>, keys: Vec<String>) -> Started<Reply> {
    let request = dapr::GetBulkStateRequest { store_name: "s".into(), keys, parallelism: 128, ..Default::default() };
    call(world, worker, &format!("{DAPR}/GetBulkState"), &request)
}

fn transaction(world: &World, worker: &Rc<Runtime>, items: Vec<StateItem>) -> Started<Reply> {
    let operation = |item| dapr::TransactionalStateOperation { operation_type: "upsert".into(), request: Some(item) };
    let request = dapr::ExecuteStateTransactionRequest {
        store_name: "s".into(),
        operations: items.into_iter().map(operation).collect(),
        ..Default::default()
    };
    call(world, worker, &format!("{DAPR}/ExecuteStateTransaction"), &request)
}

/// Lets turns pass until the call has ended; how many it took.
fn turns(world: &World, ended: impl Fn() -> bool) -> u32 {
    for turn in 0..10_000 {
        if ended() {
            return turn;
        }
        world.advance(Duration::from_millis(1));
    }
    panic!("it takes too long");
}

#[test]
fn all_requests_on_their_way_in_have_one_bound() {
    let (world, worker) = in_memory(json!({"maxMemoryBytes": MEMORY, "maxRequestBytes": 16 << 20}), json!({}));
    let mut bodies = Vec::new();
    let refused = loop {
        assert!(bodies.len() < 10, "none is refused");
        let mut body = worker.body();
        let frame = [&[0, 0, 0x80, 0, 0][..], &vec![0; 1 << 20]].concat(); // of a message of 8 MiB
        let mut wanted = true;
        for _ in 0..7 {
            wanted &= worker.take(&mut body, frame.clone(), true);
        }
        if !wanted {
            break body;
        }
        bodies.push(body);
    };
    let head = Head { target: format!("{DAPR}/SaveState").as_str().into(), ..Head::default() };
    let own = Rc::clone(&worker);
    let call = world.start(async move { own.grpc(&head, refused).await });
    let (code, text) = status(&call);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("67108864 bytes, the limit set by limits.maxMemoryBytes"), "{text}");
    assert!(world.budget().held() <= MEMORY);
    drop(bodies);
    assert_eq!(world.budget().held(), 0, "all is given back");
    let () = message(&save(&world, &worker, vec![large("k", 1 << 20)]));
}

#[test]
fn replies_that_envoy_has_not_taken_are_counted() {
    let (world, worker) = in_memory(json!({"maxMemoryBytes": MEMORY}), json!({}));
    let () = message(&save(&world, &worker, vec![large("k", 4_000_000)]));
    let replies: Vec<_> = (0..20).map(|_| get(&world, &worker, "k").outcome().unwrap()).collect();
    assert!(matches!(replies[0], Reply::Message(_)));
    assert!(matches!(&replies[19], Reply::Status(status) if status.code() == Code::ResourceExhausted));
    assert!(world.budget().held() <= MEMORY);
    drop(replies);
    assert_eq!(world.budget().held(), 0);
    assert_eq!(value(&get(&world, &worker, "k")).len(), 4_000_000);
}

#[test]
fn what_streams_have_sent_and_nobody_has_handled_is_counted() {
    let (world, worker) = in_memory(json!({"maxMemoryBytes": MEMORY, "maxRequestBytes": 16 << 20}), json!({}));
    let head = Head { target: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".into(), ..Head::default() };
    let talks: Vec<_> = (0..10)
        .map(|_| {
            let talk = worker.conversation(&head).unwrap();
            talk.receive(&[&[0, 0, 0x80, 0, 0][..], &vec![0; 7 << 20]].concat());
            talk
        })
        .collect();
    assert!(world.budget().held() <= MEMORY);
    let (first, last) = (talks[0].clone(), talks[9].clone());
    let (one, two) = (Rc::clone(&worker), Rc::clone(&worker));
    let (own, others) = (head.clone(), head);
    let last = world.start(async move { two.converse(&others, &last).await });
    assert_eq!(last.outcome().unwrap().code(), Code::ResourceExhausted);
    let first = world.start(async move { one.converse(&own, &first).await });
    assert!(first.outcome().is_none(), "the rest of its message may come");
    drop((talks, first));
    world.run();
    assert_eq!(world.budget().held(), 0);
}

#[test]
fn a_bulk_read_ends_when_it_has_more_than_can_be_sent() {
    let (world, worker) = in_memory(json!({}), json!({}));
    let () = message(&save(&world, &worker, vec![large("k", 4_000_000)]));
    let call = bulk(&world, &worker, vec!["k".into(); 1200]);
    world.advance(Duration::from_millis(10)); // what takes long is done in turns
    let (code, text) = status(&call);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.starts_with("the reply has 20000230 bytes"), "five were read and no more: {text}");
}

#[test]
fn a_bulk_read_that_ends_so_lets_go_of_reads_under_way() {
    let (world, worker) = redis(json!({}));
    let call = bulk(&world, &worker, (0..100).map(|number| number.to_string()).collect());
    let server = let_in(&world, "runtime.state.s");
    let value = "x".repeat(4_000_000);
    let hash = format!("*2\r\n$4000000\r\n{value}\r\n$1\r\n1\r\n");
    for _ in 0..5 {
        server.send(hash.as_bytes());
    }
    let (code, text) = status(&call);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.starts_with("the reply has 200000"), "{text}");
    assert!(!server.is_dropped());
    for _ in 5..100 {
        server.send(b"*2\r\n$-1\r\n$-1\r\n"); // counted off
    }
    let after = get(&world, &worker, "k");
    server.send(b"*2\r\n$1\r\nv\r\n$1\r\n1\r\n");
    assert_eq!(support::value(&after), "v");
}

#[test]
fn a_call_has_so_many_items_and_no_more() {
    let (world, worker) = in_memory(json!({"maxItems": 100}), json!({}));
    let keys = |count: usize| vec![String::new(); count];
    let refused = |call: &Started<Reply>| {
        let (code, text) = status(call);
        assert_eq!(code, Code::ResourceExhausted);
        assert!(text.contains("more than 100 items, the limit set by limits.maxItems"), "{text}");
    };
    refused(&bulk(&world, &worker, keys(200)));
    refused(&save(&world, &worker, vec![StateItem::default(); 200]));
    refused(&transaction(&world, &worker, vec![StateItem::default(); 200]));
    let request = dapr::DeleteBulkStateRequest { store_name: "s".into(), states: vec![StateItem::default(); 200] };
    refused(&call(&world, &worker, &format!("{DAPR}/DeleteBulkState"), &request));
    let reply: dapr::GetBulkStateResponse = message(&bulk(&world, &worker, keys(100)));
    assert_eq!(reply.items.len(), 100);
}

#[test]
fn a_server_that_announces_a_value_without_measure_loses_its_connection() {
    let (world, worker) = redis(json!({}));
    let call = get(&world, &worker, "k");
    let server = let_in(&world, "runtime.state.s");
    server.send(b"*2\r\n$1300000000\r\n");
    let (code, text) = status(&call);
    assert_eq!(code, Code::Unavailable);
    assert!(text.contains("it announces a reply of 1300000"), "{text}");
    assert!(server.is_dropped());
    assert_eq!(world.budget().held(), 0);
    let again = get(&world, &worker, "k");
    let server = let_in(&world, "runtime.state.s");
    server.send(b"*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(value(&again), "");
}

#[test]
fn values_that_come_in_pieces_are_counted_while_they_do() {
    let (world, worker) = redis(json!({"maxMemoryBytes": MEMORY}));
    let call = get(&world, &worker, "k");
    let server = let_in(&world, "runtime.state.s");
    let value = "x".repeat(4_000_000);
    server.send(b"*2\r\n$4000000\r\n");
    server.send(&value.as_bytes()[..1_000_000]);
    assert!(world.budget().held() >= 4_000_000);
    server.send(&value.as_bytes()[1_000_000..]);
    server.send(b"\r\n$1\r\n1\r\n");
    assert_eq!(support::value(&call), value);
    assert_eq!(world.budget().held(), 0);
}

#[test]
fn a_large_write_waits_for_nothing_and_many_are_refused_for_want_of_room() {
    // More than may wait together, which was refused for ever.
    let limits = json!({"maxMemoryBytes": 768 << 20, "maxRequestBytes": 100 << 20});
    let (world, worker) = redis(limits);
    let first = save(&world, &worker, vec![item("warm", "v")]);
    let server = let_in(&world, "runtime.state.s");
    let _ = received(&server);
    server.send(b"+OK\r\n");
    let () = message(&first);
    let call = save(&world, &worker, vec![large("k", 70 << 20)]);
    assert!(server.received().len() > 70 << 20);
    assert!(world.budget().held() > 70 << 20, "it is counted until it is answered");
    server.send(b"+OK\r\n");
    let () = message(&call);
    assert_eq!(world.budget().held(), 0);

    let (world, worker) = redis(json!({"maxMemoryBytes": MEMORY}));
    let calls: Vec<_> = (0..20).map(|_| save(&world, &worker, vec![large("k", 4_000_000)])).collect();
    let (code, text) = status(&calls[19]);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("limits.maxMemoryBytes"), "{text}");
    let server = world.accept("runtime.state.s").unwrap();
    assert!(received(&server).starts_with(&resp(&["PING"])));
}

#[test]
fn long_work_is_done_in_turns_and_its_deadline_runs() {
    let (world, worker) = in_memory(json!({}), json!({}));
    let items = |count: usize| (0..count).map(|number| item(&format!("k{number}"), "v")).collect::<Vec<_>>();
    let keys: Vec<String> = (0..5000).map(|number| format!("k{number}")).collect();

    let saved = save(&world, &worker, items(5000));
    assert_eq!(value(&get(&world, &worker, "k0")), "v", "others are served meanwhile");
    let outcome = std::cell::RefCell::new(None);
    let done = |call: &Started<Reply>| {
        turns(&world, || {
            if outcome.borrow().is_none() {
                *outcome.borrow_mut() = call.outcome();
            }
            outcome.borrow().is_some()
        })
    };
    assert!(done(&saved) > 5);
    assert!(matches!(outcome.take(), Some(Reply::Message(_))));

    let read = bulk(&world, &worker, keys.clone());
    assert!(done(&read) > 5);
    assert!(matches!(outcome.take(), Some(Reply::Message(frame)) if frame.len() > 5000 * 40));

    let written = transaction(&world, &worker, items(5000));
    assert!(done(&written) > 5);
    assert!(matches!(outcome.take(), Some(Reply::Message(_))));

    let head = Head {
        target: format!("{DAPR}/GetBulkState").as_str().into(),
        timeout: Some(Duration::from_millis(2)),
        ..Head::default()
    };
    let request = dapr::GetBulkStateRequest { store_name: "s".into(), keys, ..Default::default() };
    let late = call_with(&world, &worker, head, &request);
    world.advance(Duration::from_millis(3));
    assert_eq!(status(&late).0, Code::DeadlineExceeded);
}

#[test]
fn a_transaction_costs_its_own_size_whatever_else_the_store_holds() {
    let (world, worker) = in_memory(json!({}), json!({}));
    for number in 0..40 {
        let () = message(&save(&world, &worker, vec![large(&format!("large{number}"), 4_000_000)]));
    }
    let before = world.shared_bytes_written();
    let () = message(&transaction(&world, &worker, (0..60).map(|n| item(&format!("t{n}"), "v")).collect()));
    let written = world.shared_bytes_written() - before;
    assert!(written < 100_000, "{written} bytes were written for sixty of one");
}

#[test]
fn a_long_transaction_is_not_held_up_for_ever_by_short_writes_of_other_workers() {
    let (world, one) = in_memory(json!({}), json!({}));
    let component = json!({"name": "s", "type": "state.in-memory"});
    let other = worker(&world, &json!({"appId": "a", "components": [component]}));
    let long = transaction(&world, &one, (0..3000).map(|number| item(&format!("t{number}"), "v")).collect());
    let short = std::cell::RefCell::new(Vec::new());
    let ended = std::cell::Cell::new(false);
    turns(&world, || {
        short.borrow_mut().push(save(&world, &other, vec![item("s", "v")]));
        ended.set(ended.get() || matches!(long.outcome(), Some(Reply::Message(_))));
        ended.get()
    });
    world.advance(Duration::from_secs(1));
    for short in short.borrow().iter() {
        let () = message(short);
    }
    assert_eq!(value(&get(&world, &other, "t2999")), "v");
}

#[test]
fn the_store_in_memory_has_a_bound() {
    let (world, worker) = in_memory(json!({}), json!({"maxBytes": 1_000_000}));
    let mut last = 0;
    let refused = loop {
        assert!(last < 20, "none is refused");
        let call = save(&world, &worker, vec![large(&format!("k{last}"), 100_000)]);
        match call.outcome().unwrap() {
            Reply::Message(_) => last += 1,
            Reply::Status(status) => break status,
        }
    };
    assert_eq!(last, 9);
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("1000000 bytes, the limit set by maxBytes"), "{refused}");
    let failed = transaction(&world, &worker, vec![item("a", "1"), large("b", 100_000)]);
    assert_eq!(status(&failed).0, Code::ResourceExhausted);
    assert_eq!(value(&get(&world, &worker, "a")), "");
    // What makes it smaller goes on, and then there is room.
    let () = message(&save(&world, &worker, vec![large("k0", 1000)]));
    let request = dapr::DeleteStateRequest { store_name: "s".into(), key: "k1".into(), ..Default::default() };
    let () = message(&call(&world, &worker, &format!("{DAPR}/DeleteState"), &request));
    let () = message(&save(&world, &worker, vec![large("k9", 100_000)]));
    assert_eq!(value(&get(&world, &worker, "k9")).len(), 100_000);
}

#[test]
fn items_that_have_ended_do_not_count() {
    let (world, worker) = in_memory(json!({}), json!({"maxBytes": 1_000_000}));
    for number in 0..9 {
        let mut mortal = large(&format!("k{number}"), 100_000);
        mortal.metadata.insert("ttlInSeconds".into(), "1".into());
        let () = message(&save(&world, &worker, vec![mortal]));
    }
    assert_eq!(status(&save(&world, &worker, vec![large("new", 100_000)])).0, Code::ResourceExhausted);
    world.advance(Duration::from_secs(70));
    let () = message(&save(&world, &worker, vec![large("new", 900_000)]));
}

#[test]
fn an_item_whose_worker_has_ended_is_swept_by_the_next() {
    let (world, one) = in_memory(json!({}), json!({}));
    let mut mortal = large("k", 100_000);
    mortal.metadata.insert("ttlInSeconds".into(), "1".into());
    let () = message(&save(&world, &one, vec![mortal]));
    let world = world.successor();
    let component = json!({"name": "s", "type": "state.in-memory"});
    let _next = worker(&world, &json!({"appId": "a", "components": [component]}));
    world.run();
    world.advance(Duration::from_secs(70));
    assert!(world.shared_bytes() < 10_000, "{} bytes are left", world.shared_bytes());
}

#[test]
fn a_health_watch_weighs_little() {
    let (world, worker) = in_memory(json!({}), json!({}));
    let talk = runtime_api::testing::talk(&world, &worker, "/grpc.health.v1.Health/Watch").unwrap();
    talk.send(&envoy_runtime_proto::grpc::health::v1::HealthCheckRequest::default());
    assert!(world.budget().held() < 100);
    assert!(talk.next::<HealthCheckResponse>().is_some());
    assert_eq!(world.budget().held(), 0);
}
