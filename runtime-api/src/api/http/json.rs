//! Bodies of JSON, read a member at a time: what is a value of the app stays the bytes that it sent.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::asked::malformed;
use crate::api::call;
use crate::api::failure::Failure;
use crate::text;

/// An object of a body, or of a part of it.
#[derive(Debug, Default)]
pub(in crate::api) struct Object<'a> {
    /// Where it stands, such as `body.operations[0].`.
    place: String,
    members: Vec<(String, &'a RawValue)>,
    /// The most elements and members of what is in it.
    most: usize,
}

/// A member of an object, or an element of a list, and where it stands.
#[derive(Debug, Clone)]
pub(in crate::api) struct Member<'a> {
    place: String,
    value: &'a RawValue,
    most: usize,
}

/// Where the whole body stands.
const BODY: &str = "body";

/// The elements of a body that is a list, so many at most. `null` is an empty one, as in Go.
pub(in crate::api) fn list(body: &[u8], most: usize) -> Result<Vec<Member<'_>>, Failure> {
    elements(BODY, body, most)
}

fn elements<'a>(place: &str, text: &'a [u8], most: usize) -> Result<Vec<Member<'a>>, Failure> {
    let values = read(place, "a list", text, most, Elements(most))?;
    let element = |(number, value)| Member { place: format!("{place}[{number}]"), value, most };
    Ok(values.into_iter().enumerate().map(element).collect())
}

impl<'a> Object<'a> {
    /// Reads a body with so many members at most.
    pub(super) fn read(body: &'a [u8], most: usize) -> Result<Self, Failure> {
        Self::at(BODY, body, most)
    }

    fn at(place: &str, text: &'a [u8], most: usize) -> Result<Self, Failure> {
        let members = read(place, "an object", text, most, Members(most))?;
        Ok(Object { place: format!("{place}."), members, most })
    }

    /// The member of this name, unless it is `null`; of several the last. Names are compared without case, as Go does, and without
    /// `_`, since JSON of protobuf knows two spellings.
    pub(in crate::api) fn member(&self, name: &str) -> Option<Member<'a>> {
        let is_same = |other: &str| {
            let letters = other.bytes().filter(|letter| *letter != b'_').map(|letter| letter.to_ascii_lowercase());
            letters.eq(name.bytes().map(|letter| letter.to_ascii_lowercase()))
        };
        let (_, value) = self.members.iter().rfind(|(other, _)| is_same(other))?;
        let member = Member { place: format!("{}{name}", self.place), value, most: self.most };
        (member.raw() != "null").then_some(member)
    }

    /// A text, or none.
    pub(in crate::api) fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        self.member(name).map(|member| member.text()).transpose()
    }

    /// A whole number, or none.
    pub(in crate::api) fn number(&self, name: &str) -> Result<Option<i32>, Failure> {
        self.member(name).map(|member| member.number()).transpose()
    }

    /// The elements of a list; none where it is absent.
    pub(in crate::api) fn list(&self, name: &str) -> Result<Vec<Member<'a>>, Failure> {
        self.member(name).map_or_else(
            || Ok(Vec::new()),
            |Member { place, value, most }| elements(&place, value.get().as_bytes(), most),
        )
    }

    /// An object; an empty one where it is absent.
    pub(in crate::api) fn object(&self, name: &str) -> Result<Self, Failure> {
        self.member(name).map_or_else(|| Ok(Self::default()), |member| member.object())
    }

    /// An object of texts; an empty one where it is absent.
    pub(in crate::api) fn texts<M: FromIterator<(String, String)>>(&self, name: &str) -> Result<M, Failure> {
        let Self { place, members, most } = self.object(name)?;
        let text = |(name, value): (String, &'a RawValue)| {
            let text = Member { place: format!("{place}{name}"), value, most }.text()?;
            Ok((name, text))
        };
        members.into_iter().map(text).collect()
    }

    /// What is said of a member that has to be there.
    pub(in crate::api) fn missing(&self, name: &str) -> Failure {
        malformed(format!("{}{name} is missing", self.place))
    }
}

impl<'a> Member<'a> {
    /// The JSON that it is.
    pub(in crate::api) fn raw(&self) -> &'a str {
        self.value.get()
    }

    /// As a text.
    pub(in crate::api) fn text(&self) -> Result<String, Failure> {
        serde_json::from_slice(self.raw().as_bytes()).map_err(|_| wrong(&self.place, "a text", self.raw()))
    }

    /// As a whole number, which may stand in quotes.
    fn number(&self) -> Result<i32, Failure> {
        let digits = self.raw().trim_matches('"');
        digits.parse().map_err(|_| wrong(&self.place, "a whole number of 32 bits", self.raw()))
    }

    /// As an object.
    pub(in crate::api) fn object(&self) -> Result<Object<'a>, Failure> {
        Object::at(&self.place, self.raw().as_bytes(), self.most)
    }
}

/// What is said of JSON that is of another kind than it has to be.
fn wrong(place: &str, expected: &str, found: &str) -> Failure {
    malformed(format!("{place} has to be {expected}, not {}", text::name(found)))
}

/// Reads JSON of one kind, of which no more than so many parts are kept.
fn read<'a, T>(
    place: &str,
    expected: &str,
    text: &'a [u8],
    most: usize,
    kind: impl DeserializeSeed<'a, Value = Parts<T>>,
) -> Result<Vec<T>, Failure> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(malformed(format!("the {place} is empty, and has to be JSON")));
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let parts = kind.deserialize(&mut reader);
    let parts = parts.and_then(|parts| reader.end().map(|()| parts)).map_err(|error| match error.classify() {
        Category::Data => wrong(place, expected, &String::from_utf8_lossy(text)),
        Category::Syntax | Category::Eof | Category::Io => malformed(format!("the {place} is not JSON: {error}")),
    })?;
    if parts.has_more { Err(call::too_many(most).into()) } else { Ok(parts.first) }
}

/// The parts of a list or of an object.
struct Parts<T> {
    /// As many as may be: a body of four megabytes has two million parts, each of which would weigh more than its two bytes.
    first: Vec<T>,
    has_more: bool,
}

/// Reads the elements of a list, so many at most.
struct Elements(usize);

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = Parts<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = Parts<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Parts { first: Vec::new(), has_more: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.0 {
            let Some(element) = list.next_element()? else { return Ok(Parts { first, has_more: false }) };
            first.push(element);
        }
        let mut has_more = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            has_more = true;
        }
        Ok(Parts { first, has_more })
    }
}

/// Reads the members of an object, likewise.
struct Members(usize);

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Parts<(String, &'de RawValue)>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Parts<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.0 {
            let Some(member) = object.next_entry()? else { return Ok(Parts { first, has_more: false }) };
            first.push(member);
        }
        let mut has_more = false;
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            has_more = true;
        }
        Ok(Parts { first, has_more })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn object(text: &str) -> Object<'_> {
        Object::read(text.as_bytes(), 10).unwrap()
    }

    #[test]
    fn names_in_both_spellings_and_any_case() {
        let body = object(r#"{"resource_id": "r", "LOCKOWNER": "me", "expiryInSeconds": "30", "absent": null}"#);
        assert_eq!(body.text("resourceId").unwrap().as_deref(), Some("r"));
        assert_eq!(body.text("lockOwner").unwrap().as_deref(), Some("me"));
        assert_eq!(body.number("expiryInSeconds").unwrap(), Some(30));
        assert_eq!(body.text("absent").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let text = |failure: Failure| failure.text().to_owned();
        let body = object(r#"{"operations": [{"request": {"key": 5}}], "n": 1.5, "metadata": {"a": 1}}"#);
        let operations = body.list("operations").unwrap();
        let request = operations[0].object().unwrap().object("request").unwrap();
        assert_eq!(text(request.text("key").unwrap_err()), "body.operations[0].request.key has to be a text, not 5");
        assert_eq!(text(body.number("n").unwrap_err()), "body.n has to be a whole number of 32 bits, not 1.5");
        let metadata = body.texts::<BTreeMap<_, _>>("metadata");
        assert_eq!(text(metadata.unwrap_err()), "body.metadata.a has to be a text, not 1");
        assert_eq!(text(list(b"{}", 10).unwrap_err()), "body has to be a list, not {}");
        assert!(text(list(b"[1] 2", 10).unwrap_err()).starts_with("the body is not JSON: trailing characters"));
        assert_eq!(text(list(b" ", 10).unwrap_err()), "the body is empty, and has to be JSON");
        assert_eq!(list(b"[1,2,3]", 2).unwrap_err().code(), tonic::Code::ResourceExhausted);
        assert_eq!(list(b"null", 2).unwrap().len(), 0);
        assert_eq!(text(Object::read(b"null", 2).unwrap_err()), "body has to be an object, not null");
    }

    #[test]
    fn what_is_large_or_deep_is_bounded() {
        let many = |part: &str| format!("{{{}}}", [part; 11].join(","));
        assert_eq!(Object::read(many(r#""a":1"#).as_bytes(), 10).unwrap_err().code(), tonic::Code::ResourceExhausted);
        let deep = format!(r#"[{{"value": {}{} }}]"#, "[".repeat(500_000), "]".repeat(500_000));
        let deep = list(deep.as_bytes(), 10).unwrap().remove(0).object().unwrap().member("value").unwrap();
        assert_eq!(deep.raw().len(), 1_000_000);
        assert!(list("[".repeat(500_000).as_bytes(), 10).is_err());
    }
}
