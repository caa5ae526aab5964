//! A connection in the mode in which Redis speaks unasked: SUBSCRIBE and PSUBSCRIBE.
//!
//! It cannot carry ordinary commands, so it is apart from the one that all calls share. Nobody opens it again: whoever
//! subscribes has to find out anyway what was missed.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};

use super::{Error, Reply, Resp, resp};
use crate::protocol::pipeline::{Broken, Client, Incoming, Speech};
use crate::proxy::Stream;

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// One channel or pattern more is in force, or one less.
    Confirmed,
    /// Something was published.
    Message {
        /// Where.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
}

/// A connection for messages.
#[derive(Debug)]
pub struct Subscriber {
    client: Client<Resp>,
    stream: Box<dyn Stream>,
    incoming: RefCell<Incoming>,
    /// Counts what came: what the watch goes by.
    received: Cell<u64>,
}

impl Subscriber {
    pub(super) async fn open(client: Client<Resp>) -> Result<Self, Error> {
        let incoming = RefCell::new(Incoming::new(client.proxy().budget()));
        let subscriber = Self { stream: client.connect(), client, incoming, received: Cell::new(0) };
        let late = subscriber.client.proxy().sleep(subscriber.client.patience());
        match select(Box::pin(subscriber.log_in()), late).await {
            Either::Left((outcome, _)) => outcome.map_err(|why| Broken::Unreachable(Resp::NAME, why))?,
            Either::Right(((), _)) => return Err(Broken::Unreachable(Resp::NAME, subscriber.silence()).into()),
        }
        Ok(subscriber)
    }

    async fn log_in(&self) -> Result<(), String> {
        let speech = self.client.speech();
        let mut commands = BytesMut::new();
        let wanted = speech.log_in(&mut commands);
        self.stream.send(&commands);
        let mut replies = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            replies.push(self.reply().await?);
        }
        speech.let_in(replies)
    }

    /// Sends a command of this mode. Each channel or pattern in it is confirmed by a push.
    pub fn send(&self, words: &[&[u8]]) {
        let mut bytes = BytesMut::new();
        resp::encode(&mut bytes, words);
        self.stream.send(&bytes);
    }

    /// What the server says next.
    pub async fn next(&self) -> Result<Push, Error> {
        loop {
            let words = match self.reply().await.map_err(lost)? {
                Reply::Array(words) => words,
                Reply::Error(text) => return Err(Error::Refused(text.to_string())),
                _ => continue, // the answer to a PING before the first channel
            };
            let mut words = words.into_iter();
            let mut text = || match words.next() {
                Some(Reply::BulkString(bytes) | Reply::SimpleString(bytes)) => bytes,
                _ => Bytes::new(),
            };
            match text().as_ref() {
                b"message" => return Ok(Push::Message { channel: text(), payload: text() }),
                b"pmessage" => {
                    text(); // the pattern
                    return Ok(Push::Message { channel: text(), payload: text() });
                }
                b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe" => return Ok(Push::Confirmed),
                _ => {} // "pong"
            }
        }
    }

    /// Asks the server now and then whether it is there, and ends when it is not.
    pub async fn watch(&self) -> Result<Infallible, Error> {
        let pause = || self.client.proxy().sleep(self.client.patience());
        loop {
            let received = self.received.get();
            pause().await;
            if self.received.get() != received {
                continue;
            }
            self.send(&[b"PING"]);
            pause().await;
            if self.received.get() == received {
                return Err(lost(self.silence()));
            }
        }
    }

    fn silence(&self) -> String {
        format!("it has not answered for {}", humantime::format_duration(self.client.patience()))
    }

    /// The next reply, or why there will be none.
    async fn reply(&self) -> Result<Reply, String> {
        loop {
            let next = self.incoming.borrow_mut().next(self.client.speech())?;
            if let Some(reply) = next {
                return Ok(reply);
            }
            let bytes = self.stream.receive().await.map_err(|closed| closed.to_string())?;
            self.received.set(self.received.get() + 1);
            self.incoming.borrow_mut().add(&bytes);
        }
    }
}

fn lost(why: String) -> Error {
    Broken::Lost(Resp::NAME, why).into()
}
