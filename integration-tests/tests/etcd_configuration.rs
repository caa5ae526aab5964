//! `configuration.etcd` and real etcds: how items lie there, and what subscribers see of a store that comes and goes.

use integration_tests::configuration::Configuration;
use integration_tests::etcd::{Etcd, Options, Version, base64};
use integration_tests::middleman::{Middleman, Replies};
use integration_tests::wait;
use integration_tests::{Config, Dialect, Envoy};
use serde_json::json;

const STORE: &str = "config";

fn config(endpoints: &str, login: &[(&str, &str)]) -> Config {
    let metadata = [&[("endpoints", endpoints)], login].concat();
    Config::new("orders").component(STORE, "configuration.etcd", &metadata)
}

async fn envoy(endpoints: &str, login: &[(&str, &str)]) -> Envoy {
    Envoy::start(config(endpoints, login)).await
}

async fn store(envoy: &Envoy, dialect: Dialect) -> Configuration {
    Configuration::new(envoy.client(dialect).await, STORE, "g")
}

#[tokio::test]
async fn an_item_is_a_key_of_its_parts_and_tags_are_below() {
    for version in Version::ALL {
        let etcd = Etcd::start(Options { version, ..Options::default() }).await;
        let envoy = envoy(&etcd.address(), &[]).await;
        let store = store(&envoy, Dialect::Dapr).await;
        store.save(&[("k", "v")]).await.unwrap();
        let all = async || -> Vec<String> { etcd.with_prefix("/").await.into_iter().map(|item| item.key).collect() };
        assert_eq!(all().await, ["/orders/g/default/k"]);
        assert_eq!(etcd.value("/orders/g/default/k").await.as_deref(), Some("v"));

        // What is near by: a tag as Layotto writes it, a key that begins alike, and another app.
        etcd.put("/orders/g/default/k/tag", "v").await;
        etcd.put("/orders/g/default/kk", "other").await;
        etcd.put("/orders2/g/default/k", "of another app").await;
        let item = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(store.get(&[]).await.unwrap(), [item("k", "v"), item("kk", "other")]);
        store.delete(&["k"]).await.unwrap();
        assert_eq!(all().await, ["/orders/g/default/kk", "/orders2/g/default/k"]);
        let refused = store.save(&[("a/b", "v")]).await.unwrap_err();
        assert!(refused.message().contains("has a / in it"), "{refused}");
    }
}

#[tokio::test]
async fn a_thousand_changes_are_delivered_once_and_in_order() {
    for version in Version::ALL {
        let etcd = Etcd::start(Options { version, ..Options::default() }).await;
        let envoy = envoy(&etcd.address(), &[]).await;
        let mut watches = Vec::new();
        for dialect in Dialect::ALL {
            watches.push(store(&envoy, dialect).await.watch(&[]).await);
        }
        for number in 0..1000 {
            etcd.put(&format!("/orders/g/default/k{number}"), &number.to_string()).await;
        }
        for watch in &mut watches {
            for number in 0..1000 {
                watch.expect(&[(&format!("k{number}"), &number.to_string())]).await;
            }
            watch.expect_silence().await;
        }
    }
}

#[tokio::test]
async fn a_thousand_subscriptions_are_one_watch_per_worker() {
    let etcd = Etcd::start(Options::default()).await;
    let envoy = Envoy::start(config(&etcd.address(), &[]).concurrency(2)).await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        let store = store(&envoy, Dialect::Dapr).await;
        for _ in 0..50 {
            watches.push(store.watch(&["k"]).await);
        }
    }
    assert_eq!((etcd.watch_streams().await, etcd.watchers().await), (2, 2));
    etcd.put("/orders/g/default/k", "v").await;
    for watch in &mut watches {
        watch.expect(&[("k", "v")]).await;
    }
    drop(watches);
    wait::eventually("the stream ends", async || match etcd.watch_streams().await {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_restart_loses_no_change() {
    for version in Version::ALL {
        let options = Options { version, root_password: Some("secret"), ..Options::default() };
        let mut etcd = Etcd::start(options).await;
        let envoy = envoy(&etcd.address(), &[("username", "root"), ("password", "secret")]).await;
        let mut watch = store(&envoy, Dialect::Layotto).await.watch(&[]).await;
        for number in 0..1000 {
            if number == 500 {
                etcd.kill().await;
                etcd.restart().await;
            }
            etcd.put(&format!("/orders/g/default/k{number}"), &number.to_string()).await;
        }
        for number in 0..1000 {
            watch.expect(&[(&format!("k{number}"), &number.to_string())]).await;
        }
        watch.expect_silence().await;
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn what_is_compacted_while_the_stream_is_lost_is_told_as_it_is_now() {
    for version in Version::ALL {
        let etcd = Etcd::start(Options { version, ..Options::default() }).await;
        let middleman = Middleman::before(etcd.port).await;
        let envoy = envoy(&format!("127.0.0.1:{}", middleman.port), &[]).await;
        let mut watch = store(&envoy, Dialect::Dapr).await.watch(&[]).await;
        for key in ["changed", "gone", "same"] {
            etcd.put(&format!("/orders/g/default/{key}"), "1").await;
        }
        watch.expect(&[("changed", "1"), ("gone", "1"), ("same", "1")]).await;

        middleman.replies(Replies::CloseAfter(0));
        etcd.put("/orders/g/default/gone", "2").await; // which ends the stream
        wait::eventually("the stream is lost", async || match etcd.watch_streams().await {
            0 => Ok(()),
            more => Err(more),
        })
        .await;
        for value in ["2", "3", "4"] {
            etcd.put("/orders/g/default/changed", value).await;
        }
        etcd.put("/orders/g/default/new", "1").await;
        etcd.delete("/orders/g/default/gone").await;
        let revision = etcd.put("/elsewhere", "x").await;
        etcd.compact(revision).await;
        middleman.replies(Replies::Pass);
        watch.expect(&[("changed", "4"), ("gone", ""), ("new", "1")]).await; // as one, which Dapr sorts by key
        etcd.put("/orders/g/default/same", "2").await;
        watch.expect(&[("same", "2")]).await;
        watch.expect_silence().await;
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn an_item_is_told_with_the_tags_of_its_own_revision() {
    for version in Version::ALL {
        let mut etcd = Etcd::start(Options { version, ..Options::default() }).await;
        let envoy = envoy(&etcd.address(), &[]).await;
        let mut stream = store(&envoy, Dialect::Dapr).await.stream(&["k"]).await.unwrap();
        stream.message().await.unwrap().expect("the id comes first");
        // What is written before the stream is there again comes at once.
        etcd.kill().await;
        etcd.restart().await;
        let put = |key: &str, value: &str| json!({"request_put": {"key": base64(key), "value": base64(value)}});
        for (value, tag) in [("one", "old"), ("two", "new")] {
            let remove = json!({"request_delete_range": {"key": base64("/orders/g/default/k/old")}});
            let item = put("/orders/g/default/k", value);
            let tagged = put(&format!("/orders/g/default/k/{tag}"), value);
            let steps = if tag == "old" { json!([item, tagged]) } else { json!([item, tagged, remove]) };
            etcd.transaction(json!({"success": steps})).await;
        }
        for (value, tag) in [("one", "old"), ("two", "new")] {
            let message = stream.message().await.unwrap().expect("the stream goes on");
            let item = &message.items["k"];
            assert_eq!(item.value, value);
            assert_eq!(item.metadata, [(tag.to_owned(), value.to_owned())].into());
        }
    }
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let etcd = Etcd::start(Options::default()).await;
    let envoy = envoy(&etcd.address(), &[]).await;
    let ended = match store(&envoy, Dialect::Dapr).await.stream(&["a/b"]).await {
        Ok(mut stream) => stream.message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(ended.code(), tonic::Code::InvalidArgument, "{ended}");
    assert!(ended.message().contains("has a / in it"), "{ended}");
    assert_eq!(etcd.watch_streams().await, 0);
}
