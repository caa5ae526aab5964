//! What an app does in a test: it calls a worker, and talks to it on a stream.

use std::rc::Rc;

use super::{Started, World};
use crate::api::Conversation;
use crate::api::call::{Head, Reply};

/// A worker with this configuration in the world; another one sees the same shared area.
///
/// # Panics
/// When the configuration is wrong.
pub fn worker(world: &World, configuration: &serde_json::Value) -> Rc<crate::Runtime> {
    match crate::config::Config::check(configuration) {
        (Some(config), _) => Rc::new(crate::Runtime::new(Rc::new(world.clone()), config)),
        (None, report) => panic!("{report:?}"),
    }
}

/// Starts a call of a method, as `/service/Method`.
pub fn call(world: &World, worker: &Rc<crate::Runtime>, path: &str, request: &impl prost::Message) -> Started<Reply> {
    let head = Head { target: path.into(), ..Head::default() };
    call_with(world, worker, head, request)
}

/// Starts a call with headers.
pub fn call_with(
    world: &World,
    worker: &Rc<crate::Runtime>,
    head: Head,
    request: &impl prost::Message,
) -> Started<Reply> {
    let Reply::Message(body) = Reply::message(request) else { return world.start(std::future::pending()) };
    let worker = Rc::clone(worker);
    let mut own = worker.body();
    worker.take(&mut own, body.to_vec(), true);
    world.start(async move { worker.grpc(&head, own).await })
}

/// A streaming call as the app sees it.
#[derive(Debug)]
pub struct Talk {
    world: World,
    conversation: Conversation,
    ended: Started<tonic::Status>,
}

/// Starts a streaming call of a method, as `/service/Method`; none if no such stream is served.
pub fn talk(world: &World, worker: &Rc<crate::Runtime>, path: &str) -> Option<Talk> {
    let head = Head { target: path.into(), ..Head::default() };
    let conversation = worker.conversation(&head)?;
    let (worker, own) = (Rc::clone(worker), conversation.clone());
    let ended = world.start(async move { worker.converse(&head, &own).await });
    Some(Talk { world: world.clone(), conversation, ended })
}

impl Talk {
    /// Sends a message.
    pub fn send(&self, message: &impl prost::Message) {
        if let Reply::Message(frame) = Reply::message(message) {
            self.conversation.receive(&frame);
        }
        self.world.run();
    }

    /// Says that no more messages will come.
    pub fn half_close(&self) {
        self.conversation.half_close();
        self.world.run();
    }

    /// The next message from the runtime, if one is there.
    pub fn next<M: prost::Message + Default>(&self) -> Option<M> {
        self.world.run();
        M::decode(self.conversation.take_frame()?.slice(crate::api::call::FRAME_HEADER..)).ok()
    }

    /// How the stream has ended, once.
    pub fn status(&self) -> Option<tonic::Status> {
        self.world.run();
        self.ended.outcome()
    }

    /// Goes away without a word.
    pub fn cancel(self) {
        self.ended.cancel();
        self.world.run();
    }
}
