//! Secrets in HashiCorp Vault: the key-value engine, version 2, by its HTTP API, laid out as Dapr's driver does.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Allowed, Error, Metadata, SERVER_NAME, Secret, Server, Store};
use super::{leads_down, property, segment, segments, server, text_of};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::proxy::{HttpRequest, Proxy};
use crate::text;
use crate::trace;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "secretstores.hashicorp.vault",
    block: Block::Secrets,
    meaning: "HashiCorp Vault, the key-value engine in version 2.",
    versions: V1,
    capabilities: &["MULTIPLE_KEY_VALUES_PER_SECRET"],
    fields: FIELDS,
    check,
    upstreams: |settings| address(settings).iter().map(|server| server.upstream(settings)).collect(),
    build: Build::Secrets(|environment| Rc::new(Vault::new(environment))),
};

/// The metadata field with the token.
pub const TOKEN: &str = "vaultToken";
/// The metadata field with the file of the token, which `envoy-runtime` reads.
pub const TOKEN_FILE: &str = "vaultTokenMountPath";

const ADDRESS: &str = "vaultAddr";
const ENGINE: &str = "enginePath";
const PREFIX: &str = "vaultKVPrefix";

const FIELDS: &[Field] = &[
    Field::default(ADDRESS, Kind::Text, "https://127.0.0.1:8200", "the URL of the server"),
    Field::optional(TOKEN, Kind::Secret, "the token to show"),
    Field::optional(TOKEN_FILE, Kind::Text, "the file with the token, read by envoy-runtime when it renders or runs"),
    Field::default(ENGINE, Kind::Text, "secret", "where the engine is mounted"),
    Field::default("vaultKVUsePrefix", Kind::Flag, "true", "whether names of secrets get the prefix"),
    Field::default(PREFIX, Kind::Text, "dapr", "the prefix: a folder in the engine"),
    Field::default(
        "vaultValueType",
        Kind::Text,
        "map",
        "map: a value for each field; text: all fields as one JSON text",
    ),
    Field::optional("vaultNamespace", Kind::Text, "the namespace of Vault Enterprise"),
    Field::optional("caCert", Kind::Text, "the file of the authorities to trust; absent: the system's"),
    SERVER_NAME,
    Field::optional("caPath", Kind::Refused("write all authorities into one file and name it in caCert"), "a folder"),
    Field::optional(
        "caPem",
        Kind::Refused("write it into a file and name that in caCert"),
        "the authorities themselves",
    ),
    Field::optional(
        "skipVerify",
        Kind::Refused("the token would go to whoever answers; name the authority of the server in caCert"),
        "whether to take any certificate",
    ),
];

fn address(settings: &Settings) -> Option<Server> {
    server(settings.text(ADDRESS)?)
}

fn check(settings: &Settings, path: &Path, report: &mut Report) {
    if address(settings).is_none() {
        report.error(path.field(ADDRESS), "a URL such as https://vault:8200 is expected");
    }
    let kind = settings.text("vaultValueType").unwrap_or_default();
    if !["map", "text"].contains(&kind) {
        report.error(path.field("vaultValueType"), format!("map or text is expected, not {kind:?}"));
    }
    for field in [ENGINE, PREFIX] {
        let text = settings.text(field).unwrap_or_default().trim_matches('/');
        if !text.is_empty() && !leads_down(text) {
            report.error(path.field(field), format!("{UNFIT}, not {text:?}"));
        }
    }
    if settings.text(TOKEN).is_none() {
        report.error(path.field(TOKEN), format!("missing: the token, or the file that holds it in {TOKEN_FILE}"));
    }
}

/// What is said of a path that could lead elsewhere.
const UNFIT: &str = "names of folders with single slashes between them are expected, none of them empty, . or ..";

/// Secrets of a bulk that are read at the same time.
const WIDTH: usize = 16;

/// What Vault's clients say, so that no browser can be made to ask.
const FROM_CLIENT: (&str, &str) = ("x-vault-request", "true");

/// The field of a request's metadata with the version to read.
const VERSION: &str = "version_id";

/// A secret store in Vault.
pub struct Vault {
    proxy: Rc<dyn Proxy>,
    cluster: String,
    server: Server,
    token: String,
    namespace: Option<String>,
    engine: String,
    prefix: String,
    text: bool,
    timeout: Duration,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

/// A version of a secret, with its fields.
#[derive(Deserialize)]
struct Version {
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

impl Vault {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, limits, .. } = environment;
        let settings = &component.settings;
        let text = |field| settings.text(field).unwrap_or_default().to_owned();
        let prefix = if settings.flag("vaultKVUsePrefix") { text(PREFIX) } else { String::new() };
        let none = Server { tls: false, host: String::new(), port: 0, authority: String::new(), base: String::new() };
        Self {
            proxy: Rc::clone(proxy),
            cluster: component.cluster.clone(),
            server: address(settings).unwrap_or(none), // it has been checked
            token: text(TOKEN),
            namespace: settings.text("vaultNamespace").map(str::to_owned),
            engine: text(ENGINE).trim_matches('/').to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            text: text("vaultValueType") == "text",
            timeout: limits.timeout,
        }
    }

    /// The path of a secret or folder, in the part of the engine for data or for metadata.
    fn path(&self, part: &str, name: &str) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", segments(&self.prefix)) };
        format!("{}/v1/{}/{part}/{prefix}{}", self.server.base, segments(&self.engine), segments(name))
    }

    /// The body of an answer; nothing for what is not there.
    async fn ask(&self, method: &str, path: &str) -> Result<Option<Bytes>, Error> {
        let mut headers = vec![("x-vault-token", self.token.as_str()), FROM_CLIENT];
        if let Some(namespace) = &self.namespace {
            headers.push(("x-vault-namespace", namespace));
        }
        let request = HttpRequest { method, path, host: &self.server.authority, headers: &headers, body: &[] };
        trace::sends(&self.cluster, 1, path.len());
        let answer = self.proxy.http(&self.cluster, request, self.timeout).await;
        let answer = answer.map_err(|closed| Error::unanswered("Vault", &closed))?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            status => {
                let refused = "the token is not valid, or its policy does not allow to read this path";
                Err(Error::status("Vault", status, refused))
            }
        }
    }

    /// A version of a secret; nothing if it is not there or was deleted.
    async fn read(&self, name: &str, version: &str) -> Result<Option<Secret>, Error> {
        let path = format!("{}?version={}", self.path("data", name), segment(version));
        let Some(body) = self.ask("GET", &path).await? else { return Ok(None) };
        let answer: Answer<Version> = serde_json::from_slice(&body).map_err(|_| unreadable())?;
        let Some(fields) = answer.data.data else { return Ok(None) };
        if self.text {
            return Ok(Some(Secret::single(name, fields.get())));
        }
        let fields: Option<BTreeMap<String, Box<RawValue>>> =
            serde_json::from_str(fields.get()).map_err(|_| unreadable())?;
        Ok(fields.map(|fields| Secret(fields.into_iter().map(|(name, value)| (name, text_of(&value))).collect())))
    }

    /// The names of all secrets, those in folders too.
    async fn names(&self) -> Result<Vec<String>, Error> {
        let (mut names, mut folders) = (Vec::new(), VecDeque::from([String::new()]));
        while let Some(folder) = folders.pop_front() {
            // A folder without secrets is none for Vault.
            let Some(body) = self.ask("LIST", &self.path("metadata", &folder)).await? else { continue };
            let answer: Answer<Keys> = serde_json::from_slice(&body).map_err(|_| unreadable())?;
            for key in answer.data.keys {
                let name = format!("{folder}{key}");
                match key.strip_suffix('/') {
                    // Whatever Vault says, the way leads down, so that it has an end.
                    Some(below) if leads_down(below) => folders.push_back(name),
                    None if leads_down(&key) => names.push(name),
                    _ => {}
                }
            }
        }
        Ok(names)
    }
}

fn unreadable() -> Error {
    Error::Failed("Vault answered with what is no secret of a key-value engine in version 2".to_owned())
}

#[async_trait(?Send)]
impl Store for Vault {
    async fn get(&self, name: &str, metadata: &Metadata) -> Result<Secret, Error> {
        if !leads_down(name) {
            return Err(Error::InvalidName(format!("{UNFIT}; the last names the secret")));
        }
        // Zero is the latest.
        let found = self.read(name, property(metadata, VERSION).unwrap_or("0")).await?;
        found.ok_or_else(|| {
            Error::NotFound(format!("secret {} not found: Vault has no such path or version", text::name(name)))
        })
    }

    async fn bulk(&self, metadata: &Metadata, allowed: Allowed<'_>) -> Result<BTreeMap<String, Secret>, Error> {
        let version = property(metadata, VERSION).unwrap_or("0");
        let names = self.names().await?.into_iter().filter(|name| allowed(name));
        let reads = names.map(|name| async move {
            let secret = self.read(&name, version).await?;
            Ok(secret.map(|secret| (name, secret)))
        });
        // One without this version is left out.
        let found: Vec<Option<_>> = stream::iter(reads).buffered(WIDTH).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}
