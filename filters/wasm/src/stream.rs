//! One stream of an app: a request in, a reply out.

use std::rc::Rc;

use bytes::Bytes;
use http::{Method, StatusCode};
use runtime_api::Runtime;
use runtime_api::api::call::{Body, Content, Head, Reply};
use runtime_api::api::http::{Request, Response};
use runtime_api::executor::Task;
use runtime_bus::message::WAKE;
use tonic::Status;

use crate::abi::{self, Buffer, Map};
use crate::act::Act;
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
    /// Whether Envoy was told to answer, which it may be once.
    answered: bool,
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
            answered: false,
            task: None,
            frame: None,
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Reads from the headers what matters.
    fn read_headers(&mut self) {
        let Ok(headers) = abi::headers(Map::RequestHeaders) else { return };
        let (mut head, mut request) = (Head::default(), Request::default());
        headers.each(|name, value| match name {
            b":method" => request.method = Method::from_bytes(value).unwrap_or_default(),
            _ => head.header(name, value),
        });
        #[cfg(feature = "trap")]
        crate::trap::at(head.target.path());
        self.protocol = if head.content == Content::Grpc {
            Protocol::Grpc(head)
        } else {
            head.target.path().clone_into(&mut request.target);
            (request.token, request.content) = (head.token, head.content);
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
        let (context, body) = (self.context, self.body.take());
        match (&mut self.protocol, self.runtime.clone()) {
            (Protocol::Http(request), Some(_)) if request.target == WAKE => {
                if let Some(bus) = &self.bus {
                    bus.open_link();
                }
                self.host.put(context, Act::Response(Box::new(Response::empty(StatusCode::NO_CONTENT))));
            }
            (Protocol::Http(request), Some(runtime)) => {
                let (request, host) = (std::mem::take(request), self.host.clone());
                let body = body.unwrap_or_else(|| runtime.body());
                self.task = Some(self.host.executor().spawn_cancellable(async move {
                    host.put(context, Act::Response(Box::new(runtime.http_with(request, body).await)));
                    None
                }));
            }
            (Protocol::Grpc(head), Some(runtime)) => {
                let (head, host) = (std::mem::take(head), self.host.clone());
                let body = body.unwrap_or_else(|| runtime.body());
                self.task = Some(self.host.executor().spawn_cancellable(async move {
                    match runtime.grpc(&head, body).await {
                        Reply::Message(frame) => {
                            host.put(context, Act::Message);
                            Some(frame)
                        }
                        Reply::Status(status) => {
                            host.put(context, Act::Status(status));
                            None
                        }
                    }
                }));
            }
            (Protocol::Http(_), None) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let response = Response { status, content_type: Some("text/plain"), body: REFUSED.to_owned() };
                self.host.put(context, Act::Response(Box::new(response)));
            }
            (Protocol::Grpc(_), None) => {
                self.host.put(context, Act::Status(Box::new(Status::unavailable(REFUSED))));
            }
        }
    }
}

/// What is said when the Lua filter is not where the rendered configuration has it.
const NO_BODY: &str = "the call was carried out, but no filter gave its reply a body: the Lua filter that belongs behind the \
                       runtime filter is missing or an old one; render the configuration again";

const INTERNAL: &str = "13";

/// What is said where there is no runtime.
const REFUSED: &str = "the configuration of the runtime was refused; see Envoy's log";

impl HttpStream {
    /// The stream has ended, answered or not. A call that is still under way is cancelled.
    pub(crate) fn end(mut self) {
        if let Some(task) = self.task.take().filter(|task| !task.is_done()) {
            drop(task);
            self.host.run();
        }
    }

    /// Whether the stream is still to be answered, which it is to be once.
    pub(crate) fn may_answer(&mut self) -> bool {
        !std::mem::replace(&mut self.answered, true)
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
        if self.answered {
            self.frame = self.task.take_if(|task| task.is_done()).and_then(|task| task.outcome().ok().flatten());
        } // else it is an answer of Envoy's own, which went before the one that waits
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
