//! Dapr's HTTP API over a real Envoy: what connections may do, and what tools for APIs make of its description. Single answers are in
//! `recorded_http.rs` and in `runtime-api/tests/http.rs`, and each driver in the conformance suites.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Response};
use integration_tests::{Config, Envoy, installed, scratch};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

async fn in_memory() -> Envoy {
    Envoy::start(small()).await
}

/// A runtime with the smallest limit.
fn small() -> Config {
    Config::new("orders").set("limits", json!({"maxRequestBytes": 4096})).component(
        "statestore",
        "state.in-memory",
        &[],
    )
}

async fn ask(envoy: &Envoy, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    envoy.http(method, path, body).await
}

#[track_caller]
fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// Sends bytes on a connection of its own and reads until the other side ends it, or is silent.
async fn raw(port: u16, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(sent).await.unwrap();
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn probes_of_http_1_0_and_for_the_headers_alone() {
    let envoy = in_memory().await;
    let old = raw(envoy.dapr_http, b"GET /v1.0/healthz HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.") && old.contains(" 204 "), "{old}");
    let head = ask(&envoy, Method::HEAD, "/v1.0/healthz", "").await;
    assert_eq!((head.status().as_u16(), head.body().len()), (204, 0));
    assert_eq!(ask(&envoy, Method::POST, "/v1.0/state/statestore", r#"[{"key":"k","value":"v"}]"#).await.status(), 204);
    let head = ask(&envoy, Method::HEAD, "/v1.0/state/statestore/k", "").await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], "3");
    assert!(head.headers().contains_key("etag"));
}

fn save(length: usize) -> String {
    let start = r#"[{"key":"k","value":""#;
    format!("{start}{}\"}}]", "x".repeat(length - start.len() - 3))
}

#[tokio::test]
async fn bodies_at_the_limit_and_over_it() {
    let envoy = in_memory().await;
    let path = "/v1.0/state/statestore";
    assert_eq!(ask(&envoy, Method::POST, path, save(4096)).await.status(), 204);
    for length in [4097, 4102, 8192, 1 << 20] {
        let refused = ask(&envoy, Method::POST, path, save(length)).await;
        assert_eq!(
            (refused.status().as_u16(), &json_of(&refused)["errorCode"]),
            (413, &json!("ERR_BODY_TOO_LARGE")),
            "{length}"
        );
    }
    // Chunks say nothing of the whole.
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    let sent = format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}");
    let refused = raw(envoy.dapr_http, sent.as_bytes()).await;
    assert!(refused.contains(" 413 "), "{refused}");
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_body_of_a_byte_at_a_time() {
    let envoy = in_memory().await;
    let body = save(300);
    let mut stream = TcpStream::connect(("127.0.0.1", envoy.dapr_http)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let head = format!("POST /v1.0/state/statestore HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in body.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        sleep(Duration::from_millis(3)).await;
    }
    let answer = read_all(&mut stream).await;
    assert!(answer.contains(" 204 "), "{answer}");
    assert_eq!(ask(&envoy, Method::GET, "/v1.0/state/statestore/k", "").await.body().len(), 300 - 22);
}

#[tokio::test]
async fn a_thousand_connections_that_are_kept() {
    let envoy = Envoy::start(small().concurrency(2)).await;
    let port = envoy.dapr_http;
    let client = async |number: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        for round in 0..5 {
            let body = format!(r#"[{{"key":"k{number}","value":{round}}}]"#);
            let write = format!(
                "POST /v1.0/state/statestore HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            assert!(exchange(&mut stream, &write).await.starts_with("HTTP/1.1 204"));
            let read = format!("GET /v1.0/state/statestore/k{number} HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = exchange(&mut stream, &read).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n\r\n{round}")), "{answer}");
        }
    };
    timeout(SOON * 3, join_all((0..1000).map(client))).await.expect("all are answered");
    envoy.assert_no_filter_crashed().await;
}

/// One answer, which is small.
async fn exchange(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = timeout(SOON, stream.read(&mut buffer)).await.expect("an answer").unwrap();
        assert!(length > 0, "the connection is kept");
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let announced =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |it| it.parse().unwrap());
        if body.len() >= announced {
            return text.into_owned();
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_much_and_reads_nothing() {
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
    let body = json!([{"key": "big", "value": "x".repeat(1 << 20)}]).to_string();
    assert_eq!(ask(&envoy, Method::POST, "/v1.0/state/statestore", body).await.status(), 204);
    let deaf = join_all((0..20).map(|_| TcpStream::connect(("127.0.0.1", envoy.dapr_http)))).await;
    let get = "GET /v1.0/state/statestore/big HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    let mut kept = Vec::new();
    for stream in deaf {
        let mut stream = stream.unwrap();
        // Envoy stops reading from it at some time.
        let _ = timeout(Duration::from_millis(200), stream.write_all(get.as_bytes())).await;
        kept.push(stream);
    }
    for _ in 0..20 {
        let answer = timeout(SOON, ask(&envoy, Method::GET, "/v1.0/state/statestore/none", ""))
            .await
            .expect("others are served");
        assert_eq!(answer.status(), 204);
    }
    drop(kept);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn requests_that_are_cut_off_or_garbage_harm_no_others() {
    let envoy = in_memory().await;
    let requests: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1.0/state/statestore/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1.0/state/statestore HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n[{",
        b"POST /v1.0/state/statestore HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1.0/state/statestore/k?metadata.a=%zz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"DELETE /v1.0/state/statestore/k HTTP/1.1\r\nhost: x\r\nif-match: \x01\r\n\r\n",
    ];
    for request in requests {
        let mut stream = TcpStream::connect(("127.0.0.1", envoy.dapr_http)).await.unwrap();
        stream.write_all(request).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        drop(stream);
        assert_eq!(ask(&envoy, Method::GET, "/v1.0/healthz", "").await.status(), 204);
    }
    envoy.assert_no_filter_crashed().await;
}

/// All statuses that are not described and all answers that are not as described are failures; `schemathesis` makes up requests by
/// the description that the runtime serves.
#[tokio::test]
async fn what_schemathesis_makes_up_is_answered_as_described() {
    let mut config = Config::new("orders");
    for block in ["state", "lock", "configuration", "sequencer"] {
        config = config.component("store", &format!("{block}.in-memory"), &[]);
    }
    let envoy = Envoy::start(config.component("store", "secretstores.local.env", &[("prefix", "SCHEMA_")])).await;
    let folder = scratch::directory("schemathesis");
    // Of the names that it makes up, some are that of a component.
    let settings = "[parameters]\n\"path.store\" = \"store\"\n";
    std::fs::write(folder.path().join("schemathesis.toml"), settings).unwrap();
    let description = ask(&envoy, Method::GET, "/v1.0/openapi.json", "").await;
    std::fs::write(folder.path().join("openapi.json"), description.body()).unwrap();
    let mut command = Command::new(installed::python().with_file_name("schemathesis"));
    command.args(["run", "openapi.json", "--url", &format!("http://127.0.0.1:{}", envoy.dapr_http)]);
    command.args([
        "--checks",
        "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance",
    ]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "13", "--no-color"]);
    command.env("NO_PROXY", "127.0.0.1,localhost").current_dir(folder.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("schemathesis starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    let paths = json_of(&description)["paths"].as_object().unwrap().clone();
    let operations: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    let tried = format!("Operations:       {operations} selected / {operations} total");
    assert!(printed.contains(&tried), "all {operations} are to be tried:\n{printed}");
    envoy.assert_no_filter_crashed().await;
}
