//! Secret stores: what a driver does, and what the local ones share.

pub mod kubernetes;
pub mod local_env;
pub mod local_file;
pub mod vault;

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::{Protocol, Tls, Upstream};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::protocol::http::{Server, segment, segments, server};
use crate::proxy::Closed;

/// The metadata field with the secrets of a store whose secrets are on the machine of `envoy-runtime`, which reads them
/// and passes them on by Envoy's environment: a filter reads no files.
pub const SECRETS: &str = "secrets";

/// A secret: its values by name. One with a single value has it under its own name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub BTreeMap<String, String>);

impl Secret {
    /// A secret with a single value.
    pub fn single(name: &str, value: impl Into<String>) -> Self {
        Self(BTreeMap::from_iter([(name.to_owned(), value.into())]))
    }
}

impl fmt::Debug for Secret {
    /// The names alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What an app sends along with a request.
pub type Metadata = BTreeMap<String, String>;

/// Whether the app may read the secret of a name.
pub type Allowed<'a> = &'a (dyn Fn(&str) -> bool + 'a);

/// A place for secrets.
#[async_trait(?Send)]
pub trait Store {
    /// The secret of this name.
    async fn get(&self, name: &str, metadata: &Metadata) -> Result<Secret, Error>;

    /// All secrets of the store of which the name is `allowed`, by name.
    async fn bulk(&self, metadata: &Metadata, allowed: Allowed<'_>) -> Result<BTreeMap<String, Secret>, Error>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// Why a call failed. The text never holds a secret, nor what a server sent with one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store does not have the secret.
    #[error("{0}")]
    NotFound(String),
    /// No secret of the store can be called so.
    #[error("{0}")]
    InvalidName(String),
    /// The server cannot be reached or is not ready: the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    fn unanswered(server: &str, closed: &Closed) -> Self {
        Self::Unavailable(format!("{server} has not answered: {closed}"))
    }

    /// What is said of a status that is no success. A body is not shown: it may hold anything.
    fn status(server: &str, status: u16, refused: &str) -> Self {
        match status {
            401 | 403 => Self::Failed(format!("{server} refused it (status {status}): {refused}")),
            429 => Self::Unavailable(format!("{server} has too many requests (status 429)")),
            // 472 and 473: Vault's standbys, which serve nothing.
            472 | 473 | 500.. => Self::Unavailable(format!("{server} cannot answer now (status {status})")),
            _ => Self::Failed(format!("{server} answered with status {status}")),
        }
    }
}

/// Secrets that are all there, by name.
#[derive(Debug)]
struct Fixed(BTreeMap<String, Secret>);

impl Fixed {
    fn allowed(&self, allowed: Allowed<'_>) -> BTreeMap<String, Secret> {
        self.0.iter().filter(|(name, _)| allowed(name)).map(|(name, secret)| (name.clone(), secret.clone())).collect()
    }
}

/// Whether the field `secrets` of a local store is what it must be.
fn check_secrets(settings: &Settings, path: &Path, report: &mut Report) {
    match settings.text(SECRETS) {
        None => report.error(
            path.field(SECRETS),
            "missing: a filter cannot read them itself; envoy-runtime run and render read them and hand them over",
        ),
        Some(text) => {
            if let Err(error) = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text) {
                // The text of the error may show a value.
                let (line, column) = (error.line(), error.column());
                let text =
                    format!("the secrets are not a JSON object: there is a mistake in line {line}, column {column}");
                report.error(path.field(SECRETS), text);
            }
        }
    }
}

const SECRETS_FIELD: Field = Field::optional(
    SECRETS,
    Kind::Secret,
    "the secrets as a JSON object; envoy-runtime reads them and writes a reference here, so that none stands in a file",
);

/// Fields of a store behind HTTPS, in Dapr's words.
const SERVER_NAME: Field =
    Field::optional("tlsServerName", Kind::Text, "the name to find in the certificate; absent: the host");

impl Server {
    fn upstream(&self, settings: &Settings) -> Upstream {
        let tls = self.tls.then(|| Tls {
            server_name: settings.text(SERVER_NAME.name).unwrap_or(&self.host).to_owned(),
            ca_file: settings.text("caCert").map(str::to_owned),
            certificate: None,
        });
        let endpoints = vec![(self.host.clone(), self.port)];
        Upstream { suffix: String::new(), protocol: Protocol::Http1, endpoints, tls }
    }
}

/// A value in JSON as a text: a text is what it says, and anything else is as it was written, so that numbers keep
/// their digits.
fn text_of(value: &RawValue) -> String {
    let written = value.get();
    serde_json::from_str(written).unwrap_or_else(|_| written.to_owned())
}

/// Whether a name leads down into folders, a step with each slash. An empty step, `.` or `..` could lead to what is
/// under another name, or out of the folder of the store.
fn leads_down(name: &str) -> bool {
    name.split('/').all(|step| !["", ".", ".."].contains(&step))
}

/// A field of a request's metadata by its name; an empty one is none.
fn property<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    super::property(metadata, name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_its_names_alone() {
        assert_eq!(format!("{:?}", Secret::single("name", "value")), r#"{"name"}"#);
    }
}
