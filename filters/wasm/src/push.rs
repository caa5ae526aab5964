//! A streaming call of an app: messages in and out for as long as both sides like.
//!
//! Its request goes on to the bus, as the hello of a subscription in the place of the app's messages, which the runtime
//! takes. The response of the bus is what [`crate::bus`] sends, and the trailers at its end are put in here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use futures::future::{Either, LocalBoxFuture, select};
use runtime_api::Runtime;
use runtime_api::api::Conversation;
use runtime_api::api::call::{Head, trailers};
use runtime_api::executor::Task;
use runtime_bus::message::{CONNECTION_HEADER, MAX_UNACKNOWLEDGED, hello};
use tonic::{Code, Status};

use crate::abi::{self, Buffer, Map};
use crate::act::Act;
use crate::bus::{Bus, Lost, Subscription};
use crate::entry::Action;
use crate::host::Host;

pub(crate) struct Push {
    context: u32,
    conversation: Conversation,
    progress: Rc<Progress>,
    /// The call under way; it ends with the stream.
    task: Task,
    stage: Stage,
    half_closed: bool,
}

/// Where the request is.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Its headers are held until its body begins.
    Held,
    /// It has gone on to the bus.
    Routed,
    /// It was answered here.
    Answered,
}

/// What the call and the callbacks about its stream share.
struct Progress {
    host: Host,
    subscription: Subscription,
    /// Whether the response of the bus has begun.
    begun: Cell<bool>,
    /// Whether its headers are held, because nothing can be sent after them yet.
    held: Cell<bool>,
    /// How the call has ended.
    status: RefCell<Option<Status>>,
}

impl Progress {
    /// Lets the headers of the response go: what follows them can be sent.
    fn let_go(&self, context: u32) {
        if self.held.take() {
            self.host.put(context, Act::LetGo);
        }
    }

    /// Ends a stream to which nothing can be sent any more: with a status while the headers are held, else by a reset.
    fn give_up(&self, context: u32) {
        let act = if self.held.take() { Act::Status(Box::new(lost())) } else { Act::Reset };
        self.host.put(context, act);
    }
}

fn lost() -> Status {
    Status::unavailable("the stream to the runtime was lost; subscribe again")
}

impl Push {
    /// Serves a call with what the app has sent so far.
    pub(crate) fn new(
        context: u32,
        host: &Host,
        bus: &Bus,
        runtime: &Rc<Runtime>,
        head: Head,
        conversation: Conversation,
    ) -> Self {
        let progress = Rc::new(Progress {
            host: host.clone(),
            subscription: bus.subscribe(),
            begun: Cell::new(false),
            held: Cell::new(false),
            status: RefCell::default(),
        });
        let (runtime, shared, own) = (Rc::clone(runtime), Rc::clone(&progress), conversation.clone());
        let call: LocalBoxFuture<'static, ()> =
            Box::pin(async move { serve(&runtime, &head, &own, &shared, context).await });
        let task = host.executor().spawn_cancellable(call);
        Self { context, conversation, progress, task, stage: Stage::Held, half_closed: false }
    }

    /// A part of the request's body. The first is what lets the held request go on.
    pub(crate) fn on_request_body(&mut self, host: &Host, size: usize, end_of_stream: bool) -> Action {
        if size > 0
            && let Ok(bytes) = abi::bytes(Buffer::RequestBody, size)
        {
            self.conversation.receive(&bytes);
        }
        self.half_close(end_of_stream);
        host.run();
        if self.stage == Stage::Held && self.answer_at_once() {
            self.stage = Stage::Answered;
        }
        if self.stage != Stage::Held {
            let _ = abi::set_body(Buffer::RequestBody, size, &[]);
            return if self.stage == Stage::Routed { Action::Continue } else { Action::Pause };
        }
        self.stage = Stage::Routed;
        // The route is chosen anew for this path. Replacing all headers at once would leave Envoy without a route.
        let _ = abi::replace_header(Map::RequestHeaders, ":path", "/runtime.Bus/Subscribe");
        let _ = abi::set_body(Buffer::RequestBody, size, &hello(self.progress.subscription.number));
        Action::Continue
    }

    /// The request ends without a further part of its body.
    pub(crate) fn on_request_end(&mut self, host: &Host) -> Action {
        self.half_close(true);
        host.run();
        if self.stage == Stage::Held && self.answer_at_once() {
            self.stage = Stage::Answered;
        }
        if self.stage == Stage::Routed { Action::Continue } else { Action::Pause }
    }

    fn half_close(&mut self, end_of_stream: bool) {
        if end_of_stream && !std::mem::replace(&mut self.half_closed, true) {
            self.conversation.half_close();
        }
    }

    /// A call that has ended before anything was said is answered as a unary one is: with a status alone.
    fn answer_at_once(&self) -> bool {
        let status = self.progress.status.borrow();
        let Some(status) = status.as_ref().filter(|_| !self.conversation.has_frames()) else { return false };
        self.progress.host.put(self.context, Act::Status(Box::new(status.clone())));
        true
    }

    /// The bus has taken up the stream, or Envoy says why it has not, which the app may see.
    pub(crate) fn on_response_headers(&self, host: &Host) -> Action {
        if self.stage == Stage::Answered
            && self.progress.status.borrow().as_ref().is_some_and(|it| it.code() == Code::Ok)
        {
            let _ = abi::replace_header(Map::ResponseHeaders, "grpc-status", "0"); // see `Act::Status`
            return Action::Continue;
        }
        let mut connection = None;
        if let Ok(headers) = abi::headers(Map::ResponseHeaders) {
            headers.each(|name, value| {
                if name == CONNECTION_HEADER.as_bytes() {
                    connection = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                }
            });
        }
        if let Some(connection) = connection {
            self.progress.begun.set(true);
            let headers: [(&str, &[u8]); 2] = [(":status", b"200"), ("content-type", b"application/grpc")];
            let _ = abi::set_headers(Map::ResponseHeaders, &headers);
            self.progress.held.set(!self.progress.subscription.attach(connection));
            host.run();
        }
        if self.progress.held.get() { Action::Pause } else { Action::Continue }
    }

    /// What the bus sends passes; at its end the trailers are added.
    pub(crate) fn on_response_body(&self, end_of_stream: bool) -> Action {
        if end_of_stream && self.progress.begun.get() {
            let status = self.progress.status.borrow().clone().unwrap_or_else(lost);
            for (name, value) in trailers(&status) {
                let _ = abi::add_header(Map::ResponseTrailers, name, &value);
            }
        }
        Action::Continue
    }

    /// The stream has ended.
    pub(crate) fn end(self, host: &Host) {
        drop(self.task);
        host.run();
    }
}

/// Runs the call, sends what it says, and ends the stream with its status.
async fn serve(runtime: &Runtime, head: &Head, conversation: &Conversation, progress: &Progress, context: u32) {
    let subscription = &progress.subscription;
    // The message under way is kept outside, so that it is sent to its end whatever ends first.
    let rest = RefCell::new(Bytes::new());
    let send_all = async {
        while send(subscription, &rest).await.is_ok() {
            // Taken when there is room: what waits is counted in the conversation, which has a bound.
            if subscription.ready().await.is_err() {
                return;
            }
            progress.let_go(context);
            let frame = conversation.next_frame().await;
            *rest.borrow_mut() = frame;
        }
    };
    let status = match select(Box::pin(runtime.converse(head, conversation)), Box::pin(send_all)).await {
        Either::Left((status, sending)) => {
            drop(sending);
            status
        }
        Either::Right(((), _)) => return progress.give_up(context),
    };
    // For an app that reads too slowly what waits is dropped, but for the message that has begun.
    let patient = status.code() != Code::ResourceExhausted;
    *progress.status.borrow_mut() = Some(status);
    loop {
        if send(subscription, &rest).await.is_err() {
            return progress.give_up(context);
        }
        let Some(frame) = conversation.take_frame().filter(|_| patient) else { break };
        *rest.borrow_mut() = frame;
    }
    if subscription.end().await.is_err() {
        progress.give_up(context);
    }
}

/// Sends bytes in pieces of what may be under way, since a message of an app may be larger than one to the bus. What is
/// left when the future is dropped stays in its place.
async fn send(subscription: &Subscription, rest: &RefCell<Bytes>) -> Result<(), Lost> {
    while !rest.borrow().is_empty() {
        subscription.ready().await?;
        let length = rest.borrow().len().min(MAX_UNACKNOWLEDGED);
        let piece = rest.borrow_mut().split_to(length);
        subscription.send(piece);
    }
    Ok(())
}
