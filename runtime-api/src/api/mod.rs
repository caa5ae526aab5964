//! The runtime API: calls in, replies out. A handler of a building block sees messages and stores; what is the same
//! for all of them (framing, the token, deadlines, metrics, statuses) happens here, around it.

pub mod call;
mod configuration;
mod conversation;
pub mod dialect;
pub mod http;
mod lock;
mod metadata;
mod prefix;
mod reflection;
mod route;
mod secrets;
mod sequencer;
mod state;
mod status;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1::GetMetadataRequest;
use envoy_runtime_proto::{self as proto, grpc::health::v1 as proto_health};
use futures::FutureExt;
use futures::future::{Either, LocalBoxFuture, ready, select};
use prost::Message;
use tonic::Status;

use crate::component::{Block, Build, Environment};
use crate::config::{Config, Secret};
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::proxy::{Level, Proxy};
use call::{Body, Head, Intake, Reply, Target};
pub use conversation::Conversation;
use dialect::{DAPR, Dialect};
pub use route::streaming_paths;
use route::{Route, Rpc, services};

// Whether this build has drivers of a block. Where it has none, the compiler leaves out what only they lead to.
const CONFIGURATION: bool = Block::Configuration.has_drivers();
const LOCK: bool = Block::Lock.has_drivers();
const SECRETS: bool = Block::Secrets.has_drivers();
const SEQUENCER: bool = Block::Sequencer.has_drivers();

/// The runtime of one worker.
#[derive(Debug)]
pub struct Runtime {
    proxy: Rc<dyn Proxy>,
    config: Rc<Config>,
    state: state::StateApi,
    configuration: configuration::ConfigurationApi,
    secrets: secrets::SecretsApi,
    lock: lock::LockApi,
    sequencer: sequencer::SequencerApi,
    metadata: metadata::MetadataApi,
    metrics: Metrics,
    intake: Intake,
}

/// A call under way, as handlers see it.
#[derive(Debug)]
pub struct Call {
    /// The dialect it was made in.
    pub dialect: &'static Dialect,
    /// What it concerns, once that is known.
    component: RefCell<Option<(Block, String)>>,
}

impl Call {
    fn new(route: Option<Route>) -> Self {
        Self { dialect: route.map_or(&DAPR, |route| route.dialect), component: RefCell::default() }
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
        let pace = Pace::new(&proxy);
        let (mut stores, mut configurations) = (Vec::new(), Vec::new());
        let mut secrets = Vec::new();
        let (mut locks, mut sequencers) = (Vec::new(), Vec::new());
        for component in &config.components {
            let environment = Environment {
                proxy: Rc::clone(&proxy),
                app_id: config.app_id.clone(),
                component: component.clone(),
                limits: config.limits,
                pace: pace.clone(),
            };
            match component.driver.build {
                Build::State(build) => stores.push((component, build(&environment))),
                Build::Configuration(build) if CONFIGURATION => configurations.push((component, build(&environment))),
                Build::Secrets(build) if SECRETS => secrets.push((component, build(&environment))),
                Build::Lock(build) if LOCK => locks.push((component, build(&environment))),
                Build::Sequencer(build) if SEQUENCER => {
                    let sequencer = build(&environment);
                    sequencers.push((environment, sequencer));
                }
                _ => {} // no registry has such a driver
            }
        }
        let state = state::StateApi::new(&config, &pace, stores);
        let configuration = configuration::ConfigurationApi::new(&proxy, &config, configurations);
        let secrets = secrets::SecretsApi::new(&config.secret_scopes, secrets);
        let lock = lock::LockApi::new(&config, locks);
        let sequencer = sequencer::SequencerApi::new(&config, sequencers);
        let config = Rc::new(config);
        let metadata = metadata::MetadataApi::new(Rc::clone(&proxy), Rc::clone(&config));
        let metrics = Metrics::new(Rc::clone(&proxy));
        Self { proxy, config, state, configuration, secrets, lock, sequencer, metadata, metrics, intake }
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
        let call = Call::new(route);
        let reply = if self.admits(head.token.as_ref()) {
            let body = body.freeze().map_err(Status::from);
            let message = body.and_then(|body| call::message(body, head.encoding.as_deref(), &self.intake));
            match (message, route) {
                (Ok(message), Some(route)) => {
                    self.within_deadline(head, &call, self.serve(&call, route.rpc, message)).await
                }
                (Ok(_), None) => unserved(&head.target).into(),
                (Err(status), _) => status.into(),
            }
        } else {
            status::invalid_token(call.dialect, head.token.is_some()).into()
        };
        let reply = match (reply, self.config.limits.max_reply_bytes()) {
            (Reply::Message(frame), limit) if frame.len() > limit => call::reply_too_large(frame.len(), limit).into(),
            // It may wait for Envoy to take it.
            (Reply::Message(frame), _) => match self.intake.budget.hold(frame) {
                Ok(frame) => Reply::Message(frame),
                Err(exhausted) => Status::from(exhausted).into(),
            },
            (reply, _) => reply,
        };
        let reply = if let Reply::Status(status) = reply { status::told(*status).into() } else { reply };
        self.account(&call, &head.target, Some(started), &reply);
        reply
    }

    async fn within_deadline(&self, head: &Head, call: &Call, reply: impl Future<Output = Reply>) -> Reply {
        let time = head.timeout.unwrap_or(self.config.limits.timeout);
        let deadline = self.proxy.sleep(time);
        match select(std::pin::pin!(reply), deadline).await {
            Either::Left((reply, _)) => reply,
            Either::Right(((), _)) => {
                let who = match &*call.component.borrow() {
                    Some((block, component)) => format!("{} component {component}", block.name()),
                    None => "the runtime".to_owned(),
                };
                let time = humantime::format_duration(time);
                Status::deadline_exceeded(format!("{who} has not answered within {time}")).into()
            }
        }
    }

    /// Begins a streaming call, if the method is one that is served so: the filter then feeds the conversation and
    /// runs [`Runtime::converse`]. Any other call is unary.
    pub fn conversation(&self, head: &Head) -> Option<Conversation> {
        let rpc = head.target.route().map(|route| route.rpc).filter(|rpc| rpc.is_stream())?;
        Some(Conversation::new(head.encoding.clone(), self.intake.clone(), rpc.takes_one()))
    }

    /// Serves a streaming call to its end and gives its status. It lasts as long as the app wants it to: a deadline
    /// holds only where the app set one.
    pub async fn converse(&self, head: &Head, conversation: &Conversation) -> Status {
        let route = head.target.route();
        let call = Call::new(route);
        let status = if self.admits(head.token.as_ref()) {
            // The refusal first: what the app did wrong is not for the handler to judge.
            let served = select(Box::pin(conversation.refusal()), self.serve_stream(&call, &head.target, conversation))
                .map(|ended| ended.factor_first().0);
            match head.timeout {
                None => served.await,
                Some(time) => match select(served, self.proxy.sleep(time)).await {
                    Either::Left((status, _)) => status,
                    Either::Right(((), _)) => Status::deadline_exceeded(format!(
                        "the stream was open for {}, the deadline that the app gave it",
                        humantime::format_duration(time)
                    )),
                },
            }
        } else {
            status::invalid_token(call.dialect, head.token.is_some())
        };
        conversation.close();
        let status = status::told(status);
        self.account(&call, &head.target, None, &Reply::from(status.clone()));
        status
    }

    /// What is done for each streaming method.
    fn serve_stream<'a>(
        &'a self,
        call: &'a Call,
        target: &Target,
        conversation: &'a Conversation,
    ) -> LocalBoxFuture<'a, Status> {
        let configuration = &self.configuration;
        match target.route().map(|route| route.rpc) {
            Some(Rpc::Watch) => Box::pin(ended(watch_health(conversation))),
            Some(Rpc::Reflect) => Box::pin(ended(reflection::serve(conversation))),
            Some(Rpc::SubscribeConfigurationDapr) if CONFIGURATION => {
                Box::pin(ended(configuration.subscribe_dapr(call, conversation)))
            }
            Some(Rpc::SubscribeConfiguration) if CONFIGURATION => {
                Box::pin(ended(configuration.subscribe(call, conversation)))
            }
            Some(Rpc::SubscribeConfigurationDapr | Rpc::SubscribeConfiguration) => {
                Box::pin(ended(no_driver_of_stream(call, Block::Configuration, conversation)))
            }
            _ => Box::pin(ready(unserved(target))),
        }
    }

    /// What is done for each unary method. Each arm is a future of its own behind a pointer, not a part of this one: a
    /// function that held them all would be so large that compiling it costs Envoy megabytes.
    fn serve<'a>(&'a self, call: &'a Call, rpc: Rpc, message: Bytes) -> LocalBoxFuture<'a, Reply> {
        let (secrets, lock, sequencer) = (&self.secrets, &self.lock, &self.sequencer);
        let (state, configuration, metadata) = (&self.state, &self.configuration, &self.metadata);
        match rpc {
            Rpc::GetState => Box::pin(unary(message, async move |request| state.get(call, request).await)),
            Rpc::GetBulkState => Box::pin(unary(message, async move |request| state.get_bulk(call, request).await)),
            Rpc::SaveState => Box::pin(unary(message, async move |request| state.save(call, request).await)),
            Rpc::DeleteState => Box::pin(unary(message, async move |request| state.delete(call, request).await)),
            Rpc::DeleteBulkState => {
                Box::pin(unary(message, async move |request| state.delete_bulk(call, request).await))
            }
            Rpc::ExecuteStateTransaction => {
                Box::pin(unary(message, async move |request| state.transact(call, request).await))
            }
            Rpc::GetSecret if SECRETS => {
                Box::pin(unary(message, async move |request| secrets.get(call, request).await))
            }
            Rpc::GetBulkSecret if SECRETS => {
                Box::pin(unary(message, async move |request| secrets.get_bulk(call, request).await))
            }
            Rpc::TryLock if LOCK => Box::pin(unary(message, async move |request| lock.try_lock(call, request).await)),
            Rpc::Unlock if LOCK => Box::pin(unary(message, async move |request| lock.unlock(call, request).await)),
            Rpc::LockKeepAlive if LOCK => {
                Box::pin(unary(message, async move |request| lock.keep_alive(call, request).await))
            }
            Rpc::GetNextId if SEQUENCER => {
                Box::pin(unary(message, async move |request| sequencer.next_id(call, request).await))
            }
            Rpc::GetConfigurationDapr if CONFIGURATION => {
                Box::pin(unary(message, async move |request| configuration.get_dapr(call, request).await))
            }
            Rpc::GetConfiguration if CONFIGURATION => {
                Box::pin(unary(message, async move |request| configuration.get(call, request).await))
            }
            Rpc::SaveConfiguration if CONFIGURATION => {
                Box::pin(unary(message, async move |request| configuration.save(call, request).await))
            }
            Rpc::DeleteConfiguration if CONFIGURATION => {
                Box::pin(unary(message, async move |request| configuration.delete(call, request).await))
            }
            Rpc::UnsubscribeConfiguration => {
                Box::pin(unary(message, async move |request| Ok(configuration.unsubscribe(call, &request))))
            }
            Rpc::Check => Box::pin(unary(message, async |request| health(&request))),
            Rpc::GetMetadata => Box::pin(unary(message, async move |_: GetMetadataRequest| Ok(metadata.get()))),
            Rpc::SetMetadata => Box::pin(unary(message, async move |request| metadata.set(request))),
            rpc => Box::pin(ready(match rpc.block().map(|block| no_driver(call, rpc, block, message)) {
                Some(Err(status)) => status.into(),
                Some(Ok(never)) => match never {},
                None => Status::unimplemented(NOT_BY_THE_BUS).into(),
            })),
        }
    }

    /// Metrics of a call, and a line in the log for one that failed by our fault or a store's.
    #[inline(never)]
    fn account(&self, call: &Call, target: &Target, started: Option<Duration>, reply: &Reply) {
        let declared = || {
            let (service, method) = target.method();
            proto::method(service, method).map_or("unknown", |method| method.name)
        };
        let method = target.route().map_or_else(declared, |route| route.method);
        let code = reply.code();
        let component = call.component.borrow();
        let (block, component) = component.as_ref().map_or(("none", "none"), |(block, name)| (block.name(), name));
        let micros = started
            .map(|started| u64::try_from(self.proxy.now().saturating_sub(started).as_micros()).unwrap_or(u64::MAX));
        self.metrics.count(block, component, method, code, micros);
        if let Reply::Status(status) = reply
            && matches!(code, tonic::Code::Internal | tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
        {
            let text = status.message();
            let line =
                format!("event=call_failed method={method} component={component} status={code:?} message={text:?}");
            self.proxy.log(Level::Debug, &line);
        }
    }
}

/// Decodes the message, has it handled and frames the answer.
async fn unary<Request, Answer>(message: Bytes, handle: impl AsyncFnOnce(Request) -> Result<Answer, Status>) -> Reply
where
    Request: Message + Default,
    Answer: Message,
{
    let request = match call::decode(message) {
        Ok(request) => request,
        Err(status) => return status.into(),
    };
    match handle(request).await {
        Ok(answer) => Reply::message(&answer),
        Err(status) => status.into(),
    }
}

/// `grpc.health.v1.Health/Check`: serving, for the server and for each service that is served.
fn health(request: &proto_health::HealthCheckRequest) -> Result<proto_health::HealthCheckResponse, Status> {
    let name = request.service.as_str();
    if name.is_empty() || services().any(|served| served == name) {
        let status = proto_health::health_check_response::ServingStatus::Serving.into();
        return Ok(proto_health::HealthCheckResponse { status });
    }
    Err(Status::not_found(format!("unknown service {name:?}")))
}

/// The status with which a stream ends that its handler has ended so.
async fn ended(handler: impl Future<Output = Result<(), Status>>) -> Status {
    match handler.await {
        Ok(()) => Status::ok(""),
        Err(status) => status,
    }
}

/// `grpc.health.v1.Health/Watch`: the status of a service, and then each change of it. A service that is served is so
/// for as long as the filter runs; of one that is not known it is said, and the stream stays open.
async fn watch_health(conversation: &Conversation) -> Result<(), Status> {
    let request: Option<proto_health::HealthCheckRequest> = conversation.request().await?;
    let request = request.ok_or_else(|| Status::internal("the call ended without a message"))?;
    let unknown = proto_health::health_check_response::ServingStatus::ServiceUnknown.into();
    let response = health(&request).unwrap_or(proto_health::HealthCheckResponse { status: unknown });
    conversation.reply(&response)?;
    std::future::pending().await
}

/// What is said of a streaming call that came as a unary one.
const NOT_BY_THE_BUS: &str = "this call is a stream and did not come by the bus: the listener lacks the route that leads \
                              it there; render Envoy's configuration again";

/// What is said of a method that is not served.
fn unserved(target: &Target) -> Status {
    let (service, method) = target.method();
    Status::unimplemented(match proto::method(service, method) {
        Some(_) => format!("{service}/{method} is not served by this version of Envoy Runtime"),
        None if proto::is_service(service) => format!("unknown method {method} for service {service}"),
        None => format!("unknown service {service}"),
    })
}

/// The one field that all requests about a component have.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    store_name: String,
}

/// What is said of a call to a block that this build has no driver of, so that no component of it can be configured.
fn no_driver(call: &Call, rpc: Rpc, block: Block, message: Bytes) -> Result<Infallible, Status> {
    if rpc == Rpc::TryLock && call.dialect.lock.expiry_first {
        lock::check_expiry(call, &call::decode(message.clone())?)?;
    }
    let Request { store_name } = call::decode(message)?;
    Err(status::not_configured(call.dialect, block, &store_name))
}

/// The same for a stream.
async fn no_driver_of_stream(call: &Call, block: Block, conversation: &Conversation) -> Result<(), Status> {
    let Request { store_name } = conversation.request().await?.unwrap_or_default();
    Err(status::not_configured(call.dialect, block, &store_name))
}

/// A point in time as RFC 3339 has it, in UTC and whole seconds.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
