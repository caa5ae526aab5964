//! What of the API may be called, and from where.

use serde_json::Value;

use super::{Field, Kind, Path, Report, field, list, suggest};

/// The fields of `api`; the lists are those of a Dapr Configuration.
pub const API: &[Field] = &[
    Field::optional(
        "allowedOrigins",
        Kind::Texts,
        "the origins of web pages that may call the HTTP API, such as https://shop.example; `*` alone is any, and within one it stands          for any text. Absent: none, and no headers of CORS are sent",
    ),
    Field::optional(
        "allowed",
        Kind::Objects(RULE),
        "what may be called; if it names anything of a protocol, nothing else may be called by it",
    ),
    Field::optional("denied", Kind::Objects(RULE), "what may not be called"),
];

/// The fields of an element of `api.allowed` and `api.denied`, in Dapr's words.
pub const RULE: &[Field] = &[
    Field::required("name", Kind::Text, "the building block, as it stands in paths: state, lock, unlock, ..."),
    Field::optional("version", Kind::Text, "v1.0 or v1.0-alpha1 of HTTP, v1 or v1alpha1 of gRPC; absent: any"),
    Field::optional("protocol", Kind::Text, "http or grpc; absent: both"),
];

/// What may be called, and from where.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// The origins of web pages that may call the HTTP API.
    pub origins: Vec<String>,
    /// What may be called; nothing of a protocol: all of it.
    pub allowed: Vec<Rule>,
    /// What may not.
    pub denied: Vec<Rule>,
}

/// A building block in a list of what may be called, or may not. What is empty stands for any.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name, as it stands in paths.
    pub name: String,
    /// The version of its API.
    pub version: String,
    /// The protocol that it is called by.
    pub protocol: String,
}

/// A protocol that the API is called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, in either dialect.
    Grpc,
    /// HTTP.
    Http,
}

/// The names of building blocks in such lists: ours, and those that Dapr has besides.
pub const NAMES: &[&str] = &[
    "actors",
    "bindings",
    "configuration",
    "conversation",
    "crypto",
    "invoke",
    "jobs",
    "lock",
    "metadata",
    "openapi.json",
    "publish",
    "secrets",
    "sequencer",
    "shutdown",
    "state",
    "subscribe",
    "subtlecrypto",
    "unlock",
    "workflows",
];

impl Protocol {
    const ALL: [Self; 2] = [Self::Http, Self::Grpc];

    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["v1.0", "v1.0-alpha1", "v1.0-alpha2", "v1.0-beta1"],
            Self::Grpc => &["v1", "v1alpha1", "v1alpha2", "v1beta1"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

impl Api {
    #[inline(never)]
    pub(super) fn check(object: &Value, path: &Path, report: &mut Report) -> Self {
        field::check(&[API], object, path, report);
        let origins: Vec<&str> = list(object, "allowedOrigins").iter().filter_map(Value::as_str).collect();
        for (index, origin) in origins.iter().enumerate().filter(|(_, origin)| !is_origin(origin)) {
            let text = format!(
                "an origin such as https://shop.example is expected, with one `*` in it at most, or `*`, not {origin:?}"
            );
            report.error(path.field("allowedOrigins").index(index), text);
        }
        let mut rules = |name: &str| {
            let path = path.field(name);
            let rules = list(object, name).iter().enumerate();
            rules.map(|(index, object)| Rule::check(object, &path.index(index), report)).collect()
        };
        let origins = origins.into_iter().map(str::to_owned).collect();
        Self { origins, allowed: rules("allowed"), denied: rules("denied") }
    }

    /// Whether a building block may be called, by this protocol and in this version. As with Dapr a denial goes first, and a list
    /// of what is allowed counts for a protocol once it names anything of it.
    pub fn allows(&self, protocol: Protocol, group: &str, version: &str) -> bool {
        let of_it = |rule: &&Rule| rule.is_of(protocol);
        let names = |rule: &Rule| {
            let same = rule.version.is_empty() || version.is_empty() || rule.version.eq_ignore_ascii_case(version);
            same && rule.name.eq_ignore_ascii_case(group)
        };
        if self.denied.iter().filter(of_it).any(names) {
            return false;
        }
        let mut allowed = self.allowed.iter().filter(of_it).peekable();
        allowed.peek().is_none() || allowed.any(names)
    }
}

impl Rule {
    fn check(object: &Value, path: &Path, report: &mut Report) -> Self {
        let settings = field::check(&[RULE], object, path, report);
        let text = |name: &str| settings.text(name).unwrap_or_default().to_owned();
        let rule = Self { name: text("name"), version: text("version"), protocol: text("protocol") };
        if !["", "http", "grpc"].contains(&rule.protocol.to_ascii_lowercase().as_str()) {
            report.error(path.field("protocol"), format!("http or grpc is expected, not {:?}", rule.protocol));
        }
        // Not errors: Dapr may have more by now. But what is misspelt in a list of what is denied would be allowed.
        let is_known = |known: &[&str], text: &str| known.iter().any(|known| known.eq_ignore_ascii_case(text));
        if !rule.name.is_empty() && !is_known(NAMES, &rule.name) {
            let text = format!("no building block is called {:?}; {}", rule.name, suggest(&rule.name, NAMES));
            report.warning(path.field("name"), text);
        }
        let versions = Protocol::ALL.into_iter().filter(|protocol| rule.is_of(*protocol)).flat_map(Protocol::versions);
        let versions: Vec<&str> = versions.copied().collect();
        if !rule.version.is_empty() && !versions.is_empty() && !is_known(&versions, &rule.version) {
            let (version, known) = (&rule.version, versions.join(", "));
            report.warning(path.field("version"), format!("{version:?} is no version of it: {known} are"));
        }
        rule
    }

    fn is_of(&self, protocol: Protocol) -> bool {
        self.protocol.is_empty() || self.protocol.eq_ignore_ascii_case(protocol.name())
    }
}

/// Whether a text is what a browser calls an origin, or stands for several.
fn is_origin(text: &str) -> bool {
    let is_bare = |(scheme, host): (&str, &str)| !scheme.is_empty() && !host.is_empty() && !host.contains('/');
    text == "*" || (text.matches('*').count() <= 1 && text.split_once("://").is_some_and(is_bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, version: &str, protocol: &str) -> Rule {
        Rule { name: name.to_owned(), version: version.to_owned(), protocol: protocol.to_owned() }
    }

    #[test]
    fn a_list_counts_for_the_protocols_it_names() {
        let allowed = vec![rule("state", "v1.0", "http"), rule("secrets", "", "")];
        let api = Api { allowed, denied: vec![rule("state", "", "grpc")], ..Api::default() };
        assert!(api.allows(Protocol::Http, "state", "v1.0"));
        assert!(!api.allows(Protocol::Http, "state", "v1.0-alpha1"));
        assert!(!api.allows(Protocol::Http, "lock", "v1.0"));
        assert!(api.allows(Protocol::Grpc, "secrets", "v1"));
        assert!(!api.allows(Protocol::Grpc, "state", "v1"));
        assert!(!api.allows(Protocol::Grpc, "state", ""), "Layotto's twin");
        let denying = Api { denied: vec![rule("state", "v1.0", "http")], ..Api::default() };
        assert!(denying.allows(Protocol::Grpc, "state", "v1") && denying.allows(Protocol::Http, "lock", "v1.0"));
        assert!(!denying.allows(Protocol::Http, "State", "V1.0"));
    }

    #[test]
    fn what_would_never_fit_is_told() {
        let object = serde_json::json!({
            "allowedOrigins": ["*", "https://*.example", "http://localhost:8080", "shop.example", "https://a/", "https://*.*"],
            "denied": [
                {"name": "State", "version": "v1.0"},
                {"name": "sate"},
                {"name": "state", "version": "v1", "protocol": "http"},
            ],
        });
        let mut report = Report::default();
        Api::check(&object, &Path::default().field("api"), &mut report);
        let told: Vec<String> = report.0.iter().map(ToString::to_string).collect();
        let starts = [
            "api.allowedOrigins[3]: an origin such as",
            "api.allowedOrigins[4]: an origin such as",
            "api.allowedOrigins[5]: an origin such as",
            "api.denied[1].name: no building block is called \"sate\"; did you mean \"state\"?",
            "api.denied[2].version: \"v1\" is no version of it: v1.0, ",
        ];
        assert_eq!(told.len(), starts.len(), "{told:?}");
        for (told, start) in told.iter().zip(starts) {
            assert!(told.starts_with(start), "{told}");
        }
    }
}
