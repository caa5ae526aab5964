//! A configuration as a `runtime.yaml` for a person to go on with: what is set, with what it means, and as comments
//! what could be.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::Path;

use runtime_api::component::DRIVERS;
use runtime_api::config::{COMPONENT, FIELDS, Field, Kind, Presence};
use serde_json::Value;

use super::template::flow;
use crate::Failure;
use crate::source::{self, Checked, Origin, field};

/// The width of a comment.
const WIDTH: usize = 100;

/// Writes the file, unless there is one.
pub fn write_runtime(path: &Path, checked: &Checked) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} is there already; --write-config takes another name", path.display()))
        }
        _ => Failure::file(path, &error),
    };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(runtime(checked).as_bytes()).map_err(failed)
}

/// The text of the file.
fn runtime(checked: &Checked) -> String {
    let from = match &checked.origin {
        Origin::Named => "what it was started with".to_owned(),
        Origin::Found(place) => place.display().to_string(),
        Origin::Nothing => "nothing: everything is in memory".to_owned(),
    };
    let mut text = format!("# Written by `envoy-runtime run --write-config` from {from}.\n");
    text += "# docs/configuration.md of Envoy Runtime has every field; `envoy-runtime check` says what is wrong with them.\n";
    if !checked.secrets.is_empty() {
        text += "# {env: NAME} stands for a secret, which Envoy takes from that variable of its environment; write the secret\n";
        text += "# itself there, or set the variable.\n";
    }
    object(FIELDS, &checked.document, 0, &mut text);
    text
}

/// The fields of an object, each with its comment.
fn object(fields: &[Field], object: &Value, indent: usize, text: &mut String) {
    for known in fields {
        let value = field(object, known.name);
        match (known.kind, value) {
            (Kind::Ignored(_) | Kind::Refused(_), None) => {}
            (Kind::Object(fields), value) => {
                let value = value.cloned().unwrap_or_default();
                let is_set = value.as_object().is_some_and(|fields| !fields.is_empty());
                comment(known.meaning, indent, text);
                line(indent, is_set, &format!("{}:", known.name), text);
                self::object(fields, &value, indent + 2, text);
            }
            (Kind::Objects(table), Some(Value::Array(items))) => {
                comment(known.meaning, indent, text);
                line(indent, true, &format!("{}:{}", known.name, if items.is_empty() { " []" } else { "" }), text);
                for item in items {
                    element(table, item, indent, text);
                }
            }
            (_, Some(value)) => {
                comment(known.meaning, indent, text);
                line(indent, true, &format!("{}: {}", known.name, flow(value)), text);
            }
            (_, None) => {
                let value = if let Presence::Default(value) = known.presence { value } else { "" };
                comment(known.meaning, indent, text);
                line(indent, false, format!("{}: {value}", known.name).trim_end(), text);
            }
        }
    }
}

/// An element of a list: what is set alone, and of a component what its driver is.
fn element(table: &[Field], item: &Value, indent: usize, text: &mut String) {
    let kind = field(item, "type").and_then(Value::as_str).unwrap_or_default();
    let is_component = table.len() == COMPONENT.len();
    let driver = DRIVERS.iter().find(|driver| is_component && driver.kind.eq_ignore_ascii_case(kind));
    if let Some(driver) = driver {
        comment(driver.meaning, indent, text);
    }
    let mut begin = "- ";
    for name in table.iter().map(|field| field.name) {
        let Some(value) = field(item, name) else { continue };
        let mut value = value.clone();
        for (of, derived, from) in source::DERIVED {
            let is_derived = *of == kind && from.is_none_or(|from| field(&value, from).is_some());
            if let Some(metadata) = value.as_object_mut().filter(|_| is_derived) {
                metadata.retain(|field, _| !field.eq_ignore_ascii_case(derived));
            }
        }
        if value.as_object().is_some_and(serde_json::Map::is_empty) {
            continue;
        }
        line(indent, true, &format!("{begin}{name}: {}", flow(&value)), text);
        begin = "  ";
    }
}

fn line(indent: usize, is_set: bool, content: &str, text: &mut String) {
    let mark = if is_set { "" } else { "# " };
    // Writing to a text does not fail.
    let _ = writeln!(text, "{}{mark}{content}", " ".repeat(indent));
}

/// A comment in lines of some width.
fn comment(meaning: &str, indent: usize, text: &mut String) {
    let mut current = String::new();
    for word in meaning.split_whitespace() {
        if !current.is_empty() && indent + current.len() + word.len() > WIDTH {
            line(indent, true, &format!("#{current}"), text);
            current.clear();
        }
        current.extend([" ", word]);
    }
    line(indent, true, &format!("#{current}"), text);
}
