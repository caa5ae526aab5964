//! The programs that make load: h2load of nghttp2, and redis-benchmark of Redis.

use std::ffi::OsString;
use std::path::Path;

use integration_tests::installed;
use tokio::process::Command;

use crate::Result;
use crate::case::{Level, Wire};

/// What a load generator saw.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) calls_per_second: f64,
    /// Microseconds within which half of the calls were answered.
    pub(crate) p50: f64,
    /// The same for 99 of 100 calls.
    pub(crate) p99: f64,
    /// Calls without an answer.
    pub(crate) failures: u64,
}

/// Makes calls with the same request, whose body is in a file if there is one.
pub(crate) async fn h2load(
    url: &str,
    wire: Wire,
    body: Option<&Path>,
    level: Level,
    calls: u64,
    scratch: &Path,
) -> Result<Load> {
    let log = scratch.join("calls.tsv");
    let _ = std::fs::remove_file(&log); // h2load appends
    let mut log_option = OsString::from("--log-file=");
    log_option.push(&log);
    let mut command = Command::new(installed::system("h2load"));
    command.arg(format!("--requests={calls}")).arg("--threads=1");
    match wire {
        Wire::Grpc => {
            let (clients, streams) = (level.connections, level.streams);
            command.arg(format!("--clients={clients}")).arg(format!("--max-concurrent-streams={streams}"));
            command.args(["--header=content-type: application/grpc", "--header=te: trailers"]);
        }
        Wire::Http => {
            command.arg("--h1").arg(format!("--clients={}", level.in_flight()));
            command.arg("--header=content-type: application/json");
        }
    }
    if let Some(body) = body {
        command.arg("--data").arg(body);
    }
    command.arg(log_option).arg(url);
    let text = run(command).await?;
    let calls_per_second = text
        .lines()
        .find_map(|line| line.strip_prefix("finished in ")?.split(' ').nth(1)?.parse().ok())
        .ok_or_else(|| format!("h2load says nothing of its rate:\n{text}"))?;
    // Start in microseconds, status of HTTP, duration in microseconds.
    let mut durations = Vec::new();
    for line in std::fs::read_to_string(&log)?.lines() {
        if let [_, "200" | "204", duration] = line.split('\t').collect::<Vec<_>>()[..] {
            durations.push(duration.parse::<u64>()?);
        }
    }
    durations.sort_unstable();
    let answered = u64::try_from(durations.len())?;
    let percentile = |percent: usize| durations.get(durations.len() * percent / 100).copied().map_or(0.0, float);
    Ok(Load { calls_per_second, p50: percentile(50), p99: percentile(99), failures: calls.saturating_sub(answered) })
}

/// Sends the same command to Redis. How many were carried out, Redis itself can tell.
pub(crate) async fn redis_benchmark(port: u16, words: &[&str], level: Level, calls: u64) -> Result<Load> {
    let mut command = Command::new(installed::system("redis-benchmark"));
    command.args(["-h", "127.0.0.1", "--csv", "-p"]).arg(port.to_string());
    command.arg("-n").arg(calls.to_string()).arg("-c").arg(level.connections.to_string());
    command.arg("-P").arg(level.streams.to_string()).args(words);
    let text = run(command).await?;
    // A line of names and one of values: name, rate, and in milliseconds mean, least, p50, p95, p99, most.
    let values: Vec<f64> = text
        .lines()
        .nth(1)
        .and_then(|line| line.split(',').skip(1).map(|value| value.trim_matches('"').parse().ok()).collect())
        .unwrap_or_default();
    let [calls_per_second, _, _, p50, _, p99, _] = values[..] else {
        return Err(format!("redis-benchmark says something unexpected:\n{text}").into());
    };
    Ok(Load { calls_per_second, p50: p50 * 1000.0, p99: p99 * 1000.0, failures: 0 })
}

async fn run(mut command: Command) -> Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}\n{text}{error}", command.as_std().get_program().display()).into());
    }
    Ok(text)
}

/// As a number to calculate with: calls and microseconds are far below what a float holds exactly.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}
