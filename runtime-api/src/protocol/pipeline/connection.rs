//! One connection to a server, and those who wait for replies on it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, select, try_join3};

use super::{Broken, Incoming, Speech};
use crate::budget::{Budget, Held};
use crate::proxy::{Proxy, Stream};
use crate::slot::Slot;

/// Commands that may wait for replies on one connection. A server that keeps up has a few hundred at most; more
/// would only fill memory.
const MOST_WAITING: usize = 32 * 1024;
/// The same in bytes of commands. What is asked for when fewer wait may be larger than that: it is bounded by what an
/// app may ask for.
const MOST_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Writes that may wait for replies before what is asked for is held back, to go out together with what follows: the
/// server would not look at it any sooner, and every write costs Envoy a pass through the tunnel.
const MOST_FLIGHTS: usize = 2;
/// For how long it is held back at most, since a server far away does look at it sooner.
const LONGEST_HOLD: Duration = Duration::from_millis(1);

pub(super) struct Connection<S: Speech> {
    stream: Box<dyn Stream>,
    /// Whether the server has let us in. Until then commands are held back, so that one which fails for want of a
    /// server is known not to have run.
    open: Cell<bool>,
    held: RefCell<BytesMut>,
    /// Who sends it waits here.
    sender: Slot,
    over: Cell<bool>,
    /// For each write under way how many exchanges will have ended when all its replies are there.
    flights: RefCell<VecDeque<u64>>,
    waiting: RefCell<VecDeque<Waiting<S::Reply>>>,
    waiting_bytes: Cell<usize>,
    budget: Budget,
    /// Exchanges begun and ended, and chunks received: what the watch goes by.
    begun: Cell<u64>,
    ended: Cell<u64>,
    received: Cell<u64>,
}

/// A call that waits for the replies to its commands. One that was cancelled stays: its replies still come and
/// must be counted off.
struct Waiting<R> {
    caller: oneshot::Sender<Result<Vec<R>, Broken>>,
    replies: Vec<R>,
    wanted: usize,
    bytes: usize,
    _held: Held,
}

impl<S: Speech> Connection<S> {
    pub(super) fn new(stream: Box<dyn Stream>, budget: &Budget) -> Self {
        Self {
            stream,
            open: Cell::new(false),
            held: RefCell::default(),
            sender: Slot::default(),
            over: Cell::new(false),
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

    /// Sends commands that get so many replies and gives a future of these.
    pub(super) fn exchange(
        &self,
        wanted: usize,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Answer<S::Reply>, Broken> {
        let mut held = self.held.borrow_mut();
        let before = held.len();
        encode(&mut held);
        let (count, bytes) = (self.waiting.borrow().len(), held.len() - before);
        if count >= MOST_WAITING || self.waiting_bytes.get() > MOST_WAITING_BYTES {
            held.truncate(before);
            return Err(Broken::Busy(S::NAME, count));
        }
        let room = match self.budget.reserve(bytes) {
            Ok(room) => room,
            Err(exhausted) => {
                held.truncate(before);
                return Err(Broken::Full(exhausted));
            }
        };
        drop(held);
        let answer = self.wait(wanted, bytes, room);
        if before == 0 {
            self.sender.wake(); // of what follows it takes notice without
        }
        Ok(answer)
    }

    /// Sends what is asked for, until the connection ends. It is woken by the first who asks and runs after all who
    /// could run at that time, so that what they ask for is one write.
    pub(super) async fn send(&self, proxy: &dyn Proxy) {
        loop {
            self.until(|| self.open.get() && !self.held.borrow().is_empty()).await;
            if self.over.get() {
                return;
            }
            let room = || self.flights.borrow().len() < MOST_FLIGHTS;
            if !room() {
                select(Box::pin(self.until(room)), proxy.sleep(LONGEST_HOLD)).await;
            }
            if !self.over.get() {
                self.stream.send(&self.held.take());
                self.flights.borrow_mut().push_back(self.begun.get());
            }
        }
    }

    /// Waits for a condition, or for the end of the connection. Whoever changes what it depends on wakes the sender.
    async fn until(&self, condition: impl Fn() -> bool) {
        self.sender.until(|| (self.over.get() || condition()).then_some(())).await;
    }

    fn wait(&self, wanted: usize, bytes: usize, held: Held) -> Answer<S::Reply> {
        let (caller, replies) = oneshot::channel();
        self.begun.set(self.begun.get() + 1);
        self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
        self.waiting.borrow_mut().push_back(Waiting {
            caller,
            replies: Vec::with_capacity(wanted),
            wanted,
            bytes,
            _held: held,
        });
        Answer { replies, server: S::NAME }
    }

    /// Serves the connection until it ends, and says why it did. `opened` is called when the server has let us in.
    pub(super) async fn run(&self, speech: &S, proxy: &dyn Proxy, patience: Duration, opened: impl Fn()) -> String {
        // Each behind a pointer: see `Runtime::serve`.
        let login: LocalBoxFuture<'_, _> = Box::pin(async {
            self.log_in(speech).await?;
            opened();
            Ok(())
        });
        let receive: LocalBoxFuture<'_, _> = Box::pin(self.receive(speech));
        let watch: LocalBoxFuture<'_, _> = Box::pin(self.watch(proxy, patience));
        match try_join3(login, receive, watch).await {
            Err(why) => why,
            Ok(((), never, _)) => match never {},
        }
    }

    /// The login goes ahead of what was asked for meanwhile.
    async fn log_in(&self, speech: &S) -> Result<(), String> {
        let mut commands = BytesMut::new();
        let wanted = speech.log_in(&mut commands);
        let held_back = std::mem::take(&mut *self.waiting.borrow_mut());
        let answer = self.wait(wanted, commands.len(), self.budget.share());
        self.waiting.borrow_mut().extend(held_back);
        self.stream.send(&commands);
        speech.let_in(answer.await.map_err(|broken| broken.to_string())?)?;
        self.open.set(true);
        self.sender.wake();
        Ok(())
    }

    async fn receive(&self, speech: &S) -> Result<Infallible, String> {
        let mut incoming = Incoming::new(&self.budget);
        loop {
            let bytes = self.stream.receive().await.map_err(|closed| closed.to_string())?;
            self.received.set(self.received.get() + 1);
            incoming.add(&bytes);
            while let Some(reply) = incoming.next(speech)? {
                self.answer(reply)?;
            }
            if self.flights.borrow().len() < MOST_FLIGHTS && !self.held.borrow().is_empty() {
                self.sender.wake();
            }
        }
    }

    /// Gives a reply to whoever has waited longest.
    fn answer(&self, reply: S::Reply) -> Result<(), String> {
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
    async fn watch(&self, proxy: &dyn Proxy, patience: Duration) -> Result<Infallible, String> {
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
        self.over.set(true);
        self.sender.wake();
        let sent = self.flights.borrow().back().map_or(0, |last| last.saturating_sub(self.ended.get()));
        for (waiting, number) in self.waiting.take().into_iter().zip(1..) {
            let broken = if number <= sent { Broken::Lost } else { Broken::Unreachable };
            let _ = waiting.caller.send(Err(broken(S::NAME, why.to_owned())));
        }
    }
}

/// The replies to come.
pub(super) struct Answer<R> {
    replies: oneshot::Receiver<Result<Vec<R>, Broken>>,
    server: &'static str,
}

impl<R> Future for Answer<R> {
    type Output = Result<Vec<R>, Broken>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let server = self.server;
        let given_up = || Broken::Lost(server, "its connection was given up before the reply".to_owned());
        Pin::new(&mut self.replies).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(given_up())))
    }
}
