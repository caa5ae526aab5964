//! An HTTP/1.1 server inside the test, for products whose real server cannot be had here: what it answers is a
//! function, and a test can make it late, cut its connections, and stop it. What the products answer is in
//! [`apollo`](crate::apollo), [`vault`](crate::vault) and [`kubernetes`](crate::kubernetes).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{certificates, ports, scratch};

/// A running server. Dropping it closes its port and its connections.
pub struct StandIn {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// With TLS, the file with the authority that its certificate (for localhost and 127.0.0.1) is by.
    pub authority: Option<PathBuf>,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    _scratch: Option<TempDir>,
}

/// A request as the server got it.
pub type Received = Request<Bytes>;

/// What is answered.
pub type Answer = Response<Bytes>;

type Service = Box<dyn Fn(Received) -> BoxFuture<'static, Answer> + Send + Sync>;

struct Shared {
    service: Service,
    tls: Option<TlsAcceptor>,
    faults: Mutex<Faults>,
    received: Mutex<Vec<Received>>,
    /// How often all connections were cut.
    cuts: watch::Sender<u64>,
}

#[derive(Default)]
struct Faults {
    delay: Duration,
    hang_ups: usize,
    answers: VecDeque<Answer>,
}

impl StandIn {
    /// Starts a server that answers by `service`.
    pub async fn start<F>(tls: bool, service: impl Fn(Received) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let scratch = tls.then(|| scratch::directory("stand-in"));
        let files = scratch.as_ref().map(|scratch| certificates::make(scratch.path()));
        let shared = Shared {
            service: Box::new(move |request| service(request).boxed()),
            tls: files.as_ref().map(acceptor),
            faults: Mutex::default(),
            received: Mutex::default(),
            cuts: watch::Sender::new(0),
        };
        let mut server = Self {
            port: ports::free_port(),
            authority: files.map(|files| files.authority),
            shared: Arc::new(shared),
            task: None,
            _scratch: scratch,
        };
        server.restart().await;
        server
    }

    /// `http://127.0.0.1:port`, or the same with `https`.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Closes the port and the connections. What the server knows stays.
    pub async fn stop(&mut self) {
        let task = self.task.take().expect("the server runs");
        task.abort();
        let _ = task.await;
    }

    /// Listens again on the same port.
    pub async fn restart(&mut self) {
        assert!(self.task.is_none(), "the server runs");
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is free");
        let shared = self.shared.clone();
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(connection(shared.clone(), stream));
            }
        }));
    }

    /// From now on every answer comes this much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.lock().unwrap().delay = delay;
    }

    /// The next `count` requests are not answered: their connections are closed.
    pub fn hang_up(&self, count: usize) {
        self.shared.faults.lock().unwrap().hang_ups = count;
    }

    /// The next request is answered with this, whatever it is. Several stand in line.
    pub fn answer_next(&self, answer: Answer) {
        self.shared.faults.lock().unwrap().answers.push_back(answer);
    }

    /// Closes the connections that are open, whatever they are waiting for.
    pub fn cut_connections(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// All requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// How many requests so far had a path that begins with `prefix`.
    pub fn count(&self, prefix: &str) -> usize {
        self.shared.received.lock().unwrap().iter().filter(|request| request.uri().path().starts_with(prefix)).count()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for StandIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a stand-in at {}", self.url())
    }
}

fn acceptor(files: &certificates::Certificates) -> TlsAcceptor {
    let certificates = CertificateDer::pem_file_iter(&files.certificate).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("openssl makes certificates that rustls takes");
    TlsAcceptor::from(Arc::new(config))
}

async fn connection(shared: Arc<Shared>, stream: tokio::net::TcpStream) {
    let mut cuts = shared.cuts.subscribe();
    let served = async {
        let Some(tls) = &shared.tls else { return serve(shared.clone(), stream).await };
        // It fails with a client that does not trust the certificate.
        if let Ok(stream) = tls.accept(stream).await {
            serve(shared.clone(), stream).await;
        }
    };
    tokio::select! { () = served => {}, _ = cuts.changed() => {} }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| answer(shared.clone(), request));
    // It fails where the client goes away or the server hangs up: both are what tests do.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(head, body);
    shared.received.lock().unwrap().push(request.clone());
    let (delay, next) = {
        let mut faults = shared.faults.lock().unwrap();
        if faults.hang_ups > 0 {
            faults.hang_ups -= 1;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        (faults.delay, faults.answers.pop_front())
    };
    sleep(delay).await;
    let answer = match next {
        Some(answer) => answer,
        None => (shared.service)(request).await,
    };
    Ok(answer.map(Full::new))
}

/// An answer in JSON.
pub fn json(status: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status of HTTP");
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}

/// An answer without a body.
pub fn empty(status: u16) -> Answer {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status of HTTP");
    answer
}

/// A request taken apart, for `match`.
pub(crate) struct Parts {
    pub(crate) method: Method,
    /// The segments of the path, decoded.
    pub(crate) path: Vec<String>,
    pub(crate) query: BTreeMap<String, String>,
    /// The body, or null where it is not JSON.
    pub(crate) body: Value,
}

impl Parts {
    pub(crate) fn of(request: &Received) -> Self {
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self {
            method: request.method().clone(),
            path: request.uri().path().split('/').skip(1).map(decode).collect(),
            query: pairs.map(|(name, value)| (form(name), form(value))).collect(),
            body: serde_json::from_slice(request.body()).unwrap_or_default(),
        }
    }

    pub(crate) fn path(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// A parameter of the query; empty where it is not there.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// A text of the body; empty where it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

/// A header as text; empty where it is not there.
pub(crate) fn header<'a>(request: &'a Received, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The time in the form of RFC 3339, in UTC.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn form(text: &str) -> String {
    decode(&text.replace('+', " "))
}
