//! A streaming call: what the app sends and what it gets, each a queue with a bound between the filter and a handler.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tonic::Status;

use super::call::{self, Intake, Reply};
use crate::budget::Held;

/// Messages of an app that may wait for the handler. An app that sends more at once is mistaken.
const MOST_REQUESTS: usize = 1024;

/// What may wait for an app that reads slowly, besides what Envoy and the network hold.
const MOST_REPLIES: usize = 4096;
/// The same in bytes.
const MOST_REPLY_BYTES: usize = 1024 * 1024;

/// A streaming call under way. Clones are the same call.
#[derive(Debug, Clone)]
pub struct Conversation(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    encoding: Option<String>,
    intake: Intake,
    /// Whether the method takes one message.
    once: bool,
    /// Whether it has come.
    has_message: Cell<bool>,
    /// Whether nothing more is taken from the app.
    closed: Cell<bool>,
    /// The part of the body that is no whole message yet.
    body: RefCell<BytesMut>,
    requests: RefCell<VecDeque<(usize, Bytes)>>,
    /// What of these two has come from the app: each request has its part of it.
    taken: RefCell<Held>,
    half_closed: Cell<bool>,
    /// Whether the handler has taken up what the app said first.
    begun: Cell<bool>,
    handler: RefCell<Option<Waker>>,
    /// Why what the app sent ends the call.
    refusal: RefCell<Option<Status>>,
    refused: RefCell<Option<Waker>>,
    replies: RefCell<VecDeque<Bytes>>,
    reply_bytes: Cell<usize>,
    /// What the replies weigh.
    given: RefCell<Held>,
    filter: RefCell<Option<Waker>>,
}

impl Conversation {
    /// A call whose messages are encoded so and are within these bounds; the method may take but one.
    pub(super) fn new(encoding: Option<String>, intake: Intake, once: bool) -> Self {
        Self(Rc::new(Shared {
            encoding,
            once,
            has_message: Cell::new(false),
            closed: Cell::new(false),
            body: RefCell::default(),
            requests: RefCell::default(),
            taken: RefCell::new(intake.budget.share()),
            half_closed: Cell::new(false),
            begun: Cell::new(false),
            handler: RefCell::default(),
            refusal: RefCell::default(),
            refused: RefCell::default(),
            replies: RefCell::default(),
            reply_bytes: Cell::new(0),
            given: RefCell::new(intake.budget.share()),
            filter: RefCell::default(),
            intake,
        }))
    }

    /// For the filter: the app sent a part of its body.
    pub fn receive(&self, bytes: &[u8]) {
        let shared = &self.0;
        if shared.closed.get() {
            return;
        }
        if shared.once && shared.has_message.get() && !bytes.is_empty() {
            return self.refuse(call::one_message());
        }
        let mut body = shared.body.borrow_mut();
        let mut requests = shared.requests.borrow_mut();
        let counted = shared.taken.borrow_mut().grow(bytes.len());
        if counted.is_ok() {
            body.extend_from_slice(bytes);
        }
        let refusal = loop {
            let before = body.len();
            match call::next_message(&mut body, shared.encoding.as_deref(), &shared.intake) {
                Ok(None) => break counted.err().map(Status::from),
                Ok(Some(_)) if requests.len() >= MOST_REQUESTS => {
                    break Some(Status::resource_exhausted(format!(
                        "{MOST_REQUESTS} messages of this stream wait to be handled already"
                    )));
                }
                Ok(Some(message)) => requests.push_back((before - body.len(), message)),
                Err(status) => break Some(status),
            }
            if shared.once {
                shared.has_message.set(true);
                break (!body.is_empty()).then(call::one_message);
            }
        };
        drop((body, requests));
        match refusal {
            None => wake(&shared.handler),
            Some(status) => self.refuse(status),
        }
    }

    /// For the filter: the app will send no more.
    pub fn half_close(&self) {
        if self.0.closed.get() {
            return;
        }
        if !self.0.body.borrow().is_empty() {
            return self.refuse(Status::internal("the stream ended in the middle of a message"));
        }
        self.0.half_closed.set(true);
        wake(&self.0.handler);
    }

    /// For the filter: whether the handler has taken up what the app said first. If the call goes on then, its response
    /// can begin.
    pub fn is_taken(&self) -> bool {
        self.0.begun.get()
    }

    /// For the filter: whether the handler has taken all messages that have come, so that the app may send more.
    pub fn is_drained(&self) -> bool {
        self.0.requests.borrow().is_empty()
    }

    /// What the app sent ends the call, whatever the handler is waiting for.
    fn refuse(&self, status: Status) {
        self.close();
        *self.0.refusal.borrow_mut() = Some(status);
        wake(&self.0.refused);
    }

    /// Takes nothing more from the app, and forgets what has come.
    pub(super) fn close(&self) {
        self.0.closed.set(true);
        drop(self.0.body.take());
        drop(self.0.requests.take());
        drop(self.0.taken.replace(self.0.intake.budget.share()));
    }

    /// Why what the app sent ends the call, once it does.
    pub(super) async fn refusal(&self) -> Status {
        poll_fn(|context| match self.0.refusal.borrow_mut().take() {
            Some(status) => Poll::Ready(status),
            None => {
                *self.0.refused.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// For the filter: the next message for the app, in its frame.
    pub async fn next_frame(&self) -> Bytes {
        poll_fn(|context| match self.take_frame() {
            Some(frame) => Poll::Ready(frame),
            None => {
                *self.0.filter.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// For the filter: the next message for the app if there is one, in its frame.
    pub fn take_frame(&self) -> Option<Bytes> {
        let frame = self.0.replies.borrow_mut().pop_front()?;
        self.0.reply_bytes.set(self.0.reply_bytes.get().saturating_sub(frame.len()));
        self.0.given.borrow_mut().shrink(frame.len());
        Some(frame)
    }

    /// For a handler: the next message of the app; none when it will send no more.
    pub(super) async fn request<M: Message + Default>(&self) -> Result<Option<M>, Status> {
        let next = poll_fn(|context| match self.0.requests.borrow_mut().pop_front() {
            Some((length, request)) => {
                self.0.taken.borrow_mut().shrink(length);
                self.0.begun.set(true);
                Poll::Ready(Some(request))
            }
            None if self.0.half_closed.get() => Poll::Ready(None),
            None => {
                *self.0.handler.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        });
        next.await.map(call::decode).transpose()
    }

    /// For a handler: sends a message to the app. It is refused when the app has left too many unread, and the stream
    /// is to end with that.
    pub(super) fn reply(&self, message: &impl Message) -> Result<(), Status> {
        let frame = match Reply::message(message) {
            Reply::Message(frame) => frame,
            Reply::Status(status) => return Err(*status),
        };
        let (count, bytes) = (self.0.replies.borrow().len(), self.0.reply_bytes.get());
        if count >= MOST_REPLIES || (count > 0 && bytes + frame.len() > MOST_REPLY_BYTES) {
            let text = format!("the app reads too slowly: {count} messages of {bytes} bytes wait to be sent to it");
            return Err(Status::resource_exhausted(text));
        }
        self.0.given.borrow_mut().grow(frame.len())?;
        self.0.reply_bytes.set(bytes + frame.len());
        self.0.replies.borrow_mut().push_back(frame);
        wake(&self.0.filter);
        Ok(())
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    let waker = waiting.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
