//! How a component says where its etcd is. Dapr's and Layotto's components name the same things differently.

use std::fmt;
use std::time::Duration;

use crate::component::{Protocol, Tls, Upstream};
use crate::config::{self, Path, Report, parse_address};

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

/// What a client goes by.
#[derive(Clone, Default)]
pub struct Settings {
    /// The members, each a name or an IP address and the TCP port.
    pub endpoints: Vec<(String, u16)>,
    /// Who logs in.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// How long a single call may take.
    pub timeout: Duration,
    tls: Option<Tls>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({:?})", self.endpoints)
    }
}

impl Settings {
    /// Reads checked fields.
    pub fn new(settings: &config::Settings, names: &Names) -> Self {
        let text = |field| settings.text(field).map(str::to_owned);
        let endpoints: Vec<(String, u16)> = endpoints(settings)
            .filter_map(|endpoint| parse_address(bare(endpoint)))
            .map(|(host, port)| (host.to_owned(), port))
            .collect();
        let seconds = settings.whole(names.timeout).and_then(|seconds| u64::try_from(seconds).ok());
        let server_name = endpoints.first().map(|(host, _)| host.clone()).unwrap_or_default();
        Self {
            tls: uses_tls(settings, names).then(|| Tls {
                server_name,
                ca_file: text(names.ca),
                certificate: text(names.certificate).zip(text(names.key)),
            }),
            endpoints,
            username: text("username"),
            password: text("password"),
            timeout: Duration::from_secs(seconds.unwrap_or(5)),
        }
    }

    /// The cluster of the members.
    pub fn upstreams(self) -> Vec<Upstream> {
        let Self { endpoints, tls, .. } = self;
        vec![Upstream { suffix: String::new(), protocol: Protocol::Grpc, endpoints, tls }]
    }

    /// The rules between the fields.
    pub fn check(settings: &config::Settings, names: &Names, path: &Path, report: &mut Report) {
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
}

fn uses_tls(settings: &config::Settings, names: &Names) -> bool {
    match names.tls {
        Some(flag) => settings.flag(flag),
        None => [names.ca, names.certificate, names.key].iter().any(|field| settings.text(field).is_some()),
    }
}

/// What stands between commas, or between semicolons as Layotto has it.
fn endpoints(settings: &config::Settings) -> impl Iterator<Item = &str> {
    let text = settings.text("endpoints").unwrap_or_default();
    text.split([',', ';']).map(str::trim).filter(|endpoint| !endpoint.is_empty())
}

/// Without the scheme that etcd's own tools take.
fn bare(endpoint: &str) -> &str {
    let endpoint = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")).unwrap_or(endpoint);
    endpoint.strip_suffix('/').unwrap_or(endpoint)
}
