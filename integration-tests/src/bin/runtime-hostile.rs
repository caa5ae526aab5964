//! The program of `make hostile`.

use std::process::ExitCode;

use clap::Parser;
use integration_tests::hostile::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    let findings = hostile::run(&Options::parse()).await;
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
