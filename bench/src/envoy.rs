//! The Envoys that are measured: one with the configuration that the CLI renders, and a bare one.

use std::path::Path;
use std::process::Command;

use integration_tests::process::Process as Child;
use integration_tests::{http1, installed, ports, scratch, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Result;
use crate::case::{APP, VALUE_BYTES};
use crate::process::Process;

/// A running Envoy with one worker.
#[derive(Debug)]
pub(crate) struct Envoy {
    _child: Child,
    _scratch: TempDir,
    admin: u16,
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Envoy {
    /// Starts an Envoy with the bootstrap of a runtime.yaml, changed by `change`, and waits until it answers.
    pub(crate) async fn start(
        envoy: &Path,
        components: &Value,
        change: impl Fn(&mut Value) -> Result<()>,
    ) -> Result<Self> {
        let scratch = scratch::directory("bench");
        let (port, admin) = (ports::free_port(), ports::free_port());
        let mut bootstrap = render(&config(port, admin, components), scratch.path())?;
        change(&mut bootstrap)?;
        let file = scratch.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string())?;
        let mut command = Command::new(envoy);
        command.arg("--config-path").arg(file).args(["--concurrency", "1", "--use-dynamic-base-id"]);
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0"); // as `envoy-runtime run` does
        let mut child = Child::start(command, &scratch.path().join("envoy.log"), scratch.path());
        let ready = async || {
            if child.ended().is_some() {
                return Ok(Err(format!("Envoy has ended:\n{}", child.log())));
            }
            let answer = http1::get(admin, "/ready").await.map_err(|error| error.to_string())?;
            let connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            if answer.0 == 200 && connection.is_ok() { Ok(Ok(())) } else { Err(answer.1) }
        };
        wait::eventually("Envoy answers", ready).await?;
        let process = Process::new(child.id());
        Ok(Self { _child: child, _scratch: scratch, admin, process, port })
    }

    /// A counter of Envoy; 0 when it is not there yet.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let (_, text) = http1::get(self.admin, &format!("/stats?filter={name}")).await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.unwrap_or("0").parse()?)
    }
}

/// A runtime.yaml with these components, served on one port.
fn config(port: u16, admin: u16, components: &Value) -> Value {
    json!({
        "appId": APP,
        "listeners": {
            "daprGrpc": format!("127.0.0.1:{port}"),
            "layottoGrpc": "off",
            "daprHttp": "off",
            "admin": format!("127.0.0.1:{admin}"),
        },
        "components": components,
    })
}

/// Leaves of a bootstrap the listeners, and has them answer by themselves with a body of the size of a value.
pub(crate) fn strip(bootstrap: &mut Value) -> Result<()> {
    let part = |name: &str| format!("/static_resources/{name}");
    *bootstrap.pointer_mut(&part("clusters")).ok_or("the bootstrap has no clusters")? = json!([]);
    let listeners = bootstrap.pointer_mut(&part("listeners")).and_then(Value::as_array_mut);
    let listeners = listeners.ok_or("the bootstrap has no listeners")?;
    listeners.retain(|listener| listener.get("internal_listener").is_none());
    for listener in listeners {
        let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config");
        let manager = manager.ok_or("the listener has no HTTP connection manager")?;
        let filters = manager.get_mut("http_filters").and_then(Value::as_array_mut).ok_or("it has no HTTP filters")?;
        filters.drain(..filters.len().saturating_sub(1)); // the router is the last
        let routes = manager.pointer_mut("/route_config/virtual_hosts/0/routes");
        let answer = json!({"status": 200, "body": {"inline_string": "x".repeat(VALUE_BYTES)}});
        *routes.ok_or("it has no routes")? = json!([{"match": {"prefix": "/"}, "direct_response": answer}]);
    }
    Ok(())
}

/// The bootstrap that the CLI makes of a runtime.yaml.
fn render(config: &Value, scratch: &Path) -> Result<Value> {
    let (source, modules) = (scratch.join("runtime.yaml"), scratch.join("modules"));
    std::fs::write(&source, config.to_string())?;
    cli(Command::new(installed::envoy_runtime()).arg("extract").arg(&modules))?;
    let mut command = Command::new(installed::envoy_runtime());
    let text = cli(command.args(["render", "bootstrap", "-f"]).arg(&source).arg("--modules").arg(&modules))?;
    Ok(serde_saphyr::from_str(&text)?)
}

fn cli(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
