//! What a worker holds in memory: one sum over all that can grow, and its bound.
//!
//! The memory of a VM is bounded, and to reach that bound ends the VM with all calls in it. So whoever takes in bytes
//! without knowing how many reserves them first, and whoever would go over the bound is refused. What is counted is
//! what an app or a server can make large; the bound leaves room for the rest, and for copies that live for a moment.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tonic::Status;

/// What is shorter is not worth counting: calls that hold no more are bounded by their number.
const FEW: usize = 4096;

/// The sum and its bound. Clones are the same budget.
// Atomic only by their type: a buffer that counts itself may be behind `Bytes`, which asks for that.
#[derive(Clone)]
pub struct Budget(Arc<Sum>);

struct Sum {
    held: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Budget {
    /// Without a bound.
    fn default() -> Self {
        Self(Arc::new(Sum { held: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }))
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {})", self.held(), self.limit())
    }
}

/// The bound of the memory of a worker would be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory of this worker is full: {limit} bytes, the limit set by limits.maxMemoryBytes; \
     try again when other calls have ended, or raise it"
)]
pub struct Exhausted {
    limit: usize,
}

impl From<Exhausted> for Status {
    fn from(exhausted: Exhausted) -> Self {
        Self::resource_exhausted(exhausted.to_string())
    }
}

impl Budget {
    /// Sets the bound, in bytes.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// How many bytes are held.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// The most that one message of a server may take of it: as much as one of an app, and what stands around that.
    pub fn part(&self) -> usize {
        const AROUND: usize = 64 << 10;
        (self.limit() / 4).saturating_add(AROUND)
    }

    /// A share of the budget that has nothing yet.
    pub fn share(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }

    /// Reserves bytes. They are given back when the share is dropped.
    pub fn reserve(&self, bytes: usize) -> Result<Held, Exhausted> {
        let mut share = self.share();
        share.grow(bytes)?;
        Ok(share)
    }

    /// Counts bytes that are there already, for as long as any part of them is used.
    pub fn hold(&self, bytes: Bytes) -> Result<Bytes, Exhausted> {
        if bytes.len() <= FEW {
            return Ok(bytes);
        }
        let held = self.reserve(bytes.len())?;
        Ok(Bytes::from_owner(Owned { bytes, _held: held }))
    }
}

struct Owned {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// Reserves more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let (held, limit) = (self.budget.held().saturating_add(bytes), self.budget.limit());
        if held > limit {
            return Err(Exhausted { limit });
        }
        self.budget.0.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back some of it.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.0.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Has it be so many bytes.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Exhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.bytes - bytes);
                Ok(())
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Bytes that come in parts, counted as they grow.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    held: Held,
}

impl Buffer {
    /// An empty one.
    pub fn new(budget: &Budget) -> Self {
        Self { bytes: Vec::new(), held: budget.share() }
    }

    /// Adds bytes. `expected` is how many there will be as a whole, as far as that is known: no more room is made than
    /// that.
    pub fn add(&mut self, bytes: Vec<u8>, expected: usize) -> Result<(), Exhausted> {
        let needed = self.bytes.len() + bytes.len();
        if self.bytes.is_empty() {
            self.held.resize(bytes.capacity())?;
            self.bytes = bytes;
            return Ok(());
        }
        if needed > self.bytes.capacity() {
            let room = self.bytes.capacity().saturating_mul(2).min(expected).max(needed);
            self.held.resize(room)?;
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// What is there so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole, counted for as long as any part of it is used.
    pub fn freeze(self) -> Bytes {
        if self.bytes.len() <= FEW { self.bytes.into() } else { Bytes::from_owner(self) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: usize) -> Budget {
        let budget = Budget::default();
        budget.set_limit(limit);
        budget
    }

    #[test]
    fn what_is_reserved_is_given_back() {
        let budget = budget(100);
        let mut first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).unwrap_err().to_string().contains("100 bytes, the limit set by limits.max"));
        let second = budget.reserve(40).unwrap();
        assert!(first.grow(1).is_err());
        drop(second);
        first.grow(40).unwrap();
        first.resize(10).unwrap();
        assert_eq!(budget.held(), 10);
        first.shrink(1000);
        drop(first);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn bytes_are_held_for_as_long_as_a_part_of_them_is() {
        let budget = budget(100_000);
        let part = budget.hold(vec![0; 60_000].into()).unwrap().slice(10..20);
        assert!(budget.hold(vec![0; 60_000].into()).is_err());
        drop(part);
        assert_eq!(budget.held(), 0);
        assert!(budget.hold(vec![0; 100].into()).is_ok_and(|_| budget.held() == 0), "few bytes are not counted");
    }

    #[test]
    fn a_buffer_makes_no_more_room_than_is_expected() {
        let budget = budget(100_000);
        let mut buffer = Buffer::new(&budget);
        buffer.add(vec![1; 6000], 10_000).unwrap();
        buffer.add(vec![2; 3000], 10_000).unwrap();
        assert_eq!(budget.held(), 10_000);
        buffer.add(vec![3; 1000], 10_000).unwrap();
        let whole = buffer.freeze();
        assert_eq!((whole.len(), budget.held()), (10_000, 10_000));
        drop(whole);
        assert_eq!(budget.held(), 0);
    }
}
