//! What the drivers of all building blocks that use etcd share: the fields of a connection, the cluster of the members,
//! the login. Dapr's and Layotto's components name the same things differently.

use std::rc::Rc;
use std::time::Duration;

use super::{Environment, Protocol, Tls, Upstream};
use crate::config::{Field, Kind, Path, Report, Settings, parse_address};
use crate::protocol::etcd::{Client, Login};
use crate::tables;

/// Where the members are, and how they are logged in to.
pub const SERVER: &[Field] = &[
    Field::required("endpoints", Kind::Text, "where the members listen: addresses as host:port, commas between"),
    Field::optional("username", Kind::Text, "the user to log in as; needs password"),
    Field::optional("password", Kind::Secret, "the password to log in with"),
];

/// What Layotto's lock and sequencer have besides.
pub const LAYOTTO: &[Field] = tables![
    &[
        Field::default("keyPrefixPath", Kind::Text, "/layotto/", "what stands in front of all keys, between two `/`"),
        Field::default("dialTimeout", Kind::Whole(1, 3600), "5", "how long a call to etcd may take, in seconds"),
    ],
    LAYOTTO_TLS
];

/// TLS as Layotto has it.
pub const LAYOTTO_TLS: &[Field] = &[
    Field::optional("tlsCa", Kind::Text, "the file of the authorities to trust; one of these three means TLS"),
    Field::optional("tlsCert", Kind::Text, "the file of the certificate to show; needs tlsCertKey"),
    Field::optional("tlsCertKey", Kind::Text, "the file of the key of tlsCert"),
];

/// What the fields are called that all drivers of etcd have, beside `endpoints`, `username` and `password`.
#[derive(Debug)]
pub struct Names {
    /// How long a call may take, in seconds.
    pub timeout: &'static str,
    /// Whether there is TLS; where there is no such field, the others say so.
    pub tls: Option<&'static str>,
    /// The file of the authorities to trust.
    pub ca: &'static str,
    /// The file of the certificate to show.
    pub certificate: &'static str,
    /// The file of its key.
    pub key: &'static str,
}

impl Names {
    /// As Dapr's state.etcd calls them.
    pub const DAPR: Self =
        Self { timeout: "dialTimeout", tls: Some("tlsEnable"), ca: "ca", certificate: "cert", key: "key" };
    /// As Layotto's lock and sequencer call them.
    pub const LAYOTTO: Self =
        Self { timeout: "dialTimeout", tls: None, ca: "tlsCa", certificate: "tlsCert", key: "tlsCertKey" };
    /// As Layotto's configuration store, with its own name for the time.
    pub const CONFIGURATION: Self = Self { timeout: "timeout", ..Self::LAYOTTO };
}

/// The key that all keys of Layotto's lock and sequencer begin with.
pub fn prefix(settings: &Settings) -> String {
    let path = settings.text("keyPrefixPath").unwrap_or_default();
    let (before, after) = (if path.starts_with('/') { "" } else { "/" }, if path.ends_with('/') { "" } else { "/" });
    [before, path, after].concat()
}

/// The client of a component.
pub fn client(environment: &Environment, names: &Names) -> Client {
    let Environment { proxy, component, .. } = environment;
    let settings = &component.settings;
    let text = |field| settings.text(field).map(str::to_owned);
    let seconds = settings.whole(names.timeout).and_then(|seconds| u64::try_from(seconds).ok());
    Client::new(
        Rc::clone(proxy),
        &component.name,
        &component.cluster,
        text("username").zip(text("password")).map(|(name, password)| Login { name, password }),
        Duration::from_secs(seconds.unwrap_or(5)),
        endpoints(settings).count(),
    )
}

/// The cluster of the members.
pub fn upstreams(settings: &Settings, names: &Names) -> Vec<Upstream> {
    let text = |field| settings.text(field).map(str::to_owned);
    let endpoints: Vec<(String, u16)> = endpoints(settings)
        .filter_map(|endpoint| parse_address(bare(endpoint)))
        .map(|(host, port)| (host.to_owned(), port))
        .collect();
    let tls = uses_tls(settings, names).then(|| Tls {
        server_name: endpoints.first().map(|(host, _)| host.clone()).unwrap_or_default(),
        ca_file: text(names.ca),
        certificate: text(names.certificate).zip(text(names.key)),
    });
    vec![Upstream { suffix: String::new(), protocol: Protocol::Grpc, endpoints, tls }]
}

/// Rules between the fields of a connection.
pub fn check(settings: &Settings, names: &Names, path: &Path, report: &mut Report) {
    for endpoint in endpoints(settings) {
        if parse_address(bare(endpoint)).is_none() {
            let text = format!("addresses as host:port with commas between are expected, not {endpoint:?}");
            report.error(path.field("endpoints"), text);
        }
        if endpoint.starts_with("https://") && !uses_tls(settings, names) {
            let needed = names.tls.map_or_else(|| names.ca.to_owned(), |tls| format!("{tls}: true"));
            report.error(path.field("endpoints"), format!("{endpoint:?} needs {needed}"));
        }
    }
    if endpoints(settings).next().is_none() && settings.text("endpoints").is_some() {
        report.error(path.field("endpoints"), "at least one address as host:port is expected");
    }
    if settings.text("username").is_some() != settings.text("password").is_some() {
        report.error(path.field("username"), "username and password are expected together");
    }
    if settings.text(names.certificate).is_some() != settings.text(names.key).is_some() {
        let text = format!("{} and {} are expected together", names.certificate, names.key);
        report.error(path.field(names.certificate), text);
    }
    for field in [names.ca, names.certificate, names.key] {
        let Some(text) = settings.text(field) else { continue };
        if text.contains("-----BEGIN") {
            report.error(path.field(field), "the path of a file is expected, not what is in it");
        }
        if let Some(tls) = names.tls.filter(|tls| !settings.flag(tls)) {
            report.error(path.field(field), format!("needs {tls}: true"));
        }
    }
}

fn uses_tls(settings: &Settings, names: &Names) -> bool {
    match names.tls {
        Some(flag) => settings.flag(flag),
        None => [names.ca, names.certificate, names.key].iter().any(|field| settings.text(field).is_some()),
    }
}

/// What stands between commas, or between semicolons as Layotto has it.
fn endpoints(settings: &Settings) -> impl Iterator<Item = &str> {
    let text = settings.text("endpoints").unwrap_or_default();
    text.split([',', ';']).map(str::trim).filter(|endpoint| !endpoint.is_empty())
}

/// Without the scheme that etcd's own tools take.
fn bare(endpoint: &str) -> &str {
    let endpoint = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")).unwrap_or(endpoint);
    endpoint.strip_suffix('/').unwrap_or(endpoint)
}
