//! The runtime API: calls in, replies out. A handler of a building block sees messages and stores; what is the same
//! for all of them (framing, the token, deadlines, metrics, statuses) happens here, around it.

#![allow(clippy::unused_async, clippy::unused_self, reason = "handlers are alike, whatever they need")]

pub mod call;
mod configuration;
mod conversation;
pub mod dialect;
#[cfg(test)]
mod echo;
mod failure;
mod health;
pub mod http;
mod lock;
mod metadata;
mod openapi;
mod prefix;
mod reflection;
mod room;
mod secrets;
mod sequencer;
mod state;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use envoy_runtime_proto as proto;
use futures::FutureExt;
use futures::future::{Either, select};
use tonic::{Code, Status};

use crate::component::Block;
use crate::config::{Config, Protocol, Secret};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::proxy::{Level, Proxy};
use crate::trace::Trace;
use call::{Body, Head, Intake, Reply, Target};
pub use conversation::Conversation;
use dialect::Dialect;
use failure::Failure;
pub use openapi::description as openapi;
pub use room::streaming_paths;
use room::{Handler, Opened, Opening, Room, Route};

/// What is served: a row for each building block, the most called first.
const ROOMS: &[Room] = &[
    state::ROOM,
    lock::ROOM,
    sequencer::ROOM,
    configuration::ROOM,
    secrets::ROOM,
    metadata::ROOM,
    health::ROOM,
    openapi::ROOM,
    reflection::ROOM,
    #[cfg(test)]
    echo::ROOM,
];

/// The runtime of one worker.
#[derive(Debug)]
pub struct Runtime {
    proxy: Rc<dyn Proxy>,
    config: Rc<Config>,
    /// What the handlers of each of [`ROOMS`] share.
    rooms: Vec<Rc<Opened>>,
    metrics: Metrics,
    intake: Intake,
}

/// A call under way, as handlers see it.
#[derive(Debug)]
pub struct Call {
    /// The dialect it was made in.
    pub dialect: Dialect,
    /// What it concerns, once that is known.
    component: RefCell<Option<(Block, String)>>,
}

impl Call {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, component: RefCell::default() }
    }

    /// Notes which component the call concerns, for metrics and texts.
    pub fn concerns(&self, block: Block, component: &str) {
        *self.component.borrow_mut() = Some((block, component.to_owned()));
    }
}

impl Runtime {
    /// A runtime with this configuration. Nothing is connected yet: a store is when it is first used.
    #[inline(never)]
    pub fn new(proxy: Rc<dyn Proxy>, config: Config) -> Self {
        proxy.budget().set_limit(config.limits.max_memory_bytes);
        let intake = Intake::new(&config.limits, proxy.budget());
        let (config, pace) = (Rc::new(config), Pace::new(&proxy));
        let opening = Opening { proxy: &proxy, config: &config, pace: &pace };
        let rooms = ROOMS.iter().map(|room| (room.open)(&opening)).collect();
        let metrics = Metrics::new(Rc::clone(&proxy));
        Self { proxy, config, rooms, metrics, intake }
    }

    /// The body of a request that is to come.
    pub fn body(&self) -> Body {
        Body::new(&self.intake.budget)
    }

    /// Adds a part to the body of a request. `false` if it tells already that the whole is over a limit: then the rest
    /// need not come, and the call is refused with what is there.
    pub fn take(&self, body: &mut Body, bytes: Vec<u8>, grpc: bool) -> bool {
        let limit = self.intake.bytes;
        let start = if body.bytes().is_empty() { &bytes } else { body.bytes() };
        let declared = if grpc { call::declared_length(start) } else { None };
        if declared.is_some_and(|declared| declared > limit) {
            body.add(bytes, 0);
            return false;
        }
        let most = declared.unwrap_or(limit).saturating_add(call::FRAME_HEADER);
        body.add(bytes, most);
        body.refused().is_none() && body.bytes().len() <= limit.saturating_add(call::FRAME_HEADER)
    }

    /// Whether a caller with this token may call.
    fn admits(&self, token: Option<&Secret>) -> bool {
        self.config.api_token.as_ref().is_none_or(|secret| token.is_some_and(|token| secret.is(token.reveal())))
    }

    /// Answers a unary gRPC call. Dropping the future cancels it.
    pub async fn grpc(&self, head: &Head, body: Body) -> Reply {
        let started = self.proxy.now();
        let route = head.target.route();
        let call = Call::new(dialect_of(route));
        let received = body.bytes().len();
        let answered = async { self.answer(head, &call, body).await.and_then(|reply| self.bounded(reply)) };
        let (answer, trace) = self.traced(answered).await;
        self.account(&call, name_of(&head.target), Some(started), answer.as_ref().err());
        if let Some(trace) = trace {
            let sent = answer.as_ref().map_or(0, Reply::size);
            self.explain(&call, name_of(&head.target), started, (received, sent), &trace, answer.as_ref().err());
        }
        answer.unwrap_or_else(|failure| failure.status(call.dialect).into())
    }

    async fn answer(&self, head: &Head, call: &Call, body: Body) -> Result<Reply, Failure> {
        if !self.admits(head.token.as_ref()) {
            return Err(failure::invalid_token(head.token.is_some()));
        }
        let message = call::message(body.freeze().map_err(Status::from)?, head.encoding.as_deref(), &self.intake)?;
        let route = self.allowed(&head.target)?;
        match (route.handler, self.rooms.get(route.room)) {
            (Handler::Unary(handle), Some(api)) => {
                let time = head.timeout.unwrap_or(self.config.limits.timeout);
                self.within(time, call, handle(&**api, call, message)).await
            }
            _ => Err(Failure::new(Code::Unimplemented, NOT_BY_THE_BUS)),
        }
    }

    /// The method that a call is to, if it is served and may be called.
    fn allowed(&self, target: &Target) -> Result<Route, Failure> {
        let route = target.route();
        let group = route.map_or(Some(""), |route| route.group); // what is not served is in no list
        let (_, method) = target.method();
        let version = version_of(method, dialect_of(route) == Dialect::Dapr);
        if group.is_some_and(|group| !self.config.api.allows(Protocol::Grpc, group, version)) {
            return Err(failure::not_allowed());
        }
        route.ok_or_else(|| unserved(target))
    }

    /// A reply as far as Envoy passes it on. It counts as held until Envoy has taken it.
    fn bounded(&self, reply: Reply) -> Result<Reply, Failure> {
        let limit = self.config.limits.max_reply_bytes();
        match reply {
            Reply::Message(frame) if frame.len() > limit => Err(call::reply_too_large(frame.len(), limit).into()),
            Reply::Message(frame) => match self.intake.budget.hold(frame) {
                Ok(frame) => Ok(Reply::Message(frame)),
                Err(exhausted) => Err(Status::from(exhausted).into()),
            },
            Reply::Status(status) => Err((*status).into()),
        }
    }

    /// Waits for an answer for so long.
    async fn within<T>(
        &self,
        time: Duration,
        call: &Call,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match select(std::pin::pin!(answer), self.proxy.sleep(time)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => {
                let who = match &*call.component.borrow() {
                    Some((block, component)) => format!("{} component {component}", block.name()),
                    None => "the runtime".to_owned(),
                };
                let time = humantime::format_duration(time);
                Err(Failure::new(Code::DeadlineExceeded, format!("{who} has not answered within {time}")))
            }
        }
    }

    /// Begins a streaming call, if the method is one that is served so: the filter then feeds the conversation and
    /// runs [`Runtime::converse`]. Any other call is unary.
    pub fn conversation(&self, head: &Head) -> Option<Conversation> {
        match head.target.route()?.handler {
            Handler::Stream { once, .. } => Some(Conversation::new(head.encoding.clone(), self.intake.clone(), once)),
            Handler::Unary(_) => None,
        }
    }

    /// Serves a streaming call to its end and gives its status. It lasts as long as the app wants it to: a deadline
    /// holds only where the app set one.
    pub async fn converse(&self, head: &Head, conversation: &Conversation) -> Status {
        let call = Call::new(dialect_of(head.target.route()));
        let ended = self.talk(head, &call, conversation).await;
        conversation.close();
        self.account(&call, name_of(&head.target), None, ended.as_ref().err());
        match ended {
            Ok(()) => Status::ok(""),
            Err(failure) => failure.status(call.dialect),
        }
    }

    async fn talk(&self, head: &Head, call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        if !self.admits(head.token.as_ref()) {
            return Err(failure::invalid_token(head.token.is_some()));
        }
        let served = match self.allowed(&head.target)? {
            Route { handler: Handler::Stream { serve, .. }, room, .. } => {
                self.rooms.get(room).map(|api| serve(&**api, call, conversation))
            }
            _ => None,
        };
        let Some(served) = served else { return Err(unserved(&head.target)) };
        // The refusal first: what the app did wrong is not for the handler to judge.
        let refused = Box::pin(conversation.refusal()).map(|status| Err(Failure::from(status)));
        let served = select(refused, served).map(|ended| ended.factor_first().0);
        let Some(time) = head.timeout else { return served.await };
        match select(served, self.proxy.sleep(time)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), _)) => {
                let time = humantime::format_duration(time);
                let text = format!("the stream was open for {time}, the deadline that the app gave it");
                Err(Failure::new(Code::DeadlineExceeded, text))
            }
        }
    }

    /// Metrics of a call.
    #[inline(never)]
    fn account(&self, call: &Call, method: &'static str, started: Option<Duration>, failure: Option<&Failure>) {
        let code = failure.map_or(Code::Ok, Failure::code);
        let component = call.component.borrow();
        let (block, component) = component.as_ref().map_or(("none", "none"), |(block, name)| (block.name(), name));
        let micros = started
            .map(|started| u64::try_from(self.proxy.now().saturating_sub(started).as_micros()).unwrap_or(u64::MAX));
        self.metrics.count(block, component, method, code, micros);
    }

    /// Runs a call. Where somebody reads the lines of the level debug, what it sends is noted.
    async fn traced<T>(&self, call: impl Future<Output = T>) -> (T, Option<Rc<Trace>>) {
        if !self.proxy.logs(Level::Debug) {
            return (call.await, None);
        }
        let trace = Rc::new(Trace::default());
        (trace.of(call).await, Some(trace))
    }

    /// The line that explains a call: what came, whom it concerned, what was sent, how long it took, and what came of it. But for the text of
    /// a failure it has no key of the app, and never a value.
    #[inline(never)]
    fn explain(
        &self,
        call: &Call,
        method: &str,
        started: Duration,
        (received, answered): (usize, usize),
        trace: &Trace,
        failure: Option<&Failure>,
    ) {
        let api = call.dialect.pick("dapr", "layotto");
        let component = call.component.borrow();
        let component = component.as_ref().map_or("none", |(_, name)| name);
        let took = self.proxy.now().saturating_sub(started).as_micros();
        let status = failure.map_or(Code::Ok, Failure::code);
        let message = failure.map(|failure| format!(" message={:?}", failure.text())).unwrap_or_default();
        let line = format!(
            "event=call method={method} api={api} component={component} request_bytes={received} sent=\"{trace}\" took_us={took} \
             status={status:?} reply_bytes={answered}{message}"
        );
        self.proxy.log(Level::Debug, &line);
    }
}

/// What metrics call a method.
fn name_of(target: &Target) -> &'static str {
    let declared = || {
        let (service, method) = target.method();
        proto::method(service, method).map_or("unknown", |method| method.name)
    };
    target.route().map_or_else(declared, |route| route.method)
}

fn dialect_of(route: Option<Route>) -> Dialect {
    route.map_or(Dialect::Dapr, |route| route.dialect)
}

/// The version of a method, as lists of APIs name it. Those of Layotto have none: any version of a block is that of its twin.
fn version_of(method: &str, is_dapr: bool) -> &'static str {
    match method {
        _ if !is_dapr => "",
        method if method.ends_with("Alpha1") => "v1alpha1",
        _ => "v1",
    }
}

/// What is said of a streaming call that came as a unary one.
const NOT_BY_THE_BUS: &str = "this call is a stream and did not come by the bus: the listener lacks the route that leads \
                              it there; render Envoy's configuration again";

/// What is said of a method that is not served.
fn unserved(target: &Target) -> Failure {
    let (service, method) = target.method();
    let text = match proto::method(service, method) {
        Some(_) => format!("{service}/{method} is not served by this version of Envoy Runtime"),
        None if proto::is_service(service) => format!("unknown method {method} for service {service}"),
        None => format!("unknown service {service}"),
    };
    Failure::new(Code::Unimplemented, text)
}

/// A point in time as RFC 3339 has it, in UTC and whole seconds.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
