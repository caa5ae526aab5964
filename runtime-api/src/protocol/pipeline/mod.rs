//! A client over one pipelined connection of bytes: what all servers have in common that answer commands in their
//! order. What a server speaks is a [`Speech`].
//!
//! All calls of a worker to a server share the connection. What waits for a reply belongs to the connection that
//! carried its command, and ends with it: no reply can ever reach a call of another connection. A connection is opened
//! by the call that needs one, and after a failure not before a back-off has passed; until then calls fail at once
//! instead of queueing up behind a server that is not there.

mod connection;
mod incoming;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::Failure;
use crate::backoff::backoff;
use crate::budget::Exhausted;
use crate::metrics::metric_part;
use crate::proxy::{Instant, Level, Metric, Proxy, Stream};
use crate::trace;
use connection::Connection;
pub(super) use incoming::Incoming;

/// What a server speaks.
pub(super) trait Speech: 'static {
    /// What the server is called in messages.
    const NAME: &'static str;

    /// A reply.
    type Reply: fmt::Debug;

    /// Appends the commands of a login, and says how many replies they get. What is asked for is held back until these
    /// are there, so that a command which fails for want of a server is known not to have run.
    fn log_in(&self, bytes: &mut BytesMut) -> usize;

    /// Looks at the replies to the login. An error says why the server lets nobody in.
    fn let_in(&self, replies: Vec<Self::Reply>) -> Result<(), String>;

    /// How many bytes the first reply has in what came, which is not empty; or, where it is not whole, how many it will
    /// have at least. An error ends the connection.
    fn measure(&self, bytes: &[u8]) -> Result<usize, String>;

    /// Takes the first reply, all of which is there. An error says that it is none, or that nothing is certain any
    /// more, and ends the connection.
    fn decode(&self, bytes: &mut BytesMut) -> Result<Option<Self::Reply>, String>;
}

/// Why commands got no replies: the server's name, and more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// They were not sent: there is no connection.
    #[error("{0} is unreachable: {1}")]
    Unreachable(&'static str, String),
    /// They were sent and the connection ended before the replies came.
    #[error("{0} closed the connection before it answered ({1}); whether the command ran is unknown")]
    Lost(&'static str, String),
    /// Too many wait for their replies already.
    #[error("{1} commands wait for {0} already")]
    Busy(&'static str, usize),
    /// There is no room to keep them.
    #[error(transparent)]
    Full(Exhausted),
}

impl Failure for Broken {
    fn is_passing(&self) -> bool {
        true
    }

    fn is_exhausted(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// The client of one server.
pub(super) struct Client<S: Speech>(Rc<Shared<S>>);

impl<S: Speech> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: Speech> fmt::Debug for Client<S> {
    /// Without what it says to log in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.component)
    }
}

struct Shared<S: Speech> {
    speech: S,
    proxy: Rc<dyn Proxy>,
    /// The component, for the log and metrics.
    component: String,
    cluster: String,
    /// How long a server may owe a reply before its connection is taken for dead.
    patience: Duration,
    connection: RefCell<Option<Rc<Connection<S>>>>,
    failures: Cell<u32>,
    connects: Metric,
    disconnects: Metric,
    connect_failures: Metric,
    retry: RefCell<Option<(Instant, String)>>,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1); // a server that is back serves again within two

impl<S: Speech> Client<S> {
    /// A client that connects when it is first used.
    pub(super) fn new(speech: S, proxy: Rc<dyn Proxy>, component: &str, cluster: &str, patience: Duration) -> Self {
        let counter = |what| proxy.counter(&format!("runtime.upstream.{}.{what}", metric_part(component)));
        let (connects, disconnects) = (counter("connects"), counter("disconnects"));
        let connect_failures = counter("connect_failures");
        Self(Rc::new(Shared {
            speech,
            proxy,
            connects,
            disconnects,
            connect_failures,
            component: component.to_owned(),
            cluster: cluster.to_owned(),
            patience,
            connection: RefCell::new(None),
            failures: Cell::new(0),
            retry: RefCell::new(None),
        }))
    }

    /// Sends commands that get so many replies, back to back as `encode` appends them, and gives the replies in order.
    pub(super) async fn exchange(
        &self,
        wanted: usize,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Vec<S::Reply>, Broken> {
        let connection = self.connection()?;
        let encode = |bytes: &mut BytesMut| {
            let before = bytes.len();
            encode(bytes);
            trace::sends(&self.0.cluster, wanted, bytes.len().saturating_sub(before));
        };
        connection.exchange(wanted, encode)?.await
    }

    /// What the server speaks.
    pub(super) fn speech(&self) -> &S {
        &self.0.speech
    }

    /// The way to the outside.
    pub(super) fn proxy(&self) -> &Rc<dyn Proxy> {
        &self.0.proxy
    }

    /// How long a server may owe a reply.
    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// A connection of its own, on which nothing has been said.
    pub(super) fn connect(&self) -> Box<dyn Stream> {
        self.0.proxy.connect(&self.0.cluster)
    }

    /// The connection in use, or a new one unless the last failure was a moment ago.
    fn connection(&self) -> Result<Rc<Connection<S>>, Broken> {
        let shared = &self.0;
        if let Some(connection) = shared.connection.borrow().as_ref() {
            return Ok(Rc::clone(connection));
        }
        if let Some((until, why)) = shared.retry.borrow().as_ref()
            && shared.proxy.now() < *until
        {
            return Err(Broken::Unreachable(S::NAME, why.clone()));
        }
        let connection = Rc::new(Connection::new(self.connect(), shared.proxy.budget()));
        *shared.connection.borrow_mut() = Some(Rc::clone(&connection));
        let client = self.clone();
        let (sender, sending) = (Rc::clone(&connection), Rc::clone(&shared.proxy));
        shared.proxy.spawn(Box::pin(async move { sender.send(&*sending).await }));
        let serving = Rc::clone(&connection);
        shared.proxy.spawn(Box::pin(async move { client.serve(serving).await }));
        Ok(connection)
    }

    /// Runs a connection until it ends.
    async fn serve(&self, connection: Rc<Connection<S>>) {
        let shared = &self.0;
        let opened = || {
            shared.failures.set(0);
            shared.proxy.add(shared.connects, 1);
            shared.proxy.log(Level::Info, &format!("component={} event=connected", shared.component));
        };
        let why = connection.run(&shared.speech, &*shared.proxy, shared.patience, opened).await;
        *shared.connection.borrow_mut() = None;
        let failures = shared.failures.get() + 1;
        shared.failures.set(failures);
        // The first attempt after a connection that had worked may follow at once.
        let pause = if failures == 1 && connection.is_open() {
            Duration::ZERO
        } else {
            backoff(&*shared.proxy, failures, FIRST_BACKOFF, LONGEST_BACKOFF)
        };
        *shared.retry.borrow_mut() = Some((shared.proxy.now() + pause, why.clone()));
        let (metric, event) = if connection.is_open() {
            (shared.disconnects, "disconnected")
        } else {
            (shared.connect_failures, "connect_failed")
        };
        shared.proxy.add(metric, 1);
        let (component, pause) = (&shared.component, u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        shared.proxy.log(
            Level::Warn,
            &format!("component={component} event={event} reason={why:?} failures={failures} retry_after_ms={pause}"),
        );
        connection.end(&why);
    }
}
