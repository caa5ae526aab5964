//! Where the listeners are: free ports, ports that are taken, and what a caller writes to reach them.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{env, fs};

use runtime_api::component::Block;
use runtime_api::config::{Component, Config, Listen, MAX_SOCKET_PATH};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::columns;
use crate::Failure;
use crate::source::{Origin, PLACES};

/// The socket of Envoy's admin interface in the folder of a run.
const ADMIN: &str = "admin.sock";

/// A folder for what a run needs, which nobody else on the machine can look into.
pub(super) fn folder() -> Result<TempDir, Failure> {
    let make = |parent: &Path| {
        let mode = fs::Permissions::from_mode(0o700);
        tempfile::Builder::new().prefix("envoy-runtime-").permissions(mode).tempdir_in(parent)
    };
    let failed = |error: io::Error| Failure::new(format!("no temporary folder: {error}"));
    let folder = make(&env::temp_dir()).map_err(failed)?;
    if folder.path().join(ADMIN).as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(folder);
    }
    make(Path::new("/tmp")).map_err(failed)
}

/// Who most likely has a port of ours.
const LIKELY: &str = ", perhaps another envoy-runtime or a daprd";

/// The flag that sets the port of a listener.
pub(crate) const FLAGS: [(&str, &str); 4] = [
    ("layottoGrpc", "--layotto-port"),
    ("daprGrpc", "--dapr-grpc-port"),
    ("daprHttp", "--dapr-http-port"),
    ("admin", "--admin-port"),
];

/// Chooses free ports where none is fixed, and sees that the others are free. The admin interface, unless the user said
/// where it listens, is a socket in `folder`: whoever reaches it can stop Envoy.
pub(super) fn settle(config: &mut Config, admin_given: bool, folder: &Path) -> Result<(), Failure> {
    if !admin_given {
        config.listeners.admin = Listen::Unix(folder.join(ADMIN).display().to_string());
    }
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for (name, listen) in config.listeners.all_mut() {
        let flag = FLAGS.iter().find(|(listener, _)| *listener == name).map_or("", |(_, flag)| flag);
        let instead =
            format!("choose another with {flag} (0 takes a free one), or with listeners.{name} in the configuration");
        match listen {
            Listen::Tcp(host, port) => match TcpListener::bind((host.as_str(), *port)) {
                Ok(listener) => {
                    *port = listener.local_addr().map_or(*port, |address| address.port());
                    held.push(listener);
                }
                Err(error) => {
                    let why = match error.kind() {
                        ErrorKind::AddrInUse => format!("is taken by another program{LIKELY}"),
                        ErrorKind::PermissionDenied => "may not be used by you: ports below 1024 are root's".to_owned(),
                        _ => format!("can't be used: {error}"),
                    };
                    return Err(Failure::new(format!("port {port} on {host} {why}; {instead}")));
                }
            },
            Listen::Unix(path) if UnixStream::connect(&path).is_ok() => {
                return Err(Failure::new(format!("the socket {path} is taken by another program{LIKELY}; {instead}")));
            }
            Listen::Unix(path) => {
                let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
                if !parent.is_dir() {
                    let parent = parent.display();
                    let text = format!("there is no folder {parent} for the socket {path}; make it, or {instead}");
                    return Err(Failure::new(text));
                }
            }
            Listen::Off => {}
        }
    }
    Ok(())
}

/// Envoy leaves the files of its Unix sockets.
pub(super) fn remove_sockets(config: &Config) {
    for (_, listen) in config.listeners.all() {
        let Listen::Unix(path) = listen else { continue };
        if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
            // The next Envoy replaces one that is left.
            let _ = fs::remove_file(path);
        }
    }
}

/// The address at which something on this machine reaches a listener on `host`.
pub(super) fn reachable(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
        _ => host.to_owned(),
    }
}

/// What a gRPC client of either SDK takes: no scheme for TCP, since both warn about `http`.
pub(super) fn grpc_endpoint(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Tcp(host, port) => Some(host_and_port(host, *port)),
        Listen::Unix(path) => Some(format!("unix://{path}")),
        Listen::Off => None,
    }
}

/// What an HTTP client takes.
pub(super) fn http_endpoint(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Tcp(host, port) => Some(format!("http://{}", host_and_port(host, *port))),
        _ => grpc_endpoint(listen),
    }
}

/// The port, if it has one.
pub(super) fn port(listen: &Listen) -> Option<u16> {
    if let Listen::Tcp(_, port) = listen { Some(*port) } else { None }
}

fn host_and_port(host: &str, port: u16) -> String {
    let host = reachable(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What a runtime.yaml is made by, of what runs.
const GO_ON: &str = "envoy-runtime run --write-config runtime.yaml";

/// What runs and where, for a person; the last line is for whoever waits for it.
pub(super) fn table(config: &Config, origin: &Origin) -> String {
    let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
    let mut components = vec![row(["COMPONENT", "TYPE", "WHERE"])];
    for component in &config.components {
        components.push(row([&component.name, component.driver.kind, &place(component)]));
    }
    let listeners = &config.listeners;
    let endpoints = [
        ("Dapr gRPC", grpc_endpoint(&listeners.dapr_grpc)),
        ("Dapr HTTP", http_endpoint(&listeners.dapr_http)),
        ("Layotto gRPC", grpc_endpoint(&listeners.layotto_grpc)),
        ("Envoy admin", http_endpoint(&listeners.admin)),
    ];
    let mut apis = vec![row(["API", "ENDPOINT", ""])];
    apis.extend(endpoints.into_iter().filter_map(|(name, endpoint)| Some(row([name, &endpoint?, ""]))));
    let components = if config.components.is_empty() { "no components\n".to_owned() } else { columns(&components) };
    let taken = match origin {
        Origin::Named => String::new(),
        Origin::Found(place) => format!("configuration: {}\n\n", place.display()),
        Origin::Nothing => {
            format!("configuration: none of {PLACES} is here, so all is in memory\nto go on: {GO_ON}\n\n")
        }
    };
    let hints = [first_call(config), Some("to end: Ctrl-C".to_owned())];
    let hints: String = hints.into_iter().flatten().map(|hint| hint + "\n").collect();
    format!("{taken}{components}\n{}\n{hints}\nready\n", columns(&apis))
}

/// The same for a program.
pub(super) fn object(config: &Config, origin: &Origin) -> Value {
    let components = config
        .components
        .iter()
        .map(|component| json!({"name": component.name, "type": component.driver.kind, "where": place(component)}));
    let listeners = &config.listeners;
    json!({
        "from": "run",
        "ready": true,
        "appId": config.app_id,
        "configuration": match origin {
            Origin::Named => Value::Null,
            Origin::Found(place) => json!(place.display().to_string()),
            Origin::Nothing => json!("in memory"),
        },
        "components": components.collect::<Vec<_>>(),
        "endpoints": {
            "daprGrpc": grpc_endpoint(&listeners.dapr_grpc),
            "daprHttp": http_endpoint(&listeners.dapr_http),
            "layottoGrpc": grpc_endpoint(&listeners.layotto_grpc),
            "admin": http_endpoint(&listeners.admin),
        },
    })
}

/// A line to be pasted that makes a first call: by gRPC where something is served that HTTP has not, and where there is
/// `grpcurl`; else by HTTP.
fn first_call(config: &Config) -> Option<String> {
    let listeners = &config.listeners;
    let token = if config.api_token.is_some() { " -H \"dapr-api-token: $DAPR_API_TOKEN\"" } else { "" };
    let state = config.components.iter().find(|component| component.driver.block == Block::State);
    let grpc = |listen: &Listen| match listen {
        Listen::Unix(path) => Some(format!("-unix {path}")),
        listen => grpc_endpoint(listen),
    };
    let call = |endpoint: String, service: &str, store: &Component| {
        let request =
            format!("{{\"store_name\":\"{}\",\"states\":[{{\"key\":\"order\",\"value\":\"NDI=\"}}]}}", store.name);
        let quoted = request.replace('\'', r"'\''");
        format!("try: grpcurl -plaintext{token} -d '{quoted}' {endpoint} {service}/SaveState")
    };
    let by_grpc = || {
        let (listen, service) = match (grpc(&listeners.dapr_grpc), grpc(&listeners.layotto_grpc)) {
            (Some(listen), _) => (listen, "dapr.proto.runtime.v1.Dapr"),
            (None, Some(listen)) => (listen, "spec.proto.runtime.v1.Runtime"),
            (None, None) => return None,
        };
        Some(call(listen, service, state?))
    };
    let by_http = || match &listeners.dapr_http {
        Listen::Unix(path) => Some(format!("try: curl -s{token} --unix-socket {path} http://dapr/v1.0/metadata")),
        listen => http_endpoint(listen).map(|endpoint| format!("try: curl -s{token} {endpoint}/v1.0/metadata")),
    };
    let has_grpcurl = on_path("grpcurl").is_some();
    if has_grpcurl { by_grpc().or_else(by_http) } else { by_http().or_else(by_grpc) }
}

/// The program of this name, looked for as a shell does.
pub(super) fn on_path(name: impl AsRef<Path>) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join(&name)).find(|file| is_executable(file))
}

/// Whether a file is a program.
pub(super) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn place(component: &Component) -> String {
    if component.cluster_exists {
        return format!("cluster {}", component.cluster);
    }
    let upstreams = (component.driver.upstreams)(&component.settings);
    let servers: Vec<String> = upstreams
        .iter()
        .flat_map(|upstream| &upstream.endpoints)
        .map(|(host, port)| host_and_port(host, *port))
        .collect();
    if servers.is_empty() { "in Envoy".to_owned() } else { servers.join(", ") }
}
