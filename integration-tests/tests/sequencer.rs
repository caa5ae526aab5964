//! Sequencers over real servers: no id twice, whoever asks and whatever is restarted.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use integration_tests::redis::{Options, Redis};
use integration_tests::status::expect_status;
use integration_tests::{Config, Dialect, Envoy, Sequencer, wait};
use serde_json::json;
use tonic::Code;

const STORE: &str = "sequences";

fn on(redis: &Redis, metadata: &[(&str, &str)]) -> Config {
    let address = redis.address();
    let metadata = [&[("redisHost", address.as_str())], metadata].concat();
    Config::new("orders").component(STORE, "sequencer.redis", &metadata)
}

fn in_memory() -> Config {
    Config::new("orders").component(STORE, "sequencer.in-memory", &[])
}

async fn sequencer_of(envoy: &Envoy) -> Sequencer {
    Sequencer::new(envoy.client(Dialect::Layotto).await.with_deadline(Duration::from_secs(10)), STORE)
}

/// So many ids, many asked for at the same time, in the order in which they came.
async fn ids(sequencer: &Sequencer, key: &str, count: usize) -> Vec<i64> {
    stream::iter(0..count).map(|_| async { sequencer.next(key).await.unwrap() }).buffer_unordered(32).collect().await
}

#[tokio::test]
async fn a_fresh_sequence_begins_with_one() {
    let redis = Redis::start(Options::default()).await;
    for config in [on(&redis, &[]), in_memory()] {
        let envoy = Envoy::start(config).await;
        let sequencer = sequencer_of(&envoy).await;
        for expected in 1..10 {
            assert_eq!(sequencer.next("fresh").await.unwrap(), expected);
        }
        for expected in 1..10 {
            assert_eq!(sequencer.next_strong("fresh and strong").await.unwrap(), expected);
        }
        envoy.assert_no_filter_crashed().await;
    }
    assert_eq!(redis.command::<i64>(&["GET", "sequencer|||orders||fresh"]).await, 10_000, "as Layotto's segments");
    assert_eq!(redis.command::<i64>(&["GET", "sequencer|||orders||fresh and strong"]).await, 9);
}

#[tokio::test]
async fn two_hundred_thousand_ids_over_two_envoys_are_distinct() {
    let redis = Redis::start(Options::default()).await;
    let envoys =
        [Envoy::start(on(&redis, &[]).concurrency(2)).await, Envoy::start(on(&redis, &[]).concurrency(2)).await];
    let clients = (0..8usize).map(|number| {
        let envoys = &envoys;
        async move { ids(&sequencer_of(&envoys[number % 2]).await, "k", 25_000).await }
    });
    let all: Vec<i64> = futures::future::join_all(clients).await.concat();
    assert_eq!(all.len(), 200_000);
    let distinct: BTreeSet<i64> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len(), "an id was given twice");
    let last: i64 = redis.command(&["GET", "sequencer|||orders||k"]).await;
    assert!(distinct.first() >= Some(&1) && distinct.last() <= Some(&last));
    assert!(last < 400_000, "segments are used up before others are taken: {last}");
    for envoy in &envoys {
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn ids_in_memory_are_distinct_over_workers() {
    let envoy = Envoy::start(in_memory().concurrency(2)).await;
    let clients = (0..8).map(|_| async { ids(&sequencer_of(&envoy).await, "k", 2500).await });
    let all: BTreeSet<i64> = futures::future::join_all(clients).await.concat().into_iter().collect();
    assert_eq!(all, (1..=20_000).collect());
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn weak_ids_rise_within_an_envoy() {
    let redis = Redis::start(Options::default()).await;
    let envoy = Envoy::start(on(&redis, &[("segmentStep", "100"), ("segmentPrefetch", "10")]).concurrency(2)).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(sequencer_of(&envoy).await);
    }
    let mut last = 0;
    for turn in 0..3000 {
        let id = clients[turn % clients.len()].next("k").await.unwrap();
        assert!(id > last, "{id} after {last}");
        last = id;
    }
    assert!(last < 4000, "few are skipped: {last}");
}

#[tokio::test]
async fn strong_ids_rise_strictly_over_all() {
    let redis = Redis::start(Options::default()).await;
    let envoys =
        [Envoy::start(on(&redis, &[]).concurrency(2)).await, Envoy::start(on(&redis, &[]).concurrency(2)).await];
    let clients = [sequencer_of(&envoys[0]).await, sequencer_of(&envoys[1]).await];
    // WEAK ids of the same key in between take segments, and no id twice either.
    let (mut last, mut weak) = (0, BTreeSet::new());
    for turn in 0..2000 {
        let id = clients[turn % 2].next_strong("k").await.unwrap();
        assert!(id > last, "{id} after {last}");
        assert!(weak.insert(id));
        last = id;
        if turn % 100 == 0 {
            assert!(weak.insert(clients[turn / 100 % 2].next("k").await.unwrap()));
        }
    }
}

#[tokio::test]
async fn no_id_comes_twice_when_redis_is_killed_and_restarted() {
    let mut redis = Redis::start(Options::default()).await;
    let step = [("segmentStep", "50"), ("segmentPrefetch", "5")];
    let envoys = [Envoy::start(on(&redis, &step).concurrency(2)).await, Envoy::start(on(&redis, &step)).await];
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let mut clients = Vec::new();
        for envoy in &envoys {
            clients.push(sequencer_of(envoy).await);
        }
        // Killed while ids are asked for: some calls fail, and none of those that succeed gives an id again.
        let asking = futures::future::join_all(clients.iter().map(|client| async move {
            stream::iter(0..3000)
                .map(|_| client.next("k"))
                .buffer_unordered(32)
                .filter_map(async |id| id.ok())
                .collect::<Vec<i64>>()
                .await
        }));
        let killing = async {
            wait::eventually("some ids were given", async || {
                let value: Option<i64> = redis.command(&["GET", "sequencer|||orders||k"]).await;
                value.filter(|value| *value > i64::try_from(seen.len()).unwrap()).ok_or("not yet")
            })
            .await;
            redis.kill().await;
        };
        let (given, ()) = futures::future::join(asking, killing).await;
        for id in given.concat() {
            assert!(seen.insert(id), "{id} was given twice");
        }
        redis.restart().await;
        for client in &clients {
            let id = wait::eventually("ids are given again", async || client.next_strong("k").await).await;
            assert!(seen.insert(id), "{id} was given twice");
            let id = wait::eventually("ids are given again", async || client.next("k").await).await;
            assert!(seen.insert(id), "{id} was given twice");
        }
    }
    for envoy in &envoys {
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn no_id_comes_twice_when_envoy_is_restarted() {
    let redis = Redis::start(Options::default()).await;
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let envoy = Envoy::start(on(&redis, &[]).concurrency(2)).await;
        for id in ids(&sequencer_of(&envoy).await, "k", 500).await {
            assert!(seen.insert(id), "{id} was given twice");
        }
    }
    let last: i64 = redis.command(&["GET", "sequencer|||orders||k"]).await;
    assert_eq!(last, 50_000, "a segment for each Envoy; the rest of it is skipped");
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_brought_up_to_what_was_given() {
    let redis = Redis::start(Options::default()).await;
    let envoy = Envoy::start(on(&redis, &[("segmentStep", "50"), ("segmentPrefetch", "5")])).await;
    let sequencer = sequencer_of(&envoy).await;
    let mut seen: BTreeSet<i64> = ids(&sequencer, "k", 500).await.into_iter().collect();
    let _: String = redis.command(&["FLUSHALL"]).await;
    for id in ids(&sequencer, "k", 500).await {
        assert!(seen.insert(id), "{id} was given twice");
    }
}

#[tokio::test]
async fn ids_are_bigger_than_the_component_says() {
    let redis = Redis::start(Options::default()).await;
    let _: String = redis.command(&["SET", "sequencer|||orders||ahead", "7000"]).await;
    let numbers = json!({"k": 5000, "strong": 5000, "ahead": 5000, "huge": 9_007_199_254_740_993_i64, "sequencer|||orders||raw": 70});
    // In runtime.yaml as an object, in Dapr's component files as a text.
    for (kind, numbers) in [("redis", numbers.clone()), ("redis", numbers.to_string().into()), ("in-memory", numbers)] {
        let mut metadata = json!({"biggerThan": numbers});
        if kind == "redis" {
            metadata["redisHost"] = redis.address().into();
        }
        let component = json!({"name": STORE, "type": format!("sequencer.{kind}"), "metadata": metadata});
        let envoy = Envoy::start(Config::new("orders").component_document(component)).await;
        let sequencer = sequencer_of(&envoy).await;
        for (key, above) in [("k", 5000), ("ahead", if kind == "redis" { 7000 } else { 5000 }), ("raw", 70)] {
            assert!(sequencer.next(key).await.unwrap() > above, "{key}");
        }
        let first = sequencer.next_strong("strong").await.unwrap();
        assert!(first > 5000);
        assert_eq!(sequencer.next_strong("strong").await.unwrap(), first + 1);
        let first = sequencer.next_strong("huge").await.unwrap();
        assert!(first > 9_007_199_254_740_993, "numbers that Lua cannot hold are exact: {first}");
        assert_eq!(sequencer.next_strong("huge").await.unwrap(), first + 1);
    }
}

#[tokio::test]
async fn what_is_refused() {
    let redis = Redis::start(Options::default()).await;
    let _: String = redis.command(&["SET", "sequencer|||orders||text", "no number"]).await;
    let envoy = Envoy::start(on(&redis, &[("biggerThan", r#"{"text": 100}"#)])).await;
    let sequencer = sequencer_of(&envoy).await;
    expect_status(sequencer.next("").await, Code::InvalidArgument, "Key is empty in sequencer store sequences");
    expect_status(sequencer.next("a||b").await, Code::Unknown, "input key/keyPrefix 'a||b' can't contain '||'");
    expect_status(sequencer.next_with("k", Some(7)).await, Code::Unknown, "unknown increment 7");
    for result in [sequencer.next("text").await, sequencer.next_strong("text").await] {
        expect_status(
            result,
            Code::Unknown,
            "no next id from sequencer store sequences: redis says: ERR value is not an integer",
        );
    }
    assert_eq!(redis.command::<String>(&["GET", "sequencer|||orders||text"]).await, "no number", "it is left alone");
    let unknown = Sequencer::new(envoy.client(Dialect::Layotto).await, "nowhere");
    expect_status(unknown.next("k").await, Code::InvalidArgument, "Sequencer store nowhere not found");
    let none = Envoy::start(Config::new("orders")).await;
    expect_status(
        sequencer_of(&none).await.next("k").await,
        Code::FailedPrecondition,
        "Sequencer store is not configured",
    );
}

#[tokio::test]
async fn a_redis_that_is_down_makes_a_call_unavailable_once_ids_are_used_up() {
    let mut redis = Redis::start(Options::default()).await;
    let envoy = Envoy::start(on(&redis, &[("segmentStep", "20"), ("segmentPrefetch", "0")])).await;
    let sequencer = sequencer_of(&envoy).await;
    assert_eq!(sequencer.next("k").await.unwrap(), 1);
    redis.kill().await;
    expect_status(sequencer.next_strong("k").await, Code::Unavailable, "redis");
    for expected in 2..=20 {
        assert_eq!(sequencer.next("k").await.unwrap(), expected, "those that were taken are given");
    }
    expect_status(sequencer.next("k").await, Code::Unavailable, "no next id from sequencer store sequences: redis");
    redis.restart().await;
    let id = wait::eventually("ids are given again", async || sequencer.next("k").await).await;
    assert!(id > 20, "{id}");
}
