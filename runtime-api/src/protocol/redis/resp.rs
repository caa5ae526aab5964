//! How commands and replies look (RESP2).

use bytes::{BufMut, BytesMut};
use redis_protocol::resp2::decode::decode_bytes_mut;

use super::Reply;

/// Lists in lists: more than in any reply to what is asked here.
const MOST_NESTED: usize = 8;
/// The shortest reply, such as `+\r\n`.
const SHORTEST: usize = 3;

/// Appends a command: an array of bulk strings, the one form in which a client speaks. It is written here because the
/// crate that reads replies takes a tenth of a call's work for it: parser combinators, and logarithms for lengths.
pub(super) fn encode(bytes: &mut BytesMut, words: &[&[u8]]) {
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

/// Takes the first reply, all of which is there.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Reply>, String> {
    let decoded = decode_bytes_mut(buffer).map_err(|error| format!("what came is not RESP: {error}"))?;
    Ok(decoded.map(|(reply, _, _)| reply))
}

/// How many bytes the first reply has, or will have at least. What is no reply is left to the decoder.
pub(super) fn measure(bytes: &[u8]) -> Result<usize, String> {
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
    use redis_protocol::resp2::decode::decode as whole_reply;
    use redis_protocol::resp2::encode::extend_encode_borrowed;
    use redis_protocol::resp2::types::BorrowedFrame;

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

        /// It agrees with the decoder about what is whole.
        #[test]
        fn a_reply_is_whole_when_the_decoder_says_so(
            pieces in proptest::collection::vec("(\\*[0-3]\r\n)|(\\$-1\r\n)|(\\$2\r\nxy\r\n)|(\\+ok\r\n)|(:12\r\n)", 1..8),
            cut in 0..40_usize,
        ) {
            let bytes = pieces.concat().into_bytes();
            let bytes = &bytes[..cut.min(bytes.len())];
            if !bytes.is_empty() {
                let whole = whole_reply(bytes).unwrap().map(|(_, length)| length);
                let measured = measure(bytes).unwrap();
                proptest::prop_assert_eq!(whole, (measured <= bytes.len()).then_some(measured));
            }
        }
    }
}
