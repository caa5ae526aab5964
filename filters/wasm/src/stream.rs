//! One stream of an app: a request in, a reply out.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::Method;
use runtime_api::Runtime;
use runtime_api::api::call::{ACCEPTED_ENCODINGS, Head, Reply};
use runtime_api::api::http::{Request, Response};
use runtime_api::executor::Task;
use tonic::Code;

use crate::abi::{self, Buffer, Map};
use crate::entry::Action;
use crate::host::Host;

/// What tells the Lua filter to give the reply a body.
const MARKER: &str = "x-runtime-body";

pub(crate) struct HttpStream {
    context: u32,
    host: Host,
    /// Absent when Envoy calls although the configuration was refused.
    runtime: Option<Rc<Runtime>>,
    protocol: Protocol,
    body: BytesMut,
    state: State,
    /// The frame of the reply, for the response callbacks.
    frame: Rc<RefCell<Option<Bytes>>>,
    /// The call under way; it ends with the stream.
    task: Option<Task>,
}

enum Protocol {
    Grpc(Head),
    Http(Request),
}

#[derive(PartialEq)]
enum State {
    /// The request is coming in.
    Request,
    /// The request is with the runtime, or answered.
    Taken,
}

impl HttpStream {
    pub(crate) fn new(context: u32, host: Host, runtime: Option<Rc<Runtime>>) -> Self {
        Self {
            context,
            host,
            runtime,
            protocol: Protocol::Grpc(Head::default()),
            body: BytesMut::new(),
            state: State::Request,
            frame: Rc::default(),
            task: None,
        }
    }

    /// Reads from the headers what matters.
    fn read_headers(&mut self) {
        let Ok(headers) = abi::headers(Map::RequestHeaders) else { return };
        let (mut head, mut request, mut grpc) = (Head::default(), Request::default(), false);
        headers.each(|name, value| match name {
            "content-type" => grpc = value.starts_with("application/grpc"),
            ":method" => request.method = Method::from_bytes(value.as_bytes()).unwrap_or_default(),
            _ => head.header(name, value),
        });
        self.protocol = if grpc {
            Protocol::Grpc(head)
        } else {
            (request.target, request.token) = (head.path, head.token);
            Protocol::Http(request)
        };
    }

    /// Takes in a part of the body.
    fn take_body(&mut self, size: usize) {
        if size == 0 {
            return;
        }
        if let Ok(bytes) = abi::bytes(Buffer::RequestBody, size) {
            if self.body.is_empty() {
                self.body = Bytes::from(bytes).into();
            } else {
                self.body.extend_from_slice(&bytes);
            }
        }
    }

    /// The whole request is here, or more of it than is allowed.
    fn dispatch(&mut self) {
        self.state = State::Taken;
        let Some(runtime) = self.runtime.clone() else {
            let text = b"the configuration of the runtime was refused; see Envoy's log";
            let _ = abi::send_local_response(503, &[], text, Some(UNAVAILABLE));
            return;
        };
        let body = std::mem::take(&mut self.body).freeze();
        match &mut self.protocol {
            Protocol::Http(request) => {
                request.body = body;
                respond(&runtime.http(request));
            }
            Protocol::Grpc(head) => {
                let (head, frame, context) = (std::mem::take(head), Rc::clone(&self.frame), self.context);
                self.task = Some(self.host.executor().spawn_cancellable(async move {
                    let reply = runtime.grpc(&head, body).await;
                    // Refused when the app has gone meanwhile: then nobody wants the reply.
                    if abi::set_effective_context(context).is_ok() {
                        answer(&reply, &frame);
                    }
                }));
            }
        }
    }
}

const UNAVAILABLE: i32 = 14;

/// Begins the reply to a gRPC call. A status is complete as it is; a message follows in the response callbacks.
fn answer(reply: &Reply, frame: &RefCell<Option<Bytes>>) {
    let sent = match reply {
        Reply::Message(bytes) => {
            *frame.borrow_mut() = Some(bytes.clone());
            abi::send_local_response(200, &[(MARKER, b"1")], &[], None)
        }
        Reply::Status(status) => {
            let mut headers: Vec<(&str, &[u8])> = Vec::new();
            if status.code() == Code::Unimplemented {
                headers.push(("grpc-accept-encoding", ACCEPTED_ENCODINGS.as_bytes()));
            }
            let details = base64(status.details());
            if !details.is_empty() {
                headers.push(("grpc-status-details-bin", details.as_bytes()));
            }
            abi::send_local_response(200, &headers, status.message().as_bytes(), Some(status.code() as i32))
        }
    };
    let _ = sent; // refused when the stream has ended in the same moment
}

fn respond(response: &Response) {
    let kind: Option<(&str, &[u8])> = response.content_type.map(|kind| ("content-type", kind.as_bytes()));
    let headers: Vec<(&str, &[u8])> = kind.into_iter().collect();
    let _ = abi::send_local_response(response.status.as_u16().into(), &headers, response.body.as_bytes(), None);
}

/// As gRPC sends binary metadata: without padding.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

impl HttpStream {
    /// The stream has ended, answered or not. A call that is still under way is cancelled.
    pub(crate) fn end(mut self) {
        if let Some(task) = self.task.take().filter(|task| !task.is_done()) {
            drop(task);
            self.host.run();
        }
    }

    pub(crate) fn on_request_headers(&mut self, end_of_stream: bool) -> Action {
        self.read_headers();
        if end_of_stream {
            self.dispatch();
            self.host.run();
        }
        Action::Pause
    }

    pub(crate) fn on_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if self.state == State::Taken {
            self.body.clear();
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
            return Action::Pause;
        }
        self.take_body(size);
        if !end_of_stream {
            // Nothing stays in Envoy's buffer, whose own limit answers less clearly than ours.
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
        }
        let grpc = matches!(self.protocol, Protocol::Grpc(_));
        if end_of_stream || self.runtime.as_ref().is_none_or(|runtime| runtime.is_too_large(&self.body, grpc)) {
            self.dispatch();
            self.host.run();
        }
        Action::Pause
    }

    pub(crate) fn on_request_trailers(&mut self) -> Action {
        if self.state == State::Request {
            self.dispatch();
            self.host.run();
        }
        Action::Pause
    }

    pub(crate) fn on_response_headers(&mut self) -> Action {
        if self.frame.borrow().is_some() {
            let headers: [(&str, &[u8]); 2] = [(":status", b"200"), ("content-type", b"application/grpc")];
            let _ = abi::set_headers(Map::ResponseHeaders, &headers);
        }
        Action::Continue
    }

    pub(crate) fn on_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if end_of_stream && let Some(frame) = self.frame.borrow_mut().take() {
            let _ = abi::set_body(Buffer::ResponseBody, size, &frame);
            let _ = abi::add_header(Map::ResponseTrailers, "grpc-status", "0");
        }
        Action::Continue
    }
}
