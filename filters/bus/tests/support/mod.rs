//! A client of the bus: publishers and subscribers on one connection of the `h2` crate.

#![allow(dead_code)] // each test uses what it needs

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use runtime_bus::message::{FromBus, ToBus, hello};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The client's side of a connection to a bus.
pub(crate) struct Client {
    pub(crate) requests: SendRequest<Bytes>,
    /// Sets the initial window.
    pub(crate) settings: mpsc::UnboundedSender<u32>,
    pub(crate) ping: h2::PingPong,
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

    pub(crate) async fn request(&mut self, body: Vec<u8>, end: bool) -> (SendStream<Bytes>, HeaderMap, RecvStream) {
        let request = Request::post("http://bus/subscribe").header("te", "trailers").body(()).unwrap();
        self.requests = self.requests.clone().ready().await.unwrap();
        let (response, mut send) = self.requests.send_request(request, false).unwrap();
        send.send_data(body.into(), end).unwrap();
        let (head, body) = soon(response).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-type"], "application/grpc");
        (send, head.headers, body)
    }

    pub(crate) async fn publisher(&mut self) -> Publisher {
        let (send, _, receive) = self.request(framed(ToBus::Open), false).await;
        let mut publisher = Publisher { send, receive, connection: 0, partial: Vec::new(), read: VecDeque::new() };
        let FromBus::Hello { connection } = publisher.next().await else { panic!("the first message is a hello") };
        publisher.connection = connection;
        publisher
    }

    pub(crate) async fn subscriber(&mut self, subscription: u64) -> Subscriber {
        self.subscriber_that_says(hello(subscription).to_vec(), true).await
    }

    /// A subscriber with a request body of its own, which ends or does not.
    pub(crate) async fn subscriber_that_says(&mut self, body: Vec<u8>, end: bool) -> Subscriber {
        let (send, headers, body) = self.request(body, end).await;
        let connection = headers["x-runtime-bus"].to_str().unwrap().parse().unwrap();
        Subscriber { send, body, connection, read: Vec::new() }
    }
}

pub(crate) struct Publisher {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
    /// The number of its connection.
    pub(crate) connection: u64,
    partial: Vec<u8>,
    read: VecDeque<FromBus>,
}

impl Publisher {
    pub(crate) fn send(&mut self, message: ToBus<'_>) {
        self.send.send_data(framed(message).into(), false).unwrap();
    }

    pub(crate) fn data(&mut self, subscription: u64, sequence: u64, bytes: &[u8]) {
        self.send(ToBus::Data { subscription, sequence, bytes });
    }

    pub(crate) async fn next(&mut self) -> FromBus {
        while self.read.is_empty() {
            let bytes = soon(self.receive.data()).await.expect("the bus goes on").unwrap();
            self.receive.flow_control().release_capacity(bytes.len()).unwrap();
            self.partial.extend_from_slice(&bytes);
            while let Some(header) = self.partial.first_chunk::<5>() {
                let size = 5 + usize::from(header[3]) * 256 + usize::from(header[4]);
                if self.partial.len() < size {
                    break;
                }
                let frame: Vec<u8> = self.partial.drain(..size).collect();
                self.read.extend(FromBus::decode_all(&frame[5..]).unwrap());
            }
        }
        self.read.pop_front().unwrap()
    }

    /// Reads acknowledgements until this message is.
    pub(crate) async fn acknowledged(&mut self, subscription: u64, sequence: u64) {
        while self.next().await != (FromBus::Ack { subscription, sequence }) {}
    }
}

pub(crate) struct Subscriber {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) body: RecvStream,
    /// The number of its connection.
    pub(crate) connection: u64,
    read: Vec<u8>,
}

impl Subscriber {
    /// The next so many bytes; no more than these and one window are read.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let bytes = soon(self.body.data()).await.expect("the stream goes on").unwrap();
            self.body.flow_control().release_capacity(bytes.len()).unwrap();
            self.read.extend_from_slice(&bytes);
        }
        self.read.drain(..count).collect()
    }

    pub(crate) async fn ended(&mut self) {
        assert!(self.read.is_empty(), "no more than what was sent");
        let last = soon(self.body.data()).await;
        assert!(last.as_ref().is_none_or(|last| last.as_ref().is_ok_and(Bytes::is_empty)), "{last:?}");
        assert!(self.body.is_end_stream());
    }

    pub(crate) async fn reset(&mut self) -> Reason {
        loop {
            match soon(self.body.data()).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error.reason().unwrap(),
                None => panic!("the stream has ended well"),
            }
        }
    }
}

pub(crate) fn framed(message: ToBus<'_>) -> Vec<u8> {
    let message = message.encode();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
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
