//! Secrets of Kubernetes, by the API server.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::{Allowed, Error, Metadata, SERVER_NAME, Secret, Server, Store, property, segment, server};
use crate::component::{Block, Build, Driver, Environment, V1};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::proxy::{HttpRequest, Proxy};
use crate::text;
use crate::trace;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "secretstores.kubernetes",
    block: Block::Secrets,
    meaning: "Secrets of Kubernetes.",
    versions: V1,
    capabilities: &["MULTIPLE_KEY_VALUES_PER_SECRET"],
    fields: FIELDS,
    check,
    upstreams: |settings| address(settings).iter().map(|server| server.upstream(settings)).collect(),
    build: Build::Secrets(|environment| Rc::new(Kubernetes::new(environment))),
};

/// The metadata field with the token.
pub const TOKEN: &str = "token";
/// The metadata field with the file of the token, which `envoy-runtime` reads.
pub const TOKEN_FILE: &str = "tokenFile";
/// The metadata field with the namespace of requests that name none.
pub const NAMESPACE: &str = "defaultNamespace";

const ADDRESS: &str = "server";

const FIELDS: &[Field] = &[
    Field::default(ADDRESS, Kind::Text, "https://kubernetes.default.svc", "the URL of the API server"),
    Field::optional(TOKEN, Kind::Secret, "the token of the service account"),
    Field::default(
        TOKEN_FILE,
        Kind::Text,
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
        "the file with the token, read by envoy-runtime when it renders or runs and no token is given",
    ),
    Field::default(
        "caCert",
        Kind::Text,
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        "the file of the authorities to trust, on the machine that runs Envoy",
    ),
    SERVER_NAME,
    Field::optional(
        NAMESPACE,
        Kind::Text,
        "the namespace of requests that name none; absent: the variable NAMESPACE where envoy-runtime runs, else the \
         namespace of the app",
    ),
    Field::optional(
        "kubeconfigPath",
        Kind::Refused("give server, caCert, and token or tokenFile instead"),
        "the file that says how to reach the API server",
    ),
];

fn address(settings: &Settings) -> Option<Server> {
    server(settings.text(ADDRESS)?)
}

fn check(settings: &Settings, path: &Path, report: &mut Report) {
    if address(settings).is_none() {
        report.error(path.field(ADDRESS), "a URL such as https://kubernetes.default.svc is expected");
    }
    if settings.text(TOKEN).is_none() {
        report.error(path.field(TOKEN), format!("missing: the token, or the file that holds it in {TOKEN_FILE}"));
    }
}

/// Secrets that one page of a list has: the body of a page is held in memory as a whole.
const PAGE: usize = 100;

/// A secret store in Kubernetes.
pub struct Kubernetes {
    proxy: Rc<dyn Proxy>,
    cluster: String,
    server: Server,
    authorization: String,
    namespace: String,
    timeout: Duration,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kubernetes")
    }
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Meta,
    data: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Meta {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: Meta,
    items: Option<Vec<Object>>,
}

impl Kubernetes {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, limits, .. } = environment;
        let settings = &component.settings;
        let none = Server { tls: false, host: String::new(), port: 0, authority: String::new(), base: String::new() };
        Self {
            proxy: Rc::clone(proxy),
            cluster: component.cluster.clone(),
            server: address(settings).unwrap_or(none), // it has been checked
            authorization: format!("Bearer {}", settings.text(TOKEN).unwrap_or_default()),
            namespace: settings.text(NAMESPACE).unwrap_or("default").to_owned(),
            timeout: limits.timeout,
        }
    }

    /// The path of the secrets of the namespace that a request is about.
    fn path(&self, metadata: &Metadata) -> String {
        let namespace = property(metadata, "namespace").unwrap_or(&self.namespace);
        format!("{}/api/v1/namespaces/{}/secrets", self.server.base, segment(namespace))
    }

    /// The body of an answer; nothing for what is not there.
    async fn ask(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let headers = [("authorization", self.authorization.as_str()), ("accept", "application/json")];
        let request = HttpRequest { method: "GET", path, host: &self.server.authority, headers: &headers, body: &[] };
        trace::sends(&self.cluster, 1, path.len());
        let answer = self.proxy.http(&self.cluster, request, self.timeout).await;
        let answer = answer.map_err(|closed| Error::unanswered("the API server of Kubernetes", &closed))?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            status => {
                let refused = "the token is not valid, or no role allows its account to get and list secrets there";
                Err(Error::status("the API server of Kubernetes", status, refused))
            }
        }
    }
}

fn unreadable() -> Error {
    Error::Failed("the API server of Kubernetes answered with what is no secret".to_owned())
}

impl Object {
    fn secret(self) -> Result<Secret, Error> {
        let values = self.data.unwrap_or_default().into_iter().map(|(name, value)| {
            let bytes = STANDARD.decode(value).map_err(|_| unreadable())?;
            // The API has texts alone: what is none comes with the marks of what could not be read.
            Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
        });
        values.collect::<Result<_, _>>().map(Secret)
    }
}

#[async_trait(?Send)]
impl Store for Kubernetes {
    async fn get(&self, name: &str, metadata: &Metadata) -> Result<Secret, Error> {
        if name.is_empty() {
            return Err(Error::NotFound("the name of the secret is empty".to_owned()));
        }
        let body = self.ask(&format!("{}/{}", self.path(metadata), segment(name))).await?;
        let body =
            body.ok_or_else(|| Error::NotFound(format!("secret {} not found in its namespace", text::name(name))))?;
        serde_json::from_slice::<Object>(&body).map_err(|_| unreadable())?.secret()
    }

    async fn bulk(&self, metadata: &Metadata, allowed: Allowed<'_>) -> Result<BTreeMap<String, Secret>, Error> {
        let (mut found, mut more) = (BTreeMap::new(), String::new());
        loop {
            let path = format!("{}?limit={PAGE}{more}", self.path(metadata));
            let body = self.ask(&path).await?.ok_or_else(unreadable)?;
            let list: List = serde_json::from_slice(&body).map_err(|_| unreadable())?;
            for object in list.items.unwrap_or_default() {
                if allowed(&object.metadata.name) {
                    found.insert(object.metadata.name.clone(), object.secret()?);
                }
            }
            if list.metadata.more.is_empty() {
                return Ok(found);
            }
            more = format!("&continue={}", segment(&list.metadata.more));
        }
    }
}
