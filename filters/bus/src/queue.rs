//! Bytes that wait for a window to open.

use alloc::vec::Vec;

/// Bytes in, bytes out, in order. Taking a few at a time costs what they are, not what is left.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    /// How many at the front are taken.
    taken: usize,
}

impl Queue {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that waits, oldest first.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Removes bytes at the front.
    pub(crate) fn take(&mut self, count: usize) {
        self.taken += count.min(self.len());
        if self.taken == self.bytes.len() {
            // The memory too: most subscribers never wait.
            *self = Self::default();
        } else if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let (mut queue, mut left) = (Queue::default(), Vec::new());
        for round in 0..100_u8 {
            queue.push(&[round, round, round]);
            left.extend_from_slice(&queue.waiting()[..2]);
            queue.take(2);
        }
        assert_eq!(queue.len(), 100);
        left.extend_from_slice(queue.waiting());
        queue.take(1000);
        assert!(queue.is_empty());
        assert_eq!(left, (0..100).flat_map(|round| [round; 3]).collect::<Vec<u8>>());
    }
}
