//! The harness's etcd does what tests of the runtime rely on, with both versions that are supported.

use std::path::Path;
use std::process::Command;

use futures::future::join_all;
use integration_tests::etcd::{Cluster, Etcd, Options, Tls, Version, base64};
use integration_tests::{http1, installed, wait};
use serde_json::json;

/// One server of each version.
async fn each(options: Options) -> Vec<Etcd> {
    join_all(Version::ALL.map(|version| Etcd::start(Options { version, ..options.clone() }))).await
}

#[tokio::test]
async fn versions_are_what_they_are_called() {
    for etcd in each(Options::default()).await {
        let (_, version) = http1::get(etcd.port, "/version").await.unwrap();
        assert!(version.contains(r#""etcdserver":"3."#), "{version}");
    }
    let new = Command::new(installed::etcd()).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&new.stdout).starts_with("etcd Version: 3.7."));
}

#[tokio::test]
async fn values() {
    for etcd in each(Options::default()).await {
        assert_eq!(etcd.get("/a/1").await, None);
        let first = etcd.put("/a/1", "one").await;
        let second = etcd.put("/a/2", "two").await;
        etcd.put("/b", "other").await;
        assert_eq!(second, first + 1);

        let item = etcd.get("/a/1").await.unwrap();
        assert_eq!((item.value.as_slice(), item.mod_revision, item.version, item.lease), (&b"one"[..], first, 1, 0));
        let keys: Vec<_> = etcd.with_prefix("/a/").await.into_iter().map(|item| item.key).collect();
        assert_eq!(keys, ["/a/1", "/a/2"]);
        assert_eq!(etcd.with_prefix("").await.len(), 3);

        assert!(!etcd.put_if("/a/1", 0, "lost").await);
        assert!(etcd.put_if("/a/1", first, "won").await);
        assert_eq!(etcd.value("/a/1").await.as_deref(), Some("won"));

        assert!(etcd.delete("/a/1").await);
        assert!(!etcd.delete("/a/1").await);
        assert_eq!(etcd.get("/a/1").await, None);
    }
}

#[tokio::test]
async fn what_was_compacted_is_gone() {
    for etcd in each(Options::default()).await {
        let old = etcd.put("k", "old").await;
        let new = etcd.put("k", "new").await;
        assert_eq!(etcd.revision().await, new);
        etcd.compact(new).await;
        let error = etcd.call("kv/range", json!({"key": base64("k"), "revision": old.to_string()})).await.unwrap_err();
        assert_eq!((error.http_status, error.code), (400, 11), "{error}");
        assert_eq!(error.message, "etcdserver: mvcc: required revision has been compacted");
    }
}

#[tokio::test]
async fn leases() {
    for etcd in each(Options::default()).await {
        let lease = etcd.grant(60).await;
        etcd.call("kv/put", json!({"key": base64("k"), "value": base64("v"), "lease": lease.to_string()}))
            .await
            .unwrap();
        assert_eq!(etcd.get("k").await.unwrap().lease, lease);
        assert_eq!(etcd.leases().await, [lease]);
        etcd.revoke(lease).await;
        assert_eq!(etcd.get("k").await, None);
        assert!(etcd.leases().await.is_empty());
    }
}

#[tokio::test]
async fn a_kill_loses_nothing() {
    for mut etcd in each(Options { root_password: Some("open-sesame"), ..Options::default() }).await {
        let revision = etcd.put("k", "v").await;
        etcd.kill().await;
        assert_eq!(etcd.try_put("k", "lost").await.unwrap_err().http_status, 0);
        etcd.restart().await;
        assert_eq!(etcd.get("k").await.unwrap().mod_revision, revision);
    }
}

#[tokio::test]
async fn authentication() {
    for etcd in each(Options { root_password: Some("open-sesame"), ..Options::default() }).await {
        etcd.put("/other/k", "v").await;
        let error = etcd.anonymous("kv/range", json!({"key": base64("/other/k")})).await.unwrap_err();
        assert_eq!(error.message, "etcdserver: user name is empty");

        etcd.add_user("orders", "secret", "/orders/").await;
        let login = |password: &str| json!({"name": "orders", "password": password});
        let error = etcd.anonymous("auth/authenticate", login("wrong")).await.unwrap_err();
        assert_eq!(error.message, "etcdserver: authentication failed, invalid user ID or password");
        let login = etcd.anonymous("auth/authenticate", login("secret")).await.unwrap();
        let token = [("authorization", login["token"].as_str().unwrap())];
        let read = async |key: &str| {
            let request = json!({"key": base64(key)}).to_string();
            http1::request(etcd.port, http::Method::POST, "/v3/kv/range", &token, request).await.unwrap()
        };
        assert_eq!(read("/orders/k").await.status(), 200);
        let refused = read("/other/k").await;
        assert!(String::from_utf8_lossy(refused.body()).contains("etcdserver: permission denied"));
    }
}

/// `curl` stands for any client with TLS.
fn over_tls(etcd: &Etcd, authority: bool, certificate: bool) -> Result<String, String> {
    let files = etcd.certificates.as_ref().unwrap();
    let mut curl = Command::new(installed::system("curl"));
    curl.args(["--silent", "--show-error", "--noproxy", "*"]);
    curl.arg(format!("https://localhost:{}/version", etcd.tls_port));
    let mut file = |option: &str, path: &Path| {
        curl.arg(option).arg(path);
    };
    if authority {
        file("--cacert", &files.authority);
    }
    if certificate {
        file("--cert", &files.certificate);
        file("--key", &files.key);
    }
    let output = curl.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test]
async fn tls() {
    for etcd in each(Options { tls: Some(Tls::Server), ..Options::default() }).await {
        assert!(over_tls(&etcd, true, false).unwrap().contains("etcdserver"));
        assert!(over_tls(&etcd, false, false).is_err());
        etcd.put("k", "v").await;
        assert_eq!(etcd.value("k").await.as_deref(), Some("v"));
    }
}

#[tokio::test]
async fn tls_with_certificates_of_clients() {
    for etcd in each(Options { tls: Some(Tls::Mutual), ..Options::default() }).await {
        assert!(over_tls(&etcd, true, true).unwrap().contains("etcdserver"));
        assert!(over_tls(&etcd, true, false).is_err());
        etcd.put("k", "v").await;
    }
}

#[tokio::test]
async fn watchers_are_counted() {
    for etcd in each(Options::default()).await {
        assert_eq!(etcd.watchers().await, 0);
        let request = json!({"create_request": {"key": base64("k")}}).to_string();
        let port = etcd.port;
        let watch =
            tokio::spawn(async move { http1::request(port, http::Method::POST, "/v3/watch", &[], request).await });
        let expect = async |count| {
            wait::eventually("the watchers are as many", async || match etcd.watchers().await {
                watchers if watchers == count => Ok(()),
                other => Err(other),
            })
            .await;
        };
        expect(1).await;
        assert_eq!(etcd.watch_streams().await, 1);
        watch.abort();
        expect(0).await;
    }
}

async fn a_cluster(version: Version) {
    let options = Options { version, root_password: Some("open-sesame"), ..Options::default() };
    let mut cluster = Cluster::start(options).await;
    cluster.members[0].put("k", "one").await;
    for member in &cluster.members {
        assert_eq!(member.value("k").await.as_deref(), Some("one"), "what one has written all read");
    }

    cluster.members[0].kill().await;
    cluster.members[1].serves().await;
    cluster.members[1].put("k", "two").await;

    cluster.members[1].kill().await;
    let error = cluster.members[2].try_put("k", "lost").await.unwrap_err();
    assert!([4, 14].contains(&error.code), "a write without a quorum is {error}");

    cluster.members[1].launch().await;
    cluster.members[0].launch().await;
    cluster.members[0].serves().await;
    assert!(["two", "lost"].contains(&cluster.members[0].value("k").await.unwrap().as_str()));
}

#[tokio::test]
async fn a_cluster_of_debian() {
    a_cluster(Version::Debian34).await;
}

#[tokio::test]
async fn a_cluster_of_the_new_one() {
    a_cluster(Version::V37).await;
}
