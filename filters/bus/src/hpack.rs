//! Header blocks of HTTP/2 (HPACK, RFC 7541): decoding them whole, and encoding without a table.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::frame::Code;

/// What an encoder may assume of a decoder that has said nothing, and the bus says nothing.
const MAX_TABLE: usize = 4096;

/// What the names and values of one block may come to. An index of one byte can stand for 4 kB.
const MAX_LIST: usize = 256 * 1024;

/// The names and values that have an index from the start (appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The decoder of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The names and values that the encoder has put into the table, the newest first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// What they take, as the specification counts it.
    size: usize,
    /// What they may take, as the encoder has chosen.
    limit: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: MAX_TABLE }
    }

    /// Calls back with each header of a whole block. An error leaves the table useless: the connection has to end.
    pub(crate) fn decode(&mut self, block: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Result<(), Code> {
        let mut rest = block;
        let mut list = 0;
        while let Some(&first) = rest.first() {
            // Section 6: the leading bits tell what it is, and how many bits are left for a number.
            if first & 0xe0 == 0x20 {
                let size = number(&mut rest, 5)?;
                if size > MAX_TABLE {
                    return Err(Code::Compression);
                }
                self.limit = size;
                self.evict(0);
                continue;
            }
            let (name, value);
            if first & 0x80 != 0 {
                let index = number(&mut rest, 7)?;
                (name, value) = self.entry(index)?;
            } else {
                let index = number(&mut rest, if first & 0x40 != 0 { 6 } else { 4 })?;
                name = if index == 0 { text(&mut rest)? } else { self.entry(index)?.0 };
                value = text(&mut rest)?;
            }
            list += name.len() + value.len();
            if list > MAX_LIST {
                return Err(Code::EnhanceYourCalm);
            }
            take(&name, &value);
            if first & 0xc0 == 0x40 {
                self.insert(name, value);
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(Vec<u8>, Vec<u8>), Code> {
        let at = index.checked_sub(1).ok_or(Code::Compression)?;
        if let Some((name, value)) = STATIC.get(at) {
            return Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.table.get(at - STATIC.len()).cloned().ok_or(Code::Compression)
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        let size = weight(&name, &value);
        self.evict(size);
        if size <= self.limit {
            self.size += size;
            self.table.push_front((name, value));
        }
    }

    /// Makes room.
    fn evict(&mut self, more: usize) {
        while self.size + more > self.limit
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= weight(&name, &value);
        }
    }
}

fn weight(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 32
}

/// A number that begins in the last bits of a byte (section 5.1).
fn number(rest: &mut &[u8], bits: u8) -> Result<usize, Code> {
    let mut next = || -> Result<u8, Code> {
        let (&byte, after) = rest.split_first().ok_or(Code::Compression)?;
        *rest = after;
        Ok(byte)
    };
    let most = (1_u8 << bits) - 1;
    let mut value = usize::from(next()? & most);
    if value < usize::from(most) {
        return Ok(value);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Code::Compression) // larger than any header
}

/// A text, as it is or in Huffman's code (section 5.2).
fn text(rest: &mut &[u8]) -> Result<Vec<u8>, Code> {
    let huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Code::Compression)?;
    *rest = after;
    if huffman { expand(text) } else { Ok(text.to_vec()) }
}

/// How many bits the code of each byte has (appendix B). The code is canonical: codes of one length follow one another
/// in the order of their bytes, so that the lengths tell all of it.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, //
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, //
    6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, //
    6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, //
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, //
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, //
    23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, //
    25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
];

const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Length {
    /// The first of them.
    first: u32,
    count: u32,
    /// Where their bytes begin in [`BYTES`].
    at: usize,
}

/// All bytes in the order of their codes.
const BYTES: [u8; 256] = sorted().1;

const CODES: [Length; LONGEST + 1] = sorted().0;

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // evaluated by the compiler
const fn sorted() -> ([Length; LONGEST + 1], [u8; 256]) {
    let mut codes = [Length { first: 0, count: 0, at: 0 }; LONGEST + 1];
    let mut bytes = [0; 256];
    let (mut code, mut at, mut length) = (0, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        codes[length] = Length { first: code, count: 0, at };
        let mut byte = 0;
        while byte < 256 {
            if LENGTHS[byte] as usize == length {
                bytes[at] = byte as u8;
                at += 1;
                code += 1;
                codes[length].count += 1;
            }
            byte += 1;
        }
        length += 1;
    }
    (codes, bytes)
}

fn expand(packed: &[u8]) -> Result<Vec<u8>, Code> {
    let mut text = Vec::with_capacity(packed.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0);
    for byte in packed {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            // No code of so many bits: the end of a text is no part of one.
            let known = CODES.get(length).ok_or(Code::Compression)?;
            let offset = code.wrapping_sub(known.first);
            if offset < known.count {
                let at = known.at + usize::try_from(offset).unwrap_or(usize::MAX);
                text.push(*BYTES.get(at).ok_or(Code::Compression)?);
                (code, length) = (0, 0);
            }
        }
    }
    // What fills the last byte is the beginning of the longest code, which has ones alone.
    if length < 8 && code.count_ones() as usize == length { Ok(text) } else { Err(Code::Compression) }
}

/// Adds a header to a block: as it is, in no table. A block of these is one whatever came before it.
pub(crate) fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        const MOST: usize = 127;
        if text.len() < MOST {
            block.push(u8::try_from(text.len()).unwrap_or(0));
        } else {
            block.push(127);
            let mut rest = text.len() - MOST;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap_or(0) | 0x80);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap_or(0));
        }
        block.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Headers = Vec<(Vec<u8>, Vec<u8>)>;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Headers, Code> {
        let mut headers = Headers::new();
        decoder.decode(block, |name, value| headers.push((name.to_vec(), value.to_vec())))?;
        Ok(headers)
    }

    fn headers(expected: &[(&str, &str)]) -> Headers {
        expected.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// Appendix C.4 and C.6 of RFC 7541, whose table of 256 bytes evicts.
    #[test]
    fn the_examples_of_the_specification() {
        let mut decoder = Decoder::new();
        let request = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        let first = decode(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"));
        assert_eq!(first.unwrap(), headers(&request));
        let second = decode(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf"));
        assert_eq!(second.unwrap(), headers(&[&request[..], &[("cache-control", "no-cache")]].concat()));

        let mut decoder = Decoder::new();
        decode(&mut decoder, &bytes("3fe1 01")).unwrap();
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad \
                     1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let date = "Mon, 21 Oct 2013 20:13:21 GMT";
        let common = |status, date| {
            headers(&[
                (":status", status),
                ("cache-control", "private"),
                ("date", date),
                ("location", "https://www.example.com"),
            ])
        };
        assert_eq!(decode(&mut decoder, &bytes(first)).unwrap(), common("302", date));
        assert_eq!(decode(&mut decoder, &bytes("4883 640e ffc1 c0bf")).unwrap(), common("307", date));
        assert_eq!(decoder.table.len(), 4, "the first status made room");
    }

    #[test]
    fn what_is_no_block() {
        for wrong in ["80", "be", "ff ff ff ff ff", "41", "40 05 61", "3f e2 1f", "00 81 00 00", "00 84 ff ff ff ff 00"]
        {
            assert_eq!(decode(&mut Decoder::new(), &bytes(wrong)), Err(Code::Compression), "{wrong}");
        }
        let bomb = [&bytes("40 01 61 7f a1 1e")[..], &[b'x'; 4000], &[0xbe; 100]].concat();
        assert!(decode(&mut Decoder::new(), &bomb) == Err(Code::EnhanceYourCalm), "one byte stands for 4 kB");
    }

    proptest! {
        #[test]
        fn literals_are_decoded(
            expected in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..20_000)), 0..4),
        ) {
            let mut block = Vec::new();
            for (name, value) in &expected {
                literal(&mut block, name, value);
            }
            prop_assert_eq!(decode(&mut Decoder::new(), &block), Ok(expected));
        }

        #[test]
        fn no_bytes_upset_it(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5)) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = decode(&mut decoder, &block);
                prop_assert!(decoder.size <= MAX_TABLE);
            }
        }
    }
}
