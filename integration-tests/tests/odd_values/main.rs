//! Odd values through every driver of each block: empty, blank, zero, negative, huge, twice in one call, control
//! characters. The drivers of a block answer the same; what differs stands in a table with the reason, and on the page
//! of the block.

mod configuration;
mod lock;
mod secrets;
mod sequencer;
mod state;

use std::fmt::Write;

use futures::future::BoxFuture;
use integration_tests::conformance::drivers::Deployment;
use tonic::Status;

/// A row: what is tried, and what every driver answers.
type Row<Subject> = (String, String, Box<dyn for<'a> Fn(&'a Subject, &'a str) -> BoxFuture<'a, String> + Send>);

/// Where a driver answers differently: the beginning of the names of rows, the driver, what it answers, why.
type Difference = (&'static str, &'static str, &'static str, &'static str);

/// What an app would say of an answer: the value, or the code of the failure.
fn said<T: Answer>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => answer.said(),
        Err(status) => format!("{:?}", status.code()),
    }
}

trait Answer {
    fn said(self) -> String;
}

impl Answer for () {
    fn said(self) -> String {
        "Ok".to_owned()
    }
}

impl Answer for bool {
    fn said(self) -> String {
        self.to_string()
    }
}

impl Answer for i64 {
    fn said(self) -> String {
        self.to_string()
    }
}

impl Answer for integration_tests::lock::Outcome {
    fn said(self) -> String {
        format!("{self:?}")
    }
}

/// Runs the rows against all drivers and panics with a table of what is not as it should be.
async fn try_all<Subject>(drivers: &[(&str, Subject)], rows: Vec<Row<Subject>>, differences: &[Difference]) {
    let mut wrong = String::new();
    let mut used = vec![false; differences.len()];
    for (number, (name, expected, run)) in rows.iter().enumerate() {
        for (driver, subject) in drivers {
            let unlike = differences.iter().position(|(rows, of, ..)| name.starts_with(rows) && driver.starts_with(of));
            let expected = unlike.map_or(expected.as_str(), |at| differences[at].2);
            if let Some(at) = unlike {
                used[at] = true;
            }
            let got = run(subject, &format!("row{number}")).await;
            if got != expected {
                writeln!(wrong, "{driver}: {name:?} gives {got:?}, not {expected:?}").unwrap();
            }
        }
    }
    for (used, (rows, driver, outcome, _)) in used.iter().zip(differences) {
        if !used {
            writeln!(wrong, "no row of {driver} begins with {rows:?} to give {outcome:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn row<Subject>(
    name: impl Into<String>,
    expected: &str,
    run: impl for<'a> Fn(&'a Subject, &'a str) -> BoxFuture<'a, String> + Send + 'static,
) -> Row<Subject> {
    (name.into(), expected.to_owned(), Box::new(run))
}

async fn finish(worlds: &[Deployment]) {
    for world in worlds {
        world.envoy.assert_no_filter_crashed().await;
    }
}

/// Names that an app may give to things. One as long as this is taken by all servers.
const NAMES: [&str; 14] =
    [" ", "\t\r\n", "\0", "\u{1b}[0m", "ключ ✓", "a/b", "/", "..", "*", "[a-z]?", "{a}b", "\"'\\", "|", "%00%2F"];
