//! `make bench`: what a call through the runtime costs, next to what it could cost at best, measured in one run.
//!
//! Each round measures all cases one after the other, so that a machine that is slow for a while is slow for all of
//! them; figures are medians of the rounds, and ratios are taken within a round.

mod case;
mod envoy;
mod load;
mod machine;
mod plot;
mod process;
mod report;
mod subscribe;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use case::{Bench, CASES, LEVELS};
use report::Report;

/// Envoy's allocator gives back what has not been used for five minutes.
const SETTLING: Duration = Duration::from_mins(6);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures the runtime against Envoy's own direct response and against Redis itself.
#[derive(Debug, Parser)]
#[command(name = "runtime-bench")]
struct Arguments {
    /// How often each case is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Calls of one measurement at 128 in flight and more; at fewer in flight there are fewer.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1000..))]
    requests: u64,
    /// Two rounds of 5000 calls: whether it works rather than how fast it is. Writes nothing without --out.
    #[arg(long, conflicts_with_all = ["rounds", "requests"])]
    quick: bool,
    /// The Envoy to measure; as a rule the one that `make tools` fetched.
    #[arg(long, env = "ENVOY")]
    envoy: Option<PathBuf>,
    /// Where to write latest.json and latest.svg [default: bench/results]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Fail when the rate of `GetState` on Redis, the memory or the calls that failed are outside their bounds.
    #[arg(long)]
    check: bool,
}

impl Arguments {
    fn rounds(&self) -> u32 {
        if self.quick { 2 } else { self.rounds }
    }

    fn requests(&self) -> u64 {
        if self.quick { 5000 } else { self.requests }
    }

    fn out(&self) -> Option<PathBuf> {
        let usual = || (!self.quick).then(|| integration_tests::installed::workspace().join("bench/results"));
        self.out.clone().or_else(usual)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("runtime-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, reports, and says whether all is within the bounds that were asked for.
async fn run(arguments: &Arguments) -> Result<bool> {
    let envoy = arguments.envoy.clone().unwrap_or_else(integration_tests::installed::envoy);
    let (rounds, requests) = (arguments.rounds(), arguments.requests());
    let bench = Bench::start(&envoy).await?;
    let mut report = Report::new(machine::describe(&envoy)?, rounds, requests);
    report.memory.idle = bench.memory()?;
    for round in 0..=rounds {
        for level in LEVELS {
            eprint!("\r{}, {:4} in flight ", progress(round, rounds), level.in_flight());
            for case in CASES {
                let sample = bench.measure(case, level, requests).await?;
                report.add(case, level, sample, round == 0);
            }
        }
    }
    report.memory.loaded = bench.memory()?;
    let settled = Instant::now() + if arguments.quick { Duration::ZERO } else { SETTLING };
    eprint!("\r{:40}", "subscriptions");
    report.subscriptions = subscribe::measure(&envoy).await?;
    eprint!("\r{:40}", "waiting for memory to be given back");
    tokio::time::sleep_until(settled).await;
    report.memory.settled = bench.memory()?;
    drop(bench);
    eprint!("\r{:40}\r", "");
    print!("{}", table::of(&report));
    if let Some(directory) = arguments.out() {
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("latest.json"), serde_json::to_string_pretty(&report.summary())? + "\n")?;
        std::fs::write(directory.join("latest.svg"), plot::of(&report))?;
    }
    let excesses = report.excesses();
    for excess in &excesses {
        eprintln!("out of bounds: {excess}");
    }
    Ok(!arguments.check || excesses.is_empty())
}

/// The first round warms everything up and counts for nothing but failures.
fn progress(round: u32, rounds: u32) -> String {
    if round == 0 { "warming up".to_owned() } else { format!("round {round} of {rounds}") }
}
