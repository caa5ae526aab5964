//! A client of the bus: publishers and apps on one connection of the `h2` crate.

#![allow(dead_code)] // each test uses what it needs

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use runtime_bus::message::{CONFIGURATION_HEADER, FromBus, INSTANCE_HEADER, PUBLISH, ToBus, add_trailer, each_header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The configuration that publishers serve and streams belong to, unless a test says otherwise.
pub(crate) const CONFIGURATION: &str = "runtime-1";

/// The client's side of a connection to a bus.
pub(crate) struct Client {
    pub(crate) requests: SendRequest<Bytes>,
    /// Sets the initial window.
    pub(crate) settings: mpsc::UnboundedSender<u32>,
    pub(crate) ping: h2::PingPong,
}

/// A message of the bus with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Hello(u64),
    Head(u32, Vec<(String, String)>),
    Data(u32, Vec<u8>),
    HalfClose(u32),
    Gone(u32),
    Written(u32, u32),
}

impl From<FromBus<'_>> for Told {
    fn from(message: FromBus<'_>) -> Self {
        match message {
            FromBus::Hello { connection } => Self::Hello(connection),
            FromBus::Head { stream, headers } => {
                let mut list = Vec::new();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                each_header(headers, |name, value| list.push((text(name), text(value))));
                Self::Head(stream, list)
            }
            FromBus::Data { stream, bytes } => Self::Data(stream, bytes.to_vec()),
            FromBus::HalfClose { stream } => Self::HalfClose(stream),
            FromBus::Gone { stream } => Self::Gone(stream),
            FromBus::Written { stream, bytes } => Self::Written(stream, bytes),
        }
    }
}

/// All messages of a gRPC frame.
pub(crate) fn told(mut messages: &[u8]) -> Vec<Told> {
    let mut told = Vec::new();
    while let Some(message) = FromBus::take(&mut messages).unwrap() {
        told.push(message.into());
    }
    told
}

impl Client {
    /// Speaks HTTP/2 on a connection.
    pub(crate) async fn over(
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: &Builder,
    ) -> Self {
        let (requests, mut connection) = builder.handshake(connection).await.unwrap();
        let ping = connection.ping_pong().unwrap();
        let (settings, mut changes) = mpsc::unbounded_channel();
        tokio::spawn(poll_fn(move |context| {
            while let Poll::Ready(Some(window)) = changes.poll_recv(context) {
                connection.set_initial_window_size(window).unwrap();
            }
            let connection = std::pin::Pin::new(&mut connection);
            Future::poll(connection, context).map(drop)
        }));
        Self { requests, settings, ping }
    }

    /// Sends a request whose body is yet to come.
    pub(crate) async fn request(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://bus{path}")).header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.requests = self.requests.clone().ready().await.unwrap();
        self.requests.send_request(request.body(()).unwrap(), false).unwrap()
    }

    pub(crate) async fn publisher(&mut self) -> Publisher {
        self.publisher_of(CONFIGURATION).await
    }

    /// A publisher that serves this configuration.
    pub(crate) async fn publisher_of(&mut self, configuration: &str) -> Publisher {
        static INSTANCES: AtomicU32 = AtomicU32::new(0);
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed).to_string();
        self.publisher_with(&[(CONFIGURATION_HEADER, configuration), (INSTANCE_HEADER, &instance)]).await
    }

    pub(crate) async fn publisher_with(&mut self, headers: &[(&str, &str)]) -> Publisher {
        let (service, method) = PUBLISH;
        let (response, send) = self.request(&format!("/{service}/{method}"), headers).await;
        let (head, receive) = soon(response).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "application/grpc");
        let mut publisher = Publisher { send, receive, connection: 0, partial: Vec::new(), read: VecDeque::new() };
        if head.headers.contains_key("grpc-status") {
            return publisher; // refused
        }
        let Told::Hello(connection) = publisher.next().await else { panic!("the first message is a hello") };
        publisher.connection = connection;
        publisher
    }

    /// A stream of an app.
    pub(crate) async fn app(&mut self) -> App {
        self.app_of(CONFIGURATION).await
    }

    pub(crate) async fn app_of(&mut self, configuration: &str) -> App {
        let (response, send) = self.request("/a.Service/Stream", &[(CONFIGURATION_HEADER, configuration)]).await;
        let id = response.stream_id().as_u32();
        App { id, send, response: Some(response), body: None, headers: HeaderMap::new(), read: Vec::new() }
    }

    /// A stream of an app that the publisher has heard of, and nothing else since.
    pub(crate) async fn app_at(&mut self, publisher: &mut Publisher) -> App {
        let mut app = self.app().await;
        // Another than this client's where the stream goes through an Envoy.
        let Told::Head(id, _) = publisher.next().await else { panic!("the head is first") };
        app.id = id;
        app
    }
}

pub(crate) struct Publisher {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
    /// The number of its connection.
    pub(crate) connection: u64,
    partial: Vec<u8>,
    read: VecDeque<Told>,
}

impl Publisher {
    pub(crate) fn send(&mut self, message: ToBus<'_>) {
        self.send_all(&[message]);
    }

    /// Sends messages in one gRPC frame.
    pub(crate) fn send_all(&mut self, messages: &[ToBus<'_>]) {
        self.send.send_data(framed(messages).into(), false).unwrap();
    }

    pub(crate) fn data(&mut self, app: &App, bytes: &[u8]) {
        self.send(ToBus::Data { stream: app.id, bytes });
    }

    pub(crate) fn end(&mut self, app: &App, trailers: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in trailers {
            add_trailer(&mut block, name, value);
        }
        self.send(ToBus::End { stream: app.id, trailers: &block });
    }

    pub(crate) async fn next(&mut self) -> Told {
        while self.read.is_empty() {
            let bytes = soon(self.receive.data()).await.expect("the bus goes on").unwrap();
            self.receive.flow_control().release_capacity(bytes.len()).unwrap();
            self.partial.extend_from_slice(&bytes);
            while let Some([0, a, b, c, d]) = self.partial.first_chunk::<5>() {
                let size = 5 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if self.partial.len() < size {
                    break;
                }
                let frame: Vec<u8> = self.partial.drain(..size).collect();
                self.read.extend(told(&frame[5..]));
            }
        }
        self.read.pop_front().unwrap()
    }

    /// Reads until so many bytes of a stream are written.
    pub(crate) async fn written(&mut self, app: &App, bytes: u32) {
        let mut left = i64::from(bytes);
        while left > 0 {
            match self.next().await {
                Told::Written(stream, bytes) if stream == app.id => left -= i64::from(bytes),
                Told::Written(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(crate) struct App {
    /// The number of its stream.
    pub(crate) id: u32,
    pub(crate) send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    headers: HeaderMap,
    read: Vec<u8>,
}

impl App {
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.send.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
    }

    pub(crate) fn half_close(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// The body of the response, which has begun.
    pub(crate) async fn body(&mut self) -> &mut RecvStream {
        if let Some(response) = self.response.take() {
            let (head, body) = soon(response).await.unwrap().into_parts();
            assert_eq!(head.status, 200);
            assert_eq!(head.headers["content-type"], "application/grpc");
            self.headers = head.headers;
            self.body = Some(body);
        }
        self.body.as_mut().unwrap()
    }

    /// The next so many bytes; no more than these and one window are read.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let body = self.body().await;
            let bytes = soon(body.data()).await.expect("the stream goes on").unwrap();
            body.flow_control().release_capacity(bytes.len()).unwrap();
            self.read.extend_from_slice(&bytes);
        }
        self.read.drain(..count).collect()
    }

    /// The status and its text at the end of the stream, after all that was taken.
    pub(crate) async fn end(&mut self) -> (String, String) {
        assert!(self.read.is_empty(), "no more than what was sent");
        let body = self.body().await;
        let last = soon(body.data()).await;
        assert!(last.as_ref().is_none_or(|last| last.as_ref().is_ok_and(Bytes::is_empty)), "{last:?}");
        let trailers = soon(body.trailers()).await.unwrap();
        let headers = trailers.as_ref().unwrap_or(&self.headers);
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        (text("grpc-status"), text("grpc-message"))
    }

    pub(crate) async fn reset(&mut self) -> Reason {
        if let Some(response) = self.response.take() {
            match soon(response).await {
                Ok(response) => self.body = Some(response.into_body()),
                Err(error) => return error.reason().unwrap(),
            }
        }
        loop {
            match soon(self.body.as_mut().unwrap().data()).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason().unwrap(),
                None => panic!("the stream has ended well"),
            }
        }
    }
}

pub(crate) fn framed(messages: &[ToBus<'_>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for message in messages {
        message.encode(&mut payload);
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&payload);
    frame
}

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(Duration::from_secs(20), what).await.expect("it happens soon")
}

/// Bytes of which no two stretches are alike.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(count).collect()
}
