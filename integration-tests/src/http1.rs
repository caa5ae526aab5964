//! One HTTP/1.1 request on a connection of its own: for Envoy's admin endpoint and the runtime's HTTP API.

use std::io;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends a request with `headers` and `body` to `path` on 127.0.0.1:`port` and reads the whole answer.
pub async fn request(
    port: u16,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> io::Result<Response<Bytes>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    exchange(stream, method, path, headers, body.into()).await
}

/// The same on a Unix socket.
pub async fn request_on_socket(socket: &std::path::Path, method: Method, path: &str) -> io::Result<Response<Bytes>> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    exchange(stream, method, path, &[], Bytes::new()).await
}

async fn exchange<S>(
    stream: S,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> io::Result<Response<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).map_err(io::Error::other)?;
    let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// `GET path`: the status and the body as text.
pub async fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let response = request(port, Method::GET, path, &[], Bytes::new()).await?;
    Ok((response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned()))
}
