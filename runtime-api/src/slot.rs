//! Where one task that waits for something leaves its waker: what changes without I/O is told so.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A place for the waker of a single task: of two that wait the later one is woken.
#[derive(Default)]
pub struct Slot(Cell<Option<Waker>>);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    /// Waits until there is something. Whoever brings it about calls [`Slot::wake`].
    pub async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| self.poll(context, &mut ready)).await
    }

    /// As [`Slot::until`], for who waits for several.
    pub fn poll<T>(&self, context: &Context<'_>, ready: impl FnOnce() -> Option<T>) -> Poll<T> {
        match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                self.0.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Has who waits look again.
    pub fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_waits_looks_again_when_woken() {
        let (slot, there) = (Slot::default(), Cell::new(None));
        let mut waits = Box::pin(slot.until(|| there.take()));
        assert_eq!(waits.as_mut().now_or_never(), None);
        there.set(Some(7));
        slot.wake();
        slot.wake();
        assert_eq!(waits.as_mut().now_or_never(), Some(7));
    }
}
