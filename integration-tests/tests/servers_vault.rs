//! The stand-in for Vault, held against `hvac`, and what a test can do with it.

use std::path::Path;
use std::process::Command;

use integration_tests::vault::{Options, TOKEN, Vault};
use integration_tests::{http1, installed};
use serde_json::{Value, json};

async fn expect_hvac_is_content(tls: bool) {
    let vault = Vault::start(Options { tls }).await;
    vault.add_token("reader", &["secret/data/dapr/", "secret/metadata/dapr"]);
    vault.mount("team", "own");
    vault.put_in("team", "own", "k", json!({"whose": "of the team"}));
    let mut python = Command::new(installed::python());
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/vault.py"));
    python.args([&vault.server.url(), TOKEN, "reader"]).args(&vault.server.authority);
    python.env("NO_PROXY", "127.0.0.1,localhost").env_remove("VAULT_NAMESPACE");
    let output = tokio::task::spawn_blocking(move || python.output()).await.unwrap().expect("Python starts");
    let [printed, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    assert_eq!(printed, "health\nwrite\nread\nlist\ndelete\ntokens\nnamespaces\n", "{errors}");
}

#[tokio::test]
async fn hvac() {
    expect_hvac_is_content(false).await;
}

#[tokio::test]
async fn hvac_with_tls() {
    expect_hvac_is_content(true).await;
}

async fn get(vault: &Vault, token: &str, path: &str) -> (u16, Value) {
    let headers = [("x-vault-token", token)];
    let answer = http1::request(vault.server.port, http::Method::GET, path, &headers, "").await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
}

#[tokio::test]
async fn what_a_test_writes() {
    let vault = Vault::start(Options::default()).await;
    let path = "/v1/secret/data/dapr/db";
    assert_eq!(get(&vault, TOKEN, path).await, (404, json!({"errors": []})));
    assert_eq!(vault.put("dapr/db", &[("password", "one")]), 1);
    assert_eq!(vault.put("dapr/db", &[("password", "two")]), 2);
    let (status, body) = get(&vault, TOKEN, path).await;
    assert_eq!((status, &body["data"]["data"]), (200, &json!({"password": "two"})));
    let (_, body) = get(&vault, TOKEN, &format!("{path}?version=1")).await;
    assert_eq!(body["data"]["data"], json!({"password": "one"}));
    let (_, body) = get(&vault, TOKEN, "/v1/secret/metadata/dapr?list=true").await;
    assert_eq!(body["data"]["keys"], json!(["db"]));
    vault.delete("dapr/db");
    let (status, body) = get(&vault, TOKEN, path).await;
    assert_eq!((status, &body["data"]["data"]), (404, &Value::Null));
}

#[tokio::test]
async fn refusals() {
    let vault = Vault::start(Options::default()).await;
    let path = "/v1/secret/data/k";
    vault.put("k", &[]);
    vault.add_token("reader", &["secret/"]);
    assert_eq!(get(&vault, "reader", path).await.0, 200);
    vault.revoke_token("reader");
    assert_eq!(get(&vault, "reader", path).await.0, 403);
    assert_eq!(get(&vault, "", path).await, (403, json!({"errors": ["permission denied"]})));
    let (status, body) = get(&vault, TOKEN, "/v1/absent/data/k").await;
    assert_eq!(
        (status, body),
        (404, json!({"errors": ["no handler for route \"absent/data/k\". route entry not found."]}))
    );
    vault.seal(true);
    assert_eq!(get(&vault, TOKEN, path).await, (503, json!({"errors": ["Vault is sealed"]})));
    vault.seal(false);
    assert_eq!(get(&vault, TOKEN, path).await.0, 200);
}
