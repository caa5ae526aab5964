//! Text with places for values and for blocks of lines. Whatever is put in comes out as a value of YAML, quoted.

use serde_json::Value;

use crate::Failure;

/// What goes into a template under a name.
#[derive(Debug)]
pub(super) enum Part {
    /// For `{{name}}`: a value, written in one line.
    Value(Value),
    /// For a line `{{> name}}`: lines, indented as that line is; no lines take the line away.
    Block(String),
}

/// The template with all its places filled.
pub(super) fn fill(template: &str, parts: &[(&str, Part)]) -> Result<String, Failure> {
    let part = |name: &str| parts.iter().find(|(known, _)| *known == name).map(|(_, part)| part);
    let missing = |name: &str| Failure::new(format!("the template has a place for {name:?}, and nothing to put there"));
    let mut filled = String::new();
    for line in template.lines() {
        let content = line.trim_start();
        if let Some(name) = content.strip_prefix("{{> ").and_then(|rest| rest.strip_suffix("}}")) {
            let Some(Part::Block(block)) = part(name) else { return Err(missing(name)) };
            let indent = line.len() - content.len();
            for line in block.lines() {
                filled.extend([" ".repeat(indent).as_str(), line, "\n"]);
            }
            continue;
        }
        let mut pieces = line.split("{{");
        filled.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let (name, rest) = piece.split_once("}}").ok_or_else(|| missing(piece))?;
            let Some(Part::Value(value)) = part(name) else { return Err(missing(name)) };
            filled.push_str(&flow(value));
            filled.push_str(rest);
        }
        filled.push('\n');
    }
    Ok(filled)
}

/// A template for the second use of the same: comments are read once.
pub(super) fn without_comments(template: &str) -> String {
    let code = template.lines().filter(|line| !line.trim_start().starts_with('#'));
    code.flat_map(|line| [line, "\n"]).collect()
}

/// JSON with nothing in it but printable ASCII: YAML takes some other characters for the end of a line.
pub(super) fn json(value: &Value) -> String {
    let mut text = String::new();
    for c in format!("{value:#}").chars() {
        if is_plain(c) || c == '\n' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.extend(format!("\\u{unit:04x}").chars());
            }
        }
    }
    text
}

/// A value in one line, quoted where it might be taken for something else.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{}: {}", scalar(name), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Words that a parser of YAML 1.1, as Envoy's is, may not take for a text.
const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

fn scalar(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let goes_on = text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
    if begins && goes_on && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if is_plain(c) => quoted.push(c),
            c => quoted.extend(format!("\\U{:08x}", u32::from(c)).chars()),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~')
}

#[cfg(test)]
mod tests {
    use serde_json::json as j;

    use super::*;

    #[test]
    fn values_are_quoted_and_blocks_indented() {
        let parts = [
            ("a", Part::Value(j!("x: \"{{b}}\"\n#\u{85}"))),
            ("b", Part::Block("one\n  two\n".into())),
            ("none", Part::Block(String::new())),
        ];
        let filled = fill("k: {{a}} # {{a}}\n  {{> b}}\n{{> none}}\n", &parts).unwrap();
        let quoted = r#""x: \"{{b}}\"\U0000000a#\U00000085""#;
        assert_eq!(filled, format!("k: {quoted} # {quoted}\n  one\n    two\n"));
        assert!(fill("{{c}}", &parts).is_err() && fill("{{> c}}", &parts).is_err());
    }

    #[test]
    fn what_could_be_misread_is_quoted() {
        let value = j!({"a-b": ["/x/y.z", "1.5", "No", "", "a: b", "\u{1f600}", 3, true, null]});
        assert_eq!(flow(&value), r#"{a-b: [/x/y.z, "1.5", "No", "", "a: b", "\U0001f600", 3, true, null]}"#);
        assert_eq!(json(&j!("\u{1f600}\u{2028}")), r#""\ud83d\ude00\u2028""#);
    }

    #[test]
    fn comments_go_with_their_lines() {
        assert_eq!(without_comments("# a\nb: '#'\n  # c\n  d:\n"), "b: '#'\n  d:\n");
    }
}
