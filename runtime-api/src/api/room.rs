//! A building block's API is a room: one module with all that is to be said of it, in a row for each method. What is served,
//! where a path leads, and what reflection tells come from these rows. `ROOMS` lists the rooms.

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use prost::Message;
use tonic::Code;

use super::call::{self, Reply};
use super::dialect::Dialect;
use super::failure::Failure;
use super::http::{self, Asked};
use super::{Call, Conversation, ROOMS};
use crate::component::{Block, Build, Environment};
use crate::config::Config;
use crate::pace::Pace;
use crate::proxy::{Level, Proxy};
use crate::text;

/// The API of a building block, or of what needs no component.
#[derive(Debug)]
pub(super) struct Room {
    /// Makes what the handlers share: see [`opens`].
    pub(super) open: fn(&Opening<'_>) -> Rc<Opened>,
    /// The methods of gRPC, the most called first.
    pub(super) methods: &'static [Method],
    /// The requests of HTTP.
    pub(super) paths: &'static [Path],
}

/// What the handlers of a room share: its [`Api`].
pub(super) type Opened = dyn Any;

/// What the handlers of a room share, and how it comes about.
pub(super) trait Api: Sized + 'static {
    /// The building block whose components it serves, if it needs any.
    const BLOCK: Option<Block> = None;

    /// Made once for each worker.
    fn open(opening: &Opening<'_>) -> Self;

    /// What is said of a call when no component of the block is configured at all; `store` is the one that was asked for.
    fn none(_dialect: Dialect, store: &str) -> Failure {
        Failure::new(Code::FailedPrecondition, format!("{store} is not configured"))
    }
}

/// How a room with this API is opened. Code that nothing leads to is left out of a build, and in the filter it costs memory.
pub(super) const fn opens<A: Api>() -> fn(&Opening<'_>) -> Rc<Opened> {
    if is_served::<A>() { open::<A> } else { |_| Rc::new(()) }
}

fn open<A: Api>(opening: &Opening<'_>) -> Rc<Opened> {
    Rc::new(A::open(opening))
}

/// Whether this build has drivers of the block, so that a component of it can be configured.
pub(super) const fn is_served<A: Api>() -> bool {
    match A::BLOCK {
        Some(block) => block.has_drivers(),
        None => true,
    }
}

/// What a room is opened with.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) proxy: &'a Rc<dyn Proxy>,
    pub(super) config: &'a Rc<Config>,
    pub(super) pace: &'a Pace,
}

impl Opening<'_> {
    /// The components that `build` makes, by their names, in the order of the configuration.
    pub(super) fn stores<T>(&self, block: Block, build: impl Fn(Build, Environment) -> Option<T>) -> Stores<T> {
        let components = self.config.components.iter().filter(|component| component.driver.block == block);
        let made = components.filter_map(|component| {
            let environment = Environment {
                proxy: Rc::clone(self.proxy),
                app_id: self.config.app_id.clone(),
                component: component.clone(),
                limits: self.config.limits,
                pace: self.pace.clone(),
            };
            Some((component.name.clone(), build(component.driver.build, environment)?))
        });
        Stores { block, all: made.collect(), proxy: Rc::clone(self.proxy), told: Cell::new(0) }
    }
}

/// The components of a block, by their names.
#[derive(Debug)]
pub(super) struct Stores<T> {
    block: Block,
    all: Vec<(String, T)>,
    proxy: Rc<dyn Proxy>,
    /// How often the log was told of a name that there is not.
    told: Cell<u32>,
}

/// After so many lines the log of a worker knows of apps that ask for what is not there.
const MOST_TOLD: u32 = 10;

/// Why there is no component for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is none of the block.
    All,
    /// There is none of that name.
    Name,
}

impl<T> Stores<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().map(|(_, store)| store)
    }

    /// The component of this name, which the call then concerns.
    pub(super) fn find(&self, call: &Call, name: &str) -> Result<&T, Missing> {
        let Some((_, store)) = self.all.iter().find(|(known, _)| known == name) else {
            self.tell(name);
            return Err(if self.is_empty() { Missing::All } else { Missing::Name });
        };
        call.concerns(self.block, name);
        Ok(store)
    }

    /// Tells whoever reads the log what there is instead. The app is told in the words of its API, which are not ours to choose.
    #[inline(never)]
    fn tell(&self, name: &str) {
        if self.told.replace(self.told.get().saturating_add(1)) >= MOST_TOLD {
            return;
        }
        let known: Vec<String> = self.all.iter().map(|(name, _)| name.clone()).collect();
        let (block, name, known) = (self.block.name(), text::name(name), text::names(&known, ","));
        self.proxy.log(Level::Warn, &format!("event=component_unknown block={block} name={name:?} known={known:?}"));
    }
}

/// A method of gRPC. Two that do the same are one row, whatever their names.
#[derive(Debug)]
pub(super) struct Method {
    /// The full name of a service, and the name of the method there.
    pub(super) names: &'static [(&'static str, &'static str)],
    pub(super) handler: Handler,
}

/// What is done for a method.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handler {
    /// It takes one message and gives one: see [`unary`](super::room::unary). Each is a future of its own behind a pointer: a function that held
    /// them all would be so large that compiling it costs Envoy megabytes.
    Unary(for<'a> fn(&'a Opened, &'a Call, Bytes) -> LocalBoxFuture<'a, Result<Reply, Failure>>),
    /// It goes on for as long as the app likes.
    Stream {
        /// Whether it takes one message, though it may give many.
        once: bool,
        serve: for<'a> fn(&'a Opened, &'a Call, &'a Conversation) -> LocalBoxFuture<'a, Result<(), Failure>>,
    },
}

/// A request of HTTP.
#[derive(Debug)]
pub(super) struct Path {
    /// Such as `GET`, which is `HEAD` too.
    pub(super) methods: &'static [&'static str],
    /// The versions of the API that have it.
    pub(super) versions: &'static [&'static str],
    /// Behind the version. A part in braces stands for any text without a `/` that is not encoded.
    pub(super) form: &'static str,
    /// What metrics call it: as the method of gRPC that does the same.
    pub(super) name: &'static str,
    /// Whether it is answered without the token of the API, and whatever list of APIs there is.
    pub(super) is_open: bool,
    pub(super) handler: HttpHandler,
    pub(super) about: About,
}

/// The stable version of Dapr's HTTP API.
pub(super) const V1: &str = "v1.0";
/// The version of what may still change. What Dapr lacks and we serve is here.
pub(super) const ALPHA1: &str = "v1.0-alpha1";

/// What the description of the API tells of a request of HTTP: see `openapi`. Schemas are texts of JSON.
#[derive(Debug)]
pub(super) struct About {
    /// What it does, in a few words.
    pub(super) summary: &'static str,
    /// The parameters of its query: name, schema and meaning.
    pub(super) query: &'static [(&'static str, &'static str, &'static str)],
    /// Whether its query may have `metadata.` parameters.
    pub(super) takes_metadata: bool,
    /// The headers that matter to it: name and meaning.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// The schema of its body; `*` is a text of any kind.
    pub(super) body: Option<&'static str>,
    /// What is answered when all is well: status, meaning, and the schema of the body if there is one.
    pub(super) answers: &'static [(u16, &'static str, Option<&'static str>)],
    /// The statuses of what may go wrong, besides those of any request.
    pub(super) errors: &'static [u16],
}

impl About {
    /// Nothing but what it does.
    pub(super) const fn new(summary: &'static str) -> Self {
        let (query, headers, body, answers, errors): (&[_], &[_], _, &[_], &[_]) = (&[], &[], None, &[], &[]);
        Self { summary, query, takes_metadata: false, headers, body, answers, errors }
    }
}

impl Path {
    /// The building block, as lists of APIs name it.
    pub(super) fn group(&self) -> &'static str {
        self.form.split('/').next().unwrap_or_default()
    }
}

/// What is done for a request of HTTP.
pub(super) type HttpHandler =
    for<'a> fn(&'a Opened, &'a Call, Asked<'a>) -> LocalBoxFuture<'a, Result<http::Response, Failure>>;

/// The handler of a method that takes one message: that of the room's API of this name.
macro_rules! unary {
    ($api:ident, $method:ident) => {
        if $crate::api::room::is_served::<$api>() {
            $crate::api::room::Handler::Unary(|api, call, message| {
                Box::pin($crate::api::room::answer(message, async move |request| {
                    $crate::api::room::of::<$api>(api)?.$method(call, request).await
                }))
            })
        } else {
            $crate::api::room::Handler::Unary($crate::api::room::no_component::<$api>)
        }
    };
}

/// The handler of a method that is a stream: that of the room's API of this name. The app may send one message with `once`, or
/// many.
macro_rules! stream {
    ($api:ident, $method:ident, once: $once:literal) => {
        $crate::api::room::Handler::Stream {
            once: $once,
            serve: if $crate::api::room::is_served::<$api>() {
                |api, call, conversation| {
                    Box::pin(async move { $crate::api::room::of::<$api>(api)?.$method(call, conversation).await })
                }
            } else {
                $crate::api::room::no_component_of_stream::<$api>
            },
        }
    };
}

/// The handler of a request of HTTP: that of the room's API of this name.
macro_rules! request {
    ($api:ident, $method:ident) => {
        if $crate::api::room::is_served::<$api>() {
            |api, call, asked| Box::pin(async move { $crate::api::room::of::<$api>(api)?.$method(call, asked).await })
        } else {
            $crate::api::room::no_component_of_request::<$api>
        }
    };
}

pub(super) use {request, stream, unary};

/// The API of the room that a handler is of.
pub(super) fn of<A: Api>(api: &Opened) -> Result<&A, Failure> {
    api.downcast_ref().ok_or_else(|| Failure::new(Code::Internal, "a method stands in the room of another block"))
}

/// Decodes the message, has it handled and frames the answer.
pub(super) async fn answer<Request, Answer>(
    message: Bytes,
    handle: impl AsyncFnOnce(Request) -> Result<Answer, Failure>,
) -> Result<Reply, Failure>
where
    Request: Message + Default,
    Answer: Message,
{
    let request = call::decode(message)?;
    Ok(Reply::message(&handle(request).await?))
}

/// The one field that all requests about a component have.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    store_name: String,
}

/// Refuses a call to a block that this build has no driver of, so that no component of it can be configured.
pub(super) fn no_component<'a, A: Api>(
    _api: &'a Opened,
    call: &'a Call,
    message: Bytes,
) -> LocalBoxFuture<'a, Result<Reply, Failure>> {
    Box::pin(async move {
        let Request { store_name } = call::decode(message)?;
        Err(A::none(call.dialect, &store_name))
    })
}

/// The same for a stream.
pub(super) fn no_component_of_stream<'a, A: Api>(
    _api: &'a Opened,
    call: &'a Call,
    conversation: &'a Conversation,
) -> LocalBoxFuture<'a, Result<(), Failure>> {
    Box::pin(async move {
        let Request { store_name } = conversation.request().await?.unwrap_or_default();
        Err(A::none(call.dialect, &store_name))
    })
}

/// The same for a request of HTTP, whose first part in braces is the component.
pub(super) fn no_component_of_request<'a, A: Api>(
    _api: &'a Opened,
    call: &'a Call,
    asked: Asked<'a>,
) -> LocalBoxFuture<'a, Result<http::Response, Failure>> {
    Box::pin(async move { Err(A::none(call.dialect, asked.part(0))) })
}

/// A method that is served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// The dialect that its service speaks.
    pub(super) dialect: Dialect,
    /// Its name.
    pub(super) method: &'static str,
    /// Which of `ROOMS` it is in.
    pub(super) room: usize,
    /// The building block, as lists of APIs name it; none where they say nothing of it.
    pub(super) group: Option<&'static str>,
    pub(super) handler: Handler,
}

/// All methods that are served, with the number of their room.
fn methods() -> impl Iterator<Item = (usize, &'static Method)> {
    ROOMS.iter().enumerate().flat_map(|(number, room)| room.methods.iter().map(move |method| (number, method)))
}

impl Route {
    /// The method of a service, if it is served.
    pub(super) fn of((service, method): (&str, &str)) -> Option<Self> {
        methods().find_map(|(room, row)| {
            let name = row.names.iter().find(|(known, name)| *name == method && *known == service);
            let dialect = Dialect::of(service);
            name.map(|(_, method)| Self { dialect, method, room, group: group(room, row), handler: row.handler })
        })
    }
}

/// A method is in the block of the request of HTTP that does the same, or of the first one of its room.
fn group(room: usize, row: &Method) -> Option<&'static str> {
    let paths = ROOMS.get(room)?.paths;
    let same = paths.iter().find(|path| row.names.iter().any(|(_, method)| *method == path.name));
    same.or(paths.first()).filter(|path| !path.is_open).map(Path::group)
}

/// The names of the services of which methods are served.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    let mut seen = Vec::new();
    let all = methods().flat_map(|(_, row)| row.names.iter().map(|(service, _)| *service));
    all.filter(move |service| {
        let is_new = !seen.contains(service);
        seen.push(*service);
        is_new
    })
}

/// The paths of the streaming calls that are served.
pub fn streaming_paths() -> impl Iterator<Item = String> {
    let streams = methods().filter(|(_, row)| matches!(row.handler, Handler::Stream { .. }));
    streams.flat_map(|(_, row)| row.names.iter().map(|(service, method)| format!("/{service}/{method}")))
}

#[cfg(test)]
mod tests {
    use envoy_runtime_proto as proto;

    use super::*;
    use crate::api::dialect::DAPR;

    #[test]
    fn what_is_served_is_declared_and_streams_as_declared() {
        // The last room is there in tests alone, and declared nowhere.
        for (room, row) in methods().filter(|(room, _)| room + 1 < ROOMS.len()) {
            for (service, name) in row.names {
                let declared = proto::method(service, name).unwrap();
                let (is_stream, once) = match row.handler {
                    Handler::Unary(_) => (false, true),
                    Handler::Stream { once, .. } => (true, once),
                };
                assert_eq!(declared.client_streaming || declared.server_streaming, is_stream, "{name}");
                assert_eq!(!declared.client_streaming, once, "{name}");
                let route = Route::of((service, name)).unwrap();
                assert_eq!((route.method, route.room), (*name, room), "{name} stands in two rooms");
            }
        }
        assert!(Route::of((DAPR, "LockKeepAlive")).is_none());
        assert!(Route::of(("unknown", "GetState")).is_none());
        let paths: Vec<_> = streaming_paths().filter(|path| !path.contains("test.Echo")).collect();
        assert_eq!(paths.len(), 6);
        assert!(paths.contains(&"/spec.proto.runtime.v1.Runtime/SubscribeConfiguration".to_owned()), "{paths:?}");
    }
}
