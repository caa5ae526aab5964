//! What an etag and a life time do, whatever else a request asks for: the SDKs for Go send last-write with every call.

#![allow(clippy::unwrap_used, clippy::panic)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::common::v1::{StateItem, StateOptions, state_options::StateConcurrency};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::etcd::etcdserverpb::{self as etcd, compare::TargetUnion};
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Started, World, call, worker};
use serde_json::json;
use support::{DAPR, etag, get, item, let_in, message, received, save, status, value};
use tonic::Code;

const CONCURRENCIES: [StateConcurrency; 3] = [
    StateConcurrency::ConcurrencyUnspecified,
    StateConcurrency::ConcurrencyFirstWrite,
    StateConcurrency::ConcurrencyLastWrite,
];

fn store(kind: &str, metadata: serde_json::Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let component = json!({"name": "s", "type": kind, "metadata": metadata});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    (world, worker)
}

fn with(item: StateItem, given: &str, concurrency: StateConcurrency) -> StateItem {
    let options = StateOptions { concurrency: concurrency.into(), ..Default::default() };
    StateItem { etag: etag(given), options: Some(options), ..item }
}

fn delete(world: &World, worker: &Rc<Runtime>, item: StateItem) -> Started<Reply> {
    let StateItem { key, etag, options, .. } = item;
    let request = dapr::DeleteStateRequest { store_name: "s".into(), key, etag, options, ..Default::default() };
    call(world, worker, &format!("{DAPR}/DeleteState"), &request)
}

fn delete_many(world: &World, worker: &Rc<Runtime>, states: Vec<StateItem>) -> Started<Reply> {
    let request = dapr::DeleteBulkStateRequest { store_name: "s".into(), states };
    call(world, worker, &format!("{DAPR}/DeleteBulkState"), &request)
}

fn transact(
    world: &World,
    worker: &Rc<Runtime>,
    (operation, item): (&str, StateItem),
    metadata: &[(&str, &str)],
) -> Started<Reply> {
    let operation = dapr::TransactionalStateOperation { operation_type: operation.into(), request: Some(item) };
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request =
        dapr::ExecuteStateTransactionRequest { store_name: "s".into(), operations: vec![operation], metadata };
    call(world, worker, &format!("{DAPR}/ExecuteStateTransaction"), &request)
}

fn get_all(world: &World, worker: &Rc<Runtime>, key: &str) -> dapr::GetStateResponse {
    message(&get(world, worker, key))
}

#[test]
fn in_memory_a_stale_etag_is_refused_whatever_the_concurrency() {
    let (world, worker) = store("state.in-memory", json!({}));
    for concurrency in CONCURRENCIES {
        let () = message(&save(&world, &worker, vec![item("k", "1")]));
        let stale = get_all(&world, &worker, "k").etag;
        let () = message(&save(&world, &worker, vec![item("k", "2")]));
        let late = || with(item("k", "3"), &stale, concurrency);
        for (refused, code) in [
            (save(&world, &worker, vec![late()]), Code::Aborted),
            (delete(&world, &worker, late()), Code::Aborted),
            (delete_many(&world, &worker, vec![late()]), Code::Aborted),
            (transact(&world, &worker, ("upsert", late()), &[]), Code::Internal),
            (transact(&world, &worker, ("delete", late()), &[]), Code::Internal),
        ] {
            let (said, text) = status(&refused);
            assert_eq!(said, code, "{text}");
            assert!(text.contains("possible etag mismatch"), "{text}");
            assert_eq!(value(&get(&world, &worker, "k")), "2", "{concurrency:?}");
        }
        let fresh = get_all(&world, &worker, "k").etag;
        let () = message(&delete(&world, &worker, with(item("k", ""), &fresh, concurrency)));
        assert_eq!(value(&get(&world, &worker, "k")), "");
    }
}

#[test]
fn etcd_compares_the_etag_whatever_the_concurrency() {
    let (world, worker) = store("state.etcd", json!({"endpoints": "etcd:2379"}));
    for concurrency in CONCURRENCIES {
        let late = || with(item("k", "3"), "7", concurrency);
        for refused in [
            save(&world, &worker, vec![late()]),
            delete(&world, &worker, late()),
            delete_many(&world, &worker, vec![late()]),
            transact(&world, &worker, ("upsert", late()), &[]),
            transact(&world, &worker, ("delete", late()), &[]),
        ] {
            let asked = world.grpc_call("runtime.state.s").unwrap();
            let transaction = etcd::TxnRequest::decode(asked.message.clone()).unwrap();
            let compared: Vec<_> = transaction.compare.iter().map(|compare| compare.target_union.clone()).collect();
            assert_eq!(compared, [Some(TargetUnion::ModRevision(7))], "{concurrency:?}");
            asked.reply(&etcd::TxnResponse::default());
            assert!(matches!(refused.outcome(), Some(Reply::Status(_))));
        }
    }
}

/// The last words of the command that Redis gets: key, etag and what follows.
#[track_caller]
fn words(sent: &str) -> Vec<&str> {
    let is_length = |word: &&str| word.strip_prefix(['$', '*']).is_some_and(|number| number.parse::<u32>().is_ok());
    let mut words: Vec<&str> = sent.split("\r\n").filter(|word| !is_length(word)).collect();
    let at = words.iter().position(|word| *word == "a||k").unwrap_or_else(|| panic!("{sent}"));
    words.split_off(at + 1)
}

#[test]
fn redis_ignores_the_etag_of_a_last_write_and_of_nothing_else() {
    use StateConcurrency::{ConcurrencyFirstWrite as First, ConcurrencyLastWrite as Last};
    let (world, worker) = store("state.redis", json!({"redisHost": "redis:6379"}));
    let connecting = get(&world, &worker, "k");
    let server = let_in(&world, "runtime.state.s");
    server.send(b"*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(value(&connecting), "");
    received(&server);
    let etag_in = |asked: Started<Reply>, answer: &[u8]| {
        let sent = received(&server);
        server.send(answer);
        let () = message(&asked);
        words(&sent)[0].to_owned()
    };
    let transacted = b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n";
    for given in ["7", "no number"] {
        let late = || with(item("k", "v"), given, Last);
        assert_eq!(etag_in(save(&world, &worker, vec![late()]), b":1\r\n"), "0");
        assert_eq!(etag_in(transact(&world, &worker, ("upsert", late()), &[]), transacted), "0");
        for concurrency in [First, Last] {
            let removal = || with(item("k", ""), given, concurrency);
            assert_eq!(etag_in(delete(&world, &worker, removal()), b":1\r\n"), given);
            assert_eq!(etag_in(delete_many(&world, &worker, vec![removal()]), b":1\r\n"), given);
            assert_eq!(etag_in(transact(&world, &worker, ("delete", removal()), &[]), transacted), given);
        }
    }
    assert_eq!(etag_in(save(&world, &worker, vec![with(item("k", "v"), "7", First)]), b":1\r\n"), "7");
    let (code, text) = status(&save(&world, &worker, vec![with(item("k", "v"), "no number", First)]));
    assert_eq!((code, received(&server).as_str()), (Code::InvalidArgument, ""), "{text}");
}

fn mortal(key: &str, seconds: &str) -> StateItem {
    StateItem { metadata: [("ttlInSeconds".to_owned(), seconds.to_owned())].into(), ..item(key, "v") }
}

#[test]
fn in_memory_a_write_that_does_not_say_how_long_takes_the_end_away() {
    let (world, worker) = store("state.in-memory", json!({}));
    for silent in [item("k", "later"), mortal("k", "")] {
        let () = message(&save(&world, &worker, vec![mortal("k", "60")]));
        assert!(get_all(&world, &worker, "k").metadata.contains_key("ttlExpireTime"));
        let () = message(&save(&world, &worker, vec![silent]));
        assert!(get_all(&world, &worker, "k").metadata.is_empty());
        world.advance(Duration::from_secs(61));
        assert_ne!(value(&get(&world, &worker, "k")), "");
    }
}

#[test]
fn redis_keeps_the_end_of_an_item_whose_write_does_not_say() {
    let (world, worker) = store("state.redis", json!({"redisHost": "redis:6379"}));
    for (written, life) in
        [(item("k", "v"), ""), (mortal("k", ""), ""), (mortal("k", "0"), "-1"), (mortal("k", "9"), "9")]
    {
        let saved = save(&world, &worker, vec![written]);
        let server = let_in(&world, "runtime.state.s");
        assert_eq!(words(&received(&server))[..4], ["0", "v", "1", life]);
        server.close("the test has seen enough");
        drop(saved);
        world.advance(Duration::from_secs(5));
    }
}

#[test]
fn a_life_time_of_a_transaction_is_that_of_its_operations_that_have_none() {
    let (world, worker) = store("state.in-memory", json!({}));
    for (item, ends) in [(item("plain", "v"), "2027-01-15T08:00:05Z"), (mortal("own", "9"), "2027-01-15T08:00:09Z")] {
        let key = item.key.clone();
        let () = message(&transact(&world, &worker, ("upsert", item), &[("ttlInSeconds", "5")]));
        assert_eq!(get_all(&world, &worker, &key).metadata["ttlExpireTime"], ends);
    }
}
