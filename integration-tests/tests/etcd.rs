//! `state.etcd` and real etcds: how data lies there, logins, TLS, members that come and go.

use std::time::{Duration, Instant};

use bytes::Bytes;
use integration_tests::etcd::{Cluster, Etcd, Options, Tls, Version, base64};
use integration_tests::middleman::{Middleman, Replies};
use integration_tests::status::expect_status;
use integration_tests::store::{ItemOptions, item, key, upsert};
use integration_tests::wait::{self, within};
use integration_tests::{Config, Dialect, Envoy, Store};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

async fn envoy(version: &str, metadata: Value) -> Envoy {
    let component = json!({"name": "statestore", "type": "state.etcd", "version": version, "metadata": metadata});
    Envoy::start(Config::new("orders").component_document(component)).await
}

async fn store(envoy: &Envoy) -> Store {
    Store::new(envoy.client(Dialect::Dapr).await, "statestore")
}

async fn of(version: Version) -> Etcd {
    Etcd::start(Options { version, ..Options::default() }).await
}

#[tokio::test]
async fn version_v1_keeps_the_value_as_it_is() {
    for version in Version::ALL {
        let etcd = of(version).await;
        let envoy = envoy("v1", json!({"endpoints": etcd.address(), "keyPrefixPath": "/some/path"})).await;
        let store = store(&envoy).await;
        store.save(item("k", "v")).await.unwrap();
        let found = etcd.get("/some/path/orders||k").await.expect("the item is there");
        assert_eq!((found.value.as_slice(), found.lease), (&b"v"[..], 0));
        assert_eq!(store.etag("k").await, found.mod_revision.to_string());

        // What Dapr wrote is read, and its etag holds.
        let revision = etcd.put("/some/path/orders||theirs", "1").await;
        let read = store.get("theirs").await.unwrap();
        assert_eq!((read.data, read.etag), (Bytes::from("1"), revision.to_string()));
        store.save(item("theirs", "2").if_etag(&revision.to_string())).await.unwrap();
        assert_eq!(etcd.value("/some/path/orders||theirs").await.as_deref(), Some("2"));
        store.delete(key("theirs")).await.unwrap();
        assert_eq!(etcd.get("/some/path/orders||theirs").await, None);
        envoy.assert_no_filter_crashed().await;
    }
}

/// As Dapr's driver declares it.
#[derive(Clone, PartialEq, Message)]
struct DaprValue {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    ts: Option<Span>,
    #[prost(message, optional, tag = "3")]
    ttl: Option<Span>,
}

/// `google.protobuf.Timestamp` and `google.protobuf.Duration`, which are alike.
#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[tokio::test]
async fn version_v2_keeps_a_message_around_it() {
    let etcd = of(Version::V37).await;
    let envoy = envoy("v2", json!({"endpoints": etcd.address()})).await;
    let store = store(&envoy).await;
    store.save(item("k", "v").ttl(1000)).await.unwrap();
    let found = etcd.get("orders||k").await.expect("the item is there");
    let value = DaprValue::decode(found.value.as_slice()).unwrap();
    assert_eq!((value.data.as_slice(), value.ttl.map(|ttl| ttl.seconds)), (&b"v"[..], Some(1000)));
    assert_ne!(found.lease, 0);

    // Dapr writes a span of nothing where no end was asked for.
    let theirs = DaprValue {
        data: b"theirs".to_vec(),
        ts: Some(Span { seconds: 1_700_000_000, nanos: 5 }),
        ttl: Some(Span::default()),
    };
    let put = json!({"key": base64("orders||t"), "value": base64(theirs.encode_to_vec())});
    etcd.call("kv/put", put).await.unwrap();
    let read = store.get("t").await.unwrap();
    assert_eq!((read.data, read.metadata.len()), (Bytes::from("theirs"), 0));

    etcd.put("orders||plain", "plain").await;
    expect_status(store.get("plain").await, Code::Internal, "is it one of version v1?");
}

#[tokio::test]
async fn leases_end_with_their_items_and_none_is_left_of_what_was_refused() {
    let etcd = of(Version::V37).await;
    let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
    let store = store(&envoy).await;
    store.save(item("k", "v").ttl(1000)).await.unwrap();
    let leases = etcd.leases().await;
    assert_eq!(leases.len(), 1);
    expect_status(store.save(item("k", "w").if_etag("1").ttl(1000)).await, Code::Aborted, "possible etag mismatch");
    wait::eventually("the lease of the refused write is given back", async || match etcd.leases().await {
        left if left == leases => Ok(()),
        other => Err(other),
    })
    .await;
}

/// Waits until no lease is left but that of the item under the key, which may have none.
async fn expect_no_lease_but_of(etcd: &Etcd, key: &str) {
    wait::eventually("no other lease is left", async || {
        let lease = etcd.get(key).await.map_or(0, |item| item.lease);
        let left: Vec<i64> = etcd.leases().await.into_iter().filter(|other| *other != lease).collect();
        if left.is_empty() { Ok(()) } else { Err((left.len(), lease)) }
    })
    .await;
}

#[tokio::test]
async fn two_hundred_writes_of_a_key_leave_one_lease() {
    for version in Version::ALL {
        let etcd = of(version).await;
        let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
        let store = store(&envoy).await;
        // Some come to their end and others are cancelled on the way, by the deadline or by the app that goes.
        let mut ends = [0, 0];
        for number in 0..200_u64 {
            let time = Duration::from_micros(500 + 50 * number);
            let write = item("k", number.to_string()).ttl(86_400);
            let done = if number % 2 == 0 {
                Store::new(store.client().clone().with_deadline(time), "statestore").save(write).await.is_ok()
            } else {
                tokio::time::timeout(time, store.save(write)).await.is_ok()
            };
            ends[usize::from(done)] += 1;
        }
        println!("{version:?}: {} writes were cancelled, {} were not", ends[0], ends[1]);
        store.save(item("k", "last").ttl(86_400)).await.unwrap();
        expect_no_lease_but_of(&etcd, "orders||k").await;
        assert_eq!(etcd.leases().await.len(), 1);
        store.save(item("k", "without end")).await.unwrap();
        expect_no_lease_but_of(&etcd, "orders||k").await;
        store.save(item("k", "v").ttl(86_400)).await.unwrap();
        store.delete(key("k")).await.unwrap();
        expect_no_lease_but_of(&etcd, "orders||k").await;
        // More than half of what a transaction may have, so that there is no room to look first.
        for ttl in [86_400, 86_400, 1000] {
            let many = (0..128).map(|n| upsert(item(&n.to_string(), "v").ttl(ttl))).collect();
            store.transaction(many).await.unwrap();
        }
        wait::eventually("each item has one", async || match etcd.leases().await.len() {
            128 => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(store.value("127").await, "v");
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn what_others_have_put_under_a_lease_stays() {
    for version in Version::ALL {
        let etcd = of(version).await;
        let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
        let store = store(&envoy).await;
        let lease = etcd.grant(1000).await;
        for key in ["orders||k", "elsewhere"] {
            let put = json!({"key": base64(key), "value": base64("theirs"), "lease": lease.to_string()});
            etcd.call("kv/put", put).await.unwrap();
        }
        store.save(item("k", "ours").ttl(1000)).await.unwrap();
        store.save(item("k", "again").ttl(1000)).await.unwrap();
        let own = etcd.get("orders||k").await.unwrap().lease;
        wait::eventually("the lease between is given back", async || match etcd.leases().await {
            leases if leases.len() == 2 => Ok(()),
            other => Err(other),
        })
        .await;
        assert!(own != lease && etcd.leases().await.contains(&lease));
        assert_eq!(etcd.value("elsewhere").await.as_deref(), Some("theirs"));
    }
}

#[tokio::test]
async fn leases_whose_answers_are_lost_are_given_back() {
    for version in Version::ALL {
        let etcd = of(version).await;
        let middleman = Middleman::before(etcd.port).await;
        let envoy = envoy("v1", json!({"endpoints": format!("127.0.0.1:{}", middleman.port)})).await;
        let store = store(&envoy).await;
        store.save(item("k", "v").ttl(1000)).await.unwrap();
        middleman.replies(Replies::CloseAfter(0));
        for _ in 0..5 {
            expect_status(store.save(item("k", "w").ttl(1000)).await, Code::Unavailable, "etcd is unreachable");
        }
        assert!(etcd.leases().await.len() > 1, "some were granted without our hearing of it");
        middleman.replies(Replies::Pass);
        expect_no_lease_but_of(&etcd, "orders||k").await;
        assert_eq!(etcd.leases().await.len(), 1);
    }
}

#[tokio::test]
async fn of_many_writers_with_the_same_etag_one_wins() {
    let etcd = of(Version::V37).await;
    let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
    let store = store(&envoy).await;
    for round in 0..5 {
        let name = format!("k{round}");
        store.save(item(&name, "0")).await.unwrap();
        let etag = store.etag(&name).await;
        let write = async |n: usize| store.save(item(&name, n.to_string()).if_etag(&etag)).await;
        let outcomes = futures::future::join_all((1..=20).map(write)).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        for outcome in outcomes.into_iter().filter(Result::is_err) {
            expect_status(outcome, Code::Aborted, "possible etag mismatch");
        }
    }
}

#[tokio::test]
async fn bounds_of_etcd_are_told() {
    let etcd = of(Version::V37).await;
    let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
    let store = store(&envoy).await;
    let large = Bytes::from(vec![b'x'; 1_800_000]);
    expect_status(store.save(item("k", large)).await, Code::Internal, "etcd says: etcdserver: request is too large");
    let many = (0..129).map(|n| upsert(item(&n.to_string(), "v"))).collect();
    let text = "the transaction contains 129 operations, which is more than what the state store supports: 128";
    expect_status(store.transaction(many).await, Code::InvalidArgument, text);
    let most = (0..128).map(|n| upsert(item(&n.to_string(), "v"))).collect();
    store.transaction(most).await.unwrap();
}

#[tokio::test]
async fn a_login_is_renewed_when_the_server_has_forgotten_it() {
    for version in Version::ALL {
        let options = Options { version, root_password: Some("secret"), ..Options::default() };
        let mut etcd = Etcd::start(options).await;
        etcd.add_user("app", "hunter2", "orders||").await;
        let with = async |password: &str| {
            envoy("v1", json!({"endpoints": etcd.address(), "username": "app", "password": password})).await
        };
        let wrong = with("wrong").await;
        expect_status(store(&wrong).await.get("k").await, Code::Internal, "authentication failed");
        assert!(!wrong.log().await.contains("wrong password") && !wrong.log().await.contains("hunter2"));

        let envoy = with("hunter2").await;
        let store = store(&envoy).await;
        store.save(item("k", "v")).await.unwrap();
        let layotto = Store::new(envoy.client(Dialect::Layotto).await, "statestore");
        let elsewhere = layotto.save(item("k", "not below the prefix")).await;
        expect_status(elsewhere, Code::Internal, "permission denied");

        etcd.kill().await; // tokens are kept in memory alone
        etcd.restart().await;
        let found = wait::eventually("the store serves again", async || match store.get("k").await {
            Err(status) if status.code() == Code::Unavailable => Err(status),
            other => Ok(other),
        })
        .await;
        assert_eq!(found.expect("a token that is no longer known is nothing to tell an app").data, "v");
    }
}

#[tokio::test]
async fn tls_with_a_certificate_of_the_client() {
    let etcd = Etcd::start(Options { tls: Some(Tls::Mutual), ..Options::default() }).await;
    let files = etcd.certificates.as_ref().unwrap();
    let mut metadata = json!({
        "endpoints": format!("localhost:{}", etcd.tls_port),
        "tlsEnable": true,
        "ca": files.authority,
        "cert": files.certificate,
        "key": files.key,
    });
    let with = envoy("v1", metadata.clone()).await;
    let secure = store(&with).await;
    secure.save(item("k", "v")).await.unwrap();
    assert_eq!(etcd.value("orders||k").await.as_deref(), Some("v"));

    let fields = metadata.as_object_mut().unwrap();
    fields.remove("cert");
    fields.remove("key");
    let without = envoy("v1", metadata).await;
    expect_status(store(&without).await.get("k").await, Code::Unavailable, "etcd is unreachable or not ready: ");
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut etcd = of(Version::V37).await;
    let envoy = envoy("v1", json!({"endpoints": etcd.address()})).await;
    let store = store(&envoy).await;
    store.save(item("k", "v")).await.unwrap();
    etcd.kill().await;
    let start = Instant::now();
    expect_status(store.get("k").await, Code::Unavailable, "etcd is unreachable or not ready: ");
    assert!(start.elapsed() < Duration::from_secs(4), "an app learns of it before its deadline");
    etcd.restart().await;
    within(Duration::from_secs(10), "the store serves again", async || store.get("k").await).await;
    assert_eq!(store.value("k").await, "v");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_cluster_serves_while_it_has_a_quorum_and_says_when_it_has_none() {
    let Cluster { mut members } = Cluster::start(Options::default()).await;
    let endpoints = members.each_ref().map(Etcd::address).join(",");
    let envoy = envoy("v1", json!({"endpoints": endpoints})).await;
    let store = store(&envoy).await;
    store.save(item("k", "0")).await.unwrap();

    members[0].kill().await;
    members[1].serves().await; // there is a leader again
    for n in 1..=20 {
        let value = n.to_string();
        store.save(item("k", value.clone())).await.unwrap();
        assert_eq!(store.value("k").await, value);
    }

    members[1].kill().await;
    // Until the member that is left has noticed it waits for the others.
    wait::eventually("it is told that there is no leader", async || {
        let start = Instant::now();
        match store.save(item("k", "x")).await {
            Err(status) if status.code() == Code::Unavailable && start.elapsed() < Duration::from_secs(4) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let text = "etcd is unreachable or not ready: ";
    expect_status(store.get("k").await, Code::Unavailable, text);

    members[0].launch().await;
    members[1].launch().await;
    within(Duration::from_secs(30), "the cluster serves again", async || store.save(item("k", "y")).await).await;
    assert_eq!(store.value("k").await, "y");
    envoy.assert_no_filter_crashed().await;
}
