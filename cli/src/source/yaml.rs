//! YAML and JSON (which is YAML) as a tree in which every value knows where it was written.

use std::collections::BTreeMap;
use std::rc::Rc;

use runtime_api::config::Path;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

use super::spot::{File, Spot};
use crate::report::Finding;

/// A value and the place where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Where it begins: at its name if it has one.
    pub(super) spot: Spot,
    /// What it holds.
    pub(super) data: Data,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// A text, number, boolean or nothing.
    Scalar(Value),
    /// Values in a row.
    List(Vec<Node>),
    /// Values by name, each name once.
    Map(Vec<(String, Node)>),
}

/// Deeper than any configuration, and shallow enough for the stack.
const MAX_DEPTH: usize = 64;
/// What aliases may add up to: a small file can otherwise stand for a huge document.
const MAX_NODES: usize = 100_000;

impl Node {
    /// The field of this name, in any case.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.fields().iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, node)| node)
    }

    /// The fields of an object; none if it is not one.
    pub(super) fn fields(&self) -> &[(String, Node)] {
        if let Data::Map(fields) = &self.data { fields } else { &[] }
    }

    /// The elements of a list; none if it is not one.
    pub(super) fn items(&self) -> &[Node] {
        if let Data::List(items) = &self.data { items } else { &[] }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        if let Data::Scalar(value) = &self.data { value.as_str() } else { None }
    }

    /// The same without the places.
    pub(super) fn value(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => items.iter().map(Node::value).collect(),
            Data::Map(fields) => {
                Value::Object(fields.iter().map(|(name, node)| (name.clone(), node.value())).collect::<Map<_, _>>())
            }
        }
    }

    /// Hands every node below this one, and itself, to `visit`, with its path.
    pub(super) fn walk(&self, path: &Path, visit: &mut impl FnMut(&Path, &Node)) {
        visit(path, self);
        for (name, node) in self.fields() {
            node.walk(&path.field(name), visit);
        }
        for (index, node) in self.items().iter().enumerate() {
            node.walk(&path.index(index), visit);
        }
    }

    fn size(&self) -> usize {
        let below = self.fields().iter().map(|(_, node)| node).chain(self.items());
        1 + below.map(Node::size).sum::<usize>()
    }
}

/// Reads all documents of a file. After an error in the syntax, what follows is missing.
pub(super) fn parse(file: &Rc<File>, findings: &mut Vec<Finding>) -> Vec<Node> {
    let parser = Parser::new_from_str(&file.text);
    let mut reader = Reader { file, parser, anchors: BTreeMap::new(), copied: 0, findings };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next() {
        if matches!(event, Event::DocumentStart(_)) {
            reader.anchors.clear();
            let Some((event, span)) = reader.next() else { break };
            let Some(node) = reader.node(event, span, &Path::default(), 0) else { break };
            documents.push(node);
        } else if matches!(event, Event::StreamEnd) {
            break;
        } else {
            let _ = span; // starts and ends of the stream and of documents
        }
    }
    documents
}

struct Reader<'a, 'f> {
    file: &'a Rc<File>,
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    copied: usize,
    findings: &'f mut Vec<Finding>,
}

/// What stands where the name of a field should.
struct Name(Option<String>);

impl<'a> Reader<'a, '_> {
    /// The next event; none after an error, which is reported.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        match self.parser.next_event()? {
            Ok(event) => Some(event),
            Err(error) => {
                let spot = self.spot(Span::empty(*error.marker()));
                self.findings.push(Finding::error(spot, "", format!("not valid YAML: {}", error.info())));
                None
            }
        }
    }

    /// The value that begins with `event`; none after an error in the syntax, which is reported.
    fn node(&mut self, event: Event<'a>, span: Span, path: &Path, depth: usize) -> Option<Node> {
        let spot = self.spot(span);
        if depth > MAX_DEPTH {
            self.refuse(spot, path, "nested too deeply");
            return None;
        }
        let (anchor, data) = match event {
            Event::Alias(anchor) => return self.alias(anchor, spot, path),
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, Data::Scalar(self.scalar(&text, style, tag.as_deref(), &spot, path)))
            }
            Event::SequenceStart(anchor, _) => (anchor, Data::List(self.list(path, depth)?)),
            Event::MappingStart(anchor, _) => (anchor, Data::Map(self.map(path, depth)?)),
            _ => return None,
        };
        let node = Node { spot, data };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    fn list(&mut self, path: &Path, depth: usize) -> Option<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Some(items);
            }
            items.push(self.node(event, span, &path.index(items.len()), depth + 1)?);
        }
    }

    fn map(&mut self, path: &Path, depth: usize) -> Option<Vec<(String, Node)>> {
        let mut fields: Vec<(String, Node)> = Vec::new();
        loop {
            let (event, key) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Some(fields);
            }
            let Name(name) = self.name(event, key, path, depth)?;
            let path = path.field(name.as_deref().unwrap_or_default());
            let (event, span) = self.next()?;
            let mut node = self.node(event, span, &path, depth + 1)?;
            node.spot = self.named(key, &node.spot, span);
            let Some(name) = name else { continue };
            match fields.iter().find(|(other, _)| *other == name) {
                Some((_, first)) => {
                    let first = first.spot.line().unwrap_or_default();
                    self.refuse(node.spot, &path, &format!("given twice; the first is in line {first}"));
                }
                None => fields.push((name, node)),
            }
        }
    }

    /// The name of a field; nothing in it for what is none, which is reported.
    fn name(&mut self, event: Event<'a>, span: Span, path: &Path, depth: usize) -> Option<Name> {
        let node = self.node(event, span, path, depth + 1)?;
        let found = match node.data {
            Data::Scalar(Value::String(name)) => return Some(Name(Some(name))),
            Data::Scalar(value) => value.to_string(),
            Data::List(_) => "a list".to_owned(),
            Data::Map(_) => "an object".to_owned(),
        };
        self.refuse(node.spot, path, &format!("the name of a field is expected, not {found}; quote it if it is one"));
        Some(Name(None))
    }

    fn alias(&mut self, anchor: usize, spot: Spot, path: &Path) -> Option<Node> {
        let node = self.anchors.get(&anchor).cloned();
        self.copied += node.as_ref().map_or(0, Node::size);
        if self.copied > MAX_NODES {
            self.refuse(spot, path, "aliases make this document too large");
            return None;
        }
        if node.is_none() {
            self.refuse(spot, path, "an alias to a value that contains it");
        }
        node
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, spot: &Spot, path: &Path) -> Value {
        let as_text = match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
            Some(tag) => {
                self.refuse(spot.clone(), path, &format!("the tag {tag} has no meaning here"));
                true
            }
            None => style != ScalarStyle::Plain,
        };
        if as_text { Value::String(text.to_owned()) } else { plain(text) }
    }

    fn refuse(&mut self, spot: Spot, path: &Path, text: &str) {
        self.findings.push(Finding::error(spot, &path.to_string(), text));
    }

    fn spot(&self, span: Span) -> Spot {
        let width = if span.start.line() == span.end.line() { span.end.col() - span.start.col() } else { 0 };
        Spot::at(self.file, line(span.start), span.start.col() + 1, width.max(1))
    }

    /// The place of a field: from its name to the end of its value, if that is in the same line.
    fn named(&self, key: Span, value: &Spot, value_span: Span) -> Spot {
        let end = if line(key.start) == line(value_span.start) {
            value_span.start.col() + value.width()
        } else {
            key.end.col()
        };
        Spot::at(self.file, line(key.start), key.start.col() + 1, end.saturating_sub(key.start.col()).max(1))
    }
}

fn line(marker: Marker) -> usize {
    marker.line().max(1)
}

/// An unquoted value. A number whose text would change on the way (`0123`, `1.10`, `1e3`) stays a text: metadata is
/// compared as text, and a password may look like a number.
fn plain(text: &str) -> Value {
    let number = || serde_json::from_str::<Number>(text).ok().filter(|number| number.to_string() == text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => number().map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Vec<Node>, Vec<String>) {
        let mut findings = Vec::new();
        let file = Rc::new(File { name: "f.yaml".into(), text: text.into() });
        let documents = parse(&file, &mut findings);
        (documents, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn values_keep_their_text_and_their_place() {
        let (documents, findings) = read("a: 0123\nb: [1, yes, 'x']\nc:\n  d: {e: 1.10, f: ~, g: true}\n");
        assert!(findings.is_empty(), "{findings:?}");
        let value = json!({"a": "0123", "b": [1, "yes", "x"], "c": {"d": {"e": "1.10", "f": null, "g": true}}});
        assert_eq!(documents[0].value(), value);
        let mut places = Vec::new();
        documents[0].walk(&Path::default(), &mut |path, node| places.push(format!("{path} {}", node.spot)));
        assert_eq!(
            places,
            [
                " f.yaml:1:1",
                "a f.yaml:1:1",
                "b f.yaml:2:1",
                "b[0] f.yaml:2:5",
                "b[1] f.yaml:2:8",
                "b[2] f.yaml:2:13",
                "c f.yaml:3:1",
                "c.d f.yaml:4:3",
                "c.d.e f.yaml:4:7",
                "c.d.f f.yaml:4:16",
                "c.d.g f.yaml:4:22",
            ]
        );
    }

    #[test]
    fn json_is_read_with_tabs_and_escapes() {
        let (documents, findings) = read("{\n\t\"a\": \"x\\/y\\u00e9\",\n\t\"b\": [1,\n\t\t2]\n}\n");
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(documents[0].value(), json!({"a": "x/y\u{e9}", "b": [1, 2]}));
    }

    #[test]
    fn what_is_no_object_of_names_is_reported() {
        let (_, findings) = read("a: {x: 1, y: 2, x: 3}\n1: one\n? [l]\n: two\nb: !secret x\n");
        assert_eq!(
            findings,
            [
                "f.yaml:1:17: error: a.x: given twice; the first is in line 1",
                "f.yaml:2:1: error: the name of a field is expected, not 1; quote it if it is one",
                "f.yaml:3:3: error: the name of a field is expected, not a list; quote it if it is one",
                "f.yaml:5:4: error: b: the tag !secret has no meaning here",
            ]
        );
    }

    #[test]
    fn aliases_stand_for_their_value_within_bounds() {
        let (documents, _) = read("a: &a {x: 1}\nb: *a\n");
        assert_eq!(documents[0].value(), json!({"a": {"x": 1}, "b": {"x": 1}}));
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.extend(format!("a{level}: &a{level} [{below}]\n").chars());
        }
        let (_, findings) = read(&bomb);
        assert!(findings[0].contains("aliases make this document too large"), "{findings:?}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let (_, findings) = read("a:\n\tb: 1\n");
        assert_eq!(
            findings,
            ["f.yaml:2:2: error: not valid YAML: tabs disallowed within this context (block indentation)"]
        );
    }
}
