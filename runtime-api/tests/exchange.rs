//! A request from its first header to its answer, and a stream to its end, as a host feeds and drives them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test ends by one

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ::http::StatusCode;
use async_trait::async_trait;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::grpc::health::v1 as health;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::{Content, Head, Reply};
use runtime_api::exchange::{Answer, Downstream, Exchange, Step, Talk};
use runtime_api::testing::{Started, World, call, worker};
use serde_json::json;
use support::{DAPR, LAYOTTO, status};
use tonic::{Code, Status};

fn world() -> (World, Rc<Runtime>) {
    let world = World::default();
    let components =
        json!([{"name": "s", "type": "state.in-memory"}, {"name": "c", "type": "configuration.in-memory"}]);
    let document = json!({"appId": "a", "limits": {"maxRequestBytes": 65536}, "components": components});
    let worker = worker(&world, &document);
    (world, worker)
}

fn request(runtime: Option<&Rc<Runtime>>, headers: &[(&str, &str)]) -> Exchange {
    let mut exchange = Exchange::new(runtime.cloned());
    for (name, value) in headers {
        exchange.header(name.as_bytes(), value.as_bytes());
    }
    exchange
}

fn grpc(runtime: Option<&Rc<Runtime>>) -> Exchange {
    let path = format!("{DAPR}/GetState");
    request(runtime, &[(":method", "POST"), (":path", &path), ("content-type", "application/grpc")])
}

fn frame(message: &impl Message) -> Vec<u8> {
    let Reply::Message(frame) = Reply::message(message) else { panic!("a message can be framed") };
    frame.to_vec()
}

fn get() -> Vec<u8> {
    frame(&dapr::GetStateRequest { store_name: "s".into(), key: "k".into(), ..Default::default() })
}

/// Runs what the host is to run.
#[track_caller]
fn served(world: &World, step: Step) -> Answer {
    let Step::Serve(call) = step else { panic!("more of the request is waited for") };
    world.start(call).outcome().unwrap()
}

#[track_caller]
fn refusal(answer: Answer) -> (Code, String) {
    match answer {
        Answer::Grpc(Reply::Status(status)) => (status.code(), status.message().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_is_served_when_its_last_part_has_come() {
    let (world, worker) = world();
    for size in [1, 3, 1000] {
        let mut exchange = grpc(Some(&worker));
        assert!(matches!(exchange.headers(false), Step::Hold));
        let body = get();
        for piece in body.chunks(size) {
            assert!(matches!(exchange.body(piece.to_vec(), false), Step::Hold));
            assert!(!exchange.is_taken());
        }
        let answer = served(&world, exchange.body(Vec::new(), true));
        assert!(matches!(answer, Answer::Grpc(Reply::Message(_))), "{answer:?}");
        assert!(exchange.is_taken());
    }
}

#[test]
fn a_request_may_end_with_its_headers_or_with_trailers_and_ends_once() {
    let (world, worker) = world();
    let (code, text) = refusal(served(&world, grpc(Some(&worker)).headers(true)));
    assert_eq!((code, &*text), (Code::Internal, "the call ended without a message"));

    let mut exchange = grpc(Some(&worker));
    assert!(matches!(exchange.body(get(), false), Step::Hold));
    assert!(matches!(served(&world, exchange.end()), Answer::Grpc(Reply::Message(_))));
    assert!(matches!(exchange.end(), Step::Hold), "it has been served");
    assert!(matches!(exchange.body(Vec::new(), true), Step::Hold));
}

#[test]
fn what_will_be_too_large_is_refused_before_it_has_come() {
    let (world, worker) = world();
    let mut exchange = grpc(Some(&worker));
    let (code, text) = refusal(served(&world, exchange.body(vec![0, 0, 1, 0, 1], false)));
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("limits.maxRequestBytes"), "{text}");
    assert!(exchange.is_taken());

    let mut exchange = request(Some(&worker), &[(":method", "PUT"), (":path", "/v1.0/metadata/k")]);
    assert!(matches!(exchange.body(vec![b'x'; 65536], false), Step::Hold));
    let answer = served(&world, exchange.body(vec![b'x'; 100], false));
    assert!(matches!(&answer, Answer::Http(it) if it.status == StatusCode::PAYLOAD_TOO_LARGE), "{answer:?}");
}

#[test]
fn a_request_of_http_is_served_alike() {
    let (world, worker) = world();
    let http = |headers: &[(&str, &str)], body: &str| {
        let mut exchange = request(Some(&worker), headers);
        match served(&world, exchange.body(body.into(), true)) {
            Answer::Http(response) => (response.status.as_u16(), String::from_utf8(response.body.to_vec()).unwrap()),
            Answer::Grpc(reply) => panic!("{reply:?}"),
        }
    };
    assert_eq!(http(&[(":path", "/v1.0/healthz?appid=a")], "").0, 204);
    assert_eq!(http(&[(":path", "/v1.0/healthz?appid=b")], "").0, 500);
    assert_eq!(http(&[(":method", "PUT"), (":path", "/v1.0/metadata/a%20b")], "v").0, 204);
    let (code, body) = http(&[(":path", "/v1.0/metadata")], "");
    assert!(code == 200 && body.contains(r#""a b":"v""#), "{code} {body}");
    let (code, body) = http(&[(":method", "PATCH"), (":path", "/v1.0/metadata")], "");
    assert!(code == 404 && body.contains("PATCH /v1.0/metadata is not served: this path takes GET"), "{code} {body}");
    let web = [(":path", "/x/y"), ("content-type", "application/grpc-web+proto")];
    assert_eq!(http(&web, "").0, 415);
    assert_eq!(world.metric("runtime.requests.none.none.GetMetadata.OK"), Some(1));
    assert_eq!(world.metric("runtime.requests.none.none.Check.INTERNAL"), Some(1));
    assert_eq!(world.metric("runtime.requests.none.none.unknown.UNIMPLEMENTED"), Some(1));
    assert_eq!(world.metric("runtime.requests.none.none.unknown.INVALID_ARGUMENT"), Some(1));
}

#[test]
fn without_a_runtime_it_is_said_why() {
    let world = World::default();
    let (code, text) = refusal(served(&world, grpc(None).body(get(), false)));
    assert!(code == Code::Unavailable && text.contains("configuration of the runtime was refused"), "{code:?} {text}");
    let answer = served(&world, request(None, &[(":path", "/v1.0/healthz")]).headers(true));
    assert!(matches!(&answer, Answer::Http(it) if it.status == StatusCode::SERVICE_UNAVAILABLE), "{answer:?}");
}

#[test]
fn a_call_that_is_dropped_is_cancelled() {
    let world = World::default();
    let component = json!({"name": "s", "type": "state.redis", "metadata": {"redisHost": "redis:6379"}});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    let Step::Serve(call) = grpc(Some(&worker)).body(get(), true) else { panic!("it is complete") };
    let started = world.start(call);
    assert!(started.outcome().is_none() && world.timers() > 0);
    started.cancel();
    world.run();
    assert_eq!(world.metric("runtime.requests.state.s.GetState.OK"), None);
}

/// An app at the end of a stream, with room for so many bytes.
#[derive(Default)]
struct App {
    room: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
    got: RefCell<Vec<u8>>,
    begun: Cell<bool>,
    granted: Cell<usize>,
    ended: RefCell<Option<Status>>,
}

struct ToApp(Rc<App>);

const MOST: usize = 16;

#[async_trait(?Send)]
impl Downstream for ToApp {
    fn most(&self) -> usize {
        MOST
    }

    async fn ready(&self) {
        poll_fn(|context| {
            if self.0.room.get() > 0 {
                return Poll::Ready(());
            }
            *self.0.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn begin(&self) {
        self.0.begun.set(true);
    }

    fn send(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty() && bytes.len() <= MOST && self.0.room.get() > 0);
        self.0.room.set(self.0.room.get().saturating_sub(bytes.len()));
        self.0.got.borrow_mut().extend_from_slice(bytes);
    }

    fn grant(&self, bytes: usize) {
        self.0.granted.set(self.0.granted.get() + bytes);
    }

    fn end(&self, status: &Status) {
        assert!(self.0.ended.borrow_mut().replace(status.clone()).is_none(), "it ends once");
    }
}

impl App {
    /// Reads so many bytes more.
    fn read(&self, world: &World, bytes: usize) {
        self.room.set(self.room.get() + bytes);
        let waiting = self.waiting.take();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        world.run();
    }

    fn code(&self) -> Option<Code> {
        self.ended.borrow().as_ref().map(Status::code)
    }
}

/// A stream of a method to an app that reads nothing yet.
fn stream(world: &World, worker: &Rc<Runtime>, path: &str, window: usize) -> (Rc<App>, Option<(Talk, Started<()>)>) {
    let app = Rc::new(App::default());
    let head = Head { target: path.into(), content: Content::Grpc, ..Head::default() };
    let begun = Talk::begin(worker, head, ToApp(Rc::clone(&app)), window);
    (app, begun.map(|(talk, served)| (talk, world.start(served))))
}

const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn subscribe(world: &World, worker: &Rc<Runtime>, window: usize) -> (Rc<App>, Talk, Started<()>) {
    let (app, begun) = stream(world, worker, &format!("{LAYOTTO}/SubscribeConfiguration"), window);
    let (talk, served) = begun.unwrap();
    let request =
        layotto::SubscribeConfigurationRequest { store_name: "c".into(), keys: vec!["k".into()], ..Default::default() };
    talk.receive(&frame(&request));
    world.run();
    (app, talk, served)
}

fn save(world: &World, worker: &Rc<Runtime>, content: &str) {
    let item = layotto::ConfigurationItem { key: "k".into(), content: content.into(), ..Default::default() };
    let request = layotto::SaveConfigurationRequest { store_name: "c".into(), items: vec![item], ..Default::default() };
    let saved = call(world, worker, &format!("{LAYOTTO}/SaveConfiguration"), &request);
    assert!(matches!(saved.outcome(), Some(Reply::Message(_))));
}

#[test]
fn what_is_no_stream_ends_with_a_status() {
    let (world, worker) = world();
    let (app, begun) = stream(&world, &worker, &format!("{DAPR}/GetState"), 100);
    assert!(begun.is_none());
    assert_eq!(app.code(), Some(Code::Unimplemented));
    let unary = call(&world, &worker, WATCH, &health::HealthCheckRequest::default());
    assert_eq!(status(&unary).0, Code::Unimplemented, "and a stream is no call");
}

#[test]
fn a_message_goes_in_pieces_as_there_is_room() {
    let (world, worker) = world();
    let (app, _talk, _served) = subscribe(&world, &worker, 1 << 20);
    assert!(app.begun.get(), "it begins without a message");
    save(&world, &worker, &"x".repeat(100));
    assert!(app.got.borrow().is_empty(), "the app has no room");
    app.read(&world, 1);
    assert_eq!(app.got.borrow().len(), MOST, "a piece may go a little over the room");
    app.read(&world, 10 * MOST);
    let got = app.got.borrow();
    let message = layotto::SubscribeConfigurationResponse::decode(&got[5..]).unwrap();
    assert_eq!(message.items[0].content, "x".repeat(100));
    assert_eq!(app.code(), None);
}

#[test]
fn a_stream_that_says_something_at_once_begins_with_it() {
    let (world, worker) = world();
    let (app, begun) = stream(&world, &worker, WATCH, 100);
    let (talk, _served) = begun.unwrap();
    world.run();
    assert!(!app.begun.get(), "nothing has been asked");
    talk.receive(&frame(&health::HealthCheckRequest::default()));
    talk.half_close();
    world.run();
    app.read(&world, 100);
    assert!(!app.begun.get() && !app.got.borrow().is_empty());
}

#[test]
fn a_stream_that_is_refused_is_a_status_alone() {
    let (world, worker) = world();
    let (app, begun) = stream(&world, &worker, WATCH, 100);
    let (talk, served) = begun.unwrap();
    talk.half_close();
    world.run();
    assert_eq!((app.code(), app.begun.get()), (Some(Code::Internal), false));
    assert!(served.outcome().is_some());
}

#[test]
fn an_app_may_send_more_when_half_of_its_window_was_taken_up() {
    let (world, worker) = world();
    let (app, talk, _served) = subscribe(&world, &worker, 200);
    assert_eq!(app.granted.get(), 0);
    let request = frame(&layotto::SubscribeConfigurationRequest {
        store_name: "c".into(),
        keys: vec!["k".repeat(90)],
        ..Default::default()
    });
    talk.receive(&request);
    world.run();
    assert!(app.granted.get() >= 100, "{}", app.granted.get());
}

#[test]
fn an_app_that_reads_too_slowly_gets_the_rest_of_its_message_and_the_status() {
    let (world, worker) = world();
    let (app, _talk, served) = subscribe(&world, &worker, 1 << 20);
    app.read(&world, 1);
    for number in 0..100 {
        save(&world, &worker, &format!("{number}{}", "x".repeat(30_000)));
    }
    assert_eq!(app.code(), None, "the message that has begun is not at its end");
    app.read(&world, 1 << 20);
    assert_eq!(app.code(), Some(Code::ResourceExhausted));
    let got = app.got.borrow();
    let length = u32::from_be_bytes(got[1..5].try_into().unwrap()) as usize;
    assert_eq!(got.len(), 5 + length, "one message, whole");
    assert!(served.outcome().is_some());
}

#[test]
fn a_stream_ends_with_its_app_and_when_it_is_dropped() {
    let (world, worker) = world();
    let (app, talk, _served) = subscribe(&world, &worker, 1 << 20);
    talk.half_close();
    world.run();
    assert_eq!(app.code(), Some(Code::Ok));
    let (app, _talk, served) = subscribe(&world, &worker, 1 << 20);
    served.cancel();
    world.run();
    assert_eq!(app.code(), None, "nobody is there to be told");
}
