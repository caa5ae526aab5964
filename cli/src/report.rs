//! What is to be said about a configuration, and how it is shown: to a person, to a tool and to a program.

use std::fmt;
use std::io::{self, Write};

use runtime_api::config::Severity;
use serde_json::{Value, json};

use crate::source::Spot;

/// Something to be said about a place in what the user wrote.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Where.
    pub spot: Spot,
    /// The field, in the terms of the user's own file; may be empty.
    pub field: String,
    /// What is wrong and what would be right.
    pub text: String,
    /// Whether it keeps the configuration from being used.
    pub severity: Severity,
}

impl Finding {
    /// A finding that refuses the configuration.
    pub fn error(spot: Spot, field: &str, text: impl Into<String>) -> Self {
        Self { spot, field: field.to_owned(), text: text.into(), severity: Severity::Error }
    }

    /// A finding about something without effect.
    pub fn warning(spot: Spot, field: &str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(spot, field, text) }
    }

    fn severity(&self) -> &'static str {
        match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }

    fn message(&self) -> String {
        if self.field.is_empty() { self.text.clone() } else { format!("{}: {}", self.field, self.text) }
    }

    fn json(&self) -> Value {
        json!({
            "file": self.spot.file(),
            "line": self.spot.line(),
            "column": self.spot.column(),
            "field": self.field,
            "severity": self.severity(),
            "message": self.text,
        })
    }

    /// With colours, and the line that it is about with the place underlined.
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let colour = if self.severity == Severity::Error { RED } else { YELLOW };
        writeln!(out, "{BOLD}{}: {colour}{}:{RESET} {BOLD}{}{RESET}", self.spot, self.severity(), self.message())?;
        let (Some(line), Some(column), Some(text)) = (self.spot.line(), self.spot.column(), self.spot.source_line())
        else {
            return Ok(());
        };
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let before: String = text.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let marks = "^".repeat(self.spot.width().max(1));
        writeln!(out, "{BLUE} {number} |{RESET} {text}\n{BLUE} {gutter} |{RESET} {before}{colour}{marks}{RESET}")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.spot, self.severity(), self.message())
    }
}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";
const RESET: &str = "\x1b[0m";

/// How findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For a person at a terminal.
    Colour,
    /// One line each, as compilers do.
    Plain,
    /// An array of objects.
    Json,
}

impl Style {
    /// Colours for a terminal, unless `NO_COLOR` is set; plain lines elsewhere.
    pub fn of(stream: &impl io::IsTerminal) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !plain { Self::Colour } else { Self::Plain }
    }
}

/// Writes all findings.
pub fn write(findings: &[Finding], style: Style, out: &mut dyn Write) -> io::Result<()> {
    if style == Style::Json {
        let all: Vec<Value> = findings.iter().map(Finding::json).collect();
        return writeln!(out, "{:#}", Value::Array(all));
    }
    for finding in findings {
        match style {
            Style::Colour => finding.show(out)?,
            _ => writeln!(out, "{finding}")?,
        }
    }
    Ok(())
}
