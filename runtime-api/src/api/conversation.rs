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
    /// The part of the body that is no whole message yet.
    body: RefCell<BytesMut>,
    requests: RefCell<VecDeque<(usize, Result<Bytes, Status>)>>,
    /// What of these two has come from the app: each request has its part of it.
    taken: RefCell<Held>,
    half_closed: Cell<bool>,
    /// Whether the handler has taken up what the app said first.
    begun: Cell<bool>,
    handler: RefCell<Option<Waker>>,
    replies: RefCell<VecDeque<Bytes>>,
    reply_bytes: Cell<usize>,
    /// What the replies weigh.
    given: RefCell<Held>,
    filter: RefCell<Option<Waker>>,
}

impl Conversation {
    /// A call whose messages are encoded so and are within these bounds.
    pub(super) fn new(encoding: Option<String>, intake: Intake) -> Self {
        Self(Rc::new(Shared {
            encoding,
            body: RefCell::default(),
            requests: RefCell::default(),
            taken: RefCell::new(intake.budget.share()),
            half_closed: Cell::new(false),
            begun: Cell::new(false),
            handler: RefCell::default(),
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
        let mut body = shared.body.borrow_mut();
        let mut requests = shared.requests.borrow_mut();
        let counted = shared.taken.borrow_mut().grow(bytes.len());
        if counted.is_ok() {
            body.extend_from_slice(bytes);
        }
        loop {
            let before = body.len();
            let next = match call::next_message(&mut body, shared.encoding.as_deref(), &shared.intake) {
                Ok(None) if let Err(exhausted) = counted => Err(exhausted.into()),
                Ok(None) => break,
                Ok(Some(_)) if requests.len() >= MOST_REQUESTS => Err(Status::resource_exhausted(format!(
                    "{MOST_REQUESTS} messages of this stream wait to be handled already"
                ))),
                Ok(Some(message)) => Ok(message),
                Err(status) => Err(status),
            };
            let refused = next.is_err();
            requests.push_back((before - body.len(), next));
            if refused {
                body.clear();
                break;
            }
        }
        wake(&shared.handler);
    }

    /// For the filter: the app will send no more.
    pub fn half_close(&self) {
        if !self.0.body.borrow().is_empty() {
            let cut = Status::internal("the stream ended in the middle of a message");
            self.0.requests.borrow_mut().push_back((0, Err(cut)));
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
        next.await.transpose()?.map(call::decode).transpose()
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
