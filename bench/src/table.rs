//! The report for a terminal.

use std::fmt::Write;

use crate::case::{CASES, FULL, LEVELS, VALUE_BYTES};
use crate::report::{Report, Usage, Usages, mib};

pub(crate) fn of(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a text never fails.
    let _ = write(report, &mut text);
    text
}

fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(text, "{}: runtime {}, Envoy {}, Redis {}", machine.date, machine.runtime, machine.envoy, machine.redis)?;
    writeln!(text, "{} cores, {}", machine.cores, machine.cpu)?;
    writeln!(
        text,
        "one worker, values of {VALUE_BYTES} bytes, medians of {} rounds, latencies in us\n",
        report.rounds
    )?;
    // Narrow, so that the line fits into 120 columns.
    write!(text, "{:24} {:>8} {:>6} {:>7}", "", "calls/s", "of", "CPU us")?;
    for level in LEVELS {
        write!(text, "   {:>15}", format!("{} in flight", level.in_flight()))?;
    }
    write!(text, "\n{:24} {:>8} {:>6} {:>7}", "", format!("at {}", FULL.in_flight()), "direct", "a call")?;
    for _ in LEVELS {
        write!(text, "   {:>7} {:>7}", "p50", "p99")?;
    }
    writeln!(text)?;
    for case in CASES {
        let full = report.figures(case, FULL);
        let cpu = full.cpu_us_per_call.map_or("-".to_owned(), |cpu| format!("{cpu:.1}"));
        write!(text, "{:24} {:>8} {:>6.3} {cpu:>7}", case.name(), full.calls_per_second, full.of_direct)?;
        for level in LEVELS {
            let figures = report.figures(case, level);
            write!(text, "   {:>7.0} {:>7.0}", figures.p50_us, figures.p99_us)?;
        }
        writeln!(text)?;
    }
    writeln!(text, "\ncalls that failed: {}\n", report.failures())?;
    writeln!(text, "{:24} {:>9} {:>9} {:>9}", "resident memory, MiB", "runtime", "bare", "over bare")?;
    let Usages { idle, loaded, settled } = report.memory;
    for (name, usage) in [("idle", idle), ("after load", loaded), ("six minutes later", settled)] {
        let Usage { runtime, bare } = usage;
        writeln!(text, "{name:24} {:>9.1} {:>9.1} {:>9.1}", mib(runtime.rss), mib(bare.rss), usage.over_bare())?;
    }
    writeln!(text, "\n{:24} {:>9} {:>9} {:>9} {:>9}", "subscriptions", "delay p50", "p99, us", "KiB each", "us/event")?;
    for figures in &report.subscriptions {
        let (p50, p99) = (figures.delay_p50_us, figures.delay_p99_us);
        let (memory, cpu) = (figures.kib_per_subscription, figures.cpu_us_per_event);
        writeln!(text, "{:24} {p50:>9.0} {p99:>9.0} {memory:>9.1} {cpu:>9.1}", figures.store)?;
    }
    Ok(())
}
