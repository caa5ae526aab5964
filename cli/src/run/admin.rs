//! Questions to Envoy's admin interface.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use runtime_api::config::Listen;

use super::places::reachable;

/// Everything asked here is on the same machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Both directions of a connection.
pub(super) trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Connects to where something listens.
pub(super) fn connect(listen: &Listen) -> io::Result<Box<dyn Connection>> {
    match listen {
        Listen::Tcp(host, port) => {
            let host: IpAddr = reachable(host).parse().map_err(io::Error::other)?;
            let stream = TcpStream::connect_timeout(&SocketAddr::new(host, *port), ANSWERS_WITHIN)?;
            stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
            Ok(Box::new(stream))
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
            Ok(Box::new(stream))
        }
        Listen::Off => Err(io::Error::other("it is off")),
    }
}

/// The body of a page; an error for any status but 200.
pub(super) fn get(admin: &Listen, path: &str) -> io::Result<String> {
    request(admin, "GET", path)
}

/// Asks for something to be done.
pub(super) fn post(admin: &Listen, path: &str) -> io::Result<String> {
    request(admin, "POST", path)
}

fn request(admin: &Listen, method: &str, path: &str) -> io::Result<String> {
    let mut connection = connect(admin)?;
    write!(connection, "{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    connection.read_to_end(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        status => Err(io::Error::other(format!("status {}", status.unwrap_or("missing")))),
    }
}

/// How many calls the listeners are busy with.
pub(super) fn calls_in_flight(admin: &Listen) -> io::Result<u64> {
    let filter = "%5Ehttp%5C.(layotto_grpc%7Cdapr_grpc%7Cdapr_http)%5C.downstream_rq_active$";
    let page = get(admin, &format!("/stats?filter={filter}"))?;
    // Lines without a name are the lengths of chunks.
    Ok(page.lines().filter_map(|line| line.split_once(": ")?.1.trim().parse::<u64>().ok()).sum())
}
