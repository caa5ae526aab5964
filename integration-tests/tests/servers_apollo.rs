//! The stand-in for Apollo, held against Apollo's own clients for Java, and what a test can do with it.

use std::io;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use integration_tests::apollo::{Apollo, OPERATOR, Options, READ_ONLY_TOKEN, TOKEN, signature};
use integration_tests::{http1, installed, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

async fn apps_of_java(apollo: &Apollo, secret: Option<&str>) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let mut java = Command::new(installed::system("java"));
    java.arg("-cp").arg(format!("{}/*", installed::jars().display()));
    java.args([
        "-Dapp.id=orders",
        "-Denv=DEV",
        "-Dapollo.cluster=default",
        "-Dapollo.longPollingInitialDelayInMills=0",
    ]);
    java.arg(format!("-Dapollo.meta={}", apollo.config.url()));
    java.arg(format!("-Dapollo.cache-dir={}", cache.path().display()));
    java.args(secret.map(|secret| format!("-Dapollo.access-key.secret={secret}")));
    java.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/apollo/Apollo.java"));
    java.args([&apollo.portal.url(), TOKEN]);
    tokio::task::spawn_blocking(move || java.output()).await.unwrap().expect("java starts")
}

async fn expect_java_is_content(apollo: &Apollo, secret: Option<&str>) {
    apollo.publish("orders", "default", "application", &[("greeting", "one")]);
    let output = apps_of_java(apollo, secret).await;
    let [printed, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    assert_eq!(printed, "read\nchange\ndeletion\nnamespace\nitems\ntoken\n", "{errors}");
    assert!(apollo.polls() > 1, "the client has polled");
}

#[tokio::test]
async fn java() {
    let apollo = Apollo::start(Options::default()).await;
    expect_java_is_content(&apollo, None).await;
    let released = apollo.released("orders", "default", "application").unwrap();
    assert_eq!(released.into_iter().collect::<Vec<_>>(), [("path/to key".into(), "with=signs&more".into())]);
    assert_eq!(apollo.items("orders", "default", "application").len(), 2, "edited, not released");
}

#[tokio::test]
async fn java_with_an_access_key() {
    let apollo = Apollo::start(Options { secret: Some("access-key"), ..Options::default() }).await;
    expect_java_is_content(&apollo, Some("access-key")).await;
    let requests = apollo.config.received();
    let signed = requests.iter().find(|request| request.uri().path().starts_with("/configs/")).unwrap();
    assert!(signed.headers()["authorization"].to_str().unwrap().starts_with("Apollo orders:"));
}

async fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> io::Result<Response<Bytes>> {
    http1::request(port, Method::GET, path, headers, "").await
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test]
async fn reading() {
    let apollo = Apollo::start(Options::default()).await;
    let port = apollo.config.port;
    let missing = get(port, "/configs/orders/default/application?ip=1", &[]).await.unwrap();
    assert_eq!(missing.status(), 404);
    assert_eq!(get(port, "/configfiles/json/orders/default/application", &[]).await.unwrap().status(), 404);

    apollo.publish("orders", "default", "application", &[("k", "v")]);
    let services = body(&get(port, "/services/config?appId=orders", &[]).await.unwrap());
    assert_eq!(services[0]["homepageUrl"], apollo.config.url() + "/");
    let map = get(port, "/configfiles/json/orders/default/application", &[]).await.unwrap();
    assert_eq!(map.body(), r#"{"k":"v"}"#);
    let config = body(&get(port, "/configs/orders/east/application.properties", &[]).await.unwrap());
    assert_eq!(config["configurations"], json!({"k": "v"}));
    assert_eq!((&config["cluster"], &config["namespaceName"]), (&json!("default"), &json!("application.properties")));
    let key = config["releaseKey"].as_str().unwrap();
    let unchanged = get(port, &format!("/configs/orders/default/application?releaseKey={key}"), &[]).await.unwrap();
    assert_eq!((unchanged.status().as_u16(), unchanged.body().len()), (304, 0));
}

#[tokio::test]
async fn the_access_key_is_checked() {
    // As `openssl dgst -sha1 -hmac access-key -binary` has it.
    let signed = signature("access-key", "1700000000000", "/configs/orders/default/application?ip=1");
    assert_eq!(signed, "oYjUQOVtcXRMUkwykfZFF2jGh5c=");
    let apollo = Apollo::start(Options { secret: Some("access-key"), ..Options::default() }).await;
    apollo.publish("orders", "default", "application", &[]);
    let path = "/configs/orders/default/application?ip=1";
    let message = async |timestamp: &str, secret: &str| {
        let authorization = format!("Apollo orders:{}", signature(secret, timestamp, path));
        let headers = [("timestamp", timestamp), ("authorization", authorization.as_str())];
        let answer = get(apollo.config.port, path, &headers).await.unwrap();
        (answer.status().as_u16(), body(&answer)["message"].as_str().map(str::to_owned))
    };
    let now = jiff::Timestamp::now().as_millisecond();
    assert_eq!(message(&now.to_string(), "access-key").await, (200, None));
    assert_eq!(message(&now.to_string(), "wrong").await, (401, Some("Unauthorized".into())));
    assert_eq!(message(&(now - 61_000).to_string(), "access-key").await, (401, Some("RequestTimeTooSkewed".into())));
    assert_eq!(message("", "access-key").await, (401, Some("RequestTimeTooSkewed".into())));
    assert_eq!(get(apollo.config.port, "/services/config", &[]).await.unwrap().status(), 200);
}

/// A poll of `application` by who knows of notifications up to `id`.
fn poll(apollo: &Apollo, id: i64) -> JoinHandle<io::Result<Response<Bytes>>> {
    let known = format!("%5B%7B%22namespaceName%22%3A%22application%22%2C%22notificationId%22%3A{id}%7D%5D");
    let path = format!("/notifications/v2?appId=orders&cluster=east&notifications={known}");
    let port = apollo.config.port;
    tokio::spawn(async move { get(port, &path, &[]).await })
}

async fn poll_waits(apollo: &Apollo, id: i64) -> JoinHandle<io::Result<Response<Bytes>>> {
    let poll = poll(apollo, id);
    wait::eventually("the poll waits", async || if apollo.waiting_polls() == 1 { Ok(()) } else { Err(()) }).await;
    poll
}

#[tokio::test]
async fn polls() {
    let mut apollo = Apollo::start(Options::default()).await;
    let waiting = poll_waits(&apollo, -1).await;
    apollo.publish("orders", "other", "application", &[]);
    apollo.publish("orders", "default", "application", &[]);
    let news = body(&waiting.await.unwrap().unwrap());
    let expected = json!([{
        "namespaceName": "application",
        "notificationId": 2,
        "messages": {"details": {"orders+default+application": 2}},
    }]);
    assert_eq!(news, expected);
    assert_eq!(body(&poll(&apollo, -1).await.unwrap().unwrap()), expected, "who does not know is told at once");

    let waiting = poll_waits(&apollo, 2).await;
    apollo.end_polls();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 304);

    let waiting = poll_waits(&apollo, 2).await;
    apollo.config.cut_connections();
    assert!(waiting.await.unwrap().is_err());

    let waiting = poll_waits(&apollo, 2).await;
    apollo.config.stop().await;
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(apollo.waiting_polls(), 0);
    apollo.release("orders", "east", "application");
    assert!(poll(&apollo, 2).await.unwrap().is_err());
    apollo.config.restart().await;
    assert_eq!(body(&poll(&apollo, 2).await.unwrap().unwrap())[0]["notificationId"], 3);
    assert_eq!(apollo.polls(), 6);

    let refused =
        get(apollo.config.port, "/notifications/v2?appId=orders&cluster=c&notifications=x", &[]).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &body(&refused)["message"]),
        (400, &json!("invalid notifications format:x"))
    );
}

#[tokio::test]
async fn a_poll_ends_in_time() {
    let apollo = Apollo::start(Options { poll_timeout: Duration::from_millis(50), ..Options::default() }).await;
    assert_eq!(poll(&apollo, -1).await.unwrap().unwrap().status(), 304);
}

#[tokio::test]
async fn faults() {
    let apollo = Apollo::start(Options::default()).await;
    apollo.config.hang_up(1);
    assert!(get(apollo.config.port, "/services/config", &[]).await.is_err());
    apollo.config.answer_next(Response::builder().status(503).body(Bytes::new()).unwrap());
    assert_eq!(get(apollo.config.port, "/services/config", &[]).await.unwrap().status(), 503);
    apollo.config.delay(Duration::from_millis(100));
    let start = tokio::time::Instant::now();
    assert_eq!(get(apollo.config.port, "/services/config", &[]).await.unwrap().status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(apollo.config.count("/services"), 3);
}

#[tokio::test]
async fn a_token_without_rights() {
    let apollo = Apollo::start(Options::default()).await;
    let path = "/openapi/v1/envs/DEV/apps/orders/clusters/default/namespaces/application";
    let headers = [("authorization", READ_ONLY_TOKEN)];
    assert_eq!(get(apollo.portal.port, path, &headers).await.unwrap().status(), 200);
    let release = json!({"releaseTitle": "t", "releasedBy": OPERATOR}).to_string();
    let path = format!("{path}/releases");
    let refused = http1::request(apollo.portal.port, Method::POST, &path, &headers, release).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(apollo.released("orders", "default", "application"), None);
}
