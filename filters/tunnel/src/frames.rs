//! gRPC's frames: a flag, four bytes of length, and the message.

use alloc::vec::Vec;

const HEADER: usize = 5;

/// The header of a frame around so many bytes.
pub(crate) fn header(size: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// After so many bytes of replies, some forty of Redis to a read, the runtime filter wants to be called again: it may
/// answer so many apps in one call and no more (`runtime_api::outbox`), and Envoy calls it once for each frame.
const PACE: usize = 2048;

/// Frames without a message, to follow one of this size: none after an ordinary read.
pub(crate) fn calls(size: usize) -> Vec<u8> {
    alloc::vec![0; size / PACE * HEADER]
}

/// Takes messages out of frames, however these are cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Unframer {
    /// The part of a header that has come.
    header: Vec<u8>,
    /// What is to come of the message under way.
    missing: usize,
}

impl Unframer {
    /// The bytes of messages in the next piece.
    pub(crate) fn take(&mut self, mut piece: Vec<u8>) -> Vec<u8> {
        // As a rule a piece is one whole frame.
        if self.missing == 0
            && self.header.is_empty()
            && length(&piece).is_some_and(|size| size + HEADER == piece.len())
        {
            piece.drain(..HEADER);
            return piece;
        }
        let mut messages = Vec::with_capacity(piece.len());
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            if self.missing > 0 {
                let (message, after) = rest.split_at(self.missing.min(rest.len()));
                messages.extend_from_slice(message);
                self.missing -= message.len();
                rest = after;
                continue;
            }
            let (part, after) = rest.split_at((HEADER - self.header.len()).min(rest.len()));
            self.header.extend_from_slice(part);
            rest = after;
            if let Some(size) = length(&self.header) {
                self.missing = size;
                self.header.clear();
            }
        }
        messages
    }
}

/// The length in a header, if all of it is there.
fn length(frame: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = frame.split_first_chunk::<HEADER>()?;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_read_has_the_filter_called_more_often() {
        assert_eq!(calls(PACE - 1), []);
        let read = [&header(10_000)[..], &[7; 10_000], &calls(10_000)].concat();
        assert_eq!(read.len(), 5 + 10_000 + 4 * HEADER);
        assert_eq!(Unframer::default().take(read), [7; 10_000], "no byte is added");
    }

    #[test]
    fn frames_cut_anywhere_give_the_same_messages() {
        let mut stream = Vec::new();
        for message in [&b"hello"[..], b"", b"x", &[7; 300]] {
            stream.extend_from_slice(&header(message.len()));
            stream.extend_from_slice(message);
        }
        let whole = Unframer::default().take(stream.clone());
        for size in 1..stream.len() {
            let mut unframer = Unframer::default();
            let pieces = stream.chunks(size).flat_map(|piece| unframer.take(piece.to_vec()));
            assert_eq!(pieces.collect::<Vec<_>>(), whole, "pieces of {size}");
        }
        assert_eq!(whole.len(), 5 + 1 + 300);
    }
}
