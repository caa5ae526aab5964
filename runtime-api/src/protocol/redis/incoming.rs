//! What a Redis server has sent, reply by reply. A reply is looked at as a whole when all of it is there; how long it will
//! be is known from what it announces, so that one without measure ends the connection before it fills the memory.

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;

use super::Reply;
use crate::budget::{Budget, Held};

/// Lists in lists: more than in any reply to what is asked here.
const MOST_NESTED: usize = 8;
/// The shortest reply, such as `+\r\n`.
const SHORTEST: usize = 3;

/// What is shorter is not counted: there is one such reply at a time on a connection, and calls of those who hold little
/// go on when others have filled the memory.
const SHORT: usize = 64 << 10;

/// The part of a stream that is no whole reply yet.
#[derive(Debug)]
pub(super) struct Incoming {
    buffer: BytesMut,
    /// How many bytes there must be before the first reply can be whole.
    needed: usize,
    held: Held,
    /// The longest reply.
    most: usize,
}

impl Incoming {
    pub(super) fn new(budget: &Budget) -> Self {
        Self { buffer: BytesMut::new(), needed: 0, held: budget.share(), most: budget.part() }
    }

    /// Adds what came.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next reply, if it is there. An error ends the connection.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, String> {
        if self.buffer.is_empty() || self.buffer.len() < self.needed {
            return Ok(None);
        }
        let length = measure(&self.buffer)?;
        if length > self.buffer.len() {
            if length > self.most {
                return Err(format!(
                    "it announces a reply of {length} bytes or more, and no more than {} are taken, a part of \
                     limits.maxMemoryBytes",
                    self.most
                ));
            }
            self.needed = length;
            let counted = if length > SHORT { length } else { 0 };
            self.held.resize(counted).map_err(|exhausted| exhausted.to_string())?;
            self.buffer.reserve(length - self.buffer.len());
            return Ok(None);
        }
        self.needed = 0;
        let decoded = decode_bytes_mut(&mut self.buffer).map_err(|error| format!("what came is not RESP: {error}"))?;
        self.held.shrink(usize::MAX);
        Ok(decoded.map(|(reply, _, _)| reply))
    }
}

/// How many bytes the first reply has, or will have at least. What is no reply is left to the decoder.
fn measure(bytes: &[u8]) -> Result<usize, String> {
    /// Replies that are to come on each level of lists.
    type Open = [usize; MOST_NESTED];
    let (mut open, mut level, mut at): (Open, usize, usize) = ([1, 0, 0, 0, 0, 0, 0, 0], 0, 0);
    loop {
        let Some(left) = open.get_mut(level) else {
            return Err(format!("what came has lists in lists, more than {MOST_NESTED} deep"));
        };
        if *left == 0 {
            match level.checked_sub(1) {
                Some(outer) => level = outer,
                None => return Ok(at),
            }
            continue;
        }
        let owed = open.iter().fold(0_usize, |sum, left| sum.saturating_add(*left));
        let line = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n').map(|end| (rest, end)));
        let Some((rest, end)) = line else {
            let least = at.saturating_add(owed.saturating_mul(SHORTEST));
            return Ok(least.max(bytes.len() + 1));
        };
        if let Some(left) = open.get_mut(level) {
            *left -= 1;
        }
        at += end + 1;
        let length = rest.get(1..end).and_then(number);
        match (rest.first(), length) {
            (Some(b'$'), Some(length)) => at = at.saturating_add(length).saturating_add(2),
            (Some(b'*'), Some(length)) => {
                level += 1;
                if let Some(inner) = open.get_mut(level) {
                    *inner = length;
                }
            }
            _ => {}
        }
    }
}

/// A length; nothing for that of a null, or for no length.
fn number(digits: &[u8]) -> Option<usize> {
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    digits.iter().try_fold(0_usize, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use redis_protocol::resp2::decode::decode;

    use super::*;

    #[test]
    fn what_is_announced_is_counted() {
        assert_eq!(measure(b"$5\r\nab"), Ok(11));
        assert_eq!(measure(b"*4\r\n$4\r\ndata\r\n$1300000000\r\nxx"), Ok(27 + 1_300_000_002 + 2 * SHORTEST));
        assert_eq!(measure(b"*1000000000\r\n"), Ok(13 + 3_000_000_000));
        assert_eq!(measure(b"*2\r\n:1\r\n"), Ok(11));
        assert_eq!(measure(b"+O"), Ok(3));
        assert_eq!(measure(b"*2\r\n*-1\r\n*1\r\n$-1\r\n+next\r\n"), Ok(18));
        assert!(measure(&b"*1\r\n".repeat(100_000)).is_err());
    }

    proptest::proptest! {
        /// It agrees with the decoder about what is whole.
        #[test]
        fn a_reply_is_whole_when_the_decoder_says_so(
            pieces in proptest::collection::vec("(\\*[0-3]\r\n)|(\\$-1\r\n)|(\\$2\r\nxy\r\n)|(\\+ok\r\n)|(:12\r\n)", 1..8),
            cut in 0..40_usize,
        ) {
            let bytes = pieces.concat().into_bytes();
            let bytes = &bytes[..cut.min(bytes.len())];
            if !bytes.is_empty() {
                let whole = decode(bytes).unwrap().map(|(_, length)| length);
                let measured = measure(bytes).unwrap();
                proptest::prop_assert_eq!(whole, (measured <= bytes.len()).then_some(measured));
            }
        }
    }
}
