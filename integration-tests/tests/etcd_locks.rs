//! `lock.etcd`, `sequencer.etcd` and real etcds: how locks and sequences lie there, and who gets what.

use std::collections::BTreeSet;

use integration_tests::etcd::{Etcd, Options, Version, base64};
use integration_tests::lock::Outcome;
use integration_tests::status::expect_status;
use integration_tests::{Config, Dialect, Envoy, Lock, Sequencer, wait};
use serde_json::json;
use tonic::Code;

async fn of(version: Version) -> (Etcd, Envoy) {
    let etcd = Etcd::start(Options { version, ..Options::default() }).await;
    let endpoints = etcd.address();
    let config = Config::new("orders")
        .component("locks", "lock.etcd", &[("endpoints", &endpoints), ("keyPrefixPath", "/lock")])
        .component("ids", "sequencer.etcd", &[("endpoints", &endpoints)]);
    (etcd, Envoy::start(config.concurrency(2)).await)
}

async fn lock(envoy: &Envoy) -> Lock {
    Lock::new(envoy.client(Dialect::Layotto).await, "locks")
}

async fn ids(envoy: &Envoy) -> Sequencer {
    Sequencer::new(envoy.client(Dialect::Layotto).await, "ids")
}

#[tokio::test]
async fn a_lock_is_an_item_under_a_lease_as_layotto_writes_it() {
    const KEY: &str = "/lock/lock|||orders||r";
    for version in Version::ALL {
        let (etcd, envoy) = of(version).await;
        let lock = lock(&envoy).await;
        assert!(lock.try_lock("r", "one", 1000).await.unwrap());
        let found = etcd.get(KEY).await.expect("the lock is there");
        assert_eq!(found.value, b"one");
        assert_eq!(etcd.leases().await, [found.lease]);
        assert!(!lock.try_lock("r", "two", 1000).await.unwrap());
        assert_eq!(lock.unlock("r", "two").await.unwrap(), Outcome::Others);

        assert_eq!(lock.keep_alive("r", "two", 1000).await.unwrap(), Outcome::Others);
        assert_eq!(lock.keep_alive("r", "one", 2000).await.unwrap(), Outcome::Done);
        let renewed = etcd.get(KEY).await.expect("the lock is there").lease;
        assert_ne!(renewed, found.lease);
        let expect_leases = async |expected: &[i64]| {
            wait::eventually("no other lease is left", async || match etcd.leases().await {
                leases if leases == expected => Ok(()),
                leases => Err(leases),
            })
            .await;
        };
        expect_leases(&[renewed]).await;
        assert_eq!(lock.unlock("r", "one").await.unwrap(), Outcome::Done);
        assert_eq!(lock.unlock("r", "one").await.unwrap(), Outcome::Missing);
        assert_eq!(lock.keep_alive("r", "one", 1000).await.unwrap(), Outcome::Missing);
        expect_leases(&[]).await;

        // A lock of Layotto's excludes ours.
        let lease = etcd.grant(1000).await;
        let put = json!({"key": base64(KEY), "value": base64("theirs"), "lease": lease.to_string()});
        etcd.call("kv/put", put).await.unwrap();
        assert!(!lock.try_lock("r", "one", 1000).await.unwrap());
        etcd.revoke(lease).await;
        assert!(lock.try_lock("r", "one", 1000).await.unwrap());
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn of_many_who_want_a_lock_one_gets_it() {
    let (_etcd, envoy) = of(Version::V37).await;
    let mut locks = Vec::new();
    for _ in 0..8 {
        locks.push(lock(&envoy).await);
    }
    for round in 0..5 {
        let resource = format!("r{round}");
        let tries = locks.iter().enumerate().map(|(n, lock)| {
            let resource = &resource;
            async move { lock.try_lock(resource, &n.to_string(), 1000).await.unwrap() }
        });
        let taken = futures::future::join_all(tries).await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
    }
}

#[tokio::test]
async fn ids_count_writes_from_one_whatever_the_options() {
    for version in Version::ALL {
        let (etcd, envoy) = of(version).await;
        let sequencer = ids(&envoy).await;
        for expected in 1..=9 {
            assert_eq!(sequencer.next("k").await.unwrap(), expected);
        }
        assert_eq!(sequencer.next_strong("k").await.unwrap(), 10);
        assert_eq!(etcd.get("/layotto/sequencer|||orders||k").await.expect("the key is there").version, 10);

        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(ids(&envoy).await);
        }
        let drawn = futures::future::join_all(clients.iter().map(|client| async move {
            let mut drawn = Vec::new();
            for _ in 0..25 {
                drawn.push(client.next("shared").await.unwrap());
            }
            assert!(drawn.is_sorted());
            drawn
        }))
        .await;
        assert_eq!(drawn.into_iter().flatten().collect::<BTreeSet<i64>>(), (1..=200).collect());
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn ids_that_would_be_too_small_are_not_given_and_none_while_etcd_is_down() {
    let mut etcd = Etcd::start(Options::default()).await;
    let config = Config::new("orders").component_document(json!({
        "name": "ids",
        "type": "sequencer.etcd",
        "metadata": {"endpoints": etcd.address(), "biggerThan": {"k": 3}},
    }));
    let envoy = Envoy::start(config).await;
    let sequencer = ids(&envoy).await;
    let refused = sequencer.next("k").await.unwrap_err();
    assert!(refused.message().contains("cannot be raised"), "{refused}");
    for _ in 0..3 {
        etcd.put("/layotto/sequencer|||orders||k", "").await;
    }
    assert_eq!(sequencer.next("k").await.unwrap(), 4);
    etcd.kill().await;
    expect_status(sequencer.next("k").await, Code::Unavailable, "etcd is unreachable or not ready: ");
}
