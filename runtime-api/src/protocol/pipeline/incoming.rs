//! What a server has sent, reply by reply. A reply is looked at as a whole when all of it is there; how long it will be
//! is known from what it announces, so that one without measure ends the connection before it fills the memory.

use bytes::BytesMut;

use super::Speech;
use crate::budget::{Budget, Held};

/// What is shorter is not counted: there is one such reply at a time on a connection, and calls of those who hold
/// little go on when others have filled the memory.
const SHORT: usize = 64 << 10;

/// The part of a stream that is no whole reply yet.
#[derive(Debug)]
pub(in crate::protocol) struct Incoming {
    buffer: BytesMut,
    /// How many bytes there must be before the first reply can be whole.
    needed: usize,
    held: Held,
    /// The longest reply.
    most: usize,
}

impl Incoming {
    pub(in crate::protocol) fn new(budget: &Budget) -> Self {
        Self { buffer: BytesMut::new(), needed: 0, held: budget.share(), most: budget.part() }
    }

    /// Adds what came.
    pub(in crate::protocol) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next reply, if it is there. An error ends the connection.
    pub(in crate::protocol) fn next<S: Speech>(&mut self, speech: &S) -> Result<Option<S::Reply>, String> {
        if self.buffer.is_empty() || self.buffer.len() < self.needed {
            return Ok(None);
        }
        let length = speech.measure(&self.buffer)?;
        if length > self.buffer.len() {
            return self.make_room(length).map(|()| None);
        }
        self.needed = 0;
        let reply = speech.decode(&mut self.buffer)?;
        self.held.shrink(usize::MAX);
        Ok(reply)
    }

    /// The first reply will have so many bytes at least.
    fn make_room(&mut self, length: usize) -> Result<(), String> {
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
        Ok(())
    }
}
