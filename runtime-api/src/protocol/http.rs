//! Where HTTP servers are, and how their paths are written.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::parse_address;

/// The server in `https://host:port`, with its port where none is written; `None` for another text.
pub(crate) fn server(url: &str) -> Option<Server> {
    let (tls, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        _ => return None,
    };
    let rest = rest.trim_end_matches('/');
    let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let with_port = format!("{authority}:{}", if tls { 443 } else { 80 });
    let (host, port) = parse_address(authority).or_else(|| parse_address(&with_port))?;
    if authority.contains(['@', '?', '#']) || base.contains(['?', '#']) {
        return None;
    }
    Some(Server { tls, host: host.to_owned(), port, authority: authority.to_owned(), base: base.to_owned() })
}

/// An HTTP server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For the header `host`.
    pub(crate) authority: String,
    /// In front of each path; without a slash at its end.
    pub(crate) base: String,
}

/// All but what RFC 3986 leaves as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as one part of a path or of a query. Two dots or one would be taken for a step up or none.
pub(crate) fn segment(text: &str) -> String {
    match text {
        "." | ".." => text.replace('.', "%2E"),
        _ => utf8_percent_encode(text, SEGMENT).to_string(),
    }
}

/// A text as parts of a path: slashes stay.
pub(crate) fn segments(text: &str) -> String {
    text.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |url: &str| server(url).map(|it| (it.tls, it.host, it.port, it.authority, it.base));
        let (host, none) = ("vault.shop".to_owned(), String::new());
        assert_eq!(
            parts("https://vault.shop:8200/"),
            Some((true, host.clone(), 8200, "vault.shop:8200".into(), none.clone()))
        );
        assert_eq!(parts("HTTP://vault.shop"), Some((false, host.clone(), 80, host.clone(), none.clone())));
        assert_eq!(parts("https://vault.shop/a/b/"), Some((true, host.clone(), 443, host, "/a/b".into())));
        assert_eq!(parts("https://[::1]:6443"), Some((true, "::1".into(), 6443, "[::1]:6443".into(), none)));
        for wrong in
            ["vault:8200", "ftp://a", "https://", "https://a b", "https://u:p@a", "https://a?x=/", "https://a:x"]
        {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_stay_below_where_they_begin() {
        assert_eq!(segments("a/b c/../ü?"), "a/b%20c/%2E%2E/%C3%BC%3F");
        assert_eq!(segment("a/b"), "a%2Fb");
    }
}
