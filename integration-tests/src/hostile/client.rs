//! Connections and calls by hand, and what is asked of every call whoever makes it: that it ends in time, in a form
//! that gRPC knows, with a status that makes sense.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Request};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::ground::{Ground, TIMEOUT};
use super::kind::Kind;
use super::record::Column;
use crate::client::Dialect;
use crate::wire::frame;

/// How a call ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// With a status, and the messages before it.
    Status { code: Code, text: String, messages: Vec<Bytes> },
    /// With a status of HTTP and none of gRPC.
    Http(u16),
    /// By a frame `RST_STREAM`.
    Reset(Reason),
    /// With its connection.
    Lost,
    /// In a form that is not gRPC.
    Broken(String),
    /// Not yet, though its time is over.
    Open,
}

/// An HTTP/2 connection. Dropping it closes it, whatever is under way.
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects to a port of 127.0.0.1. `window` is how much may come that was not read.
    pub(super) async fn open(port: u16, window: u32) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(window.max(65_535))
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { requests, task })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Begins a call with the headers of gRPC and `headers` over them.
    pub(super) async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Result<Call, h2::Error> {
        let mut request = Request::post(format!("http://localhost{path}")).body(()).expect("a path of a method");
        request.headers_mut().insert("content-type", "application/grpc".parse().expect("it is ASCII"));
        request.headers_mut().insert("te", "trailers".parse().expect("it is ASCII"));
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name of a header");
            request.headers_mut().insert(name, value.parse().expect("a value of a header"));
        }
        self.send(request).await
    }

    pub(super) async fn send(&self, request: Request<()>) -> Result<Call, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (answer, body) = requests.send_request(request, false)?;
        let incoming =
            Incoming { head: Some(answer), body: None, headers: HeaderMap::new(), http: 0, buffer: BytesMut::new() };
        Ok(Call { body, incoming })
    }
}

/// A stream that was opened.
pub(super) struct Call {
    pub(super) body: SendStream<Bytes>,
    pub(super) incoming: Incoming,
}

impl Call {
    /// Sends bytes, and ends the request with them if they are the last.
    pub(super) fn send(&mut self, bytes: Bytes, last: bool) {
        // The server may have answered and closed the stream.
        let _ = self.body.send_data(bytes, last);
    }

    /// Resets the stream.
    pub(super) fn reset(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }
}

/// What comes on a stream.
pub(super) struct Incoming {
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    headers: HeaderMap,
    http: u16,
    buffer: BytesMut,
}

/// The next that came.
#[derive(Debug)]
pub(super) enum Next {
    Message(Bytes),
    End(End),
}

impl Incoming {
    /// The next message, or the end. A future of it may be dropped, and another made.
    pub(super) async fn next(&mut self) -> Next {
        if let Some(head) = &mut self.head {
            let head = match head.await {
                Ok(response) => response,
                Err(error) => return Next::End(failure(&error)),
            };
            self.head = None;
            let (head, body) = head.into_parts();
            (self.headers, self.http, self.body) = (head.headers, head.status.as_u16(), Some(body));
        }
        let body = self.body.as_mut().expect("the head has come");
        loop {
            if let Some(header) = self.buffer.get(..5) {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if self.http == 200 && self.buffer.len() >= 5 + length {
                    if header[0] != 0 {
                        return Next::End(End::Broken(format!("a message with the flag {}", header[0])));
                    }
                    self.buffer.advance(5);
                    return Next::Message(self.buffer.split_to(length).freeze());
                }
            }
            match body.data().await {
                Some(Ok(chunk)) => {
                    let _ = body.flow_control().release_capacity(chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                // The server has answered in full and wants no more of the request.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) && !error.is_go_away() => break,
                Some(Err(error)) => return Next::End(failure(&error)),
                None => break,
            }
        }
        let trailers = match body.trailers().await {
            Ok(trailers) => trailers,
            Err(error) if error.reason() == Some(Reason::NO_ERROR) && !error.is_go_away() => None,
            Err(error) => return Next::End(failure(&error)),
        };
        Next::End(self.end(trailers.as_ref()))
    }

    fn end(&self, trailers: Option<&HeaderMap>) -> End {
        let trailer = |name: &str| {
            let value = trailers.and_then(|trailers| trailers.get(name)).or_else(|| self.headers.get(name))?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let Some(status) = trailer("grpc-status") else { return End::Http(self.http) };
        if self.http != 200 {
            return End::Broken(format!("grpc-status {status} with the status {} of HTTP", self.http));
        }
        if !self.buffer.is_empty() {
            return End::Broken(format!("{} bytes of a message that is not whole", self.buffer.len()));
        }
        let text = trailer("grpc-message").unwrap_or_default();
        let text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        End::Status { code: Code::from_bytes(status.as_bytes()), text, messages: Vec::new() }
    }

    /// The status of HTTP, when the whole answer has come; `None` when it does not come.
    pub(super) async fn status(&mut self) -> Option<u16> {
        let (head, mut body) = self.head.take()?.await.ok()?.into_parts();
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        Some(head.status.as_u16())
    }

    /// All messages and the end.
    pub(super) async fn all(&mut self) -> End {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Next::Message(message) => all.push(message),
                Next::End(End::Status { code, text, .. }) => return End::Status { code, text, messages: all },
                Next::End(other) => return other,
            }
        }
    }
}

fn failure(error: &h2::Error) -> End {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => End::Reset(reason),
        _ if error.is_io() || error.is_go_away() || error.is_reset() => End::Lost,
        _ if error.to_string().contains("broken pipe") => End::Lost,
        _ => End::Broken(error.to_string()),
    }
}

/// `grpc-timeout`.
pub(super) fn grpc_timeout(deadline: Duration) -> String {
    format!("{}m", deadline.as_millis().clamp(1, 99_999_999))
}

/// What is asked of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// The deadline that it gave.
    pub(super) deadline: Option<Duration>,
    /// Whether its connection may be lost: because it, or its neighbours, misbehave.
    pub(super) may_be_lost: bool,
    /// Whether it may be answered with a status of HTTP, being no gRPC.
    pub(super) may_be_http: bool,
}

/// Waits for the end of a unary call, for as long as it may take.
pub(super) async fn finish(ground: &Ground, incoming: &mut Incoming, terms: Terms, start: Instant) -> End {
    let limit = terms.deadline.unwrap_or(TIMEOUT);
    let all = incoming.all();
    tokio::pin!(all);
    loop {
        let left = (limit + ground.margin()).saturating_sub(start.elapsed());
        if left.is_zero() {
            return End::Open;
        }
        if let Ok(end) = timeout(left, &mut all).await {
            return end;
        }
    }
}

/// Counts a unary call, and notes what must not be. `what` says which call it was.
pub(super) fn judge(ground: &Ground, kind: Kind, what: &str, terms: Terms, took: Duration, end: &End) {
    let limit = terms.deadline.unwrap_or(TIMEOUT);
    let find = |finding: &str, more: &str| {
        let took = took.as_secs_f64();
        ground.record.find(kind, finding, format!("{what} ({terms:?}) after {took:.3} s: {more}"));
    };
    let column = match end {
        End::Open => {
            find("a unary call is open past its limit", "");
            Column::Odd
        }
        End::Lost => {
            if !terms.may_be_lost && !ground.drains() {
                find("a connection was lost", "");
            }
            Column::Lost
        }
        End::Reset(reason) => {
            // Envoy resets what a draining listener still has, when its time is over.
            if !ground.drains() {
                find("a call was reset", &format!("{reason:?}"));
            }
            Column::Odd
        }
        End::Http(status) => {
            if !terms.may_be_http {
                find(&format!("a call has a status of HTTP, {status}, and none of gRPC"), "");
            }
            Column::Odd
        }
        End::Broken(why) => {
            find("an answer is not gRPC", why);
            Column::Odd
        }
        End::Status { code, text, messages } => {
            if *code != Code::Ok {
                ground.record.text(*code, text);
                if text.is_empty() {
                    find("a failure says nothing", &format!("{code:?}"));
                }
            }
            if *code == Code::Ok && messages.len() != 1 {
                find("an answer is not one message", &format!("{} messages", messages.len()));
            }
            if text.len() > 2048 {
                find("a text is longer than clients take", &format!("{code:?}, {} bytes: {text:.100}", text.len()));
            }
            column(*code, text, took, limit, &find)
        }
    };
    ground.record.count(kind, column, took);
}

fn column(code: Code, text: &str, took: Duration, limit: Duration, find: &dyn Fn(&str, &str)) -> Column {
    match code {
        Code::Ok => Column::Ok,
        Code::Unavailable => Column::Unavailable,
        Code::ResourceExhausted => Column::Exhausted,
        Code::DeadlineExceeded => {
            if took + Duration::from_millis(10) < limit {
                find("a deadline was over too soon", text);
            }
            Column::Deadline
        }
        Code::Internal => {
            if text.contains("Lua") || text.contains("RST") || text.contains("panic") {
                find("INTERNAL", text);
            }
            Column::Internal
        }
        // What Layotto answers where its own code has no status.
        Code::Unknown if !text.is_empty() && !text.contains("RST") => Column::Refused,
        Code::Unknown | Code::Cancelled | Code::DataLoss | Code::OutOfRange => {
            find(&format!("a status that nothing here should have, {code:?}"), text);
            Column::Odd
        }
        _ => Column::Refused,
    }
}

/// Why a call of an ordinary client gave no reply.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// It was refused: nothing was done.
    Refused(Code, String),
    /// It may have been done, or may be yet.
    Unknown,
}

/// An ordinary client: one connection, opened anew when it is lost.
pub(super) struct Caller {
    pub(super) ground: Arc<Ground>,
    pub(super) kind: Kind,
    pub(super) dialect: Dialect,
    connection: Option<Connection>,
}

/// A window that an ordinary client has.
pub(super) const WINDOW: u32 = 16 << 20;

impl Caller {
    pub(super) fn new(ground: &Arc<Ground>, kind: Kind, dialect: Dialect) -> Self {
        Self { ground: ground.clone(), kind, dialect, connection: None }
    }

    /// Closes the connection: the next call opens another, perhaps to another worker.
    pub(super) fn reconnect(&mut self) {
        self.connection = None;
    }

    /// A connection that is open.
    pub(super) async fn connection(&mut self) -> Option<&Connection> {
        if self.connection.as_ref().is_none_or(|connection| !connection.is_open()) {
            self.connection = connect(&self.ground, self.kind, self.ground.port(self.dialect), WINDOW).await;
        }
        self.connection.as_ref()
    }

    /// A whole unary call.
    pub(super) async fn unary<R: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
        deadline: Option<Duration>,
    ) -> Result<R, Failed> {
        let path = format!("/{}/{method}", self.dialect.service());
        let header = deadline.map(grpc_timeout);
        let headers: Vec<_> = header.as_ref().map(|header| ("grpc-timeout", header.as_str())).into_iter().collect();
        let (ground, kind) = (self.ground.clone(), self.kind);
        let mut begun = None;
        // A connection that drains takes no more calls, and says so at the next.
        for _ in 0..3 {
            let Some(connection) = self.connection().await else { return Err(Failed::Unknown) };
            match connection.begin(&path, &headers).await {
                Ok(call) => begun = Some(call),
                Err(_) => self.reconnect(),
            }
            if begun.is_some() {
                break;
            }
        }
        let Some(mut call) = begun else { return Err(Failed::Unknown) };
        let start = Instant::now();
        call.send(frame(&request.encode_to_vec()), true);
        let terms = Terms { deadline, ..Terms::default() };
        let end = finish(&ground, &mut call.incoming, terms, start).await;
        judge(&ground, kind, method, terms, start.elapsed(), &end);
        match end {
            End::Status { code: Code::Ok, messages, .. } => match messages.first().map(|message| R::decode(&**message))
            {
                Some(Ok(reply)) => Ok(reply),
                other => {
                    ground.record.find(kind, "a reply cannot be decoded", format!("{method}: {:?}", other.map(|_| ())));
                    Err(Failed::Unknown)
                }
            },
            End::Status { code, text, .. } => match code {
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::Unimplemented
                | Code::Unauthenticated => Err(Failed::Refused(code, text)),
                _ => Err(Failed::Unknown),
            },
            End::Lost | End::Reset(_) => {
                self.reconnect();
                Err(Failed::Unknown)
            }
            End::Http(_) | End::Broken(_) | End::Open => Err(Failed::Unknown),
        }
    }
}

/// Connects, in several attempts; that all fail is a finding.
pub(super) async fn connect(ground: &Ground, kind: Kind, port: u16, window: u32) -> Option<Connection> {
    let start = Instant::now();
    loop {
        match timeout(Duration::from_secs(5), Connection::open(port, window)).await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(_)) | Err(_) if start.elapsed() < Duration::from_secs(10) => sleep(Duration::from_millis(50)).await,
            failed => {
                let error = failed.map(|result| result.err().map(|error| error.to_string()));
                ground.record.find(kind, "a listener takes no connections", format!("port {port}: {error:?}"));
                return None;
            }
        }
    }
}
