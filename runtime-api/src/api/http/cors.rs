//! Pages of other origins (CORS): what their browser is told before and with an answer. As daprd with
//! `--allowed-origins`, whose answers name what was asked for.

use http::{Method, StatusCode};

use super::{Request, Response};
use crate::config::Api;

/// Where a page is from.
pub(super) const ORIGIN: &str = "origin";
/// What a browser wants to send.
pub(super) const REQUEST_METHOD: &str = "access-control-request-method";
/// With what headers.
pub(super) const REQUEST_HEADERS: &str = "access-control-request-headers";

/// Answers a browser that asks what its page may send. One of an origin that is not allowed learns nothing.
pub(super) fn preflight(api: &Api, request: &Request) -> Option<Response> {
    let method = request.header(REQUEST_METHOD).filter(|method| !method.is_empty())?;
    if !has_origins(api) || request.method != Method::OPTIONS {
        return None;
    }
    let varies = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    let response = Response::empty(StatusCode::OK).with("vary", varies);
    let Some(origin) = allowed(api, request) else { return Some(response) };
    let mut response = response
        .with("access-control-allow-origin", origin)
        .with("access-control-allow-methods", method.to_uppercase());
    if let Some(headers) = request.header(REQUEST_HEADERS).filter(|headers| !headers.is_empty()) {
        let names: Vec<String> = headers.split(',').map(|name| canonical(name.trim())).collect();
        response = response.with("access-control-allow-headers", names.join(", "));
    }
    Some(response)
}

/// An answer with what the browser of a page has to know of it.
pub(super) fn dressed(api: &Api, request: &Request, response: Response) -> Response {
    if !has_origins(api) {
        return response;
    }
    let response = response.with("vary", "Origin");
    match allowed(api, request) {
        // Without the last a page would see no Etag.
        Some(origin) => response.with("access-control-allow-origin", origin).with("access-control-expose-headers", "*"),
        None => response,
    }
}

fn has_origins(api: &Api) -> bool {
    !api.origins.is_empty()
}

/// What is said to the origin of a request, if it is allowed.
fn allowed<'a>(api: &Api, request: &'a Request) -> Option<&'a str> {
    let origin = request.header(ORIGIN).filter(|origin| !origin.is_empty())?;
    if api.origins.iter().any(|allowed| allowed == "*") {
        return Some("*");
    }
    api.origins.iter().any(|allowed| fits(allowed, origin)).then_some(origin)
}

/// Whether an origin is that of the list; one `*` there stands for any text.
fn fits(allowed: &str, origin: &str) -> bool {
    match allowed.split_once('*') {
        Some((start, end)) => {
            let rest = origin.get(..start.len()).filter(|head| head.eq_ignore_ascii_case(start));
            let rest = rest.and_then(|head| origin.get(head.len()..));
            let tail = rest.and_then(|rest| rest.get(rest.len().checked_sub(end.len())?..));
            tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        }
        None => allowed.eq_ignore_ascii_case(origin),
    }
}

/// The name of a header as Go writes it.
fn canonical(name: &str) -> String {
    let mut starts = true;
    let letter = |letter: char| {
        let written = if starts { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        starts = letter == '-';
        written
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        assert!(fits("https://a.example", "https://A.example"));
        assert!(!fits("https://a.example", "https://a.example.org"));
        assert!(fits("https://*.example", "https://a.b.example"));
        for other in ["https://example", "http://a.example", "https://a.example.org", "https://żółć"] {
            assert!(!fits("https://*.example", other), "{other}");
        }
        assert!(!fits("https://ab*bc.example", "https://abc.example"), "the two ends share nothing");
    }

    #[test]
    fn names_of_headers() {
        assert_eq!(canonical("x-MINE"), "X-Mine");
    }
}
