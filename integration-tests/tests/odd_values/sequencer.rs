//! Sequencers.

use futures::FutureExt;
use integration_tests::{Config, Dialect, Envoy, Etcd, Redis, Sequencer, etcd, redis};
use serde_json::json;

use crate::{Difference, NAMES, Row, row, said, try_all};

fn sequencer_rows() -> Vec<Row<Sequencer>> {
    let mut rows: Vec<Row<Sequencer>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(10_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Sequencer>(format!("key {shown:?}"), "1 2", move |sequencer, key| {
            let key = format!("{key}{name}");
            async move { format!("{} {}", said(sequencer.next_strong(&key).await), said(sequencer.next_strong(&key).await)) }
                .boxed()
        }));
    }
    for (increment, expected) in
        [(None, "1"), (Some(0), "1"), (Some(1), "1"), (Some(2), "Unknown"), (Some(-1), "Unknown")]
    {
        rows.push(row::<Sequencer>(format!("increment {increment:?}"), expected, move |sequencer, key| {
            async move { said(sequencer.next_with(key, increment).await) }.boxed()
        }));
    }
    rows.push(row::<Sequencer>("no key", "InvalidArgument", |sequencer, _| {
        async move { said(sequencer.next("").await) }.boxed()
    }));
    rows.push(row::<Sequencer>("the separator in the key", "Unknown", |sequencer, _| {
        async move { said(sequencer.next("a||b").await) }.boxed()
    }));
    for (above, expected) in [("negative", "1"), ("zero", "1"), ("hundred", "101"), ("used-up", "Unknown")] {
        rows.push(row::<Sequencer>(format!("biggerThan {above}"), expected, move |sequencer, _| {
            async move { said(sequencer.next_strong(above).await) }.boxed()
        }));
    }
    rows
}

const SEQUENCER_DIFFERENCES: &[Difference] =
    &[("biggerThan hundred", "etcd", "Unknown", "ids in etcd count writes: they cannot be raised")];

#[tokio::test]
async fn the_drivers_of_sequencers_agree() {
    let redis = Redis::start(redis::Options::default()).await;
    let etcd = Etcd::start(etcd::Options::default()).await;
    let bigger = json!({"negative": -1, "zero": 0, "hundred": 100, "used-up": i64::MAX});
    let component = |name: &str, kind: &str, server: Option<(&str, String)>| {
        let mut metadata = json!({"biggerThan": bigger});
        if let Some((field, address)) = server {
            metadata[field] = address.into();
        }
        json!({"name": name, "type": kind, "metadata": metadata})
    };
    let config = Config::new("conformance")
        .component_document(component("in-memory", "sequencer.in-memory", None))
        .component_document(component("redis", "sequencer.redis", Some(("redisHost", redis.address()))))
        .component_document(component("etcd", "sequencer.etcd", Some(("endpoints", etcd.address()))));
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Layotto).await;
    let drivers = ["in-memory", "redis", "etcd"].map(|name| (name, Sequencer::new(client.clone(), name)));
    try_all(&drivers, sequencer_rows(), SEQUENCER_DIFFERENCES).await;
    envoy.assert_no_filter_crashed().await;
}
