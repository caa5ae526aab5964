//! What the scenarios share: short ways to call and to read replies.
#![allow(clippy::unwrap_used, clippy::panic, clippy::unnecessary_wraps)] // a test ends by a panic
#![allow(dead_code, missing_docs)] // each scenario file uses its part; a test needs no docs

use std::rc::Rc;

use envoy_runtime_proto::dapr::common::v1::{Etag, StateItem};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Connection, Started, World, call};
use tonic::Code;

pub(crate) const DAPR: &str = "/dapr.proto.runtime.v1.Dapr";
pub(crate) const LAYOTTO: &str = "/spec.proto.runtime.v1.Runtime";

pub(crate) fn get(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    let request = dapr::GetStateRequest { store_name: "s".into(), key: key.into(), ..Default::default() };
    call(world, worker, &format!("{DAPR}/GetState"), &request)
}

pub(crate) fn save(world: &World, worker: &Rc<Runtime>, items: Vec<StateItem>) -> Started<Reply> {
    let request = dapr::SaveStateRequest { store_name: "s".into(), states: items };
    call(world, worker, &format!("{DAPR}/SaveState"), &request)
}

pub(crate) fn item(key: &str, value: &str) -> StateItem {
    StateItem { key: key.into(), value: value.to_owned().into(), ..Default::default() }
}

pub(crate) fn etag(value: &str) -> Option<Etag> {
    Some(Etag { value: value.into() })
}

/// The message of a reply.
#[track_caller]
pub(crate) fn message<M: Message + Default>(started: &Started<Reply>) -> M {
    match started.outcome() {
        Some(Reply::Message(frame)) => M::decode(frame.slice(5..)).unwrap(),
        other => panic!("a message is expected, not {other:?}"),
    }
}

/// The code and the text of a reply.
#[track_caller]
pub(crate) fn status(started: &Started<Reply>) -> (Code, String) {
    match started.outcome() {
        Some(Reply::Status(status)) => (status.code(), status.message().to_owned()),
        other => panic!("a status is expected, not {other:?}"),
    }
}

/// The value under a key, or nothing.
#[track_caller]
pub(crate) fn value(started: &Started<Reply>) -> String {
    let reply: dapr::GetStateResponse = message(started);
    String::from_utf8(reply.data.to_vec()).unwrap()
}

/// A command as a client of Redis sends it.
pub(crate) fn resp(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

/// What a server was sent, as text.
pub(crate) fn received(server: &Connection) -> String {
    String::from_utf8(server.received().to_vec()).unwrap()
}

/// Accepts a connection to Redis, and lets it in.
#[track_caller]
pub(crate) fn let_in(world: &World, cluster: &str) -> Connection {
    let server = world.accept(cluster).unwrap();
    assert_eq!(received(&server), resp(&["PING"]));
    server.send(b"+PONG\r\n");
    server
}
