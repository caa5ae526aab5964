//! What was seen: calls counted by how they ended, and findings, each told once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::kind::Kind;

/// How a call ended, as the table counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Ok,
    Refused,
    Unavailable,
    Deadline,
    Exhausted,
    Internal,
    Left,
    Lost,
    Odd,
}

const COLUMNS: [(Column, &str); 9] = [
    (Column::Ok, "ok"),
    (Column::Refused, "refused"),
    (Column::Unavailable, "unavail."),
    (Column::Deadline, "deadline"),
    (Column::Exhausted, "exhaust."),
    (Column::Internal, "internal"),
    (Column::Left, "left"),
    (Column::Lost, "lost"),
    (Column::Odd, "odd"),
];

#[derive(Debug, Default)]
struct Counts {
    calls: u64,
    columns: BTreeMap<Column, u64>,
    slowest: Duration,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whose call or check it was.
    pub kind: Kind,
    /// What it is, in few words: findings are told apart by it.
    pub what: String,
    /// The first of them.
    pub example: String,
    /// When that was, since the start.
    pub at: Duration,
    /// How many there were.
    pub times: u64,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Record {
    start: Instant,
    counts: Mutex<BTreeMap<Kind, Counts>>,
    findings: Mutex<BTreeMap<(Kind, String), Finding>>,
    /// Texts of failures, with numbers taken out: what the table's columns are made of.
    texts: Mutex<BTreeMap<String, u64>>,
}

impl Record {
    pub(super) fn new() -> Self {
        let (counts, findings, texts) = <(Mutex<_>, Mutex<_>, Mutex<_>)>::default();
        Self { start: Instant::now(), counts, findings, texts }
    }

    /// Counts a call.
    pub(super) fn count(&self, kind: Kind, column: Column, took: Duration) {
        let mut counts = self.counts.lock().unwrap();
        let counts = counts.entry(kind).or_default();
        counts.calls += 1;
        *counts.columns.entry(column).or_default() += 1;
        counts.slowest = counts.slowest.max(took);
    }

    /// Counts a text of a failure.
    pub(super) fn text(&self, code: tonic::Code, text: &str) {
        const MOST: usize = 400;
        let mut texts = self.texts.lock().unwrap();
        let text = format!("{code:?}: {}", shape(text));
        if texts.len() < MOST || texts.contains_key(&text) {
            *texts.entry(text).or_default() += 1;
        }
    }

    /// Notes something that must not be.
    pub(super) fn find(&self, kind: Kind, what: &str, example: impl Into<String>) {
        let mut findings = self.findings.lock().unwrap();
        let at = self.start.elapsed();
        let finding = findings.entry((kind, what.to_owned())).or_insert_with(|| {
            let example = example.into();
            println!("[{:6.1} s] {kind}: {what}: {example}", at.as_secs_f64());
            Finding { kind, what: what.to_owned(), example, at, times: 0 }
        });
        finding.times += 1;
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap().values().cloned().collect()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn calls(&self) -> u64 {
        self.counts.lock().unwrap().values().map(|counts| counts.calls).sum()
    }

    /// A line for each kind.
    pub(super) fn table(&self) -> String {
        let mut text = format!("{:13} {:>9}", "", "calls");
        for (_, name) in COLUMNS {
            let _ = write!(text, " {name:>8}");
        }
        let _ = writeln!(text, " {:>9}", "slowest");
        for (kind, counts) in &*self.counts.lock().unwrap() {
            let _ = write!(text, "{kind:13} {:>9}", counts.calls);
            for (column, _) in COLUMNS {
                let _ = write!(text, " {:>8}", counts.columns.get(&column).copied().unwrap_or(0));
            }
            let _ = writeln!(text, " {:>7.2} s", counts.slowest.as_secs_f64());
        }
        text
    }

    /// The texts of failures, the most frequent first.
    pub(super) fn texts(&self) -> Vec<(String, u64)> {
        let mut texts: Vec<_> = self.texts.lock().unwrap().iter().map(|(text, count)| (text.clone(), *count)).collect();
        texts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        texts
    }
}

/// A text without what differs from call to call: what stands in quotes, numbers, and all after the first hundred
/// characters.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut quoted = false;
    for character in text.chars().take(160) {
        match character {
            '"' => {
                quoted = !quoted;
                shape.push('"');
            }
            _ if quoted => {}
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            character if character.is_ascii_graphic() || character == ' ' => shape.push(character),
            _ if shape.ends_with('~') => {}
            _ => shape.push('~'),
        }
    }
    shape.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_numbers_and_names_have_one_shape() {
        assert_eq!(shape("store \"a\" took 12 ms"), shape("store \"b\" took 7 ms"));
        assert_ne!(shape("store a"), shape("store b"));
    }

    #[test]
    fn a_finding_is_told_once_and_counted() {
        let record = Record::new();
        record.find(Kind::State, "lost", "one");
        record.find(Kind::State, "lost", "two");
        record.find(Kind::Locks, "lost", "three");
        let findings: Vec<_> =
            record.findings().into_iter().map(|finding| (finding.kind, finding.example, finding.times)).collect();
        assert_eq!(findings, [(Kind::State, "one".into(), 2), (Kind::Locks, "three".into(), 1)]);
    }
}
