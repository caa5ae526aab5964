//! Locks: the rules of both dialects, and what the drivers say to their servers.

#![allow(clippy::unwrap_used)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Started, World, call, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, let_in, message, received, resp, status};
use tonic::Code;

/// The methods of each dialect.
const TRY: [&str; 2] = ["/dapr.proto.runtime.v1.Dapr/TryLockAlpha1", "/spec.proto.runtime.v1.Runtime/TryLock"];
const UNLOCK: [&str; 2] = ["/dapr.proto.runtime.v1.Dapr/UnlockAlpha1", "/spec.proto.runtime.v1.Runtime/Unlock"];

const DONE: i32 = 0;
const MISSING: i32 = 1;
const OTHERS: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct WithToken {
    #[prost(bool, tag = "1")]
    success: bool,
    #[prost(int64, tag = "1001")]
    fencing_token: i64,
}

fn runtime(world: &World, kind: &str, metadata: &Value) -> Rc<Runtime> {
    let component = json!({"name": "l", "type": kind, "metadata": metadata});
    worker(world, &json!({"appId": "a", "components": [component]}))
}

fn try_request(resource: &str, owner: &str, seconds: i32) -> dapr::TryLockRequest {
    dapr::TryLockRequest {
        store_name: "l".into(),
        resource_id: resource.into(),
        lock_owner: owner.into(),
        expiry_in_seconds: seconds,
    }
}

fn try_lock(world: &World, worker: &Rc<Runtime>, owner: &str, seconds: i32) -> Started<Reply> {
    call(world, worker, TRY[1], &try_request("r", owner, seconds))
}

fn unlock(world: &World, worker: &Rc<Runtime>, owner: &str) -> Started<Reply> {
    let request = dapr::UnlockRequest { store_name: "l".into(), resource_id: "r".into(), lock_owner: owner.into() };
    call(world, worker, UNLOCK[1], &request)
}

fn keep_alive(world: &World, worker: &Rc<Runtime>, owner: &str, seconds: i32) -> Started<Reply> {
    let request = layotto::LockKeepAliveRequest {
        store_name: "l".into(),
        resource_id: "r".into(),
        lock_owner: owner.into(),
        expire: seconds,
    };
    call(world, worker, &format!("{LAYOTTO}/LockKeepAlive"), &request)
}

#[track_caller]
fn taken(started: &Started<Reply>) -> bool {
    message::<dapr::TryLockResponse>(started).success
}

#[track_caller]
fn outcome(started: &Started<Reply>) -> i32 {
    message::<dapr::UnlockResponse>(started).status
}

// ---- Rules ----

#[test]
fn what_is_refused_first_depends_on_the_dialect() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    let said = |store: &str, resource: &str, owner: &str, seconds| {
        let request = dapr::TryLockRequest { store_name: store.into(), ..try_request(resource, owner, seconds) };
        TRY.map(|path| {
            let (code, text) = status(&call(&world, &worker, path, &request));
            assert_eq!(code, Code::InvalidArgument, "{text}");
            text
        })
    };
    let expiry = ["ExpiryInSeconds is not positive in lock store x", "Expire is not positive in lock store x"];
    let resource = "ResourceId is empty in lock store x";
    let owner = "LockOwner is empty in lock store x";
    assert_eq!(said("x", "", "", 0), [expiry[0], resource]);
    assert_eq!(said("x", "r", "", -1), [expiry[0], owner]);
    assert_eq!(said("x", "r", "o", 0), expiry);
    assert_eq!(said("x", "", "", 1), [resource; 2]);
    assert_eq!(said("x", "r", "", 1), [owner; 2]);
    assert_eq!(said("x", "r", "o", 1), ["lock store x not found"; 2]);
}

#[test]
fn without_a_store_nothing_is_configured() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a"}));
    let expected = (Code::FailedPrecondition, "lock store is not configured".to_owned());
    for path in TRY {
        assert_eq!(status(&call(&world, &worker, path, &try_request("", "", 1))), expected);
    }
    for path in UNLOCK {
        assert_eq!(status(&call(&world, &worker, path, &dapr::UnlockRequest::default())), expected);
    }
    let dapr_first = status(&call(&world, &worker, TRY[0], &try_request("", "", 0))).0;
    assert_eq!(dapr_first, Code::InvalidArgument, "Dapr looks at the time before all else");
}

#[test]
fn a_resource_with_the_separator() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    let text = "input key/keyPrefix 'a||b' can't contain '||'".to_owned();
    let said = TRY.map(|path| status(&call(&world, &worker, path, &try_request("a||b", "o", 1))));
    assert_eq!(
        said,
        [(Code::Internal, format!("failed to try acquiring lock: {text}")), (Code::Unknown, text.clone())],
        "Dapr's is that of a store that failed"
    );
    let request = dapr::UnlockRequest { store_name: "l".into(), resource_id: "a||b".into(), lock_owner: "o".into() };
    let said = UNLOCK.map(|path| status(&call(&world, &worker, path, &request)));
    assert_eq!(said, [(Code::Internal, format!("failed to release lock: {text}")), (Code::Unknown, text)]);
}

#[test]
fn each_dialect_has_its_own_methods() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    for path in [format!("{DAPR}/TryLock"), format!("{LAYOTTO}/TryLockAlpha1"), format!("{DAPR}/LockKeepAlive")] {
        assert_eq!(status(&call(&world, &worker, &path, &try_request("r", "o", 1))).0, Code::Unimplemented, "{path}");
    }
}

#[test]
fn names_in_the_store() {
    for (prefix, by_dapr, by_layotto) in [
        (json!({}), "lock||a||r", "lock|||a||r"),
        (json!({"keyPrefix": "appid"}), "lock||a||r", "lock|||a||r"),
        (json!({"keyPrefix": "none"}), "lock||r", "lock|||r"),
        (json!({"keyPrefix": "NAME"}), "lock||l||r", "lock|||l||r"),
        (json!({"keyPrefix": "Team"}), "lock||team||r", "lock|||team||r"),
    ] {
        let world = World::default();
        let mut metadata = json!({"redisHost": "redis:6379"});
        metadata.as_object_mut().unwrap().append(&mut prefix.as_object().unwrap().clone());
        let worker = runtime(&world, "lock.redis", &metadata);
        let _calls = TRY.map(|path| call(&world, &worker, path, &try_request("r", "o", 30)));
        let server = let_in(&world, "runtime.lock.l");
        let set = |key: &str| resp(&["SET", key, "o", "NX", "EX", "30"]);
        assert_eq!(received(&server), set(by_dapr) + &set(by_layotto), "{prefix}");
    }
}

// ---- In memory ----

#[test]
fn a_lock_in_memory_is_one_for_all_workers() {
    let world = World::default();
    let [one, other] = [(), ()].map(|()| runtime(&world, "lock.in-memory", &json!({})));
    assert!(taken(&try_lock(&world, &one, "o", 10)));
    assert!(!taken(&try_lock(&world, &other, "p", 10)));
    assert!(!taken(&try_lock(&world, &other, "o", 10)), "locks are not re-entrant");
    assert_eq!(outcome(&unlock(&world, &other, "p")), OTHERS);
    assert_eq!(outcome(&unlock(&world, &other, "o")), DONE);
    assert_eq!(outcome(&unlock(&world, &other, "o")), MISSING);
    assert!(taken(&try_lock(&world, &one, "p", 10)));
}

#[test]
fn a_lock_in_memory_ends_by_itself_unless_it_is_kept_alive() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    assert!(taken(&try_lock(&world, &worker, "o", 10)));
    world.advance(Duration::from_secs(9));
    assert_eq!(outcome(&keep_alive(&world, &worker, "p", 10)), OTHERS);
    assert_eq!(outcome(&keep_alive(&world, &worker, "o", 10)), DONE);
    world.advance(Duration::from_millis(9_999));
    assert!(!taken(&try_lock(&world, &worker, "p", 10)));
    world.advance(Duration::from_millis(1));
    assert_eq!(outcome(&keep_alive(&world, &worker, "o", 10)), MISSING);
    assert!(taken(&try_lock(&world, &worker, "p", 10)));
}

#[test]
fn fencing_tokens_rise() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    let mut last = 0;
    for _ in 0..10 {
        let reply: WithToken = message(&try_lock(&world, &worker, "o", 10));
        assert!(reply.success && reply.fencing_token > last, "{reply:?} after {last}");
        last = reply.fencing_token;
        let refused: WithToken = message(&try_lock(&world, &worker, "p", 10));
        assert_eq!(refused, WithToken::default());
        assert_eq!(outcome(&unlock(&world, &worker, "o")), DONE);
    }
}

#[test]
fn memory_has_a_bound() {
    let world = World::default();
    let worker = runtime(&world, "lock.in-memory", &json!({}));
    let owner = "o".repeat(60_000);
    let before = world.shared_bytes();
    let mut full = 0;
    for number in 0..600 {
        let started = call(&world, &worker, TRY[0], &try_request(&number.to_string(), &owner, 10));
        match started.outcome() {
            Some(Reply::Status(status)) => {
                assert_eq!(status.code(), Code::Unavailable);
                assert_eq!(
                    status.message(),
                    "failed to try acquiring lock: the locks in memory are full (65536 bytes in one of 256 parts); \
                     unlock some, or use lock.redis"
                );
                full += 1;
            }
            other => assert!(matches!(other, Some(Reply::Message(_)))),
        }
    }
    assert!(full > 0 && world.shared_bytes() - before < 16 << 20);
    world.advance(Duration::from_secs(10));
    assert!(taken(&call(&world, &worker, TRY[0], &try_request("0", &owner, 10))), "there is room again");
}

// ---- Redis ----

#[test]
fn redis_takes_releases_and_lengthens() {
    let world = World::default();
    let worker = runtime(&world, "lock.redis", &json!({"redisHost": "redis:6379"}));
    let first = try_lock(&world, &worker, "o", 7);
    let server = let_in(&world, "runtime.lock.l");
    assert_eq!(received(&server), resp(&["SET", "lock|||a||r", "o", "NX", "EX", "7"]));
    server.send(b"+OK\r\n");
    assert!(taken(&first));
    let second = try_lock(&world, &worker, "p", 7);
    server.send(b"$-1\r\n");
    assert!(!taken(&second));
    received(&server);
    for (reply, expected) in [(":1", DONE), (":-1", MISSING), (":-2", OTHERS)] {
        let calls = [unlock(&world, &worker, "o"), keep_alive(&world, &worker, "o", 9)];
        let sent = received(&server);
        assert!(sent.contains("$4\r\nEVAL\r\n") && sent.contains("'DEL'") && sent.contains("'EXPIRE'"), "{sent}");
        assert!(sent.ends_with("$1\r\n1\r\n$11\r\nlock|||a||r\r\n$1\r\no\r\n$1\r\n9\r\n"), "{sent}");
        server.send(format!("{reply}\r\n{reply}\r\n").as_bytes());
        assert_eq!(calls.map(|started| outcome(&started)), [expected; 2]);
    }
}

#[test]
fn a_failure_of_redis_is_told_as_each_dialect_does() {
    let world = World::default();
    let worker = runtime(&world, "lock.redis", &json!({"redisHost": "redis:6379"}));
    let calls = TRY.map(|path| call(&world, &worker, path, &try_request("r", "o", 1)));
    let server = let_in(&world, "runtime.lock.l");
    server.send(b"-ERR no\r\n-ERR no\r\n");
    assert_eq!(
        calls.map(|started| status(&started)),
        [
            (Code::Internal, "failed to try acquiring lock: redis says: ERR no".into()),
            (Code::Unknown, "lock store l: redis says: ERR no".into()),
        ]
    );
    let calls = TRY.map(|path| call(&world, &worker, path, &try_request("r", "o", 1)));
    server.close("gone");
    assert_eq!(calls.map(|started| status(&started).0), [Code::Unavailable; 2]);
}

// ---- Several Redis ----

fn cluster() -> (World, Rc<Runtime>) {
    let world = World::default();
    let worker = runtime(&world, "lock.redis.cluster", &json!({"redisHosts": "a:1, b:2,c:3"}));
    (world, worker)
}

const CLUSTERS: [&str; 3] = ["runtime.lock.l", "runtime.lock.l.2", "runtime.lock.l.3"];

fn is_unlock(sent: &str) -> bool {
    sent.contains("EVAL") && sent.contains("'DEL'")
}

#[test]
fn the_majority_of_servers_decides() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    let servers = CLUSTERS.map(|cluster| let_in(&world, cluster));
    for server in &servers {
        assert_eq!(received(server), resp(&["SET", "lock|||a||r", "o", "NX", "EX", "10"]));
    }
    servers[2].send(b"+OK\r\n");
    assert!(started.outcome().is_none(), "one of three is not enough");
    servers[0].send(b"+OK\r\n");
    assert!(taken(&started), "two are, and the third need not be waited for");

    let released = unlock(&world, &worker, "o");
    servers[1].send(b"$-1\r\n:-2\r\n"); // it was another's there
    servers[0].send(b":1\r\n");
    assert!(released.outcome().is_none());
    servers[2].send(b":1\r\n");
    assert_eq!(outcome(&released), DONE);
}

#[test]
fn who_gets_a_minority_gives_it_back_and_nothing_else() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    let servers = CLUSTERS.map(|cluster| let_in(&world, cluster));
    let _ = servers.each_ref().map(received);
    servers[0].send(b"+OK\r\n");
    servers[1].send(b"$-1\r\n");
    servers[2].send(b"$-1\r\n");
    let [first, second, third] = servers.each_ref().map(received);
    assert!(is_unlock(&first), "{first}");
    assert_eq!((second.as_str(), third.as_str()), ("", ""), "the same owner may hold it there");
    assert!(started.outcome().is_none());
    servers[0].send(b":1\r\n");
    assert!(!taken(&started));
}

#[test]
fn a_minority_of_servers_may_be_gone() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    let servers = [CLUSTERS[0], CLUSTERS[1]].map(|cluster| let_in(&world, cluster));
    world.accept(CLUSTERS[2]).unwrap().close("connection refused");
    servers[0].send(b"+OK\r\n");
    servers[1].send(b"+OK\r\n");
    assert!(taken(&started));
    let released = unlock(&world, &worker, "o");
    servers[0].send(b":1\r\n");
    servers[1].send(b":1\r\n");
    assert_eq!(outcome(&released), DONE);
}

#[test]
fn without_the_majority_there_is_no_lock() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    for cluster in &CLUSTERS[1..] {
        world.accept(cluster).unwrap().close("connection refused");
    }
    let server = let_in(&world, CLUSTERS[0]);
    server.send(b"+OK\r\n");
    assert!(is_unlock(&received(&server)));
    server.send(b":1\r\n");
    let (code, text) = status(&started);
    assert_eq!(code, Code::Unavailable);
    assert!(text.starts_with("lock store l: 2 of 3 redis servers must agree"), "{text}");
    assert!(text.contains("server 2: redis is unreachable: connection refused"), "{text}");
    let released = unlock(&world, &worker, "o");
    server.send(b":1\r\n");
    world.advance(Duration::from_secs(1));
    assert_eq!(status(&released).0, Code::Unavailable);
}

#[test]
fn a_lock_must_be_there_within_a_tenth_of_its_time() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    let servers = CLUSTERS.map(|cluster| let_in(&world, cluster));
    let _ = servers.each_ref().map(received);
    servers[0].send(b"+OK\r\n");
    world.advance(Duration::from_secs(1));
    assert!(is_unlock(&received(&servers[0])));
    servers[0].send(b":1\r\n");
    let (code, text) = status(&started);
    assert_eq!(code, Code::Unavailable);
    assert!(text.ends_with("2 did not answer in time"), "{text}");
    // One that has taken it after all gives it back when it says so; one that has not is left alone.
    servers[1].send(b"+OK\r\n");
    assert!(is_unlock(&received(&servers[1])));
    servers[2].send(b"$-1\r\n");
    assert_eq!(received(&servers[2]), "");
}

#[test]
fn a_try_that_is_given_up_leaves_nothing_on_a_minority() {
    let (world, worker) = cluster();
    let started = try_lock(&world, &worker, "o", 10);
    let servers = CLUSTERS.map(|cluster| let_in(&world, cluster));
    let _ = servers.each_ref().map(received);
    started.cancel();
    servers[0].send(b"+OK\r\n");
    servers[1].send(b"$-1\r\n");
    servers[2].send(b"$-1\r\n");
    assert!(is_unlock(&received(&servers[0])));
}

#[test]
fn a_release_says_whose_the_lock_is() {
    for (replies, expected) in [
        ([":-1", ":-1", ":-1"], MISSING),
        ([":-2", ":-2", ":-1"], OTHERS),
        ([":-1", ":-2", ":-1"], MISSING),
        ([":1", ":-1", ":-2"], DONE),
    ] {
        let (world, worker) = cluster();
        let started = unlock(&world, &worker, "o");
        for (cluster, reply) in CLUSTERS.iter().zip(replies) {
            let_in(&world, cluster).send(format!("{reply}\r\n").as_bytes());
        }
        assert_eq!(outcome(&started), expected, "{replies:?}");
    }
}

#[test]
fn a_lock_is_lengthened_by_the_majority() {
    for (replies, expected) in [
        ([":1", ":1", ":-1"], Some(DONE)),
        ([":1", ":-1", ":-1"], Some(MISSING)),
        ([":-2", ":-2", ":1"], Some(OTHERS)),
        ([":1", "-ERR no", ":-1"], None),
    ] {
        let (world, worker) = cluster();
        let started = keep_alive(&world, &worker, "o", 10);
        for (cluster, reply) in CLUSTERS.iter().zip(replies) {
            let_in(&world, cluster).send(format!("{reply}\r\n").as_bytes());
        }
        match expected {
            Some(expected) => assert_eq!(outcome(&started), expected, "{replies:?}"),
            None => assert_eq!(
                status(&started),
                (Code::Unavailable, "lock store l: only 1 of 3 redis servers have lengthened the lock".into())
            ),
        }
    }
}

#[test]
fn hosts_are_checked() {
    let said = |hosts: &str| {
        let component = json!({"name": "l", "type": "lock.redis.cluster", "metadata": {"redisHosts": hosts}});
        let report = runtime_api::config::Config::check(&json!({"appId": "a", "components": [component]})).1;
        report.0.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(said("a:1,b:2"), [""; 0]);
    assert_eq!(
        said("a:1,,a:1"),
        [
            "components[0].metadata.redisHosts: host:port is expected between commas, not \"\"",
            "components[0].metadata.redisHosts: a:1 is there twice; it would count for two",
        ]
    );
}
