//! A connection in the mode in which Redis speaks unasked: SUBSCRIBE and PSUBSCRIBE.
//!
//! It cannot carry ordinary commands, so it is apart from the one that all calls share. Nobody opens it again: whoever
//! subscribes has to find out anyway what was missed.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};

use super::incoming::Incoming;
use super::{Error, Reply, encode, refusal};
use crate::proxy::{Proxy, Stream};

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
    stream: Box<dyn Stream>,
    proxy: Rc<dyn Proxy>,
    patience: Duration,
    incoming: RefCell<Incoming>,
    /// Counts what came: what the watch goes by.
    received: Cell<u64>,
}

impl Subscriber {
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        proxy: Rc<dyn Proxy>,
        login: &[Vec<Vec<u8>>],
        patience: Duration,
    ) -> Result<Self, Error> {
        let incoming = RefCell::new(Incoming::new(proxy.budget()));
        let subscriber = Self { stream, proxy, patience, incoming, received: Cell::new(0) };
        let late = subscriber.proxy.sleep(patience);
        match select(Box::pin(subscriber.log_in(login)), late).await {
            Either::Left((outcome, _)) => outcome?,
            Either::Right(((), _)) => {
                let time = humantime::format_duration(patience);
                return Err(Error::Unreachable(format!("it has not answered for {time}")));
            }
        }
        Ok(subscriber)
    }

    async fn log_in(&self, login: &[Vec<Vec<u8>>]) -> Result<(), Error> {
        for words in login {
            self.send(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        for words in login {
            let reply = self.reply().await.map_err(|error| match error {
                Error::Lost(why) => Error::Unreachable(why),
                other => other,
            })?;
            if let Reply::Error(text) = reply {
                return Err(Error::Unreachable(refusal(words, &text)));
            }
        }
        Ok(())
    }

    /// Sends a command of this mode. Each channel or pattern in it is confirmed by a push.
    pub fn send(&self, words: &[&[u8]]) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, words);
        self.stream.send(&bytes);
    }

    /// What the server says next.
    pub async fn next(&self) -> Result<Push, Error> {
        loop {
            let words = match self.reply().await? {
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
        loop {
            let received = self.received.get();
            self.proxy.sleep(self.patience).await;
            if self.received.get() != received {
                continue;
            }
            self.send(&[b"PING"]);
            self.proxy.sleep(self.patience).await;
            if self.received.get() == received {
                let time = humantime::format_duration(self.patience);
                return Err(Error::Lost(format!("it has not answered for {time}")));
            }
        }
    }

    async fn reply(&self) -> Result<Reply, Error> {
        loop {
            let next = self.incoming.borrow_mut().next();
            if let Some(reply) = next.map_err(Error::Lost)? {
                return Ok(reply);
            }
            let bytes = self.stream.receive().await.map_err(|closed| Error::Lost(closed.to_string()))?;
            self.received.set(self.received.get() + 1);
            self.incoming.borrow_mut().add(&bytes);
        }
    }
}
