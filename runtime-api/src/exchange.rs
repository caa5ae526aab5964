//! A request of an app from its first header to its answer, without I/O: the host feeds an [`Exchange`] what comes, and does what it
//! says. A streaming call, which a host may get another way, is a [`Talk`] with a [`Downstream`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::rc::Rc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, LocalBoxFuture, select};
use http::{Method, StatusCode};
use tonic::{Code, Status};

use crate::Runtime;
use crate::api::Conversation;
use crate::api::call::{Body, Content, Head, Reply};
use crate::api::http::{HEADERS, Request, Response};

/// What is said where there is no runtime.
const REFUSED: &str = "the configuration of the runtime was refused; see Envoy's log";

/// A request on its way in.
#[derive(Debug)]
pub struct Exchange {
    /// Absent where the configuration was refused and the host serves requests all the same.
    runtime: Option<Rc<Runtime>>,
    method: Method,
    head: Head,
    /// Of its headers those that matter to HTTP alone.
    headers: Vec<(&'static str, String)>,
    /// What has come of the body.
    body: Option<Body>,
    /// Whether what comes is with the runtime, or no more of it is wanted.
    taken: bool,
}

/// What a host is to do with the request after what it fed.
pub enum Step {
    /// To feed what else comes.
    Hold,
    /// To run this, and to do what it gives. What else comes of the request is nobody's.
    Serve(LocalBoxFuture<'static, Answer>),
}

/// What the app gets.
#[derive(Debug)]
pub enum Answer {
    /// To a call of gRPC.
    Grpc(Reply),
    /// To a request of HTTP.
    Http(Response),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "Hold",
            Self::Serve(_) => "Serve",
        })
    }
}

impl Exchange {
    /// A request of which nothing has come.
    pub fn new(runtime: Option<Rc<Runtime>>) -> Self {
        Self { runtime, method: Method::GET, head: Head::default(), headers: Vec::new(), body: None, taken: false }
    }

    /// Takes in a header, if it matters.
    pub fn header(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b":method" => self.method = Method::from_bytes(value).unwrap_or_default(),
            _ => match HEADERS.iter().find(|known| known.as_bytes() == name) {
                Some(known) => self.headers.push((known, String::from_utf8_lossy(value).into_owned())),
                None => self.head.header(name, value),
            },
        }
    }

    /// What the request is for, with its query.
    pub fn path(&self) -> &str {
        self.head.target.path()
    }

    /// Whether the runtime has the request, so that nothing more of it is to be fed.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// All headers have been fed; with `end` they are the whole request.
    pub fn headers(&mut self, end: bool) -> Step {
        if end { self.end() } else { Step::Hold }
    }

    /// A part of the body has come; with `end` it is the last. As soon as it is clear that the whole will be too large, the call is
    /// refused without the rest.
    pub fn body(&mut self, bytes: Vec<u8>, end: bool) -> Step {
        let wanted = bytes.is_empty() || self.add(bytes);
        if end || !wanted { self.end() } else { Step::Hold }
    }

    /// The request has ended, perhaps with trailers.
    pub fn end(&mut self) -> Step {
        if mem::replace(&mut self.taken, true) {
            return Step::Hold;
        }
        let (head, body) = (mem::take(&mut self.head), self.body.take());
        let is_grpc = head.content == Content::Grpc;
        let Some(runtime) = self.runtime.take() else {
            let answer = if is_grpc {
                Answer::Grpc(Status::unavailable(REFUSED).into())
            } else {
                Answer::Http(Response::text(StatusCode::SERVICE_UNAVAILABLE, REFUSED))
            };
            return Step::Serve(Box::pin(std::future::ready(answer)));
        };
        let body = body.unwrap_or_else(|| runtime.body());
        if is_grpc {
            return Step::Serve(Box::pin(async move { Answer::Grpc(runtime.grpc(&head, body).await) }));
        }
        let Head { target, token, content, .. } = head;
        let (method, target) = (mem::take(&mut self.method), target.path().to_owned());
        let headers = mem::take(&mut self.headers);
        let request = Request { method, target, headers, token, content, body: Bytes::new() };
        Step::Serve(Box::pin(async move { Answer::Http(runtime.http_with(request, body).await) }))
    }

    /// Adds to the body; false if no more of it is wanted.
    fn add(&mut self, bytes: Vec<u8>) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let body = self.body.get_or_insert_with(|| runtime.body());
        runtime.take(body, bytes, self.head.content == Content::Grpc)
    }
}

/// Where a stream goes: an app, by whatever way leads to it.
#[async_trait(?Send)]
pub trait Downstream {
    /// The most bytes that [`Downstream::send`] takes at a time.
    fn most(&self) -> usize;

    /// Waits until there is room for more.
    async fn ready(&self);

    /// Begins the response without a message.
    fn begin(&self);

    /// Sends bytes of a message, or a whole one, in its frame.
    fn send(&self, bytes: &[u8]);

    /// Lets the app send so many bytes more.
    fn grant(&self, bytes: usize);

    /// Ends the stream.
    fn end(&self, status: &Status);
}

/// A streaming call. Clones are the same call.
#[derive(Debug, Clone)]
pub struct Talk {
    conversation: Conversation,
    /// How many bytes of the app have come that are not granted again.
    received: Rc<Cell<usize>>,
}

impl Talk {
    /// Begins a streaming call: the future serves it to its end. `None` if this is none, and has been ended with a status.
    /// `window` is how many bytes an app may send unasked.
    pub fn begin<D: Downstream + 'static>(
        runtime: &Rc<Runtime>,
        head: Head,
        downstream: D,
        window: usize,
    ) -> Option<(Self, LocalBoxFuture<'static, ()>)> {
        let Some(conversation) = runtime.conversation(&head) else {
            let path = head.target.path();
            let text = format!("{path} is no streaming call that is served: render Envoy's configuration again");
            downstream.end(&Status::unimplemented(text));
            return None;
        };
        let talk = Self { conversation, received: Rc::default() };
        let served = talk.clone().serve(Rc::clone(runtime), head, downstream, window);
        Some((talk, Box::pin(served)))
    }

    /// The app sent a part of its body.
    pub fn receive(&self, bytes: &[u8]) {
        self.received.set(self.received.get() + bytes.len());
        self.conversation.receive(bytes);
    }

    /// The app will send no more.
    pub fn half_close(&self) {
        self.conversation.half_close();
    }

    /// Runs the call, sends what it says, and ends the stream with its status. Dropping the future ends the call.
    async fn serve(self, runtime: Rc<Runtime>, head: Head, downstream: impl Downstream, window: usize) {
        let (conversation, downstream) = (&self.conversation, &downstream);
        // The message under way is kept outside, so that it is sent to its end whatever ends first.
        let rest = RefCell::new(Bytes::new());
        let mut call = Box::pin(runtime.converse(&head, conversation));
        let call = poll_fn(|context| {
            let status = call.as_mut().poll(context);
            // The handler has taken up what has come: the app may send more.
            if status.is_pending() && self.received.get() >= window / 2 && conversation.is_drained() {
                downstream.grant(self.received.take());
            }
            status
        });
        let send_all = async {
            // Until then the call may end without having said anything, and be answered with a status alone. Whatever wakes
            // the call wakes this too.
            poll_fn(|_| if conversation.is_taken() { Poll::Ready(()) } else { Poll::Pending }).await;
            match conversation.take_frame() {
                Some(frame) => *rest.borrow_mut() = frame,
                None => downstream.begin(),
            }
            loop {
                send(downstream, &rest).await;
                // Taken when there is room: what waits is counted in the conversation, which has a bound.
                downstream.ready().await;
                let frame = conversation.next_frame().await;
                *rest.borrow_mut() = frame;
            }
        };
        let status = match select(call, Box::pin(send_all)).await {
            Either::Left((status, _)) => status,
            Either::Right((never, _)) => match never {},
        };
        // For an app that reads too slowly what waits is dropped, but for the message that has begun.
        let patient = status.code() != Code::ResourceExhausted;
        loop {
            send(downstream, &rest).await;
            let Some(frame) = conversation.take_frame().filter(|_| patient) else { break };
            *rest.borrow_mut() = frame;
        }
        downstream.end(&status);
    }
}

/// Sends bytes in pieces, since a message of an app may be larger than what goes at a time. What is left when the future is
/// dropped stays in its place.
async fn send(downstream: &impl Downstream, rest: &RefCell<Bytes>) {
    while !rest.borrow().is_empty() {
        downstream.ready().await;
        let length = rest.borrow().len().min(downstream.most());
        let piece = rest.borrow_mut().split_to(length);
        downstream.send(&piece);
    }
}
