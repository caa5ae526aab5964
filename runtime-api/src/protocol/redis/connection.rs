//! One connection to a Redis server, and those who wait for replies on it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use super::incoming::Incoming;
use super::{Error, Reply, encode, refusal};
use crate::budget::{Budget, Held};
use crate::proxy::{Proxy, Stream};
use bytes::BytesMut;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, try_join3};

/// Commands that may wait for replies on one connection. A server that keeps up has a few hundred at most; more
/// would only fill memory.
const MOST_WAITING: usize = 16 * 1024;
/// The same in bytes of commands. What is asked for when fewer wait may be larger than that: it is bounded by what an app
/// may ask for.
const MOST_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Writes that may wait for replies at the same time. What is asked for meanwhile goes out together with the next:
/// Redis would not look at it any sooner, and every write costs Envoy a pass through the tunnel.
const MOST_FLIGHTS: usize = 2;

#[derive(Debug)]
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// Whether the server has let us in. Until then commands are held back, so that one which fails for want of a
    /// server is known not to have run.
    open: Cell<bool>,
    held: RefCell<BytesMut>,
    /// For each write under way how many exchanges will have ended when all its replies are there.
    flights: RefCell<VecDeque<u64>>,
    waiting: RefCell<VecDeque<Waiting>>,
    waiting_bytes: Cell<usize>,
    budget: Budget,
    /// Exchanges begun and ended, and chunks received: what the watch goes by.
    begun: Cell<u64>,
    ended: Cell<u64>,
    received: Cell<u64>,
}

/// A call that waits for the replies to its commands. One that was cancelled stays: its replies still come and
/// must be counted off.
#[derive(Debug)]
struct Waiting {
    caller: oneshot::Sender<Result<Vec<Reply>, Error>>,
    replies: Vec<Reply>,
    wanted: usize,
    bytes: usize,
    _held: Held,
}

impl Connection {
    pub(super) fn new(stream: Box<dyn Stream>, budget: &Budget) -> Self {
        Self {
            stream,
            open: Cell::new(false),
            held: RefCell::default(),
            flights: RefCell::default(),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            budget: budget.clone(),
            begun: Cell::new(0),
            ended: Cell::new(0),
            received: Cell::new(0),
        }
    }

    /// Whether the server has let us in.
    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Sends commands and gives a future of their replies.
    pub(super) fn exchange(&self, commands: &[&[&[u8]]]) -> Result<Answer, Error> {
        let mut held = self.held.borrow_mut();
        let before = held.len();
        for words in commands {
            encode(&mut held, words);
        }
        let (count, bytes) = (self.waiting.borrow().len(), held.len() - before);
        if count >= MOST_WAITING || self.waiting_bytes.get() > MOST_WAITING_BYTES {
            held.truncate(before);
            return Err(Error::Busy(count));
        }
        let room = match self.budget.reserve(bytes) {
            Ok(room) => room,
            Err(exhausted) => {
                held.truncate(before);
                return Err(Error::Full(exhausted));
            }
        };
        drop(held);
        let answer = self.wait(commands.len(), bytes, room);
        self.launch();
        Ok(answer)
    }

    /// Sends what is held back, if it may go.
    fn launch(&self) {
        let mut flights = self.flights.borrow_mut();
        if self.open.get() && flights.len() < MOST_FLIGHTS && !self.held.borrow().is_empty() {
            self.stream.send(&self.held.take());
            flights.push_back(self.begun.get());
        }
    }

    fn wait(&self, wanted: usize, bytes: usize, held: Held) -> Answer {
        let (caller, answer) = oneshot::channel();
        self.begun.set(self.begun.get() + 1);
        self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
        self.waiting.borrow_mut().push_back(Waiting {
            caller,
            replies: Vec::with_capacity(wanted),
            wanted,
            bytes,
            _held: held,
        });
        Answer(answer)
    }

    /// Serves the connection until it ends, and says why it did. `opened` is called when the server has let us in.
    pub(super) async fn run(
        &self,
        proxy: &dyn Proxy,
        login: &[Vec<Vec<u8>>],
        patience: Duration,
        opened: impl Fn(),
    ) -> String {
        // Each behind a pointer: see `Runtime::serve`.
        let login: LocalBoxFuture<'_, _> = Box::pin(async {
            self.log_in(login).await?;
            opened();
            Ok(())
        });
        let receive: LocalBoxFuture<'_, _> = Box::pin(self.receive());
        let watch: LocalBoxFuture<'_, _> = Box::pin(self.watch(proxy, patience));
        match try_join3(login, receive, watch).await {
            Err(why) => why,
            Ok(((), never, _)) => match never {},
        }
    }

    /// The login goes ahead of what was asked for meanwhile.
    async fn log_in(&self, login: &[Vec<Vec<u8>>]) -> Result<(), String> {
        let mut commands = BytesMut::new();
        for words in login {
            encode(&mut commands, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let held_back = std::mem::take(&mut *self.waiting.borrow_mut());
        let answer = self.wait(login.len(), commands.len(), self.budget.share());
        self.waiting.borrow_mut().extend(held_back);
        self.stream.send(&commands);
        let replies = answer.await.map_err(|error| error.to_string())?;
        for (words, reply) in login.iter().zip(replies) {
            if let Reply::Error(text) = reply {
                return Err(refusal(words, &text));
            }
        }
        self.open.set(true);
        self.launch();
        Ok(())
    }

    async fn receive(&self) -> Result<std::convert::Infallible, String> {
        let mut incoming = Incoming::new(&self.budget);
        loop {
            let bytes = self.stream.receive().await.map_err(|closed| closed.to_string())?;
            self.received.set(self.received.get() + 1);
            incoming.add(&bytes);
            while let Some(reply) = incoming.next()? {
                self.answer(reply)?;
            }
            self.launch();
        }
    }

    /// Gives a reply to whoever has waited longest.
    fn answer(&self, reply: Reply) -> Result<(), String> {
        let mut queue = self.waiting.borrow_mut();
        let Some(first) = queue.front_mut() else {
            return Err("a reply came that nobody had asked for".to_owned());
        };
        first.replies.push(reply);
        if first.replies.len() >= first.wanted
            && let Some(done) = queue.pop_front()
        {
            self.ended.set(self.ended.get() + 1);
            self.flights.borrow_mut().pop_front_if(|last| *last <= self.ended.get());
            self.waiting_bytes.set(self.waiting_bytes.get().saturating_sub(done.bytes));
            let _ = done.caller.send(Ok(done.replies)); // refused when the call was cancelled
        }
        Ok(())
    }

    /// Ends a connection on which a reply has been owed for a whole span of `patience` and nothing at all has come.
    async fn watch(&self, proxy: &dyn Proxy, patience: Duration) -> Result<std::convert::Infallible, String> {
        loop {
            let (begun, received) = (self.begun.get(), self.received.get());
            proxy.sleep(patience).await;
            if self.ended.get() < begun && self.received.get() == received {
                return Err(format!("it has not answered for {}", humantime::format_duration(patience)));
            }
        }
    }

    /// Tells all who wait that nothing will come.
    pub(super) fn end(&self, why: &str) {
        let sent = self.flights.borrow().back().map_or(0, |last| last.saturating_sub(self.ended.get()));
        for (waiting, number) in self.waiting.take().into_iter().zip(1..) {
            let error = if number <= sent { Error::Lost(why.to_owned()) } else { Error::Unreachable(why.to_owned()) };
            let _ = waiting.caller.send(Err(error));
        }
    }
}

/// The replies to come.
#[derive(Debug)]
pub(super) struct Answer(oneshot::Receiver<Result<Vec<Reply>, Error>>);

impl Future for Answer {
    type Output = Result<Vec<Reply>, Error>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| Err(Error::Lost("its connection was given up before the reply".to_owned())))
        })
    }
}
