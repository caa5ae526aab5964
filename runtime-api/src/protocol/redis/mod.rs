//! A Redis client over one pipelined connection ([`super::pipeline`]), in RESP2.

mod resp;
mod subscriber;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::types::BytesFrame;

use super::Failure;
use super::pipeline::{self, Broken, Speech};
use crate::proxy::Proxy;
pub use subscriber::{Push, Subscriber};

/// A reply of the server.
pub type Reply = BytesFrame;

/// Why a command got no usable reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection is not there, or was not long enough.
    #[error(transparent)]
    Broken(#[from] Broken),
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
            Self::Broken(broken) => broken.is_passing(),
            Self::Refused(text) => PASSING.iter().any(|word| text.split(' ').next() == Some(word)),
            Self::Unexpected(_) => false,
        }
    }

    fn is_exhausted(&self) -> bool {
        matches!(self, Self::Broken(broken) if broken.is_exhausted())
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
#[derive(Debug, Clone)]
pub struct Client(pipeline::Client<Resp>);

impl Client {
    /// A client that connects when it is first used.
    pub fn new(proxy: Rc<dyn Proxy>, component: &str, cluster: &str, login: &Login, patience: Duration) -> Self {
        Self(pipeline::Client::new(Resp { login: login.commands() }, proxy, component, cluster, patience))
    }

    /// Sends one command and gives its reply; an error reply is [`Error::Refused`].
    pub async fn command(&self, words: &[&[u8]]) -> Result<Reply, Error> {
        self.exchange(&[words]).await?.pop().map_or(Err(Error::Unexpected("a command")), checked)
    }

    /// Sends commands back to back and gives their replies in order.
    pub async fn pipeline(&self, commands: &[&[&[u8]]]) -> Result<Vec<Result<Reply, Error>>, Error> {
        Ok(self.exchange(commands).await?.into_iter().map(checked).collect())
    }

    async fn exchange(&self, commands: &[&[&[u8]]]) -> Result<Vec<Reply>, Broken> {
        let encode = |bytes: &mut BytesMut| commands.iter().for_each(|words| resp::encode(bytes, words));
        self.0.exchange(commands.len(), encode).await
    }

    /// Opens a connection on which the server tells of itself: what is published, and what happens to keys.
    pub async fn subscriber(&self) -> Result<Subscriber, Error> {
        Subscriber::open(self.0.clone()).await
    }
}

/// RESP2, with the commands of the login, which are secret.
struct Resp {
    login: Vec<Vec<Vec<u8>>>,
}

impl Speech for Resp {
    const NAME: &'static str = "redis";

    type Reply = Reply;

    fn log_in(&self, bytes: &mut BytesMut) -> usize {
        for words in &self.login {
            resp::encode(bytes, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        self.login.len()
    }

    fn let_in(&self, replies: Vec<Reply>) -> Result<(), String> {
        for (words, reply) in self.login.iter().zip(replies) {
            if let Reply::Error(text) = reply {
                return Err(refusal(words, &text));
            }
        }
        Ok(())
    }

    fn measure(&self, bytes: &[u8]) -> Result<usize, String> {
        resp::measure(bytes)
    }

    fn decode(&self, bytes: &mut BytesMut) -> Result<Option<Reply>, String> {
        resp::decode(bytes)
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
