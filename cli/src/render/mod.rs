//! The configuration of an Envoy that serves a runtime configuration. The templates are YAML as a person would
//! write it; what varies is put in here.

mod runtime;
mod template;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use runtime_api::api::streaming_paths;
use runtime_api::component::{Protocol, Tls, Upstream};
use runtime_api::config::{Component, Config, Listen, secrets};
use serde_json::{Value, json};

use crate::{Failure, filters};
pub use runtime::write_runtime;
use template::{Part, fill, without_comments};

const BOOTSTRAP: &str = include_str!("templates/bootstrap.yaml");
const ADMIN: &str = include_str!("templates/admin.yaml");
const LISTENER: &str = include_str!("templates/listener.yaml");
const STREAMS: &str = include_str!("templates/streams.yaml");
const STREAM: &str = include_str!("templates/stream.yaml");
const FILTERS: &str = include_str!("templates/filters.yaml");
const ENVIRONMENT: &str = include_str!("templates/environment.yaml");
const CLUSTER: &str = include_str!("templates/cluster.yaml");
const BUS: &str = include_str!("templates/bus.yaml");
const BUS_CLUSTER: &str = include_str!("templates/bus_cluster.yaml");
const TUNNEL: &str = include_str!("templates/tunnel.yaml");
const HTTP1: &str = include_str!("templates/http1.yaml");
const GRPC: &str = include_str!("templates/grpc.yaml");
const STATIC: &str = include_str!("templates/static.yaml");
const DNS: &str = include_str!("templates/dns.yaml");
const TLS: &str = include_str!("templates/tls.yaml");

/// Envoy's own default for the buffer of a connection.
const LEAST_BUFFER: usize = 1 << 20;
/// What a request takes in a buffer besides its message: headers and frames.
const BESIDES_MESSAGE: usize = 64 << 10;

/// The seconds by which an answer of the filter may be late.
const LATE: u64 = 10;

/// A year, in seconds. Envoy takes no more than some thousand.
const FOR_EVER: u64 = 365 * 24 * 3600;

/// What of the machine that runs Envoy is part of its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Where the filters are.
    pub modules: &'a Path,
    /// The file with the system's certificate authorities.
    pub authorities: &'a Path,
}

/// Where Debian, Ubuntu, Alpine and Envoy's images keep the system's certificate authorities.
pub const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A complete configuration of Envoy. `document` is what the filter gets.
pub fn bootstrap(config: &Config, document: &Value, machine: Machine<'_>) -> Result<String, Failure> {
    let admin = match address(&config.listeners.admin) {
        Some(address) => fill(ADMIN, &[("address", Part::Value(address))])?,
        None => String::new(),
    };
    fill(
        BOOTSTRAP,
        &[
            ("app_id", Part::Value(json!(config.app_id))),
            ("admin", Part::Block(admin)),
            ("listeners", Part::Block(listeners(config, document, machine)?)),
            ("clusters", Part::Block(clusters(config, machine)?)),
        ],
    )
}

/// Writes a file that only its owner can read, before anything is in it.
pub fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file(path, &error);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    // One that was there keeps its mode when it is opened.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// The listeners that serve an API, by the name that they have in Envoy.
pub fn api_listeners(config: &Config) -> [(&'static str, &Listen); 3] {
    let listeners = &config.listeners;
    [
        ("layotto_grpc", &listeners.layotto_grpc),
        ("dapr_grpc", &listeners.dapr_grpc),
        ("dapr_http", &listeners.dapr_http),
    ]
}

fn listeners(config: &Config, document: &Value, machine: Machine<'_>) -> Result<String, Failure> {
    let root_id = format!("runtime-{:016x}", fingerprint(document));
    let mut filters = fill(
        FILTERS,
        &[
            ("root_id", Part::Value(json!(root_id))),
            ("module", module(machine, filters::runtime(config))),
            ("environment", Part::Block(environment(document)?)),
            ("configuration", Part::Block(template::json(document))),
        ],
    )?;
    let buffer = LEAST_BUFFER.max(config.limits.max_request_bytes.saturating_add(BESIDES_MESSAGE));
    let mut streams = streams(&root_id)?;
    let mut text = String::new();
    let mut listener = LISTENER.to_owned();
    for (name, listen) in api_listeners(config) {
        let Some(address) = address(listen) else { continue };
        text += &fill(
            &listener,
            &[
                ("name", Part::Value(json!(name))),
                ("address", Part::Value(address)),
                ("buffer", Part::Value(json!(buffer))),
                ("patience", Part::Value(json!(patience(config)))),
                ("window", Part::Value(json!(config.limits.max_reply_bytes()))),
                ("streams", Part::Block(streams.clone())),
                ("filters", Part::Block(std::mem::replace(&mut filters, "http_filters: *filters\n".to_owned()))),
            ],
        )?;
        listener = without_comments(LISTENER);
        streams = without_comments(&streams);
    }
    if text.is_empty() {
        return Err(Failure::new("all listeners are off: nothing would be served"));
    }
    text += &fill(BUS, &[("module", module(machine, filters::TUNNEL)), ("filters", Part::Block(filters))])?;
    Ok(format!("listeners:\n{text}"))
}

/// The routes of streams, for the filter with this id.
fn streams(root_id: &str) -> Result<String, Failure> {
    let mut text = STREAMS.to_owned();
    let mut stream = STREAM.to_owned();
    for path in streaming_paths() {
        text += &fill(&stream, &[("path", Part::Value(json!(path))), ("configuration", Part::Value(json!(root_id)))])?;
        stream = without_comments(STREAM);
    }
    Ok(text)
}

/// How long Envoy waits for a call about which nothing happens: longer than the filter does by as much as a busy
/// machine may be late, so that it never comes before the filter's own answer.
fn patience(config: &Config) -> String {
    format!("{}s", config.limits.timeout.as_secs().min(FOR_EVER) + LATE)
}

/// Tells one configuration from another (FNV-1a).
fn fingerprint(document: &Value) -> u64 {
    let text = document.to_string();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The variables of Envoy's environment that the filter may see.
fn environment(document: &Value) -> Result<String, Failure> {
    let variables = secrets::variables(document);
    if variables.is_empty() {
        Ok(String::new())
    } else {
        fill(ENVIRONMENT, &[("variables", Part::Value(json!(variables)))])
    }
}

fn clusters(config: &Config, machine: Machine<'_>) -> Result<String, Failure> {
    let mut text = String::new();
    let mut explained = Vec::new();
    for component in &config.components {
        for upstream in (component.driver.upstreams)(&component.settings) {
            if component.cluster_exists && upstream.suffix.is_empty() {
                continue;
            }
            let cluster = cluster(component, &upstream, machine)?;
            let known = explained.contains(&upstream.protocol);
            text += &if known { without_comments(&cluster) } else { cluster };
            explained.push(upstream.protocol);
        }
    }
    Ok(format!("clusters:\n{text}{BUS_CLUSTER}"))
}

fn cluster(component: &Component, upstream: &Upstream, machine: Machine<'_>) -> Result<String, Failure> {
    let by_address = upstream.endpoints.iter().all(|(host, _)| host.parse::<IpAddr>().is_ok());
    let discovery = if by_address { STATIC } else { DNS };
    let tls = upstream.tls.as_ref().map_or(Ok(String::new()), |settings| tls(settings, upstream, machine))?;
    let protocol = match upstream.protocol {
        Protocol::Tcp => fill(TUNNEL, &[("module", module(machine, filters::TUNNEL))])?,
        Protocol::Http1 => HTTP1.to_owned(),
        Protocol::Grpc => GRPC.to_owned(),
    };
    let name = component.upstream(upstream);
    let endpoint = |(host, port): &(String, u16)| json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}});
    fill(
        CLUSTER,
        &[
            ("name", Part::Value(json!(name))),
            ("stat_name", Part::Value(json!(name.replace('.', "_")))),
            ("discovery", Part::Block(discovery.to_owned())),
            ("endpoints", Part::Value(upstream.endpoints.iter().map(endpoint).collect())),
            ("protocol", Part::Block(protocol)),
            ("tls", Part::Block(tls)),
        ],
    )
}

fn tls(tls: &Tls, upstream: &Upstream, machine: Machine<'_>) -> Result<String, Failure> {
    let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
    // Servers that are alike may have certificates for their own names.
    let mut names = vec![tls.server_name.as_str()];
    if upstream.endpoints.iter().any(|(host, _)| *host == tls.server_name) {
        names.extend(upstream.endpoints.iter().map(|(host, _)| host.as_str()).filter(|host| *host != tls.server_name));
    }
    let names = names.into_iter().map(
        |name| json!({"san_type": if is_address(name) { "IP_ADDRESS" } else { "DNS" }, "matcher": {"exact": name}}),
    );
    let certificates = tls.certificate.iter().map(
        |(certificate, key)| json!({"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}),
    );
    let authorities = tls.ca_file.clone().unwrap_or_else(|| machine.authorities.display().to_string());
    fill(
        TLS,
        &[
            // An address is no name to ask for.
            ("sni", Part::Value(json!(if is_address(&tls.server_name) { "" } else { &tls.server_name }))),
            ("certificates", Part::Value(certificates.collect())),
            ("authorities", Part::Value(json!(authorities))),
            ("names", Part::Value(names.collect())),
        ],
    )
}

fn module(machine: Machine<'_>, name: &str) -> Part {
    Part::Value(json!(machine.modules.join(name).display().to_string()))
}

fn address(listen: &Listen) -> Option<Value> {
    match listen {
        Listen::Tcp(host, port) => Some(json!({"socket_address": {"address": host, "port_value": port}})),
        Listen::Unix(path) => Some(json!({"pipe": {"path": path}})),
        Listen::Off => None,
    }
}
