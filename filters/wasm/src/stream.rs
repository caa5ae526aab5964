//! One stream of an app: a request in, a reply out.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::api::http::Response;
use runtime_api::exchange::{Answer, Exchange, Step};
use runtime_api::executor::Task;
use runtime_bus::message::WAKE;

use crate::abi::{self, Buffer, Map};
use crate::act::Act;
use crate::bus::Bus;
use crate::entry::Action;
use crate::host::Host;

pub(crate) struct HttpStream {
    context: u32,
    host: Host,
    bus: Option<Bus>,
    /// The request on its way in.
    exchange: Exchange,
    /// Whether Envoy was told to answer, which it may be once.
    answered: bool,
    /// The call under way; it ends with the stream. It gives the frame of the reply, if that is a message.
    task: Option<Task<Option<Bytes>>>,
    /// That frame, between the response callbacks.
    frame: Option<Bytes>,
}

impl HttpStream {
    pub(crate) fn new(context: u32, host: Host, bus: Option<Bus>, runtime: Option<Rc<Runtime>>) -> Self {
        let exchange = Exchange::new(runtime);
        Self { context, host, bus, exchange, answered: false, task: None, frame: None }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Does what is to be done with the request after a part of it.
    fn follow(&mut self, step: Step) {
        let Step::Serve(call) = step else { return };
        let (context, host) = (self.context, self.host.clone());
        self.task = Some(self.host.executor().spawn_cancellable(async move {
            let (act, frame) = match call.await {
                Answer::Grpc(Reply::Message(frame)) => (Act::Message, Some(frame)),
                Answer::Grpc(Reply::Status(status)) => (Act::Status(status), None),
                Answer::Http(response) => (Act::Response(Box::new(response)), None),
            };
            host.put(context, act);
            frame
        }));
        self.host.run();
    }

    /// The bus asks for a link by a request of its own.
    fn wake(&self) {
        if let Some(bus) = &self.bus {
            bus.open_link();
        }
        self.host.put(self.context, Act::Response(Box::new(Response::empty(StatusCode::NO_CONTENT))));
        self.host.run();
    }
}

/// What is said when the Lua filter is not where the rendered configuration has it.
const NO_BODY: &str = "the call was carried out, but no filter gave its reply a body: the Lua filter that belongs behind the \
                       runtime filter is missing or an old one; render the configuration again";

const INTERNAL: &str = "13";

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
        if let Ok(headers) = abi::headers(Map::RequestHeaders) {
            headers.each(|name, value| self.exchange.header(name, value));
        }
        #[cfg(feature = "trap")]
        crate::trap::at(self.exchange.path());
        if self.exchange.path() == WAKE {
            self.wake();
        } else {
            let step = self.exchange.headers(end_of_stream);
            self.follow(step);
        }
        Action::Pause
    }

    pub(crate) fn on_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let bytes = if self.exchange.is_taken() { None } else { abi::bytes(Buffer::RequestBody, size).ok() };
        if bytes.is_none() || !end_of_stream {
            // Nothing stays in Envoy's buffer, whose own limit answers less clearly than ours.
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
        }
        if let Some(bytes) = bytes {
            let step = self.exchange.body(bytes, end_of_stream);
            self.follow(step);
        }
        Action::Pause
    }

    pub(crate) fn on_request_trailers(&mut self) -> Action {
        let step = self.exchange.end();
        self.follow(step);
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
