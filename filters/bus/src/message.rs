//! What the publisher and the bus tell each other. Numbers are big-endian.
//!
//! Each message is a byte for its kind, the number of the app's stream that it is about (its HTTP/2 id on the
//! connection that both are on; 0 for none), the length of what follows, and that. A gRPC frame holds any number of
//! whole messages: each frame enters the VM of the receiver anew. The frame's header of five bytes is not part of what
//! is encoded here: Envoy's gRPC client adds and removes it.

use alloc::vec::Vec;

use crate::hpack;

/// The path by which a stream is known as a publisher's. No route of an app's listener leads it here.
pub const PUBLISH: (&str, &str) = ("runtime.Bus", "Publish");

/// The path of a request by which the bus has the runtime filter of its worker open a link.
pub const WAKE: &str = "/runtime.Bus/Wake";

/// The request header that tells which configuration a stream of an app belongs to, or a publisher serves. The route of
/// the listener adds it to the one, and the publisher to the other.
pub const CONFIGURATION_HEADER: &str = "x-runtime-configuration";

/// The request header that tells one publisher from another.
pub const INSTANCE_HEADER: &str = "x-runtime-instance";

/// How many bytes the publisher may have under way for one stream before it sends one more message: the sum of
/// [`ToBus::Data`] that [`FromBus::Written`] has not told of. The bus resets a stream for which it has to keep more.
pub const MAX_UNACKNOWLEDGED: usize = 64 * 1024;

/// What an app may send on its stream before the publisher grants more.
pub const STREAM_WINDOW: usize = 65_535;

/// The largest gRPC frame to the bus. A publisher that announces a larger one is reset.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// How often the bus ticks, in milliseconds. What it waits for it counts in ticks, so that no time counts for which the
/// worker stood still.
pub const TICK: u32 = 1000;

/// How often a publisher is to say something, in milliseconds.
pub const BEAT: u32 = 2 * TICK;

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// From the publisher to the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToBus<'a> {
    /// The publisher is alive.
    Beat,
    /// The response begins, though there is no message yet.
    Begin {
        /// Whose.
        stream: u32,
    },
    /// Bytes for the app, with gRPC's framing.
    Data {
        /// Whose.
        stream: u32,
        /// What the app receives.
        bytes: &'a [u8],
    },
    /// The stream ends after what was sent before.
    End {
        /// Whose.
        stream: u32,
        /// The trailers, as [`add_trailer`] encodes them.
        trailers: &'a [u8],
    },
    /// The app may send more.
    Grant {
        /// Whose.
        stream: u32,
        /// How many bytes.
        bytes: u32,
    },
}

/// From the bus to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromBus<'a> {
    /// The first message: there is a link.
    Hello {
        /// The number of the connection that it is on, which no other has.
        connection: u64,
    },
    /// An app has opened a stream.
    Head {
        /// Its number. It comes up only once on a connection.
        stream: u32,
        /// Its headers, for [`each_header`].
        headers: &'a [u8],
    },
    /// A part of what the app sends.
    Data {
        /// Whose.
        stream: u32,
        /// What it sent.
        bytes: &'a [u8],
    },
    /// The app will send no more.
    HalfClose {
        /// Whose.
        stream: u32,
    },
    /// The stream has ended, by whomever. Nothing about it follows.
    Gone {
        /// Whose.
        stream: u32,
    },
    /// So many more bytes of [`ToBus::Data`] are written to the connection: the receiver's flow control let them
    /// through.
    Written {
        /// Whose.
        stream: u32,
        /// How many.
        bytes: u32,
    },
}

impl<'a> ToBus<'a> {
    /// Adds this to the payload of a gRPC frame.
    pub fn encode(&self, messages: &mut Vec<u8>) {
        match *self {
            Self::Beat => write(messages, 0, 0, &[]),
            Self::Begin { stream } => write(messages, 1, stream, &[]),
            Self::Data { stream, bytes } => write(messages, 2, stream, bytes),
            Self::End { stream, trailers } => write(messages, 3, stream, trailers),
            Self::Grant { stream, bytes } => write(messages, 4, stream, &bytes.to_be_bytes()),
        }
    }

    /// Takes the first message off the payload of a gRPC frame; `None` when there is none left.
    pub fn take(messages: &mut &'a [u8]) -> Result<Option<Self>, Garbled> {
        let Some((kind, stream, content)) = read(messages)? else { return Ok(None) };
        Ok(Some(match (kind, content) {
            (0, []) if stream == 0 => Self::Beat,
            (1, []) => Self::Begin { stream },
            (2, bytes) => Self::Data { stream, bytes },
            (3, trailers) => Self::End { stream, trailers },
            (4, &[a, b, c, d]) => Self::Grant { stream, bytes: u32::from_be_bytes([a, b, c, d]) },
            _ => return Err(Garbled),
        }))
    }
}

impl<'a> FromBus<'a> {
    /// Adds this to the payload of a gRPC frame.
    pub fn encode(&self, messages: &mut Vec<u8>) {
        match *self {
            Self::Hello { connection } => write(messages, 0, 0, &connection.to_be_bytes()),
            Self::Head { stream, headers } => write(messages, 1, stream, headers),
            Self::Data { stream, bytes } => write(messages, 2, stream, bytes),
            Self::HalfClose { stream } => write(messages, 3, stream, &[]),
            Self::Gone { stream } => write(messages, 4, stream, &[]),
            Self::Written { stream, bytes } => write(messages, 5, stream, &bytes.to_be_bytes()),
        }
    }

    /// Takes the first message off the payload of a gRPC frame; `None` when there is none left.
    pub fn take(messages: &mut &'a [u8]) -> Result<Option<Self>, Garbled> {
        let Some((kind, stream, content)) = read(messages)? else { return Ok(None) };
        Ok(Some(match (kind, content) {
            (0, number) if stream == 0 => {
                Self::Hello { connection: u64::from_be_bytes(number.try_into().map_err(|_| Garbled)?) }
            }
            (1, headers) => Self::Head { stream, headers },
            (2, bytes) => Self::Data { stream, bytes },
            (3, []) => Self::HalfClose { stream },
            (4, []) => Self::Gone { stream },
            (5, &[a, b, c, d]) => Self::Written { stream, bytes: u32::from_be_bytes([a, b, c, d]) },
            _ => return Err(Garbled),
        }))
    }
}

fn write(messages: &mut Vec<u8>, kind: u8, stream: u32, content: &[u8]) {
    messages.reserve(9 + content.len());
    messages.push(kind);
    messages.extend_from_slice(&stream.to_be_bytes());
    push_text(messages, content);
}

/// Kind, stream and content of a message.
type Parts<'a> = (u8, u32, &'a [u8]);

fn read<'a>(messages: &mut &'a [u8]) -> Result<Option<Parts<'a>>, Garbled> {
    let Some((&kind, rest)) = messages.split_first() else { return Ok(None) };
    let (stream, rest) = rest.split_first_chunk().ok_or(Garbled)?;
    *messages = rest;
    let content = take_text(messages).ok_or(Garbled)?;
    Ok(Some((kind, u32::from_be_bytes(*stream), content)))
}

fn push_text(list: &mut Vec<u8>, text: &[u8]) {
    list.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    list.extend_from_slice(text);
}

fn take_text<'a>(list: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = list.split_first_chunk()?;
    let (text, after) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *list = after;
    Some(text)
}

/// Adds a header to the list of [`FromBus::Head`].
pub fn add_header(list: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    push_text(list, name);
    push_text(list, value);
}

/// Calls back with each header of [`FromBus::Head`].
pub fn each_header(mut list: &[u8], mut take: impl FnMut(&[u8], &[u8])) {
    while let (Some(name), Some(value)) = (take_text(&mut list), take_text(&mut list)) {
        take(name, value);
    }
}

/// Adds one to the trailers of [`ToBus::End`], which are a header block of HTTP/2.
pub fn add_trailer(trailers: &mut Vec<u8>, name: &str, value: &str) {
    hpack::literal(trailers, name.as_bytes(), value.as_bytes());
}

/// A message and what follows it.
type Unframed<'a> = (&'a [u8], &'a [u8]);

/// The first payload of a run of gRPC frames; `None` if more must come.
pub(crate) fn unframe(frames: &[u8]) -> Result<Option<Unframed<'_>>, Garbled> {
    let Some((&[compressed, a, b, c, d], rest)) = frames.split_first_chunk() else { return Ok(None) };
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if compressed != 0 || size > MAX_MESSAGE {
        return Err(Garbled);
    }
    Ok(rest.split_at_checked(size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind in 0..6, stream: u32, number: u32, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let to = match kind {
                0 => ToBus::Beat,
                1 => ToBus::Begin { stream },
                2 => ToBus::Data { stream, bytes: &bytes },
                3 => ToBus::End { stream, trailers: &bytes },
                _ => ToBus::Grant { stream, bytes: number },
            };
            let from = match kind {
                0 => FromBus::Hello { connection: number.into() },
                1 => FromBus::Head { stream, headers: &bytes },
                2 => FromBus::Data { stream, bytes: &bytes },
                3 => FromBus::HalfClose { stream },
                4 => FromBus::Gone { stream },
                _ => FromBus::Written { stream, bytes: number },
            };
            let (mut there, mut back) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                to.encode(&mut there);
                from.encode(&mut back);
            }
            let (mut there, mut back) = (&there[..], &back[..]);
            for _ in 0..2 {
                prop_assert_eq!(ToBus::take(&mut there), Ok(Some(to)));
                prop_assert_eq!(FromBus::take(&mut back), Ok(Some(from)));
            }
            prop_assert_eq!(ToBus::take(&mut there), Ok(None));
            prop_assert_eq!(FromBus::take(&mut back), Ok(None));
        }

        #[test]
        fn garbage_is_no_message_or_one_that_encodes_to_it(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut encoded = Vec::new();
            let mut rest = &bytes[..];
            if let Ok(Some(message)) = ToBus::take(&mut rest) {
                message.encode(&mut encoded);
                prop_assert_eq!(&encoded[..], &bytes[..bytes.len() - rest.len()]);
            }
            let (mut encoded, mut rest) = (Vec::new(), &bytes[..]);
            if let Ok(Some(message)) = FromBus::take(&mut rest) {
                message.encode(&mut encoded);
                prop_assert_eq!(&encoded[..], &bytes[..bytes.len() - rest.len()]);
            }
            each_header(&bytes, |_, _| {});
            let _ = unframe(&bytes);
        }

        #[test]
        fn headers_come_out_as_they_went_in(
            headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..5),
        ) {
            let (mut list, mut read) = (Vec::new(), Vec::new());
            for (name, value) in &headers {
                add_header(&mut list, name, value);
            }
            each_header(&list, |name, value| read.push((name.to_vec(), value.to_vec())));
            prop_assert_eq!(read, headers);
        }
    }

    #[test]
    fn a_frame_of_more_than_the_bound_is_refused_before_it_comes() {
        assert_eq!(unframe(&[0, 1, 0, 0, 1]), Err(Garbled));
        assert_eq!(unframe(&[0, 1, 0, 0, 0]), Ok(None));
        assert_eq!(unframe(&[1, 0, 0, 0, 0]), Err(Garbled), "compressed");
        assert_eq!(unframe(&[0, 0, 0, 0, 1, 7, 8]), Ok(Some((&[7][..], &[8][..]))));
    }
}
