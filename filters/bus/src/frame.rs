//! The frames of HTTP/2 (RFC 9113, section 4), and the few header blocks that the bus sends.

use alloc::vec::Vec;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Why a stream or the connection ends (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest payload of a frame either way: what every peer must take and no peer need ask for.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;

pub(crate) const HEADER: usize = 9;

/// The header of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Header {
    /// The header at the front, and what follows it; `None` if more must come.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([high, middle, low, kind, flags, stream @ ..], rest) = bytes.split_first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).ok()?;
        let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
        Some((Self { length, kind: *kind, flags: *flags, stream }, rest))
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame. No payload is longer than [`MAX_PAYLOAD`].
pub(crate) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&[high, middle, low, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Writes a frame whose payload is one number, `RST_STREAM` or `WINDOW_UPDATE`.
pub(crate) fn write_number(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    write(out, kind, 0, stream, &number.to_be_bytes());
}

/// The one number of a payload.
pub(crate) fn number(payload: &[u8]) -> Result<u32, Code> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Code::FrameSize)
}

/// The payload without its padding.
pub(crate) fn unpad(header: Header, payload: &[u8]) -> Result<&[u8], Code> {
    if !header.has(PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Code::FrameSize)?;
    let length = rest.len().checked_sub(usize::from(padding)).ok_or(Code::Protocol)?;
    rest.get(..length).ok_or(Code::Protocol)
}

/// The header block `:status: 200`, `content-type: application/grpc`.
///
/// It begins by setting the size of the encoder's table to 0: nothing is ever put into the table, and so the bus owes
/// no answer to whatever `SETTINGS_HEADER_TABLE_SIZE` the peer comes up with (RFC 7541, section 4.2).
///
/// 0x88 is the whole of `:status: 200`; 31 (15 + 16) is the name `content-type`.
pub(crate) const RESPONSE: &[u8] = b"\x20\x88\x0f\x10\x10application/grpc";

/// Writes a header block, in as many frames as it needs.
pub(crate) fn write_headers(out: &mut Vec<u8>, flags: u8, stream: u32, block: &[u8]) {
    let (mut kind, mut flags, mut rest) = (HEADERS, flags, block);
    while let Some((part, after)) = rest.split_at_checked(MAX_PAYLOAD).filter(|(_, after)| !after.is_empty()) {
        write(out, kind, flags, stream, part);
        (kind, flags, rest) = (CONTINUATION, 0, after);
    }
    write(out, kind, flags | END_HEADERS, stream, rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_goes_on_in_further_frames() {
        let mut out = Vec::new();
        write_headers(&mut out, END_STREAM, 1, &vec![7; MAX_PAYLOAD + 1]);
        let (first, rest) = Header::read(&out).unwrap();
        assert_eq!((first.kind, first.flags, first.length), (HEADERS, END_STREAM, MAX_PAYLOAD));
        let (second, _) = Header::read(&rest[MAX_PAYLOAD..]).unwrap();
        assert_eq!((second.kind, second.flags, second.length), (CONTINUATION, END_HEADERS, 1));
        out.clear();
        write_headers(&mut out, 0, 1, &vec![7; MAX_PAYLOAD]);
        assert_eq!(Header::read(&out).unwrap().0.flags, END_HEADERS);
    }

    #[test]
    fn padding_is_taken_off() {
        let padded = Header { length: 4, kind: DATA, flags: PADDED, stream: 1 };
        assert_eq!(unpad(padded, &[2, 7, 0, 0]), Ok(&[7][..]));
        assert_eq!(unpad(padded, &[3, 0, 0, 0]), Ok(&[][..]));
        assert_eq!(unpad(padded, &[4, 0, 0, 0]), Err(Code::Protocol));
        assert_eq!(unpad(padded, &[]), Err(Code::FrameSize));
    }
}
