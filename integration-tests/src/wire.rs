//! gRPC by hand: HTTP/2 streams on which a test puts the bytes it wants, right or wrong.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::wait::PATIENCE;

/// A message with its five-byte header.
pub fn frame(message: &[u8]) -> Bytes {
    flagged_frame(0, message)
}

/// A message compressed with gzip, with its header.
pub fn gzip_frame(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message).unwrap();
    flagged_frame(1, &encoder.finish().unwrap())
}

/// A header with any flag in front of any bytes.
pub fn flagged_frame(flag: u8, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(flag);
    frame.put_u32(u32::try_from(message.len()).expect("a message has less than 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

/// An HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
}

impl Connection {
    /// Connects to a port of 127.0.0.1.
    pub async fn open(port: u16) -> Self {
        Self::try_open(port).await.expect("the listener speaks HTTP/2")
    }

    /// The same where a refusal is possible.
    pub async fn try_open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(16 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake(stream)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { requests })
    }

    /// Begins a call of `path` with the headers of gRPC and `headers` over them.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)]) -> Call {
        self.try_call(path, headers).await.expect("the connection takes another stream")
    }

    /// The same where a refusal is possible.
    pub async fn try_call(&self, path: &str, headers: &[(&str, &str)]) -> Result<Call, h2::Error> {
        let mut request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let mut requests = self.requests.clone().ready().await?;
        let (answer, stream) = requests.send_request(request, false)?;
        Ok(Call { answer, stream })
    }

    /// A whole unary call: sends `body` in one piece and reads the answer.
    pub async fn unary(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut call = self.call(path, headers).await;
        call.finish(body);
        call.answer().await
    }
}

/// A stream that was opened.
#[derive(Debug)]
pub struct Call {
    answer: ResponseFuture,
    stream: SendStream<Bytes>,
}

impl Call {
    /// Sends a DATA frame.
    pub fn send(&mut self, body: Bytes) {
        // The server may have answered and closed the stream.
        let _ = self.stream.send_data(body, false);
    }

    /// Sends a DATA frame and ends the request.
    pub fn finish(&mut self, body: Bytes) {
        let _ = self.stream.send_data(body, true);
    }

    /// Resets the stream, as a client does that has lost interest.
    pub fn reset(mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    /// The answer; panics when the server resets the stream or says nothing.
    pub async fn answer(self) -> Answer {
        let answer = tokio::time::timeout(PATIENCE, self.try_answer()).await;
        answer.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}")).expect("the call is answered")
    }

    /// The answer, or why the stream ended without one.
    pub async fn try_answer(self) -> Result<Answer, h2::Error> {
        let (head, mut body) = self.answer.await?.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // The server has answered in full and wants no more of the request.
                Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
                Err(error) => return Err(error),
            };
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        let trailers = match body.trailers().await {
            Ok(trailers) => trailers,
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            Err(error) => return Err(error),
        };
        Ok(Answer { http_status: head.status.as_u16(), headers: head.headers, body: bytes.freeze(), trailers })
    }
}

/// All that came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `:status`
    pub http_status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The DATA frames, joined.
    pub body: Bytes,
    /// The trailers, if the answer did not end with its headers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A header or trailer.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        let value =
            self.trailers.as_ref().and_then(|trailers| trailers.get(name)).or_else(|| self.headers.get(name))?;
        Some(value.to_str().expect("the value is text"))
    }

    /// `grpc-status`; panics when there is none.
    pub fn code(&self) -> Code {
        let status = self.metadata("grpc-status").unwrap_or_else(|| panic!("an answer without grpc-status: {self:?}"));
        Code::from_bytes(status.as_bytes())
    }

    /// `grpc-message`, as it was sent.
    pub fn message(&self) -> &str {
        self.metadata("grpc-message").unwrap_or_default()
    }

    /// The status as a client library sees it, with its details.
    pub fn status(&self) -> Status {
        let metadata = self.trailers.as_ref().filter(|trailers| trailers.contains_key("grpc-status"));
        Status::from_header_map(metadata.unwrap_or(&self.headers)).expect("an answer has a status")
    }

    /// The one message of a successful unary call.
    pub fn decode<T: Message + Default>(&self) -> T {
        assert_eq!(self.code(), Code::Ok, "{}", self.message());
        let length = self.body.get(1..5).map(|length| u32::from_be_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(
            (self.body.first(), length),
            (Some(&0), Some(self.body.len() - 5)),
            "one uncompressed frame: {:?}",
            self.body
        );
        T::decode(self.body.slice(5..)).expect("the answer is a message")
    }
}
