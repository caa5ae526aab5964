//! Clients of the HTTP port: whole requests in HTTP/1 and HTTP/2, which are answered in time, and broken ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Connection, WINDOW, connect};
use super::ground::{Ground, MOST_BYTES};
use super::kind::Kind;
use super::record::Column;
use crate::http1;

const PATHS: &[&str] = &[
    "/v1.0/healthz",
    "/v1.0/healthz?appid=hostile",
    "/v1.0/healthz?appid=%ff",
    "/v1.0/healthz/outbound",
    "/v1.0/metadata",
    "/v1.0/metadata/key",
    "/v1.0/metadata/%ff%00",
    "/v1.0/openapi.json",
    "/v1.0/state/memory",
    "/v1.0/state/memory?metadata.ttlInSeconds=1",
    "/v1.0/state/memory/k0",
    "/v1.0/state/memory/bulk",
    "/v1.0/state/memory/transaction",
    "/v1.0/state/redis",
    "/v1.0/state/redis/k0",
    "/v1.0/state/redis/bulk",
    "/v1.0/state/redis/transaction",
    "/v1.0-alpha1/lock/memory",
    "/v1.0-alpha1/unlock/redis",
    "/v1.0-alpha1/lock/redis/keepalive",
    "/v1.0-alpha1/sequencer/redis",
    "/v1.0/configuration/redis?key=k0",
    "/v1.0-alpha1/configuration/memory",
    "/v1.0-alpha1/configuration/redis?key=http",
    "/v1.0/secrets/environment/HOSTILE_SECRET",
    "/v1.0/secrets/environment/bulk",
    "/",
    "//v1.0//metadata",
];

/// Bodies that some of the paths take.
const BODIES: &[&str] = &[
    r#"[{"key":"http","value":{"n":12345678901234567890}},{"key":"http2","value":"x","etag":"7"}]"#,
    r#"{"keys":["http","http2","k0"],"parallelism":2}"#,
    r#"{"operations":[{"operation":"upsert","request":{"key":"http","value":1}},{"operation":"delete","request":{"key":"http2"}}]}"#,
    r#"{"resourceId":"http","lockOwner":"o","expiryInSeconds":2}"#,
    r#"{"key":"http","increment":"strong"}"#,
    r#"{"items":[{"key":"http","value":"1"}]}"#,
    "[[[[[[[[",
];

/// The same methods for all paths: most do not fit, and are refused.
const METHODS: [Method; 7] =
    [Method::GET, Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::OPTIONS];

pub(super) async fn http(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::Http, number);
    let mut connection = None;
    while ground.goes_on().await {
        let port = ground.envoy.dapr_http;
        let (path, method) = (*PATHS.choose(&mut random).expect("there are some"), METHODS.choose(&mut random));
        let method = method.expect("there are some").clone();
        let body = body(&method, &mut random);
        match random.random_range(0..10) {
            0..4 => {
                let start = Instant::now();
                let answer = http1::request(port, method.clone(), path, &[], body);
                let answer = async { answer.await.ok().map(|answer| answer.status().as_u16()) };
                let answer = Answer::within(patience(&ground), answer).await;
                judge(&ground, &format!("{method} {path} in HTTP/1"), start, &answer);
            }
            4..8 => {
                if connection.as_ref().is_none_or(|open| !Connection::is_open(open)) {
                    connection = connect(&ground, Kind::Http, port, WINDOW).await;
                }
                let Some(open) = &connection else { continue };
                let request = Request::builder().method(method.clone()).uri(format!("http://localhost{path}")).body(());
                let Ok(mut call) = open.send(request.expect("a request")).await else { continue };
                let start = Instant::now();
                call.send(body, true);
                let answer = Answer::within(patience(&ground), call.incoming.status()).await;
                judge(&ground, &format!("{method} {path} in HTTP/2"), start, &answer);
            }
            _ => broken(port, &mut random).await,
        }
        ground.pause(Duration::from_millis(random.random_range(0..60))).await;
    }
}

fn body(method: &Method, random: &mut StdRng) -> Bytes {
    if *method != Method::PUT && *method != Method::POST {
        return Bytes::new();
    }
    if random.random_bool(0.6) {
        return (*BODIES.choose(random).expect("there are some")).into();
    }
    let size = match random.random_range(0..20) {
        0 => MOST_BYTES + random.random_range(0..2),
        1 => random.random_range(0..MOST_BYTES),
        _ => random.random_range(0..200),
    };
    vec![if random.random_bool(0.9) { b'x' } else { 0xff }; size].into()
}

fn patience(ground: &Ground) -> Duration {
    super::ground::TIMEOUT + ground.margin()
}

/// What became of a request.
enum Answer {
    Status(u16),
    /// The connection has ended.
    Lost,
    /// Nothing came in time.
    Open,
}

impl Answer {
    async fn within(patience: Duration, status: impl Future<Output = Option<u16>>) -> Self {
        match timeout(patience, status).await {
            Ok(Some(status)) => Self::Status(status),
            Ok(None) => Self::Lost,
            Err(_) => Self::Open,
        }
    }
}

fn judge(ground: &Ground, what: &str, start: Instant, answer: &Answer) {
    let took = start.elapsed();
    let column = match answer {
        Answer::Status(200..400) => Column::Ok,
        Answer::Status(429) => Column::Exhausted,
        // Dapr's answer to the health check of another app is 500, and so is that to what a store says is wrong.
        Answer::Status(400..=501) => Column::Refused,
        Answer::Status(503) => Column::Unavailable,
        Answer::Status(504) => Column::Deadline,
        Answer::Status(status) => {
            ground.record.find(Kind::Http, "an odd status of HTTP", format!("{what}: {status}"));
            Column::Odd
        }
        // A body that is too large is refused before it has come, and the connection closed.
        Answer::Lost => Column::Lost,
        Answer::Open => {
            ground.record.find(Kind::Http, "a request is open past its limit", what);
            Column::Odd
        }
    };
    ground.record.count(Kind::Http, column, took);
}

/// A request that is not one, or not whole; nothing is asked of the answer.
async fn broken(port: u16, random: &mut StdRng) {
    const GOOD: &[u8] = b"PUT /v1.0/metadata/key HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let mut bytes = match random.random_range(0..4) {
        0 => {
            b"PUT /v1.0/metadata/key HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nfff\r\nx".to_vec()
        }
        1 => GOOD.repeat(random.random_range(2..50)),
        _ => GOOD.to_vec(),
    };
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    bytes.truncate(random.random_range(0..=bytes.len()));
    if random.random_range(0..10) == 0 {
        random.fill_bytes(&mut bytes);
    }
    if random.random_range(0..4) == 0 {
        for byte in &bytes {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_micros(200)).await;
        }
    } else if stream.write_all(&bytes).await.is_err() {
        return;
    }
    let mut answer = [0; 1000];
    let _ = timeout(Duration::from_millis(random.random_range(0..200)), stream.read(&mut answer)).await;
}
