//! What stands in front of the names of locks and sequences in a store.

use crate::config::{self, Config};

/// Between the parts of a name. Keys of apps cannot hold it.
pub(super) const SEPARATOR: &str = "||";

/// Whether a key holds the separator. The general search of a text for another takes longer to begin than this to end.
pub(super) fn holds_separator(key: &str) -> bool {
    key.as_bytes().windows(SEPARATOR.len()).any(|part| part == SEPARATOR.as_bytes())
}

/// The names that a component gives: `<block's own beginning><text>||<key>`, or without the text.
#[derive(Debug)]
pub(super) struct Prefix(Option<String>);

impl Prefix {
    /// Reads `keyPrefix`, which both incumbents take in lower case, and appid where it is absent.
    pub(super) fn new(config: &Config, component: &config::Component) -> Self {
        let text = component.settings.text("keyPrefix").map(str::to_ascii_lowercase);
        Self(match text.as_deref() {
            // As Layotto has it: an empty id is no part of a name.
            None | Some("appid") => Some(config.app_id.clone()).filter(|id| !id.is_empty()),
            Some("none") => None,
            Some("name") => Some(component.name.clone()),
            Some(other) => Some(other.to_owned()),
        })
    }

    /// The complete name. `None` for a key that holds the separator.
    pub(super) fn name(&self, beginning: &str, key: &str) -> Option<String> {
        (!holds_separator(key)).then(|| match &self.0 {
            Some(text) => format!("{beginning}{text}{SEPARATOR}{key}"),
            None => format!("{beginning}{key}"),
        })
    }
}
