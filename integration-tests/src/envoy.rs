//! An unmodified Envoy with the configuration that `envoy-runtime render bootstrap` gives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use http::{Method, Response};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Dialect};
use crate::config::Config;
use crate::server::{Program, Server};
use crate::{http1, installed, ports, scratch, wait};

/// The method of [`Config::trap`]: whoever calls it ends the filter's VM of the worker that has the connection.
pub const TRAP: &str = "/runtime.Test/Trap";

/// Another: the filter is called within a call of the filter.
pub const REENTER: &str = "/runtime.Test/Reenter";

/// A running Envoy, ready to answer. Dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    server: Server,
    scratch: TempDir,
    /// The port of the listener for Layotto's gRPC API.
    pub layotto_grpc: u16,
    /// The port of the listener for Dapr's gRPC API.
    pub dapr_grpc: u16,
    /// The port of the listener for Dapr's HTTP API.
    pub dapr_http: u16,
    /// The port of Envoy's own admin endpoint.
    pub admin: u16,
}

impl Envoy {
    /// Renders a bootstrap, starts Envoy with it and waits until it answers.
    pub async fn start(config: Config) -> Self {
        let mut envoy = Self::launch(config).await;
        wait::eventually("Envoy answers", async || {
            if envoy.server.has_ended().await {
                panic!("Envoy has ended:\n{}", envoy.log().await);
            }
            envoy.is_ready().await
        })
        .await;
        envoy
    }

    /// Starts an Envoy that is expected to refuse its configuration, and returns its log.
    pub async fn refuses(config: Config) -> String {
        let mut envoy = Self::launch(config).await;
        wait::eventually("Envoy refuses the configuration", async || {
            if envoy.server.has_ended().await { Ok(()) } else { Err("it runs") }
        })
        .await;
        envoy.log().await
    }

    async fn launch(mut config: Config) -> Self {
        let scratch = scratch::directory("envoy");
        let [layotto_grpc, dapr_grpc, dapr_http, admin] =
            ["layottoGrpc", "daprGrpc", "daprHttp", "admin"].map(|listener| {
                let port = ports::free_port();
                let addresses = &mut config.document["listeners"];
                if addresses[listener].is_null() {
                    addresses[listener] = format!("127.0.0.1:{port}").into();
                }
                port
            });
        let bootstrap = scratch.path().join("bootstrap.json");
        let mut rendered = render(&config, scratch.path());
        if let Some(change) = &config.bootstrap_change {
            change(&mut rendered, scratch.path());
        }
        std::fs::write(&bootstrap, rendered.to_string()).unwrap();
        let arguments = [
            "--config-path",
            bootstrap.to_str().unwrap(),
            "--concurrency",
            &config.concurrency.to_string(),
            "--use-dynamic-base-id",
            "--log-level",
            config.log_level,
            "--component-log-level",
            // These log the headers of requests at the level debug, tokens with them.
            "http:info,router:info,http2:info",
            "--drain-time-s",
            "5",
        ];
        let program = Program {
            binary: config.envoy.clone().unwrap_or_else(installed::envoy),
            arguments: arguments.map(str::to_owned).to_vec(),
            scratch: scratch.path().to_path_buf(),
        };
        let server = Server::start_with(&program, &scratch.path().join("envoy.log"), &secrets(scratch.path())).await;
        Self { server, scratch, layotto_grpc, dapr_grpc, dapr_http, admin }
    }

    async fn is_ready(&self) -> Result<(), String> {
        match http1::get(self.admin, "/ready").await {
            Ok((200, _)) => {}
            other => return Err(format!("/ready: {other:?}")),
        }
        let (_, listeners) = http1::get(self.admin, "/listeners").await.map_err(|error| error.to_string())?;
        for listener in ["layotto_grpc", "dapr_grpc", "dapr_http"] {
            let Some(line) = listeners.lines().find(|line| line.starts_with(&format!("{listener}::"))) else {
                continue;
            };
            if let Some((_, port)) = line.rsplit_once(':').filter(|_| line.contains("127.0.0.1")) {
                tokio::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap()))
                    .await
                    .map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// A new connection that speaks `dialect` to the listener of that dialect.
    pub async fn client(&self, dialect: Dialect) -> Client {
        let port = match dialect {
            Dialect::Dapr => self.dapr_grpc,
            Dialect::Layotto => self.layotto_grpc,
        };
        Client::connect(port, dialect).await
    }

    /// One request to Dapr's HTTP API.
    pub async fn http(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        http1::request(self.dapr_http, method, path, &[], body).await.expect("the HTTP API answers")
    }

    /// Envoy's counters and gauges.
    pub async fn stats(&self) -> BTreeMap<String, u64> {
        let (_, text) = http1::get(self.admin, "/stats").await.expect("the admin endpoint answers");
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// One counter or gauge; 0 when Envoy does not know it (yet).
    pub async fn stat(&self, name: &str) -> u64 {
        self.stats().await.get(name).copied().unwrap_or(0)
    }

    /// What Envoy runs with.
    pub async fn config_dump(&self) -> Value {
        let (_, text) = http1::get(self.admin, "/config_dump").await.expect("the admin endpoint answers");
        serde_json::from_str(&text).expect("/config_dump is JSON")
    }

    /// What Envoy has logged.
    pub async fn log(&self) -> String {
        self.server.log().await
    }

    /// The arguments that Envoy runs with, as every user of this machine can read them.
    pub fn command_line(&self) -> String {
        let bootstrap = self.scratch.path().join("bootstrap.json");
        let processes = std::fs::read_dir("/proc").expect("there is /proc").filter_map(Result::ok);
        // By its file, so that it is found in a container too.
        processes
            .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
            .map(|arguments| String::from_utf8_lossy(&arguments).into_owned())
            .find(|arguments| arguments.split('\0').any(|argument| Path::new(argument) == bootstrap))
            .expect("Envoy runs")
    }

    /// The operating system's id of Envoy; `None` where it runs in a container.
    pub fn process_id(&self) -> Option<u32> {
        self.server.process_id()
    }

    /// The directory that Envoy was started in.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Panics if a filter has crashed since the start.
    pub async fn assert_no_filter_crashed(&self) {
        let crashes = self.crashes().await;
        assert!(crashes.is_empty(), "a filter crashed:\n{}", crashes.join("\n"));
    }

    /// The signs that a filter has crashed since the start: what Envoy counts, VMs that it made anew above all, and
    /// traps in its log.
    pub async fn crashes(&self) -> Vec<String> {
        let stats = self.stats().await;
        assert!(stats.contains_key("wasm.runtime.vm_reload"), "Envoy counts the reloads of VMs");
        let counted = stats.iter().filter(|(name, value)| {
            **value > 0
                && name.contains("wasm")
                && ["reload", "failure", "fail_", "crash", "error"].iter().any(|word| name.contains(word))
                && !name.contains("wasmcustom.")
        });
        let mut crashes: Vec<String> = counted.map(|(name, value)| format!("{name}: {value}")).collect();
        let signs = ["panicked", "Function: proxy_", "wasm trap", "RuntimeError"];
        let log = self.log().await;
        let traces = log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign)));
        crashes.extend(traces.map(str::to_owned));
        crashes
    }
}

/// The file with the variables that the CLI wants in Envoy's environment.
pub const SECRETS: &str = "secrets.env";

/// The variables in that file, read by a shell, as an operator would.
fn secrets(scratch: &Path) -> Vec<(String, String)> {
    let script = format!("set -a; . ./{SECRETS}; exec env -0");
    let output = Command::new("sh").args(["-c", &script]).current_dir(scratch).env_clear().output().expect("sh starts");
    let text = String::from_utf8(output.stdout).expect("secrets are texts");
    let variables = text.split('\0').filter_map(|line| line.split_once('='));
    let of_the_shell = |name: &str| ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name);
    variables.filter(|(name, _)| !of_the_shell(name)).map(|(name, value)| (name.into(), value.into())).collect()
}

/// Runs the CLI on a runtime.yaml and reads what it prints.
fn render(config: &Config, scratch: &Path) -> Value {
    let document = scratch.join("runtime.yaml");
    std::fs::write(&document, serde_saphyr::to_string(&config.document).expect("the document is YAML")).unwrap();
    let modules = modules(scratch);
    if config.trap {
        for name in ["runtime.wasm", "runtime-state.wasm"] {
            std::fs::copy(installed::filter_that_traps(), modules.join(name)).unwrap();
        }
    }
    let output = Command::new(installed::envoy_runtime())
        .args(["render", "bootstrap", "-f"])
        .arg(&document)
        .arg("--secrets-file")
        .arg(scratch.join(SECRETS))
        .envs(config.environment.iter().map(|(name, value)| (name, value)))
        .env_remove("DAPR_API_TOKEN")
        .arg("--modules")
        .arg(&modules)
        .output()
        .expect("envoy-runtime starts");
    assert!(
        output.status.success(),
        "envoy-runtime render bootstrap: {}\n{}\nfor {config:?}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("the bootstrap is UTF-8");
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("the bootstrap is not YAML: {error}\n{text}"))
}

/// The wasm files that the CLI carries, beside the bootstrap.
fn modules(scratch: &Path) -> PathBuf {
    let directory = scratch.join("modules");
    let status = Command::new(installed::envoy_runtime()).arg("extract").arg(&directory).status().unwrap();
    assert!(status.success(), "envoy-runtime extract: {status}");
    directory
}
