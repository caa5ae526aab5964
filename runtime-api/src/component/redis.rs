//! What the drivers of all building blocks that use Redis share: the fields of a connection, the cluster of a server,
//! the login.

use std::rc::Rc;

use super::{Environment, Protocol, Tls, Upstream};
use crate::config::{Field, Kind, Path, Report, Settings, parse_address};
use crate::protocol::redis::{Client, Login};

const POOLED: Kind = Kind::Ignored("Envoy keeps one pipelined connection per worker");
const RETRIED: Kind = Kind::Ignored("a connection is tried again after 50 ms to 1 s; calls are not repeated");
const CLUSTERED: Kind = Kind::Refused("one server is supported, no cluster and no sentinel");

/// Where the one server is.
pub const SERVER: &[Field] = &[Field::required("redisHost", Kind::Address, "where the server listens")];

/// How a server is logged in to, and what other runtimes have besides.
pub const CONNECTION: &[Field] = &[
    Field::optional("redisUsername", Kind::Text, "the user to log in as; needs redisPassword"),
    Field::optional("redisPassword", Kind::Secret, "the password to log in with"),
    Field::default("redisDB", Kind::Whole(0, 65535), "0", "the number of the database"),
    Field::default("enableTLS", Kind::Flag, "false", "whether Envoy speaks TLS to the server"),
    Field::optional("caCert", Kind::Text, "the file of the authorities to trust with TLS; absent: the system's"),
    Field::optional("clientCert", Kind::Text, "the file of the certificate to show with TLS; needs clientKey"),
    Field::optional("clientKey", Kind::Text, "the file of the key of clientCert"),
    Field::default("redisType", Kind::Text, "node", "node"),
    Field::optional("failover", CLUSTERED, "whether to ask a sentinel"),
    Field::optional("sentinelMasterName", CLUSTERED, "the name to ask a sentinel for"),
    Field::optional("sentinelUsername", CLUSTERED, "the user of a sentinel"),
    Field::optional("sentinelPassword", CLUSTERED, "the password of a sentinel"),
    Field::optional("redisMaxRetries", RETRIED, "how often a call is repeated"),
    Field::optional("redisMinRetryInterval", RETRIED, "the shortest pause before a repetition"),
    Field::optional("redisMaxRetryInterval", RETRIED, "the longest pause before a repetition"),
    Field::optional("maxRetries", RETRIED, "how often a call is repeated"),
    Field::optional("maxRetryBackoff", RETRIED, "the longest pause before a repetition"),
    Field::optional("dialTimeout", Kind::Ignored("the cluster's connect_timeout holds"), "how long to connect"),
    Field::optional("readTimeout", Kind::Ignored("the deadline of the call holds"), "how long to wait for a reply"),
    Field::optional("writeTimeout", Kind::Ignored("the deadline of the call holds"), "how long to wait for a write"),
    Field::optional("poolSize", POOLED, "how many connections"),
    Field::optional("poolTimeout", POOLED, "how long to wait for a connection"),
    Field::optional("minIdleConns", POOLED, "how many idle connections"),
    Field::optional("maxConnAge", POOLED, "how old a connection may get"),
    Field::optional("idleTimeout", POOLED, "how long a connection may be idle"),
    Field::optional("idleCheckFrequency", POOLED, "how often to look for idle connections"),
];

/// Layotto's lock and sequencer call the database so.
pub const LAYOTTO: &[Field] = &[Field::optional("db", Kind::Whole(0, 65535), "Layotto's name of redisDB")];

/// Rules between the fields of a connection.
pub fn check(settings: &Settings, path: &Path, report: &mut Report) {
    let kind = settings.text("redisType").unwrap_or_default();
    if kind != "node" {
        report.error(path.field("redisType"), format!("node is expected, not {kind:?}: one server is supported"));
    }
    if settings.text("redisUsername").is_some() && settings.text("redisPassword").is_none() {
        report.error(path.field("redisUsername"), "needs redisPassword: Redis logs in by both");
    }
    if settings.text("clientCert").is_some() != settings.text("clientKey").is_some() {
        report.error(path.field("clientCert"), "clientCert and clientKey are expected together");
    }
    for field in ["caCert", "clientCert", "clientKey"] {
        if settings.text(field).is_some() && !settings.flag("enableTLS") {
            report.error(path.field(field), "needs enableTLS: true");
        }
    }
    let (database, layottos) = (settings.whole("redisDB"), settings.whole("db"));
    if layottos.is_some() && database.is_some_and(|database| database != 0) && database != layottos {
        report.error(path.field("db"), "another database than redisDB; one of them is enough");
    }
}

/// The cluster of the server in `redisHost`.
pub fn upstreams(settings: &Settings) -> Vec<Upstream> {
    settings.text("redisHost").and_then(|host| upstream(settings, host, String::new())).into_iter().collect()
}

/// The cluster of a server.
pub fn upstream(settings: &Settings, address: &str, suffix: String) -> Option<Upstream> {
    let (host, port) = parse_address(address)?;
    let file = |field| settings.text(field).map(str::to_owned);
    let tls = settings.flag("enableTLS").then(|| Tls {
        server_name: host.to_owned(),
        ca_file: file("caCert"),
        certificate: file("clientCert").zip(file("clientKey")),
    });
    Some(Upstream { suffix, protocol: Protocol::Tcp, endpoints: vec![(host.to_owned(), port)], tls })
}

/// A client of the server that this cluster leads to.
pub fn client(environment: &Environment, cluster: &str) -> Client {
    let Environment { proxy, component, limits, .. } = environment;
    let settings = &component.settings;
    let database = settings.whole("db").or_else(|| settings.whole("redisDB"));
    let login = Login {
        username: settings.text("redisUsername").map(str::to_owned),
        password: settings.text("redisPassword").map(str::to_owned),
        database: database.and_then(|number| number.try_into().ok()).unwrap_or_default(),
    };
    Client::new(Rc::clone(proxy), &component.name, cluster, &login, limits.timeout)
}
