//! What a host is to do with the streams of apps, a bounded number of acts at a time.
//!
//! Envoy puts off what a callback does to a stream (a reply, a reset) to the end of that callback, and each such act
//! enters the VM again for the callbacks that come of it, at whose end the next is done: one nested level for each act.
//! Some hundreds end the VM. So acts stand in a line here, and an entry from Envoy takes a few of them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;

/// How many acts may be under way at a time: a fifth of what ended a VM (Envoy 1.40, no filters but ours), so that
/// there is room for other filters in the chain.
pub const MOST_ACTS: usize = 64;

/// A stream, as the host numbers them.
pub type Context = u32;

/// Acts on streams that wait for their turn.
pub struct Outbox<Act> {
    waiting: RefCell<VecDeque<(Context, Act)>>,
    /// How many may still be taken before all that was taken is known to be done.
    room: Cell<usize>,
    /// The stream whose own request callback is under way, and what is to be done with it: that needs no place in the
    /// line, since it is one act.
    own: Cell<Option<Context>>,
    own_act: RefCell<Option<Act>>,
}

impl<Act> Default for Outbox<Act> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            room: Cell::new(MOST_ACTS),
            own: Cell::new(None),
            own_act: RefCell::new(None),
        }
    }
}

impl<Act> fmt::Debug for Outbox<Act> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}

impl<Act> Outbox<Act> {
    /// Hands over what is to be done with a stream.
    pub fn put(&self, context: Context, act: Act) {
        if self.own.get() == Some(context) && self.own_act.borrow().is_none() {
            *self.own_act.borrow_mut() = Some(act);
        } else {
            self.waiting.borrow_mut().push_back((context, act));
        }
    }

    /// The host has called by itself, not in the course of an act: all that was taken is done.
    pub fn all_done(&self) {
        self.room.set(MOST_ACTS);
    }

    /// The next act, if there is room for one.
    pub fn take(&self) -> Option<(Context, Act)> {
        let room = self.room.get().checked_sub(1)?;
        let next = self.waiting.borrow_mut().pop_front()?;
        self.room.set(room);
        Some(next)
    }

    /// A callback about the request of this stream begins: what it does to the stream itself is done at its end.
    pub fn begin_own(&self, context: Context) {
        self.own.set(Some(context));
    }

    /// That callback ends: what is to be done with its stream.
    pub fn take_own(&self) -> Option<Act> {
        self.own.set(None);
        self.own_act.borrow_mut().take()
    }

    /// Whether no act waits in the line.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Forgets all: nobody will do it.
    pub fn clear(&self) {
        drop(self.waiting.take());
        drop(self.own_act.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(outbox: &Outbox<u32>) -> Vec<(Context, u32)> {
        std::iter::from_fn(|| outbox.take()).collect()
    }

    #[test]
    fn a_burst_is_taken_in_parts_and_in_its_order() {
        let outbox = Outbox::default();
        let burst: Vec<_> = (0..1000).map(|number| (number % 7, number)).collect();
        for (context, act) in &burst {
            outbox.put(*context, *act);
        }
        let mut taken = Vec::new();
        while !outbox.is_empty() {
            outbox.all_done();
            let part = take_all(&outbox);
            assert!(!part.is_empty() && part.len() <= MOST_ACTS);
            taken.extend(part);
        }
        assert_eq!(taken, burst);
    }

    #[test]
    fn what_is_not_known_to_be_done_takes_room() {
        let outbox = Outbox::default();
        (0..100).for_each(|number| outbox.put(number, number));
        assert_eq!(take_all(&outbox).len(), MOST_ACTS);
        assert_eq!(outbox.take(), None, "as in a callback that an act has led to");
        outbox.all_done();
        assert_eq!(take_all(&outbox).len(), 100 - MOST_ACTS);
    }

    #[test]
    fn a_stream_is_answered_in_its_own_callback_however_many_wait() {
        let outbox = Outbox::default();
        (0..100).for_each(|number| outbox.put(number, number));
        outbox.begin_own(7);
        outbox.put(8, 108);
        outbox.put(7, 107);
        assert_eq!(outbox.take_own(), Some(107));
        outbox.put(7, 207);
        assert_eq!(outbox.take_own(), None);
        outbox.all_done();
        take_all(&outbox);
        outbox.all_done();
        assert_eq!(take_all(&outbox).last(), Some(&(7, 207)));
    }

    #[test]
    fn nothing_is_left_at_the_end() {
        let outbox = Outbox::default();
        outbox.begin_own(1);
        outbox.put(1, 1);
        outbox.put(2, 2);
        outbox.clear();
        assert!(outbox.is_empty());
        assert_eq!((outbox.take(), outbox.take_own()), (None, None));
    }
}
