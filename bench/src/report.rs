//! What was measured, and what it comes to.

use serde::Serialize;

use crate::case::{CASES, Case, FULL, LEVELS, Level, PROMISED, VALUE_BYTES};
use crate::machine::Machine;
use crate::process::Memory;
use crate::subscribe::Figures as Subscription;

/// `GetState` on Redis gives at least this part of the rate of Envoy's direct response.
const LEAST_RATIO: f64 = 0.34;
/// What the runtime may add to the resident memory of an Envoy, after load.
const MOST_MIB: f64 = 36.0;
/// The median way of a change from the store to an app takes less.
const MOST_DELAY_US: f64 = 5000.0;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) calls_per_second: f64,
    /// Microseconds of CPU that the Envoy process took for a call.
    pub(crate) cpu: Option<f64>,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Calls that were not answered by OK.
    pub(crate) failures: u64,
}

/// The memory of the two Envoys at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) runtime: Memory,
    pub(crate) bare: Memory,
}

impl Usage {
    /// What the runtime adds, resident, in MiB.
    pub(crate) fn over_bare(&self) -> f64 {
        mib(self.runtime.rss) - mib(self.bare.rss)
    }
}

pub(crate) fn mib(kib: u64) -> f64 {
    crate::load::float(kib) / 1024.0
}

/// Memory before the first measurement, after the last, and when Envoy has given back what it no longer uses.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Usages {
    pub(crate) idle: Usage,
    pub(crate) loaded: Usage,
    pub(crate) settled: Usage,
}

/// All measurements.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) memory: Usages,
    pub(crate) subscriptions: Vec<Subscription>,
    requests: u64,
    samples: Vec<(Case, Level, Sample)>,
    failures_before: u64,
}

/// The medians of a case at a level.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    pub(crate) in_flight: u32,
    pub(crate) calls_per_second: f64,
    /// The rate as a part of that of Envoy's direct response in the same round.
    pub(crate) of_direct: f64,
    pub(crate) cpu_us_per_call: Option<f64>,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) failures: u64,
}

/// The report as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary<'a> {
    #[serde(flatten)]
    machine: &'a Machine,
    workers: u32,
    value_bytes: usize,
    rounds: u32,
    requests: u64,
    failures: u64,
    cases: Vec<CaseSummary>,
    memory_kib: &'a Usages,
    memory_over_bare_mib: Over,
    subscriptions: &'a [Subscription],
}

#[derive(Debug, Serialize)]
struct CaseSummary {
    name: String,
    levels: Vec<Figures>,
}

#[derive(Debug, Serialize)]
struct Over {
    idle: f64,
    loaded: f64,
    settled: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: u32, requests: u64) -> Self {
        Self {
            machine,
            rounds,
            requests,
            memory: Usages::default(),
            subscriptions: Vec::new(),
            samples: Vec::new(),
            failures_before: 0,
        }
    }

    /// Takes in a measurement. Of one that only warms up nothing counts but its failures.
    pub(crate) fn add(&mut self, case: Case, level: Level, sample: Sample, warms_up: bool) {
        if warms_up {
            self.failures_before += sample.failures;
        } else {
            self.samples.push((case, level, sample));
        }
    }

    fn samples(&self, case: Case, level: Level) -> impl Iterator<Item = Sample> {
        let of_this = move |(its_case, its_level, _): &&_| *its_case == case && *its_level == level;
        self.samples.iter().filter(of_this).map(|(_, _, sample)| *sample)
    }

    pub(crate) fn figures(&self, case: Case, level: Level) -> Figures {
        let of = |value: fn(Sample) -> f64| median(self.samples(case, level).map(value));
        let pairs = self.samples(case, level).zip(self.samples(case.baseline(), level));
        Figures {
            in_flight: level.in_flight(),
            calls_per_second: of(|sample| sample.calls_per_second).round(),
            of_direct: rounded(median(pairs.map(|(own, direct)| own.calls_per_second / direct.calls_per_second)), 3),
            cpu_us_per_call: (case != Case::Redis).then(|| rounded(of(|sample| sample.cpu.unwrap_or_default()), 2)),
            p50_us: of(|sample| sample.p50),
            p99_us: of(|sample| sample.p99),
            failures: self.samples(case, level).map(|sample| sample.failures).sum(),
        }
    }

    /// Calls that failed, in all rounds.
    pub(crate) fn failures(&self) -> u64 {
        self.failures_before + self.samples.iter().map(|(_, _, sample)| sample.failures).sum::<u64>()
    }

    /// What is outside its bounds.
    pub(crate) fn excesses(&self) -> Vec<String> {
        let (ratio, failures, memory) =
            (self.figures(PROMISED, FULL).of_direct, self.failures(), self.memory.loaded.over_bare());
        let mut excesses = Vec::new();
        if ratio < LEAST_RATIO {
            let name = PROMISED.name();
            excesses.push(format!("{name} gives {ratio:.3} of Envoy's direct response, less than {LEAST_RATIO}"));
        }
        if failures > 0 {
            excesses.push(format!("{failures} calls failed"));
        }
        if memory > MOST_MIB {
            excesses.push(format!("{memory:.1} MiB more than a bare Envoy, over {MOST_MIB}"));
        }
        for subscription in self.subscriptions.iter().filter(|figures| figures.delay_p50_us > MOST_DELAY_US) {
            let (store, delay) = (subscription.store, subscription.delay_p50_us);
            excesses.push(format!("a change in {store} takes {delay:.0} us to the app, more than {MOST_DELAY_US}"));
        }
        excesses
    }

    pub(crate) fn summary(&self) -> Summary<'_> {
        let case = |case: Case| CaseSummary {
            name: case.name(),
            levels: LEVELS.into_iter().map(|level| self.figures(case, level)).collect(),
        };
        Summary {
            machine: &self.machine,
            workers: 1,
            value_bytes: VALUE_BYTES,
            rounds: self.rounds,
            requests: self.requests,
            failures: self.failures(),
            cases: CASES.into_iter().map(case).collect(),
            memory_kib: &self.memory,
            memory_over_bare_mib: Over {
                idle: rounded(self.memory.idle.over_bare(), 1),
                loaded: rounded(self.memory.loaded.over_bare(), 1),
                settled: rounded(self.memory.settled.over_bare(), 1),
            },
            subscriptions: &self.subscriptions,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or_default();
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    f64::midpoint(lower, upper)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        let of = |values: &[f64]| median(values.iter().copied());
        assert!((of(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((of(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(of(&[]).abs() < 1e-9);
    }
}
