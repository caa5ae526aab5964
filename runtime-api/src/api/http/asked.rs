//! A request of HTTP as a handler sees it.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use tonic::Code;

use super::json::Object;
use super::{IF_MATCH, Request};
use crate::api::failure::Failure;

/// A request of HTTP for a row of a room.
#[derive(Debug)]
pub(in crate::api) struct Asked<'a> {
    request: &'a Request,
    /// What stands for the parts in braces.
    parts: Vec<String>,
    query: Vec<(String, String)>,
    /// The most elements of a list in its body.
    pub(in crate::api) most_items: usize,
}

/// Refuses a request that is not what it should be.
pub(in crate::api) fn malformed(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, text)
}

impl<'a> Asked<'a> {
    pub(super) fn new(request: &'a Request, parts: &[&str], most_items: usize) -> Result<Self, Failure> {
        let wrong = |text: &str| {
            let text = crate::text::name(text);
            malformed(format!("{text:?} in the path or the query is not percent-encoded UTF-8"))
        };
        let decode = |text: &str| decoded(text).ok_or_else(|| wrong(text));
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let pair = |(name, value)| -> Result<_, Failure> { Ok((decode(name)?, decode(value)?)) };
        Ok(Self {
            request,
            parts: parts.iter().map(|part| decode(part)).collect::<Result<_, _>>()?,
            query: pairs.map(pair).collect::<Result<_, _>>()?,
            most_items,
        })
    }

    /// What stands for a part in braces; they are counted from zero.
    pub(in crate::api) fn part(&self, number: usize) -> &str {
        self.parts.get(number).map_or("", String::as_str)
    }

    /// A parameter of the query; the first of its name.
    pub(in crate::api) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All parameters of the query with this name.
    pub(in crate::api) fn query_all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        self.query.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The `metadata.` parameters of the query, without that beginning.
    pub(in crate::api) fn metadata<M: FromIterator<(String, String)>>(&self) -> M {
        let pairs = self.query.iter();
        pairs.filter_map(|(name, value)| Some((name.strip_prefix("metadata.")?.to_owned(), value.clone()))).collect()
    }

    /// What the query says over what the body says.
    pub(in crate::api) fn metadata_over(&self, mut body: BTreeMap<String, String>) -> BTreeMap<String, String> {
        body.extend(self.metadata::<Vec<_>>());
        body
    }

    /// The version that an item must still have.
    pub(in crate::api) fn if_match(&self) -> Option<&str> {
        self.request.header(IF_MATCH)
    }

    /// The body.
    pub(in crate::api) fn body(&self) -> &'a bytes::Bytes {
        &self.request.body
    }

    /// The body as an object of JSON.
    pub(in crate::api) fn object(&self) -> Result<Object<'a>, Failure> {
        Object::read(&self.request.body, self.most_items)
    }

    /// The same, where an empty body is an object without members.
    pub(in crate::api) fn object_or_nothing(&self) -> Result<Object<'a>, Failure> {
        let is_empty = self.request.body.iter().all(u8::is_ascii_whitespace);
        if is_empty { Ok(Object::default()) } else { self.object() }
    }
}

/// A text as it stands in a path or a query: a plus sign is a space, as in Dapr.
fn decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let is_escape =
        |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !escapes.all(|(at, _)| is_escape(at)) {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(request: &'a Request, parts: &[&str]) -> Asked<'a> {
        Asked::new(request, parts, 10).unwrap()
    }

    #[test]
    fn texts_are_decoded_once() {
        let plain = |text: &str| decoded(text);
        assert_eq!(plain("a%2Fb+c%2B%252F").as_deref(), Some("a/b c+%2F"));
        assert_eq!(plain("za%C5%BC").as_deref(), Some("zaż"));
        for wrong in ["a%zz", "a%", "a%2", "%FF"] {
            assert_eq!(plain(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_query_may_have_a_name_more_than_once() {
        let request = Request { target: "/x?key=a&key=b&&metadata.x=1&empty=&bare".into(), ..Request::default() };
        let asked = asked(&request, &["s", "k%20k"]);
        assert_eq!((asked.part(0), asked.part(1), asked.part(2)), ("s", "k k", ""));
        assert_eq!(asked.query_all("key").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((asked.query("empty"), asked.query("bare"), asked.query("none")), (Some(""), Some(""), None));
        let body = BTreeMap::from([("x".to_owned(), "2".to_owned()), ("y".to_owned(), "3".to_owned())]);
        let expected = [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "3".to_owned())];
        assert_eq!(asked.metadata_over(body), BTreeMap::from(expected));
    }
}
