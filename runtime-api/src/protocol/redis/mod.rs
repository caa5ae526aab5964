//! A Redis client over one pipelined connection (RESP2).
//!
//! All calls of a worker to a server share the connection; replies come in the order of the commands. What waits
//! for a reply belongs to the connection that carried its command, and ends with it: no reply can ever reach a call
//! of another connection. A connection is opened by the call that needs one, and after a failure not before a
//! back-off has passed; until then calls fail at once instead of queueing up behind a server that is not there.

mod connection;
mod incoming;
mod subscriber;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame;

use crate::backoff::backoff;
use crate::budget::Exhausted;
use crate::metrics::metric_part;
use crate::protocol::Failure;
use crate::proxy::{Instant, Level, Metric, Proxy};
use connection::Connection;
pub use subscriber::{Push, Subscriber};

/// A reply of the server.
pub type Reply = BytesFrame;

/// Why a command got no usable reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The command was not sent: there is no connection.
    #[error("redis is unreachable: {0}")]
    Unreachable(String),
    /// The command was sent and the connection ended before its reply came.
    #[error("redis closed the connection before it answered ({0}); whether the command ran is unknown")]
    Lost(String),
    /// Too many commands wait for their replies already.
    #[error("{0} commands wait for redis already")]
    Busy(usize),
    /// There is no room to keep the command.
    #[error(transparent)]
    Full(Exhausted),
    /// The server refused the command.
    #[error("redis says: {0}")]
    Refused(String),
    /// The server said something that the command does not allow for.
    #[error("unexpected reply of redis to {0}")]
    Unexpected(&'static str),
}

impl Error {
    /// Whether the server refused the command because the key holds a value of another type.
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Refused(text) if text.starts_with("WRONGTYPE"))
    }
}

impl Failure for Error {
    fn is_passing(&self) -> bool {
        const PASSING: [&str; 6] = ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"];
        match self {
            Self::Unreachable(_) | Self::Lost(_) | Self::Busy(_) | Self::Full(_) => true,
            Self::Refused(text) => PASSING.iter().any(|word| text.split(' ').next() == Some(word)),
            Self::Unexpected(_) => false,
        }
    }

    fn is_exhausted(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// Who logs in where.
#[derive(Clone, Default)]
pub struct Login {
    /// The user, if not the default one.
    pub username: Option<String>,
    /// The password, if the server wants one.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u32,
}

impl fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, {})", self.username, self.database)
    }
}

/// The client of one server.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

impl fmt::Debug for Client {
    /// Without the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.component)
    }
}

struct Shared {
    proxy: Rc<dyn Proxy>,
    /// The component, for the log and metrics.
    component: String,
    cluster: String,
    login: Vec<Vec<Vec<u8>>>,
    /// How long a server may owe a reply before its connection is taken for dead.
    patience: Duration,
    connection: RefCell<Option<Rc<Connection>>>,
    failures: Cell<u32>,
    connects: Metric,
    disconnects: Metric,
    connect_failures: Metric,
    retry: RefCell<Option<(Instant, String)>>,
}

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1); // a server that is back serves again within two

impl Client {
    /// A client that connects when it is first used.
    pub fn new(proxy: Rc<dyn Proxy>, component: &str, cluster: &str, login: &Login, patience: Duration) -> Self {
        let counter = |what| proxy.counter(&format!("runtime.upstream.{}.{what}", metric_part(component)));
        let (connects, disconnects) = (counter("connects"), counter("disconnects"));
        let connect_failures = counter("connect_failures");
        Self(Rc::new(Shared {
            proxy,
            connects,
            disconnects,
            connect_failures,
            component: component.to_owned(),
            cluster: cluster.to_owned(),
            login: login.commands(),
            patience,
            connection: RefCell::new(None),
            failures: Cell::new(0),
            retry: RefCell::new(None),
        }))
    }

    /// Sends one command and gives its reply; an error reply is [`Error::Refused`].
    pub async fn command(&self, words: &[&[u8]]) -> Result<Reply, Error> {
        self.exchange(&[words]).await?.pop().map_or(Err(Error::Unexpected("a command")), checked)
    }

    /// Sends commands back to back and gives their replies in order.
    pub async fn pipeline(&self, commands: &[&[&[u8]]]) -> Result<Vec<Result<Reply, Error>>, Error> {
        Ok(self.exchange(commands).await?.into_iter().map(checked).collect())
    }

    async fn exchange(&self, commands: &[&[&[u8]]]) -> Result<Vec<Reply>, Error> {
        self.connection()?.exchange(commands)?.await
    }

    /// Opens a connection on which the server tells of itself: what is published, and what happens to keys.
    pub async fn subscriber(&self) -> Result<Subscriber, Error> {
        let shared = &self.0;
        let stream = shared.proxy.connect(&shared.cluster);
        Subscriber::open(stream, Rc::clone(&shared.proxy), &shared.login, shared.patience).await
    }

    /// The connection in use, or a new one unless the last failure was a moment ago.
    fn connection(&self) -> Result<Rc<Connection>, Error> {
        let shared = &self.0;
        if let Some(connection) = shared.connection.borrow().as_ref() {
            return Ok(Rc::clone(connection));
        }
        if let Some((until, why)) = shared.retry.borrow().as_ref()
            && shared.proxy.now() < *until
        {
            return Err(Error::Unreachable(why.clone()));
        }
        let connection = Rc::new(Connection::new(shared.proxy.connect(&shared.cluster), shared.proxy.budget()));
        *shared.connection.borrow_mut() = Some(Rc::clone(&connection));
        let client = self.clone();
        let (sender, sending) = (Rc::clone(&connection), Rc::clone(&shared.proxy));
        shared.proxy.spawn(Box::pin(async move { sender.send(&*sending).await }));
        let serving = Rc::clone(&connection);
        shared.proxy.spawn(Box::pin(async move { client.serve(serving).await }));
        Ok(connection)
    }

    /// Runs a connection until it ends.
    async fn serve(&self, connection: Rc<Connection>) {
        let shared = &self.0;
        let opened = || {
            shared.failures.set(0);
            shared.proxy.add(shared.connects, 1);
            shared.proxy.log(Level::Info, &format!("component={} event=connected", shared.component));
        };
        let why = connection.run(&*shared.proxy, &shared.login, shared.patience, opened).await;
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

/// Why a server lets nobody in. One that does not know AUTH repeats its arguments, which are not for a log.
fn refusal(words: &[Vec<u8>], text: &str) -> String {
    let command = words.first().map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
    let text = text.split_once(", with args").map_or(text, |(text, _)| text);
    format!("it refuses {command}: {text}")
}

impl Login {
    /// The last word of a login is PING: commands are sent only to a server that has answered it.
    fn commands(&self) -> Vec<Vec<Vec<u8>>> {
        let mut commands: Vec<Vec<&str>> = Vec::new();
        let database = self.database.to_string();
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => commands.push(vec!["AUTH", username, password]),
            (None, Some(password)) => commands.push(vec!["AUTH", password]),
            (_, None) => {}
        }
        if self.database != 0 {
            commands.push(vec!["SELECT", &database]);
        }
        commands.push(vec!["PING"]);
        commands.iter().map(|words| words.iter().map(|word| word.as_bytes().to_vec()).collect()).collect()
    }
}

/// Appends a command: an array of bulk strings, the one form in which a client speaks. It is written here because the
/// crate that reads replies takes a tenth of a call's work for it: parser combinators, and logarithms for lengths.
fn encode(bytes: &mut BytesMut, words: &[&[u8]]) {
    bytes.reserve(LONGEST_LENGTH + words.iter().map(|word| word.len() + LONGEST_LENGTH + 2).sum::<usize>());
    length(bytes, b'*', words.len());
    for word in words {
        length(bytes, b'$', word.len());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// The sign, the digits and the end of the line of a length.
const LONGEST_LENGTH: usize = 1 + DIGITS + 2;
/// Those of the largest number.
const DIGITS: usize = 20;

fn length(bytes: &mut BytesMut, sign: u8, mut number: usize) {
    let mut digits = [b'0'; DIGITS];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    bytes.put_u8(sign);
    bytes.extend_from_slice(digits.get(DIGITS - used..).unwrap_or_default());
    bytes.extend_from_slice(b"\r\n");
}

fn checked(reply: Reply) -> Result<Reply, Error> {
    match reply {
        Reply::Error(text) => Err(Error::Refused(text.to_string())),
        reply => Ok(reply),
    }
}

/// The bytes of a bulk string, `None` for a null.
pub fn bytes(reply: Reply, command: &'static str) -> Result<Option<Bytes>, Error> {
    match reply {
        Reply::BulkString(bytes) | Reply::SimpleString(bytes) => Ok(Some(bytes)),
        Reply::Null => Ok(None),
        _ => Err(Error::Unexpected(command)),
    }
}

/// A whole number.
pub fn integer(reply: &Reply, command: &'static str) -> Result<i64, Error> {
    match reply {
        Reply::Integer(number) => Ok(*number),
        _ => Err(Error::Unexpected(command)),
    }
}

/// A list of replies.
pub fn list(reply: Reply, command: &'static str) -> Result<Vec<Reply>, Error> {
    match reply {
        Reply::Array(replies) => Ok(replies),
        _ => Err(Error::Unexpected(command)),
    }
}

#[cfg(test)]
mod tests {
    use redis_protocol::resp2::encode::extend_encode_borrowed;
    use redis_protocol::resp2::types::BorrowedFrame;

    use super::*;

    proptest::proptest! {
        #[test]
        fn commands_are_written_as_the_crate_would(words: Vec<Vec<u8>>, long in 0..100_000_usize) {
            let long = vec![b'x'; long];
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).chain([long.as_slice()]).collect();
            let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
            encode(&mut ours, &words);
            let frames: Vec<BorrowedFrame<'_>> = words.iter().map(|word| BorrowedFrame::BulkString(word)).collect();
            extend_encode_borrowed(&mut theirs, &BorrowedFrame::Array(&frames), false).unwrap();
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}
