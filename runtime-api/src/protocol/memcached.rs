//! A memcached client over one pipelined connection ([`super::pipeline`]), by the text protocol (`doc/protocol.txt` of
//! memcached).

use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::Failure;
use super::pipeline::{self, Broken, Speech};
use crate::proxy::Proxy;

/// How many bytes a key may have.
const LONGEST_KEY: usize = 250;

/// Why a command got no usable reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection is not there, or was not long enough.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The server failed at the command.
    #[error("memcached says: {0}")]
    Refused(String),
    /// The server said something that the command does not allow for.
    #[error("unexpected reply of memcached to {0}")]
    Unexpected(&'static str),
}

impl Failure for Error {
    fn is_passing(&self) -> bool {
        match self {
            Self::Broken(broken) => broken.is_passing(),
            Self::Refused(_) | Self::Unexpected(_) => false,
        }
    }

    fn is_exhausted(&self) -> bool {
        match self {
            Self::Broken(broken) => broken.is_exhausted(),
            Self::Refused(text) => text.contains("too large for cache") || text.contains("out of memory"),
            Self::Unexpected(_) => false,
        }
    }
}

/// The client of one server.
#[derive(Debug, Clone)]
pub struct Client(pipeline::Client<Text>);

impl Client {
    /// A client that connects when it is first used.
    pub fn new(proxy: Rc<dyn Proxy>, component: &str, cluster: &str, patience: Duration) -> Self {
        Self(pipeline::Client::new(Text, proxy, component, cluster, patience))
    }

    /// The value under a key. Keys are the caller's to check: see [`key_problem`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        match self.command(&[b"get ", key.as_bytes(), b"\r\n"]).await? {
            Reply::Value(value) => Ok(Some(value)),
            Reply::End => Ok(None),
            other => Err(other.into_error("get")),
        }
    }

    /// Stores a value, whatever is there. `expiry` is as [`expiry`] gives it; 0 is without end.
    pub async fn set(&self, key: &str, expiry: u64, value: &[u8]) -> Result<(), Error> {
        let numbers = format!(" 0 {expiry} {}\r\n", value.len());
        match self.command(&[b"set ", key.as_bytes(), numbers.as_bytes(), value, b"\r\n"]).await? {
            Reply::Stored => Ok(()),
            other => Err(other.into_error("set")),
        }
    }

    /// Removes a value and says whether one was there.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        match self.command(&[b"delete ", key.as_bytes(), b"\r\n"]).await? {
            Reply::Deleted => Ok(true),
            Reply::NotFound => Ok(false),
            other => Err(other.into_error("delete")),
        }
    }

    /// Sends a command, given in pieces, and gives its reply.
    async fn command(&self, pieces: &[&[u8]]) -> Result<Reply, Error> {
        let encode = |bytes: &mut BytesMut| pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        self.0.exchange(1, encode).await?.pop().ok_or(Error::Unexpected("a command"))
    }
}

/// What is wrong with a key, if anything: the text protocol would take it for something else.
pub fn key_problem(key: &str) -> Option<String> {
    let length = key.len();
    if key.is_empty() {
        Some("memcached has no empty keys".to_owned())
    } else if length > LONGEST_KEY {
        Some(format!("it has {length} bytes with its prefix, and memcached takes {LONGEST_KEY} at most"))
    } else if key.bytes().any(|byte| byte == b' ' || byte.is_ascii_control()) {
        Some("memcached takes no spaces and control characters in keys".to_owned())
    } else {
        None
    }
}

/// A life time as commands have it: seconds from now; or the time of day when that would be more than 30 days, which
/// the server would take for a time of day. It cannot say more than 31 bits.
///
/// The clock of the server goes by whole seconds, so what is stored late in one would end up to a second early. It gets
/// one more.
pub fn expiry(life: Duration, now: Duration) -> u64 {
    const LONGEST_SPAN: u64 = 30 * 24 * 3600;
    const LATEST: u64 = i32::MAX.unsigned_abs() as u64;
    let seconds = life.as_secs().saturating_add(1);
    if seconds <= LONGEST_SPAN { seconds } else { now.as_secs().saturating_add(seconds).min(LATEST) }
}

/// The text protocol, which has no login: `version` asks whether memcached is there.
struct Text;

/// What the server said to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    /// The one value that was asked for.
    Value(Bytes),
    /// There is none.
    End,
    Stored,
    Deleted,
    NotFound,
    Version,
    /// The line of an error of the server.
    Failed(String),
}

impl Reply {
    fn into_error(self, command: &'static str) -> Error {
        match self {
            Self::Failed(line) => Error::Refused(line),
            Self::Value(_) | Self::End | Self::Stored | Self::Deleted | Self::NotFound | Self::Version => {
                Error::Unexpected(command)
            }
        }
    }
}

/// The longest line that a server says.
const LONGEST_LINE: usize = 2048;
/// What follows a value.
const REST: &[u8] = b"\r\nEND\r\n";

impl Speech for Text {
    const NAME: &'static str = "memcached";

    type Reply = Reply;

    fn log_in(&self, bytes: &mut BytesMut) -> usize {
        bytes.extend_from_slice(b"version\r\n");
        1
    }

    fn let_in(&self, replies: Vec<Reply>) -> Result<(), String> {
        match replies.as_slice() {
            [Reply::Version] => Ok(()),
            [Reply::Failed(line)] => Err(format!("it refuses version: {line}")),
            _ => Err("it does not say its version".to_owned()),
        }
    }

    fn measure(&self, bytes: &[u8]) -> Result<usize, String> {
        let Some(line) = Line::first_of(bytes)? else { return Ok(bytes.len() + 1) };
        let value = length_of_value(line.text)?.map(|length| length.saturating_add(REST.len()));
        Ok(line.length.saturating_add(value.unwrap_or_default()))
    }

    fn decode(&self, bytes: &mut BytesMut) -> Result<Option<Reply>, String> {
        let Some(Line { text, length }) = Line::first_of(bytes)? else { return Ok(None) };
        if let Some(value) = length_of_value(text)? {
            let odd = odd(text);
            bytes.advance(length);
            if bytes.get(value..).is_none_or(|rest| !rest.starts_with(REST)) {
                return Err(odd);
            }
            let value = bytes.split_to(value).freeze();
            bytes.advance(REST.len());
            return Ok(Some(Reply::Value(value)));
        }
        let reply = match text {
            b"END" => Reply::End,
            b"STORED" => Reply::Stored,
            b"DELETED" => Reply::Deleted,
            b"NOT_FOUND" => Reply::NotFound,
            _ if text.starts_with(b"VERSION ") => Reply::Version,
            _ if text.starts_with(b"SERVER_ERROR") => Reply::Failed(String::from_utf8_lossy(text).into_owned()),
            // Whatever it was, what follows of the command may be taken for another: nothing is certain any more.
            _ if text.starts_with(b"ERROR") || text.starts_with(b"CLIENT_ERROR") => {
                return Err(format!("it refuses a command: {}", String::from_utf8_lossy(text)));
            }
            _ => return Err(odd(text)),
        };
        bytes.advance(length);
        Ok(Some(reply))
    }
}

/// A line, and how many bytes it has with its end.
struct Line<'a> {
    text: &'a [u8],
    length: usize,
}

impl<'a> Line<'a> {
    /// The first line of what came; nothing while it is not whole.
    fn first_of(bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let end = bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n');
        match end.and_then(|end| bytes.get(..end)) {
            Some(text) => Ok(Some(Self { text: text.strip_suffix(b"\r").unwrap_or(text), length: text.len() + 1 })),
            None if bytes.len() < LONGEST_LINE => Ok(None),
            None => Err("what came is not memcached's: no end of a line".to_owned()),
        }
    }
}

/// How many bytes a value has, if the line announces one: `VALUE <key> <flags> <bytes>`.
fn length_of_value(line: &[u8]) -> Result<Option<usize>, String> {
    let Some(words) = line.strip_prefix(b"VALUE ") else { return Ok(None) };
    let length = words.split(|byte| *byte == b' ').nth(2).and_then(|word| str::from_utf8(word).ok());
    length.and_then(|word| word.parse().ok()).map(Some).ok_or_else(|| odd(line))
}

fn odd(line: &[u8]) -> String {
    format!("what came is not memcached's: {:?}", String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies in what came, and what is left.
    fn replies(bytes: &[u8]) -> Result<(Vec<Reply>, BytesMut), String> {
        let (mut buffer, mut replies) = (BytesMut::from(bytes), Vec::new());
        while !buffer.is_empty() && Text.measure(&buffer)? <= buffer.len() {
            replies.extend(Text.decode(&mut buffer)?);
        }
        Ok((replies, buffer))
    }

    #[test]
    fn life_times_of_more_than_thirty_days_are_times_of_day() {
        let now = Duration::from_secs(1_800_000_000);
        let of_seconds = |seconds| expiry(Duration::from_secs(seconds), now);
        assert_eq!(of_seconds(1), 2);
        assert_eq!(of_seconds(2_591_999), 2_592_000);
        assert_eq!(of_seconds(2_592_000), 1_802_592_001);
        assert_eq!(of_seconds(100 * 365 * 24 * 3600), 2_147_483_647);
    }

    #[test]
    fn keys_that_the_protocol_cannot_say() {
        for good in ["k", "app||k", "ключ", "a/b", &"x".repeat(250)] {
            assert_eq!(key_problem(good), None, "{good}");
        }
        for bad in ["", "a b", "a\nb", "a\tb", "\u{7f}", &"x".repeat(251)] {
            assert!(key_problem(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_announced_is_measured() {
        assert_eq!(Text.measure(b"END"), Ok(4));
        assert_eq!(Text.measure(b"END\r\nSTO"), Ok(5));
        assert_eq!(Text.measure(b"VALUE k 0 5\r\na"), Ok(13 + 5 + 7));
        assert_eq!(Text.measure(b"VALUE k 0 18446744073709551615\r\n"), Ok(usize::MAX));
    }

    #[test]
    fn what_is_not_memcached() {
        let odd: [&[u8]; 8] = [
            b"HTTP/1.1 400 Bad Request\r\n",
            b"ERROR\r\n",
            b"CLIENT_ERROR bad data chunk\r\n",
            b"VALUE k 0 x\r\n",
            b"VALUE k\r\n",
            b"VALUE k 0 1\r\nab\r\nEND\r\n",
            b"\xff\xfe\n",
            &[b'x'; 3000],
        ];
        for odd in odd {
            assert!(replies(odd).is_err(), "{odd:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn replies_cut_anywhere_are_the_same(
            values: Vec<Option<Vec<u8>>>,
            cut: proptest::sample::Index,
        ) {
            let said = |value: &Option<Vec<u8>>| match value {
                Some(value) => [format!("VALUE k 0 {}\r\n", value.len()).as_bytes(), value, REST].concat(),
                None => b"STORED\r\n".to_vec(),
            };
            let bytes = values.iter().map(said).collect::<Vec<_>>().concat();
            let expected: Vec<Reply> = values
                .into_iter()
                .map(|value| value.map_or(Reply::Stored, |value| Reply::Value(value.into())))
                .collect();
            let (first, second) = bytes.split_at(if bytes.is_empty() { 0 } else { cut.index(bytes.len()) });
            let (mut found, left) = replies(first).unwrap();
            found.extend(replies(&[&left[..], second].concat()).unwrap().0);
            proptest::prop_assert_eq!(found, expected);
        }

        #[test]
        fn garbage_is_taken_or_refused(bytes in "(VALUE |END|STORED|ERROR|k| |0|9|\r|\n|\r\n|x)*") {
            if let Ok((_, left)) = replies(bytes.as_bytes()) {
                proptest::prop_assert!(left.is_empty() || Text.measure(&left).unwrap() > left.len());
            }
        }
    }
}
