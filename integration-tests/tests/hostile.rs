//! A short run of `make hostile`: that nothing is found, and that it would be.

use clap::Parser;
use integration_tests::hostile::{self, Options};

fn options(arguments: &[&str]) -> Options {
    Options::parse_from([&["runtime-hostile", "--seed", "1", "--rest", "0"], arguments].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_hostile_seconds_do_no_harm() {
    let findings = hostile::run(&options(&["--seconds", "20"])).await;
    assert!(findings.is_empty(), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_is_found() {
    let findings = hostile::run(&options(&["--seconds", "15", "--only", "trap,pulse"])).await;
    assert!(findings.iter().any(|finding| finding.what == "a VM was made anew"), "{findings:#?}");
}
