//! Sequencers: no id twice, whoever asks and whatever fails.

#![allow(clippy::unwrap_used)] // a test ends by a panic

mod support;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::spec::runtime::v1::{self as layotto, SequencerOptions};
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Started, World, call, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, let_in, message, received, resp, status};
use tonic::Code;

const CLUSTER: &str = "runtime.sequencer.s";
const STRONG: Option<SequencerOptions> = Some(SequencerOptions { increment: 1 });

fn runtime(world: &World, kind: &str, metadata: &Value) -> Rc<Runtime> {
    let component = json!({"name": "s", "type": kind, "metadata": metadata});
    worker(world, &json!({"appId": "a", "components": [component]}))
}

fn request(key: &str, options: Option<SequencerOptions>) -> layotto::GetNextIdRequest {
    layotto::GetNextIdRequest { store_name: "s".into(), key: key.into(), options, ..Default::default() }
}

fn next(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    call(world, worker, &format!("{LAYOTTO}/GetNextId"), &request(key, None))
}

fn next_strong(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    call(world, worker, &format!("{LAYOTTO}/GetNextId"), &request(key, STRONG))
}

#[track_caller]
fn id(started: &Started<Reply>) -> i64 {
    message::<layotto::GetNextIdResponse>(started).next_id
}

/// A worker on Redis with segments of ten, of which the next is fetched when three ids are left.
fn redis(world: &World) -> Rc<Runtime> {
    runtime(world, "sequencer.redis", &json!({"redisHost": "r:1", "segmentStep": 10, "segmentPrefetch": 3}))
}

const INCRBY_10: [&str; 3] = ["INCRBY", "sequencer|||a||k", "10"];

// ---- Rules ----

#[test]
fn what_is_refused() {
    let world = World::default();
    let worker = runtime(&world, "sequencer.in-memory", &json!({}));
    let said =
        |request: &layotto::GetNextIdRequest| status(&call(&world, &worker, &format!("{LAYOTTO}/GetNextId"), request));
    let store = |name: &str, key| layotto::GetNextIdRequest { store_name: name.into(), ..request(key, None) };
    assert_eq!(said(&store("x", "")), (Code::InvalidArgument, "Key is empty in sequencer store x".into()));
    assert_eq!(said(&store("x", "k")), (Code::InvalidArgument, "Sequencer store x not found".into()));
    assert_eq!(said(&store("s", "a||b")), (Code::Unknown, "input key/keyPrefix 'a||b' can't contain '||'".into()));
    assert_eq!(said(&request("k", Some(SequencerOptions { increment: 2 }))).0, Code::Unknown);
    let none = support_worker_without_components(&world);
    let refused = call(&world, &none, &format!("{LAYOTTO}/GetNextId"), &store("s", ""));
    assert_eq!(status(&refused), (Code::FailedPrecondition, "Sequencer store is not configured".into()));
    assert_eq!(
        status(&call(&world, &worker, &format!("{DAPR}/GetNextId"), &request("k", None))).0,
        Code::Unimplemented
    );
}

fn support_worker_without_components(world: &World) -> Rc<Runtime> {
    worker(world, &json!({"appId": "a"}))
}

#[test]
fn names_in_the_store() {
    for (prefix, name) in [
        (json!({}), "sequencer|||a||k"),
        (json!({"keyPrefix": "none"}), "sequencer|||k"),
        (json!({"keyPrefix": "name"}), "sequencer|||s||k"),
        (json!({"keyPrefix": "Team"}), "sequencer|||team||k"),
    ] {
        let world = World::default();
        let mut metadata = json!({"redisHost": "r:1"});
        metadata.as_object_mut().unwrap().append(&mut prefix.as_object().unwrap().clone());
        let worker = runtime(&world, "sequencer.redis", &metadata);
        let _call = next_strong(&world, &worker, "k");
        assert_eq!(received(&let_in(&world, CLUSTER)), resp(&["INCRBY", name, "1"]));
    }
}

// ---- In memory ----

#[test]
fn ids_in_memory_rise_over_all_workers() {
    let world = World::default();
    let workers = [(), ()].map(|()| runtime(&world, "sequencer.in-memory", &json!({"biggerThan": {"high": 100}})));
    for expected in 1..50 {
        let worker = &workers[expected % 2];
        let started = if expected % 3 == 0 { next(&world, worker, "k") } else { next_strong(&world, worker, "k") };
        assert_eq!(id(&started), i64::try_from(expected).unwrap());
    }
    assert_eq!(id(&next(&world, &workers[0], "high")), 101);
    assert_eq!(id(&next(&world, &workers[1], "high")), 102);
    assert_eq!(id(&next(&world, &workers[1], "other")), 1);
}

#[test]
fn memory_has_a_bound() {
    let world = World::default();
    let worker = runtime(&world, "sequencer.in-memory", &json!({}));
    let key = |number: usize| format!("{number}/{}", "k".repeat(20_000));
    let full =
        (0..600).filter(|number| matches!(next(&world, &worker, &key(*number)).outcome(), Some(Reply::Status(_))));
    assert!(full.count() > 0);
    assert!(world.shared_bytes() < 9 << 20);
    assert_eq!(id(&next(&world, &worker, &key(0))), 2, "those that are there go on");
}

// ---- Segments ----

#[test]
fn a_segment_serves_all_workers_and_the_next_comes_in_time() {
    let world = World::default();
    let (one, other) = (redis(&world), redis(&world));
    let first = next(&world, &one, "k");
    let server = let_in(&world, CLUSTER);
    assert_eq!(received(&server), resp(&INCRBY_10));
    server.send(b":10\r\n");
    assert_eq!(id(&first), 1);
    for expected in 2..=6 {
        let worker = if expected % 2 == 0 { &other } else { &one };
        assert_eq!(id(&next(&world, worker, "k")), expected);
    }
    assert_eq!(received(&server), "", "more than three ids are left");
    assert_eq!(id(&next(&world, &one, "k")), 7);
    let fetch = received(&server);
    assert!(fetch.ends_with(&resp(&INCRBY_10)), "the next segment is fetched ahead: {fetch}");
    assert_eq!(id(&next(&world, &one, "k")), 8);
    assert_eq!(id(&next(&world, &other, "k")), 9);
    assert!(world.accept("runtime.sequencer.s").is_none(), "and only once");
    server.send(b":0\r\n:20\r\n");
    for expected in 10..=16 {
        assert_eq!(id(&next(&world, &other, "k")), expected);
    }
}

#[test]
fn a_fetch_is_one_for_all_that_wait() {
    let world = World::default();
    let worker = redis(&world);
    let calls: Vec<_> = (0..8).map(|_| next(&world, &worker, "k")).collect();
    let server = let_in(&world, CLUSTER);
    assert_eq!(received(&server), resp(&INCRBY_10));
    server.send(b":10\r\n");
    assert_eq!(calls.iter().map(id).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
}

#[test]
fn what_is_fetched_out_of_order_is_skipped() {
    let world = World::default();
    let (one, other) = (redis(&world), redis(&world));
    let early = next(&world, &one, "k");
    let first = let_in(&world, CLUSTER);
    let late = next(&world, &other, "k");
    let second = let_in(&world, CLUSTER);
    second.send(b":20\r\n"); // 11 to 20 arrive before 1 to 10
    assert_eq!(id(&late), 11);
    first.send(b":10\r\n");
    assert_eq!(id(&early), 12);
}

#[test]
fn a_lost_reply_loses_a_segment_and_no_more() {
    let world = World::default();
    let worker = redis(&world);
    let lost = next(&world, &worker, "k");
    let server = let_in(&world, CLUSTER);
    assert_eq!(received(&server), resp(&INCRBY_10));
    server.close("gone");
    let (code, text) = status(&lost);
    assert_eq!(code, Code::Unavailable);
    assert!(text.starts_with("no next id from sequencer store s: redis closed the connection"), "{text}");
    let again = next(&world, &worker, "k");
    let server = let_in(&world, CLUSTER);
    server.send(b":20\r\n");
    assert_eq!(id(&again), 11);
}

#[test]
fn a_fetch_ahead_that_fails_is_tried_again() {
    let world = World::default();
    let worker = redis(&world);
    let first = next(&world, &worker, "k");
    let server = let_in(&world, CLUSTER);
    server.send(b":10\r\n");
    assert_eq!(id(&first), 1);
    for expected in 2..=7 {
        assert_eq!(id(&next(&world, &worker, "k")), expected);
    }
    received(&server);
    server.send(b"-ERR no\r\n-ERR no\r\n");
    assert_eq!(id(&next(&world, &worker, "k")), 8);
    assert_eq!(received(&server), "", "not at once");
    world.advance(Duration::from_secs(2));
    assert_eq!(id(&next(&world, &worker, "k")), 9);
    assert!(received(&server).ends_with(&resp(&INCRBY_10)));
    server.send(b":0\r\n:20\r\n");
    assert_eq!(id(&next(&world, &worker, "k")), 10);
    assert_eq!(id(&next(&world, &worker, "k")), 11);
}

#[test]
fn a_call_that_goes_away_does_not_stop_the_fetch() {
    let world = World::default();
    let worker = redis(&world);
    let gone = next(&world, &worker, "k");
    let waits = next(&world, &worker, "k");
    gone.cancel();
    let_in(&world, CLUSTER).send(b":10\r\n");
    assert_eq!(id(&waits), 1);
}

#[test]
fn a_worker_that_ends_gives_out_nothing_twice() {
    for survived in 0..3 {
        let world = World::default();
        let (one, other) = (redis(&world), redis(&world));
        let first = next(&world, &one, "k");
        let_in(&world, CLUSTER).send(b":10\r\n");
        let mut seen = BTreeSet::from([id(&first)]);
        world.end_worker_after(survived, || {
            for _ in 0..3 {
                let started = next(&world, &one, "k");
                assert!(seen.insert(id(&started)));
            }
        });
        for _ in 0..3 {
            assert!(seen.insert(id(&next(&world, &other, "k"))), "{seen:?}");
        }
    }
}

#[test]
fn a_store_that_forgot_is_reminded() {
    let world = World::default();
    let worker = redis(&world);
    let first = next(&world, &worker, "k");
    let server = let_in(&world, CLUSTER);
    server.send(b":10\r\n");
    assert_eq!(id(&first), 1);
    received(&server);
    for _ in 2..=7 {
        id(&next(&world, &worker, "k"));
    }
    let sent = received(&server);
    assert!(sent.contains("$4\r\nEVAL\r\n"), "{sent}");
    assert!(sent.contains("$16\r\nsequencer|||a||k\r\n$2\r\n10\r\n"), "what was had is at most 10: {sent}");
}

#[test]
fn another_store_is_another_sequence() {
    let world = World::default();
    let first = next(&world, &redis(&world), "k");
    let_in(&world, CLUSTER).send(b":10\r\n");
    assert_eq!(id(&first), 1);
    let moved = runtime(&world, "sequencer.redis", &json!({"redisHost": "elsewhere:1", "segmentStep": 10}));
    let second = next(&world, &moved, "k");
    let_in(&world, CLUSTER).send(b":110\r\n");
    assert_eq!(id(&second), 101);
}

#[test]
fn many_keys_make_room_for_each_other() {
    let world = World::default();
    let worker = redis(&world);
    let mut server = None;
    for number in 0..6000 {
        let started = next(&world, &worker, &number.to_string());
        let server = server.get_or_insert_with(|| let_in(&world, CLUSTER));
        server.send(b":10\r\n");
        assert_eq!(id(&started), 1);
    }
    assert!(world.shared_bytes() < 1 << 20);
    let again = next(&world, &worker, "0");
    server.unwrap().send(b":20\r\n");
    assert_eq!(id(&again), 11, "the rest of its segment was skipped");
}

#[test]
fn strong_ids_and_those_of_stores_without_a_cache_are_fetched_one_by_one() {
    let world = World::default();
    let without = json!({"redisHost": "r:1", "segmentCacheEnable": false});
    let worker = runtime(&world, "sequencer.redis", &without);
    let first = next(&world, &worker, "k");
    let server = let_in(&world, CLUSTER);
    assert_eq!(received(&server), resp(&["INCRBY", "sequencer|||a||k", "1"]));
    server.send(b":1\r\n");
    assert_eq!(id(&first), 1);
    let second = next_strong(&world, &worker, "k");
    server.send(b":2\r\n");
    assert_eq!(id(&second), 2);
}

#[test]
fn bigger_than_is_for_keys_of_the_app_and_for_whole_names() {
    for numbers in [json!({"k": 500}), json!("{\"k\": 500}"), json!({"sequencer|||a||k": "500"})] {
        let world = World::default();
        let worker = runtime(&world, "sequencer.redis", &json!({"redisHost": "r:1", "biggerThan": numbers}));
        let _call = next_strong(&world, &worker, "k");
        let sent = received(&let_in(&world, CLUSTER));
        assert!(sent.contains("$16\r\nsequencer|||a||k\r\n$3\r\n500\r\n"), "{sent}");
        assert!(sent.ends_with(&resp(&["INCRBY", "sequencer|||a||k", "1"])), "{sent}");
    }
    let component = json!({"name": "s", "type": "sequencer.in-memory", "metadata": {"biggerThan": "many"}});
    let report = runtime_api::config::Config::check(&json!({"appId": "a", "components": [component]})).1;
    assert_eq!(
        report.0[0].to_string(),
        "components[0].metadata.biggerThan: an object of names and whole numbers, such as {\"orders\": 1000}, is \
         expected, not \"many\""
    );
}
