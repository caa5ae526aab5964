//! Secrets in the environment of `envoy-runtime`, as Dapr's secretstores.local.env has them in that of daprd.

use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;

use super::{Allowed, Error, Fixed, Metadata, SECRETS, SECRETS_FIELD, Secret, Store};
use crate::component::{Block, Build, Driver, V1};
use crate::config::{Field, Kind, Settings};

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "secretstores.local.env",
    block: Block::Secrets,
    meaning: "Variables of the environment that `envoy-runtime` is started in.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check: super::check_secrets,
    upstreams: |_| Vec::new(),
    build: Build::Secrets(|environment| Rc::new(LocalEnv(Fixed(secrets(&environment.component.settings))))),
};

/// The metadata field with the beginning of the variables' names.
pub const PREFIX: &str = "prefix";

const FIELDS: &[Field] = &[
    Field::optional(PREFIX, Kind::Text, "what the names of variables begin with; an app leaves it out of the key"),
    SECRETS_FIELD,
];

/// Whether an app may see a variable of this name: not those with which the runtime is itself configured.
pub fn is_visible(variable: &str) -> bool {
    let name = variable.to_ascii_uppercase();
    name != "APP_API_TOKEN" && !name.starts_with("DAPR_") && !name.starts_with("RUNTIME_")
}

/// Variables as secrets.
#[derive(Debug)]
pub struct LocalEnv(Fixed);

/// What a component with these settings has.
pub fn secrets(settings: &Settings) -> BTreeMap<String, Secret> {
    let text = settings.text(SECRETS).unwrap_or_default();
    let variables: BTreeMap<String, serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
    let prefix = settings.text(PREFIX).unwrap_or_default();
    let secrets = variables.iter().filter(|(name, _)| is_visible(name)).filter_map(|(name, value)| {
        let name = name.strip_prefix(prefix).filter(|name| !name.is_empty())?;
        Some((name.to_owned(), Secret::single(name, value.as_str()?)))
    });
    secrets.collect()
}

#[async_trait(?Send)]
impl Store for LocalEnv {
    /// A variable that is not set is an empty value, as with both incumbents.
    async fn get(&self, name: &str, _: &Metadata) -> Result<Secret, Error> {
        Ok(self.0.0.get(name).cloned().unwrap_or_else(|| Secret::single(name, "")))
    }

    async fn bulk(&self, _: &Metadata, allowed: Allowed<'_>) -> Result<BTreeMap<String, Secret>, Error> {
        Ok(self.0.allowed(allowed))
    }
}
