//! What the bus keeps for each open stream.

use alloc::vec::Vec;

use crate::queue::Queue;

/// A stream that the client has opened and that has not ended both ways.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    /// How many bytes of DATA the client takes. A change of its settings can make it negative.
    pub(crate) window: i64,
    /// How many bytes of DATA have come that are not yet granted again.
    pub(crate) received: usize,
    /// Whether the client's side has ended.
    pub(crate) half_closed: bool,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) enum Role {
    /// Not known before the first byte of the body: what has come of it, which is the beginning of a hello.
    Unnamed(Vec<u8>),
    Publisher(Publisher),
    Subscriber(Subscriber),
}

#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// The beginning of a gRPC frame.
    pub(crate) partial: Vec<u8>,
    /// Messages for the publisher that share the next gRPC frame.
    pub(crate) fresh: Vec<u8>,
    /// The subscriptions to acknowledge in the next gRPC frame that can be sent.
    pub(crate) due: Vec<u64>,
    /// gRPC frames that wait for a window.
    pub(crate) replies: Queue,
}

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) subscription: u64,
    /// The stream of the publisher that sent the last message; it gets the acknowledgements.
    pub(crate) publisher: u32,
    /// The last message that was taken.
    pub(crate) accepted: u64,
    /// The last message that is written as a whole.
    pub(crate) written: u64,
    /// The places in the stream, counted in bytes, where the messages between these two end.
    pub(crate) ends: Vec<u64>,
    /// How many bytes were taken.
    pub(crate) length: u64,
    /// The bytes that wait for a window.
    pub(crate) queue: Queue,
    /// Whether the last message that was taken is the end.
    pub(crate) ending: bool,
    /// Whether this is among the `due` of a publisher.
    pub(crate) due: bool,
}

impl Subscriber {
    pub(crate) fn new(subscription: u64) -> Self {
        Self {
            subscription,
            publisher: 0,
            accepted: 0,
            written: 0,
            ends: Vec::new(),
            length: 0,
            queue: Queue::default(),
            ending: false,
            due: false,
        }
    }

    /// Counts the messages that are now written as a whole, and says whether there are any.
    pub(crate) fn settle(&mut self) -> bool {
        let sent = self.length - self.queue.len() as u64;
        let whole = self.ends.iter().take_while(|end| **end <= sent).count();
        self.ends.drain(..whole);
        self.written += whole as u64;
        whole > 0
    }
}
