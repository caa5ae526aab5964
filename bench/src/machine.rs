//! Where and with what was measured: figures of two runs can be compared only where this is alike.

use std::path::Path;
use std::process::Command;

use integration_tests::installed;
use serde::Serialize;

use crate::Result;

/// The machine and what ran on it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// When the measurement began.
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) runtime: String,
    pub(crate) envoy: String,
    pub(crate) redis: String,
    pub(crate) h2load: String,
}

pub(crate) fn describe(envoy: &Path) -> Result<Machine> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let redis = first_line(&installed::system("redis-server"))?;
    let envoy = first_line(envoy)?;
    let version = envoy.rsplit_once("version: ").map_or("", |(_, version)| version);
    Ok(Machine {
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%MZ").to_string(),
        cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        runtime: format!("{}{}", env!("CARGO_PKG_VERSION"), commit()),
        // "<path>  version: <commit>/<version>/<state>/<build>/<tls>"
        envoy: version.split('/').nth(1).unwrap_or("unknown").to_owned(),
        // "Redis server v=<version> ..."
        redis: redis.split_once("v=").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("unknown").to_owned(),
        // "h2load nghttp2/<version>"
        h2load: first_line(&installed::system("h2load"))?.rsplit('/').next().unwrap_or("unknown").to_owned(),
    })
}

/// The commit, where there is a repository.
fn commit() -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(installed::workspace()).args(["describe", "--always", "--dirty"]);
    match git.output() {
        Ok(output) if output.status.success() => format!(" ({})", String::from_utf8_lossy(&output.stdout).trim()),
        _ => String::new(),
    }
}

fn first_line(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().find(|line| !line.is_empty()).unwrap_or_default().to_owned())
}
