//! Apps with the unmodified SDKs of Dapr: `sdk/state.*` and `sdk/lock.*` over gRPC and `sdk/http.cjs` over HTTP, each in memory and on
//! Redis.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::redis::{Options, Redis};
use integration_tests::{Config, Envoy, installed};

async fn run_on(store: &str, command: impl FnOnce(&Path) -> Command) -> (Output, Envoy) {
    let redis = Redis::start(Options::default()).await;
    let (address, mut config) = (redis.address(), Config::new("orders"));
    for block in ["state", "lock", "configuration"] {
        config = config.component("memory", &format!("{block}.in-memory"), &[]);
        config = config.component("redis", &format!("{block}.redis"), &[("redisHost", &address)]);
    }
    config = config.component("secrets", "secretstores.local.env", &[("prefix", "SDK_SECRET_")]);
    let envoy = Envoy::start(config.variable("SDK_SECRET_ORDER", "42")).await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let mut command = command(&scripts);
    command.arg(store);
    command.env("DAPR_GRPC_PORT", envoy.dapr_grpc.to_string()).env("DAPR_HTTP_PORT", envoy.dapr_http.to_string());
    // What a proxy of the machine would do with 127.0.0.1 is not the subject.
    command.env("NO_PROXY", "127.0.0.1,localhost").env_remove("DAPR_API_TOKEN");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the interpreter starts");
    envoy.assert_no_filter_crashed().await;
    (output, envoy)
}

#[track_caller]
fn expect_all_done(output: &Output, steps: &[&str]) {
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    for step in steps {
        // Not line by line: a thread of the SDK prints too, and ends its lines where it happens to.
        assert!(printed.contains(step), "{step} is missing in:\n{printed}\n{errors}");
    }
}

async fn python(script: &str, store: &str, steps: &[&str]) {
    let (output, _envoy) = run_on(store, |scripts| {
        let mut command = Command::new(installed::python());
        command.arg(scripts.join(script));
        command
    })
    .await;
    expect_all_done(&output, steps);
}

async fn javascript(script: &str, store: &str, steps: &[&str]) {
    let (output, _envoy) = run_on(store, |scripts| {
        let mut command = Command::new(installed::system("node"));
        command.arg(scripts.join(script)).env("NODE_PATH", installed::node_modules());
        command
    })
    .await;
    expect_all_done(&output, steps);
}

const PYTHON_STATE: &[&str] = &[
    "save and get",
    "bulk",
    "etag conflict",
    "first write",
    "transaction",
    "delete",
    "error details",
    "metadata",
    "done",
];
const JAVASCRIPT_STATE: &[&str] = &[
    "save and get",
    "bulk",
    "etag conflict",
    "first write",
    "transaction",
    "delete",
    "error text",
    "metadata",
    "done",
];
const JAVASCRIPT_HTTP: &[&str] = &[
    "save and get",
    "bulk",
    "etag conflict",
    "first write",
    "transaction",
    "delete",
    "errors",
    "lock",
    "secrets",
    "configuration",
    "metadata",
    "done",
];
const PYTHON_LOCK: &[&str] = &["lock", "unlock", "scope", "expiry", "error details", "done"];
const JAVASCRIPT_LOCK: &[&str] = &["lock", "unlock", "error text", "done"];

#[tokio::test]
async fn python_in_memory() {
    python("state.py", "memory", PYTHON_STATE).await;
}

#[tokio::test]
async fn python_on_redis() {
    python("state.py", "redis", PYTHON_STATE).await;
}

#[tokio::test]
async fn javascript_in_memory() {
    javascript("state.cjs", "memory", JAVASCRIPT_STATE).await;
}

#[tokio::test]
async fn javascript_on_redis() {
    javascript("state.cjs", "redis", JAVASCRIPT_STATE).await;
}

#[tokio::test]
async fn javascript_over_http_in_memory() {
    javascript("http.cjs", "memory", JAVASCRIPT_HTTP).await;
}

#[tokio::test]
async fn javascript_over_http_on_redis() {
    javascript("http.cjs", "redis", JAVASCRIPT_HTTP).await;
}

#[tokio::test]
async fn python_locks_in_memory() {
    python("lock.py", "memory", PYTHON_LOCK).await;
}

#[tokio::test]
async fn python_locks_on_redis() {
    python("lock.py", "redis", PYTHON_LOCK).await;
}

#[tokio::test]
async fn javascript_locks_in_memory() {
    javascript("lock.cjs", "memory", JAVASCRIPT_LOCK).await;
}

#[tokio::test]
async fn javascript_locks_on_redis() {
    javascript("lock.cjs", "redis", JAVASCRIPT_LOCK).await;
}
