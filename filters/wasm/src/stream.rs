//! One stream of an app: a request in, a reply out.

use std::rc::Rc;

use bytes::Bytes;
use http::Method;
use runtime_api::Runtime;
use runtime_api::api::call::{ACCEPTED_ENCODINGS, Body, Head, Reply, trailers};
use runtime_api::api::http::{Request, Response};
use runtime_api::executor::Task;
use runtime_bus::message::WAKE;
use tonic::{Code, Status};

use crate::abi::{self, Buffer, Map};
use crate::bus::Bus;
use crate::entry::Action;
use crate::host::Host;

pub(crate) struct HttpStream {
    context: u32,
    host: Host,
    bus: Option<Bus>,
    /// Absent when Envoy calls although the configuration was refused.
    runtime: Option<Rc<Runtime>>,
    protocol: Protocol,
    /// What has come of the request.
    body: Option<Body>,
    state: State,
    /// The call under way; it ends with the stream. It gives the frame of the reply, if that is a message.
    task: Option<Task<Option<Bytes>>>,
    /// That frame, between the response callbacks.
    frame: Option<Bytes>,
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
    pub(crate) fn new(context: u32, host: Host, bus: Option<Bus>, runtime: Option<Rc<Runtime>>) -> Self {
        Self {
            context,
            host,
            bus,
            runtime,
            protocol: Protocol::Grpc(Head::default()),
            body: None,
            state: State::Request,
            task: None,
            frame: None,
        }
    }

    /// Reads from the headers what matters.
    fn read_headers(&mut self) {
        let Ok(headers) = abi::headers(Map::RequestHeaders) else { return };
        let (mut head, mut request, mut grpc) = (Head::default(), Request::default(), false);
        headers.each(|name, value| match name {
            b"content-type" => grpc = value.starts_with(b"application/grpc"),
            b":method" => request.method = Method::from_bytes(value).unwrap_or_default(),
            _ => head.header(name, value),
        });
        #[cfg(feature = "trap")]
        crate::trap::at(head.target.path());
        self.protocol = if grpc {
            Protocol::Grpc(head)
        } else {
            (request.target, request.token) = (head.target.path().to_owned(), head.token);
            Protocol::Http(request)
        };
    }

    /// Takes in a part of the body; false if no more of it is wanted.
    fn take_body(&mut self, size: usize) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        if size == 0 {
            return true;
        }
        let grpc = matches!(self.protocol, Protocol::Grpc(_));
        let body = self.body.get_or_insert_with(|| runtime.body());
        abi::bytes(Buffer::RequestBody, size).is_ok_and(|bytes| runtime.take(body, bytes, grpc))
    }

    /// The whole request is here, or more of it than is allowed.
    fn dispatch(&mut self) {
        self.state = State::Taken;
        let Some(runtime) = self.runtime.clone() else {
            let text = b"the configuration of the runtime was refused; see Envoy's log";
            let _ = abi::send_local_response(503, &[], text, Some(UNAVAILABLE));
            return;
        };
        let body = self.body.take().unwrap_or_else(|| runtime.body());
        match &mut self.protocol {
            Protocol::Http(request) if request.target == WAKE => {
                if let Some(bus) = &self.bus {
                    bus.open_link();
                }
                let _ = abi::send_local_response(204, &[], &[], None);
            }
            Protocol::Http(request) => {
                respond(&runtime.http_with(request, body));
            }
            Protocol::Grpc(head) => {
                let (head, context) = (std::mem::take(head), self.context);
                self.task = Some(self.host.executor().spawn_cancellable(async move {
                    let reply = runtime.grpc(&head, body).await;
                    // Refused when the app has gone meanwhile: then nobody wants the reply.
                    if abi::set_effective_context(context).is_ok() {
                        answer(&reply);
                    }
                    match reply {
                        Reply::Message(frame) => Some(frame),
                        Reply::Status(_) => None,
                    }
                }));
            }
        }
    }
}

/// What is said when the Lua filter is not where the rendered configuration has it.
const NO_BODY: &str = "the call was carried out, but no filter gave its reply a body: the Lua filter that belongs behind the \
                       runtime filter is missing or an old one; render the configuration again";

const OK: i32 = 0;
const INTERNAL: &str = "13";
const UNAVAILABLE: i32 = 14;

/// Begins the reply to a gRPC call. A status is complete as it is; a message follows in the response callbacks.
fn answer(reply: &Reply) {
    match reply {
        // The status is what tells the Lua filter to give the reply a body.
        Reply::Message(_) => drop(abi::send_local_response(200, &[], &[], Some(OK))), // refused when the stream has just ended
        Reply::Status(status) => respond_with_status(status),
    }
}

/// Answers a gRPC call with a status alone, which is never OK.
fn respond_with_status(status: &Status) {
    let trailers = trailers(status);
    // Envoy makes the others from the arguments.
    let details = trailers.iter().filter(|(name, _)| *name == "grpc-status-details-bin");
    let mut headers: Vec<(&str, &[u8])> = details.map(|(name, value)| (*name, value.as_bytes())).collect();
    if status.code() == Code::Unimplemented {
        headers.push(("grpc-accept-encoding", ACCEPTED_ENCODINGS.as_bytes()));
    }
    let _ = abi::send_local_response(200, &headers, status.message().as_bytes(), Some(status.code() as i32));
}

fn respond(response: &Response) {
    let kind: Option<(&str, &[u8])> = response.content_type.map(|kind| ("content-type", kind.as_bytes()));
    let headers: Vec<(&str, &[u8])> = kind.into_iter().collect();
    let _ = abi::send_local_response(response.status.as_u16().into(), &headers, response.body.as_bytes(), None);
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
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
            return Action::Pause;
        }
        let wanted = self.take_body(size);
        if !end_of_stream {
            // Nothing stays in Envoy's buffer, whose own limit answers less clearly than ours.
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
        }
        if end_of_stream || !wanted {
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

    pub(crate) fn on_response_headers(&mut self, end_of_stream: bool) -> Action {
        self.frame = self.task.take_if(|task| task.is_done()).and_then(|task| task.outcome().ok().flatten());
        if self.frame.is_some() && end_of_stream {
            // An app would take this for an answer without a message.
            let _ = abi::replace_header(Map::ResponseHeaders, "grpc-status", INTERNAL);
            let _ = abi::replace_header(Map::ResponseHeaders, "grpc-message", NO_BODY);
        } else if self.frame.is_some() {
            let _ = abi::remove_header(Map::ResponseHeaders, "grpc-status"); // it follows among the trailers
        }
        Action::Continue
    }

    pub(crate) fn on_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if end_of_stream && let Some(frame) = self.frame.take() {
            let _ = abi::set_body(Buffer::ResponseBody, size, &frame);
            let _ = abi::add_header(Map::ResponseTrailers, "grpc-status", "0");
        }
        Action::Continue
    }
}
