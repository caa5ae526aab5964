//! Which of the API may be called: the lists of a Dapr Configuration.

use crate::config::{Api, Rule};

/// A protocol that the API is called by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC, in either dialect.
    Grpc,
    /// HTTP.
    Http,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

impl Api {
    /// Whether a building block may be called, by this protocol and in this version. As with Dapr a denial goes first, and a list
    /// of what is allowed counts for a protocol once it names anything of it.
    pub(super) fn allows(&self, protocol: Protocol, group: &str, version: &str) -> bool {
        let of_it = |rule: &&Rule| rule.protocol.is_empty() || rule.protocol.eq_ignore_ascii_case(protocol.name());
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

/// The version of a method of gRPC, as lists of APIs name it. Those of Layotto have none: any version of a block is that of its twin.
pub(super) fn version_of(method: &str, is_dapr: bool) -> &'static str {
    match method {
        _ if !is_dapr => "",
        method if method.ends_with("Alpha1") => "v1alpha1",
        _ => "v1",
    }
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
    fn versions_of_methods() {
        assert_eq!(version_of("TryLockAlpha1", true), "v1alpha1");
        assert_eq!(version_of("GetState", true), "v1");
        assert_eq!(version_of("TryLock", false), "");
    }
}
