//! The report as a picture: bars in SVG.

use std::fmt::Write;

use crate::case::{CASES, Case, FULL, LEVELS, Level};
use crate::report::{Figures, Report};

const LEFT: f64 = 190.0;
const BAR: f64 = 420.0;
const ROW: f64 = 24.0;
const WIDTH: f64 = LEFT + BAR + 130.0;

/// A chart with one bar for each case that has a value.
struct Chart {
    title: String,
    level: Level,
    value: fn(Figures) -> Option<f64>,
    label: fn(Figures) -> String,
}

pub(crate) fn of(report: &Report) -> String {
    let mut charts = vec![
        Chart {
            title: format!("Calls per second, one worker, {} in flight", FULL.in_flight()),
            level: FULL,
            // Redis alone would dwarf the rest: its bar is in the charts of latency.
            value: |figures| figures.cpu_us_per_call.map(|_| figures.calls_per_second),
            label: |figures| format!("{:.0} ({:.2})", figures.calls_per_second, figures.of_direct),
        },
        Chart {
            title: "CPU of Envoy per call in microseconds".to_owned(),
            level: FULL,
            value: |figures| figures.cpu_us_per_call,
            label: |figures| format!("{:.1}", figures.cpu_us_per_call.unwrap_or_default()),
        },
    ];
    charts.extend(LEVELS.map(|level| Chart {
        title: format!("Latency in microseconds at {} in flight: half of the calls (p99)", level.in_flight()),
        level,
        value: |figures| Some(figures.p50_us),
        label: |figures| format!("{:.0} ({:.0})", figures.p50_us, figures.p99_us),
    }));
    let mut body = String::new();
    let mut y = 50.0;
    for chart in &charts {
        y = draw(chart, report, y, &mut body);
    }
    let machine = &report.machine;
    let subtitle = format!("Envoy {}, {} cores of {}, {}", machine.envoy, machine.cores, machine.cpu, machine.date);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"12\" fill=\"#57606a\">{}</text>\n{body}</svg>\n",
        escaped(&subtitle)
    )
}

/// Draws a chart at this height and gives that of the next.
fn draw(chart: &Chart, report: &Report, top: f64, body: &mut String) -> f64 {
    let rows: Vec<_> = CASES
        .into_iter()
        .map(|case| (case, report.figures(case, chart.level)))
        .filter_map(|(case, figures)| Some((case, (chart.value)(figures)?, (chart.label)(figures))))
        .collect();
    let most = rows.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
    // Writing to a text never fails.
    let _ = writeln!(body, "<text x=\"16\" y=\"{top}\" font-weight=\"bold\">{}</text>", escaped(&chart.title));
    let mut y = top + 10.0;
    for (case, value, label) in rows {
        let (length, text) = (value / most * BAR, y + 16.0);
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"16\" rx=\"2\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{label}</text>",
            LEFT - 8.0,
            escaped(&case.name()),
            y + 3.0,
            colour(case),
            LEFT + length + 6.0,
        );
        y += ROW;
    }
    y + 32.0
}

/// Baselines are grey.
fn colour(case: Case) -> &'static str {
    match case {
        Case::Direct { .. } | Case::Redis => "#8c959f",
        Case::Call { .. } => "#2f6fdb",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
