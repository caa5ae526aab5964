//! What the publisher and the bus tell each other, and how a subscriber names itself. Numbers are big-endian.
//!
//! To the bus: a gRPC frame holds one message, a byte for its kind and then its fields. From the bus: a gRPC frame
//! holds one message or more, each of [`FromBus::SIZE`] bytes, since a single event for many subscribers is
//! acknowledged many times over and each frame enters the publisher's VM anew.
//!
//! The frame's header of five bytes is not part of what is encoded here: Envoy's gRPC client adds and removes it.

use alloc::vec::Vec;

/// How many bytes the publisher may have under way for one subscription before it sends one more message: the sum of
/// [`ToBus::Data::bytes`] that are not acknowledged. The bus resets a subscriber for which it has to keep more.
pub const MAX_UNACKNOWLEDGED: usize = 64 * 1024;

/// The largest message to the bus. A publisher that announces a larger one is reset.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// The response header that tells a subscriber the number of its connection, in decimal digits: the one that
/// [`FromBus::Hello`] tells the publisher.
pub const CONNECTION_HEADER: &str = "x-runtime-bus";

/// The first byte of a subscriber's hello. That of a publisher is the flag of a gRPC frame, 0.
pub(crate) const SUBSCRIBER: u8 = b'S';

/// The length of a subscriber's hello.
pub(crate) const HELLO: usize = 9;

/// The request body by which a stream becomes the subscriber of a subscription. What follows it on the stream is
/// dropped. Of two subscribers with one number the later takes the place of the earlier.
pub fn hello(subscription: u64) -> [u8; HELLO] {
    let mut hello = [SUBSCRIBER; HELLO];
    if let Some(number) = hello.last_chunk_mut() {
        *number = subscription.to_be_bytes();
    }
    hello
}

/// The subscription that a whole hello names.
pub(crate) fn subscription(hello: &[u8]) -> Option<u64> {
    let (&kind, number) = hello.split_first()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    (kind == SUBSCRIBER).then_some(number)
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

/// From the publisher to the bus.
///
/// The messages of a subscription, [`ToBus::Data`] and [`ToBus::End`], are numbered from 1 without a gap. After its
/// stream was lost a publisher opens another and sends again what was not acknowledged: the bus drops what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToBus<'a> {
    /// The first message of a stream. It has no meaning but that a stream without bytes is not known as a publisher's.
    Open,
    /// Bytes for the app, with gRPC's framing where the app expects it.
    Data {
        /// For whom.
        subscription: u64,
        /// The number of this message among those of the subscription.
        sequence: u64,
        /// What the app receives.
        bytes: &'a [u8],
    },
    /// The stream of the subscriber ends after what was sent before.
    End {
        /// Whose.
        subscription: u64,
        /// The number of this message among those of the subscription.
        sequence: u64,
    },
}

const OPEN: u8 = 0;
const DATA: u8 = 1;
const END: u8 = 2;

impl<'a> ToBus<'a> {
    /// As the payload of a gRPC frame.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, numbers, bytes): (u8, [Option<u64>; 2], &[u8]) = match *self {
            Self::Open => (OPEN, [None, None], &[]),
            Self::Data { subscription, sequence, bytes } => (DATA, [Some(subscription), Some(sequence)], bytes),
            Self::End { subscription, sequence } => (END, [Some(subscription), Some(sequence)], &[]),
        };
        let mut message = Vec::with_capacity(17 + bytes.len());
        message.push(kind);
        for number in numbers.into_iter().flatten() {
            message.extend_from_slice(&number.to_be_bytes());
        }
        message.extend_from_slice(bytes);
        message
    }

    /// Reads the payload of a gRPC frame.
    pub fn decode(message: &'a [u8]) -> Result<Self, Garbled> {
        let (&kind, rest) = message.split_first().ok_or(Garbled)?;
        if kind == OPEN {
            return if rest.is_empty() { Ok(Self::Open) } else { Err(Garbled) };
        }
        let (subscription, rest) = number(rest)?;
        let (sequence, bytes) = number(rest)?;
        match kind {
            DATA => Ok(Self::Data { subscription, sequence, bytes }),
            END if bytes.is_empty() => Ok(Self::End { subscription, sequence }),
            _ => Err(Garbled),
        }
    }
}

/// From the bus to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromBus {
    /// The first message of each stream: the connection that it is on, whose subscribers it reaches.
    Hello {
        /// As in [`CONNECTION_HEADER`]; never used twice by a VM.
        connection: u64,
    },
    /// All messages of the subscription up to `sequence` are written to the connection: the receiver's flow control
    /// has let them through. It goes to the publisher that sent the last of them, and if that is gone to the newest.
    Ack {
        /// Of which subscription.
        subscription: u64,
        /// The last of them.
        sequence: u64,
    },
    /// The subscriber's stream was reset, by the app or because a bound was broken: nothing reaches it any more.
    Gone {
        /// Of which subscription.
        subscription: u64,
    },
    /// There is no such subscriber on this connection. After [`ToBus::End`] was sent again, this is its acknowledgement.
    Unknown {
        /// Of which subscription.
        subscription: u64,
    },
}

const HELLO_KIND: u8 = 0;
const ACK: u8 = 1;
const GONE: u8 = 2;
const UNKNOWN: u8 = 3;

impl FromBus {
    /// The length of each message: a kind and two numbers.
    pub const SIZE: usize = 17;

    /// Adds this to the payload of a gRPC frame.
    pub fn encode(&self, messages: &mut Vec<u8>) {
        let (kind, first, second) = match *self {
            Self::Hello { connection } => (HELLO_KIND, connection, 0),
            Self::Ack { subscription, sequence } => (ACK, subscription, sequence),
            Self::Gone { subscription } => (GONE, subscription, 0),
            Self::Unknown { subscription } => (UNKNOWN, subscription, 0),
        };
        messages.push(kind);
        messages.extend_from_slice(&first.to_be_bytes());
        messages.extend_from_slice(&second.to_be_bytes());
    }

    /// Reads the payload of a gRPC frame: its messages in order.
    pub fn decode_all(messages: &[u8]) -> Result<Vec<Self>, Garbled> {
        let mut read = Vec::with_capacity(messages.len() / Self::SIZE);
        let mut rest = messages;
        while let Some((&kind, numbers)) = rest.split_first() {
            let (first, numbers) = number(numbers)?;
            let (second, after) = number(numbers)?;
            read.push(match (kind, second) {
                (HELLO_KIND, 0) => Self::Hello { connection: first },
                (ACK, sequence) => Self::Ack { subscription: first, sequence },
                (GONE, 0) => Self::Gone { subscription: first },
                (UNKNOWN, 0) => Self::Unknown { subscription: first },
                _ => return Err(Garbled),
            });
            rest = after;
        }
        Ok(read)
    }
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), Garbled> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Garbled)?;
    Ok((u64::from_be_bytes(*number), rest))
}

/// A message and what follows it.
type Unframed<'a> = (&'a [u8], &'a [u8]);

/// The first message of a run of gRPC frames; `None` if more must come.
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
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in 0..4,
            subscription: u64,
            sequence: u64,
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let to = match kind {
                0 => ToBus::Open,
                1 => ToBus::Data { subscription, sequence, bytes: &bytes },
                _ => ToBus::End { subscription, sequence },
            };
            let encoded = to.encode();
            prop_assert_eq!(ToBus::decode(&encoded), Ok(to));
            let from = match kind {
                0 => FromBus::Hello { connection: subscription },
                1 => FromBus::Ack { subscription, sequence },
                2 => FromBus::Gone { subscription },
                _ => FromBus::Unknown { subscription },
            };
            let mut twice = Vec::new();
            from.encode(&mut twice);
            from.encode(&mut twice);
            prop_assert_eq!(FromBus::decode_all(&twice), Ok(vec![from, from]));
            prop_assert_eq!(FromBus::decode_all(&twice[..33]), Err(Garbled));
        }

        #[test]
        fn garbage_is_no_message_or_one_that_encodes_to_it(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(message) = ToBus::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes.clone());
            }
            if let Ok(messages) = FromBus::decode_all(&bytes) {
                let mut encoded = Vec::new();
                for message in messages {
                    message.encode(&mut encoded);
                }
                prop_assert_eq!(encoded, bytes.clone());
            }
            let _ = unframe(&bytes);
        }
    }

    #[test]
    fn a_hello_names_its_subscription() {
        assert_eq!(hello(0x0102_0304_0506_0708), *b"S\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(subscription(&hello(7)), Some(7));
        assert_eq!(subscription(b"S"), None);
    }

    #[test]
    fn a_frame_of_more_than_the_bound_is_refused_before_it_comes() {
        assert_eq!(unframe(&[0, 1, 0, 0, 1]), Err(Garbled));
        assert_eq!(unframe(&[0, 1, 0, 0, 0]), Ok(None));
        assert_eq!(unframe(&[1, 0, 0, 0, 0]), Err(Garbled), "compressed");
        assert_eq!(unframe(&[0, 0, 0, 0, 1, 7, 8]), Ok(Some((&[7][..], &[8][..]))));
    }
}
