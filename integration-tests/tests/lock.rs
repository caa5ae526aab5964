//! Locks over real servers: the conformance suite, how they lie in Redis, contention, and servers that are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use integration_tests::conformance::drivers;
use integration_tests::etcd::{self, Etcd};
use integration_tests::lock::Outcome;
use integration_tests::redis::{Options, Redis};
use integration_tests::status::expect_status;
use integration_tests::{Config, Dialect, Envoy, Lock, wait};
use tonic::Code;

integration_tests::conformance! { lock:
    lock_in_memory:     [],
    lock_redis:         [],
    lock_redis_cluster: [],
    lock_etcd: [],
    lock_etcd_of_debian: [],
}

const STORE: &str = "lockstore";

fn on(redis: &[Redis]) -> Config {
    let hosts = redis.iter().map(Redis::address).collect::<Vec<_>>().join(",");
    match redis {
        [] => Config::new("orders").component(STORE, "lock.in-memory", &[]),
        [_] => Config::new("orders").component(STORE, "lock.redis", &[("redisHost", &hosts)]),
        _ => Config::new("orders").component(STORE, "lock.redis.cluster", &[("redisHosts", &hosts)]),
    }
}

async fn servers(count: usize) -> Vec<Redis> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(Redis::start(Options::default()).await);
    }
    servers
}

async fn lock_of(envoy: &Envoy, dialect: Dialect) -> Lock {
    Lock::new(envoy.client(dialect).await.with_deadline(Duration::from_secs(10)), STORE)
}

#[tokio::test]
async fn without_any_store_nothing_is_configured() {
    let envoy = Envoy::start(Config::new("orders")).await;
    for dialect in Dialect::ALL {
        let lock = lock_of(&envoy, dialect).await;
        let status =
            expect_status(lock.try_lock("r", "o", 1).await, Code::FailedPrecondition, "lock store is not configured");
        assert!(status.details().is_empty(), "as with Dapr");
        expect_status(lock.unlock("r", "o").await, Code::FailedPrecondition, "lock store is not configured");
    }
}

#[tokio::test]
async fn a_lock_is_kept_alive_by_its_owner_alone() {
    for world in [drivers::lock_in_memory().await, drivers::lock_redis().await, drivers::lock_redis_cluster().await] {
        let lock = Lock::new(world.envoy.client(Dialect::Layotto).await, world.component);
        assert_eq!(lock.keep_alive("r", "one", 5).await.unwrap(), Outcome::Missing);
        let begun = Instant::now();
        assert!(lock.try_lock("r", "one", 2).await.unwrap());
        assert_eq!(lock.keep_alive("r", "other", 60).await.unwrap(), Outcome::Others);
        assert_eq!(lock.keep_alive("r", "one", 4).await.unwrap(), Outcome::Done);
        wait::eventually("the lock has ended", async || {
            lock.try_lock("r", "other", 60).await.unwrap().then_some(()).ok_or("it is held")
        })
        .await;
        assert!(begun.elapsed() > Duration::from_millis(3900), "it was lengthened: {:?}", begun.elapsed());
        assert_eq!(lock.keep_alive("r", "one", 60).await.unwrap(), Outcome::Others);
        expect_status(lock.keep_alive("r", "one", 0).await, Code::InvalidArgument, "Expire is not positive");
        world.envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn locks_in_redis_are_those_of_the_incumbents() {
    let redis = servers(1).await;
    let envoy = Envoy::start(on(&redis)).await;
    for (dialect, key) in [(Dialect::Dapr, "lock||orders||r"), (Dialect::Layotto, "lock|||orders||r")] {
        let lock = lock_of(&envoy, dialect).await;
        assert!(lock.try_lock("r", "me", 30).await.unwrap());
        assert_eq!(redis[0].command::<String>(&["GET", key]).await, "me");
        let left: i64 = redis[0].command(&["PTTL", key]).await;
        assert!((25_000..=30_000).contains(&left), "{left}");
        // As another runtime would release and take it.
        let _: i64 = redis[0].command(&["DEL", key]).await;
        let _: String = redis[0].command(&["SET", key, "them", "EX", "30", "NX"]).await;
        assert!(!lock.try_lock("r", "me", 30).await.unwrap());
        assert_eq!(lock.unlock("r", "me").await.unwrap(), Outcome::Others);
    }
}

#[tokio::test]
async fn a_value_that_is_no_lock_is_an_error() {
    let redis = servers(1).await;
    let envoy = Envoy::start(on(&redis)).await;
    let _: i64 = redis[0].command(&["LPUSH", "lock||orders||r", "x"]).await;
    let _: i64 = redis[0].command(&["LPUSH", "lock|||orders||r", "x"]).await;
    let dapr = lock_of(&envoy, Dialect::Dapr).await.unlock("r", "o").await;
    let status = expect_status(dapr, Code::Internal, "failed to release lock: redis says: ");
    assert!(status.message().contains("WRONGTYPE"), "{status}");
    let layotto = lock_of(&envoy, Dialect::Layotto).await.unlock("r", "o").await;
    expect_status(layotto, Code::Unknown, "lock store lockstore: redis says: ");
}

/// 50 clients try 10,000 times; who holds the lock counts itself in and out of a store of its own.
async fn contend(envoys: &[Envoy], enter: impl AsyncFn() -> i64, leave: impl AsyncFn()) {
    let (tries, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let clients = (0..50).map(|number: usize| {
        let (tries, taken, enter, leave) = (&tries, &taken, &enter, &leave);
        async move {
            let dialect = Dialect::Layotto; // the dialects do not exclude each other
            let lock = lock_of(&envoys[number % envoys.len()], dialect).await;
            let owner = number.to_string();
            while tries.fetch_add(1, Ordering::SeqCst) < 10_000 {
                if lock.try_lock("contended", &owner, 30).await.unwrap() {
                    assert_eq!(enter().await, 1, "another holds the lock");
                    taken.fetch_add(1, Ordering::SeqCst);
                    leave().await;
                    assert_eq!(lock.unlock("contended", &owner).await.unwrap(), Outcome::Done);
                }
            }
        }
    });
    futures::future::join_all(clients).await;
    let taken = taken.into_inner();
    assert!(taken >= 100, "the lock was taken only {taken} times");
    for envoy in envoys {
        envoy.assert_no_filter_crashed().await;
    }
}

/// The same over two Envoys of two workers each.
async fn contend_on(count: usize) {
    let redis = servers(count).await;
    let envoys = [Envoy::start(on(&redis).concurrency(2)).await, Envoy::start(on(&redis).concurrency(2)).await];
    contend_over(&envoys, &redis[0]).await;
}

/// The same with the count of holders in Redis.
async fn contend_over(envoys: &[Envoy], redis: &Redis) {
    let connection = redis.connection(0).await.unwrap();
    let count = async |command: &str| -> i64 {
        redis::cmd(command).arg("holders").query_async(&mut connection.clone()).await.unwrap()
    };
    contend(envoys, async || count("INCR").await, async || assert_eq!(count("DECR").await, 0)).await;
}

#[tokio::test]
async fn fifty_clients_and_one_redis_have_never_two_holders() {
    contend_on(1).await;
}

#[tokio::test]
async fn fifty_clients_and_three_redis_have_never_two_holders() {
    contend_on(3).await;
}

#[tokio::test]
async fn fifty_clients_and_an_etcd_have_never_two_holders() {
    let (etcd, redis) = (Etcd::start(etcd::Options::default()).await, Redis::start(Options::default()).await);
    let on = || Config::new("orders").component(STORE, "lock.etcd", &[("endpoints", &etcd.address())]).concurrency(2);
    contend_over(&[Envoy::start(on()).await, Envoy::start(on()).await], &redis).await;
}

#[tokio::test]
async fn fifty_clients_and_two_workers_have_never_two_holders_in_memory() {
    let envoys = [Envoy::start(on(&[]).concurrency(2)).await];
    let holders = Arc::new(AtomicUsize::new(0));
    let enter = async || {
        let before = holders.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        i64::try_from(before + 1).unwrap()
    };
    contend(&envoys, enter, async || assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1)).await;
}

#[tokio::test]
async fn the_lock_of_a_holder_that_was_killed_is_taken_over_after_its_time() {
    for count in [1, 3] {
        let redis = servers(count).await;
        let [dying, staying] = [Envoy::start(on(&redis)).await, Envoy::start(on(&redis)).await];
        let living = lock_of(&staying, Dialect::Layotto).await;
        let begun = Instant::now();
        assert!(lock_of(&dying, Dialect::Layotto).await.try_lock("r", "dying", 2).await.unwrap());
        drop(dying);
        assert!(!living.try_lock("r", "living", 60).await.unwrap());
        wait::eventually("the lock is free", async || {
            living.try_lock("r", "living", 60).await.unwrap().then_some(()).ok_or("it is held")
        })
        .await;
        let took = begun.elapsed();
        assert!((Duration::from_millis(1900)..Duration::from_secs(6)).contains(&took), "{took:?}");
    }
}

/// Waits until a runtime reaches every server.
async fn until_all_serve(lock: &Lock, redis: &[Redis]) {
    wait::eventually("all servers take the lock", async || {
        let taken = lock.try_lock("probe", "o", 60).await;
        let mut reached = 0;
        for server in redis {
            reached += usize::from(server.keys().await.iter().any(|key| key.ends_with("||probe")));
        }
        let _ = lock.unlock("probe", "o").await;
        if reached == redis.len() { Ok(()) } else { Err((taken, reached)) }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_down_makes_a_call_unavailable() {
    let mut redis = servers(1).await;
    let envoy = Envoy::start(on(&redis)).await;
    redis[0].kill().await;
    for dialect in Dialect::ALL {
        let lock = lock_of(&envoy, dialect).await;
        expect_status(lock.try_lock("r", "o", 5).await, Code::Unavailable, "redis");
        expect_status(lock.unlock("r", "o").await, Code::Unavailable, "redis");
    }
    expect_status(lock_of(&envoy, Dialect::Layotto).await.keep_alive("r", "o", 5).await, Code::Unavailable, "redis");
    redis[0].restart().await;
    let lock = lock_of(&envoy, Dialect::Dapr).await;
    wait::eventually("the lock is served again", async || lock.try_lock("r", "o", 5).await).await;
}

#[tokio::test]
async fn of_three_redis_one_may_be_killed_and_not_two() {
    let mut redis = servers(3).await;
    let envoys = [Envoy::start(on(&redis)).await, Envoy::start(on(&redis)).await];
    for dialect in Dialect::ALL {
        let [one, other] = [lock_of(&envoys[0], dialect).await, lock_of(&envoys[1], dialect).await];
        assert!(one.try_lock("before", "one", 60).await.unwrap());
        for gone in 0..3 {
            redis[gone].kill().await;
            let name = format!("without {gone}");
            assert!(one.try_lock(&name, "one", 60).await.unwrap());
            assert!(!other.try_lock(&name, "other", 60).await.unwrap());
            assert!(!other.try_lock("before", "other", 60).await.unwrap(), "two of its three places are left");
            assert_eq!(other.unlock(&name, "other").await.unwrap(), Outcome::Others);
            assert_eq!(one.unlock(&name, "one").await.unwrap(), Outcome::Done);
            assert!(other.try_lock(&name, "other", 60).await.unwrap());

            let second = (gone + 1) % 3;
            redis[second].kill().await;
            let status = expect_status(one.try_lock("two gone", "one", 60).await, Code::Unavailable, "");
            assert!(status.message().contains("2 of 3 redis servers must agree"), "{status}");
            expect_status(one.unlock("before", "other").await, Code::Unavailable, "2 of 3 redis servers must agree");
            let left = &redis[(gone + 2) % 3];
            let keys = left.keys().await;
            assert!(!keys.iter().any(|key| key.ends_with("two gone")), "what was taken was given back: {keys:?}");

            redis[second].restart().await;
            redis[gone].restart().await;
            until_all_serve(&one, &redis).await;
            until_all_serve(&other, &redis).await;
        }
    }
    for envoy in &envoys {
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_does_not_hold_up_the_others() {
    let redis = servers(3).await;
    let envoy = Envoy::start(on(&redis)).await;
    let lock = lock_of(&envoy, Dialect::Layotto).await;
    assert!(lock.try_lock("warm", "o", 60).await.unwrap());
    redis[1].pause().await;
    let begun = Instant::now();
    assert!(lock.try_lock("r", "o", 60).await.unwrap());
    assert!(!lock.try_lock("r", "p", 60).await.unwrap());
    assert_eq!(lock.keep_alive("r", "o", 60).await.unwrap(), Outcome::Done);
    assert_eq!(lock.unlock("r", "o").await.unwrap(), Outcome::Done);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    redis[1].resume().await;
}
