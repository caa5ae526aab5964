//! Where the listeners are: free ports, ports that are taken, and what a caller writes to reach them.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::UnixStream;

use runtime_api::config::{Component, Config, Listen};

use super::columns;
use crate::Failure;

/// Chooses free ports where none is fixed, and sees that the others are free.
pub(super) fn settle(config: &mut Config, admin_given: bool) -> Result<(), Failure> {
    let listeners = &mut config.listeners;
    if let (false, Listen::Tcp(_, port)) = (admin_given, &mut listeners.admin) {
        *port = 0;
    }
    let all = [
        ("layottoGrpc", "--layotto-port", &mut listeners.layotto_grpc),
        ("daprGrpc", "--dapr-grpc-port", &mut listeners.dapr_grpc),
        ("daprHttp", "--dapr-http-port", &mut listeners.dapr_http),
        ("admin", "--admin-port", &mut listeners.admin),
    ];
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for (name, flag, listen) in all {
        let instead = format!("choose another with {flag}, or with listeners.{name} in the configuration");
        match listen {
            Listen::Tcp(host, port) => match TcpListener::bind((host.as_str(), *port)) {
                Ok(listener) => {
                    *port = listener.local_addr().map_or(*port, |address| address.port());
                    held.push(listener);
                }
                Err(error) => {
                    let why = match error.kind() {
                        ErrorKind::AddrInUse => "is taken by another program".to_owned(),
                        _ => format!("can't be used: {error}"),
                    };
                    return Err(Failure::new(format!("port {port} on {host} {why}; {instead}")));
                }
            },
            Listen::Unix(path) if UnixStream::connect(&path).is_ok() => {
                return Err(Failure::new(format!("the socket {path} is taken by another program; {instead}")));
            }
            Listen::Unix(_) | Listen::Off => {}
        }
    }
    Ok(())
}

/// Envoy leaves the files of its Unix sockets.
pub(super) fn remove_sockets(config: &Config) {
    let listeners = &config.listeners;
    for listen in [&listeners.layotto_grpc, &listeners.dapr_grpc, &listeners.dapr_http, &listeners.admin] {
        if let Listen::Unix(path) = listen {
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

/// What runs and where, for a person; the last line is for whoever waits for it.
pub(super) fn table(config: &Config) -> String {
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
    format!("{components}\n{}\nready\n", columns(&apis))
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
