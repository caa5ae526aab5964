//! Whether the servers of the components are there when `run` starts. That one is not is no error: it may come, and until then
//! calls say so. But whoever sees their first call fail should know why.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use runtime_api::config::{Component, Config};

/// How long it is waited for all answers together.
const PATIENCE: Duration = Duration::from_millis(500);

/// A line for each server that does not answer.
pub(super) fn silent(config: &Config) -> Vec<String> {
    let (told, answers) = channel();
    let mut asked = 0;
    for component in &config.components {
        for (host, port) in endpoints(component) {
            let (told, component) = (told.clone(), component.clone());
            asked += 1;
            // A thread for each: the look-up of a name may take longer than anybody likes to wait. It ends with the process.
            thread::spawn(move || {
                let line = (!answers_at(&host, port)).then(|| line(&component, &host, port));
                let _ = told.send(line);
            });
        }
    }
    let deadline = Instant::now() + PATIENCE;
    let next = |_| answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    let mut lines: Vec<String> = (0..asked).map_while(next).flatten().collect();
    lines.sort();
    lines
}

/// Where the servers of a component are, unless its cluster is the operator's own.
fn endpoints(component: &Component) -> Vec<(String, u16)> {
    let upstreams = (component.driver.upstreams)(&component.settings);
    let own = upstreams.into_iter().filter(|upstream| !(component.cluster_exists && upstream.suffix.is_empty()));
    own.flat_map(|upstream| upstream.endpoints).collect()
}

fn answers_at(host: &str, port: u16) -> bool {
    // A name that is not known is told by Envoy, when it looks for it.
    let Ok(addresses) = (host, port).to_socket_addrs() else { return false };
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
}

fn line(component: &Component, host: &str, port: u16) -> String {
    let (name, kind) = (&component.name, component.driver.kind);
    format!(
        "warning: no server answers at {host}:{port} for {name} ({kind}): calls to it fail with UNAVAILABLE until one does; start it, or \
         correct the address\n"
    )
}
