//! The stand-in for the API of Kubernetes, held against the client for Python, and what a test can do with it.

use std::path::Path;
use std::process::Command;

use integration_tests::kubernetes::{Kubernetes, Options, TOKEN};
use integration_tests::{http1, installed};

async fn expect_the_client_is_content(tls: bool) {
    let kubernetes = Kubernetes::start(Options { tls }).await;
    kubernetes.add_token("token-of-team", "of-team", &["team"]);
    kubernetes.put("default", "db", &[("password", &b"secret"[..]), ("binary", &b"\x00\xff"[..])]);
    kubernetes.put::<&str>("default", "empty", &[]);
    kubernetes.put("default", "zebra", &[("k", "v")]);
    kubernetes.put("team", "theirs", &[("k", "v")]);
    let mut python = Command::new(installed::python());
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/secrets_of_kubernetes.py"));
    python.args([&kubernetes.server.url(), TOKEN, "token-of-team"]).args(&kubernetes.server.authority);
    python.env("NO_PROXY", "127.0.0.1,localhost");
    let output = tokio::task::spawn_blocking(move || python.output()).await.unwrap().expect("Python starts");
    let [printed, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    assert_eq!(printed, "get\nlist\ntokens\n", "{errors}");
}

#[tokio::test]
async fn the_client_for_python() {
    expect_the_client_is_content(false).await;
}

#[tokio::test]
async fn the_client_for_python_with_tls() {
    expect_the_client_is_content(true).await;
}

#[tokio::test]
async fn what_a_pod_has() {
    let kubernetes = Kubernetes::start(Options { tls: true }).await;
    let file = |name: &str| std::fs::read(kubernetes.service_account().join(name)).unwrap();
    assert_eq!(file("token"), TOKEN.as_bytes());
    assert_eq!(file("ca.crt"), std::fs::read(kubernetes.server.authority.as_ref().unwrap()).unwrap());
}

#[tokio::test]
async fn a_deletion() {
    let kubernetes = Kubernetes::start(Options::default()).await;
    kubernetes.put("default", "db", &[("k", "v")]);
    let status = async || {
        let headers = [("authorization", format!("Bearer {TOKEN}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let path = "/api/v1/namespaces/default/secrets/db";
        http1::request(kubernetes.server.port, http::Method::GET, path, &headers, "").await.unwrap().status()
    };
    assert_eq!(status().await, 200);
    kubernetes.delete("default", "db");
    assert_eq!(status().await, 404);
}
