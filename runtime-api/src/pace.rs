//! Long work in turns, so that the worker serves other calls in between.
//!
//! A worker has one thread, and a future that never waits keeps it. So work whose length the app decides is done in
//! steps; when a worker has done as many as take it some milliseconds, what is left waits for the next tick of the
//! host.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::proxy::{Instant, Proxy};

/// Steps of a turn: some three milliseconds in a filter.
const TURN: usize = 512;
/// Bytes that take as long to copy as a step does.
const STEP_BYTES: usize = 8192;
/// The shortest time after which a host gives the thread back.
const PAUSE: Duration = Duration::from_millis(1);
/// Steps that were done so long ago are no part of this turn.
const LONG_AGO: Duration = Duration::from_millis(10);

/// The turns of one worker. Clones are the same.
#[derive(Clone)]
pub struct Pace(Rc<Turn>);

struct Turn {
    proxy: Rc<dyn Proxy>,
    /// Steps that are left of this turn.
    left: Cell<usize>,
    began: Cell<Instant>,
    number: Cell<u64>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pace")
    }
}

impl Pace {
    /// That of the worker with this way to the outside.
    pub fn new(proxy: &Rc<dyn Proxy>) -> Self {
        let (left, began, number) = (Cell::new(TURN), Cell::new(Instant::ZERO), Cell::new(0));
        Self(Rc::new(Turn { proxy: Rc::clone(proxy), left, began, number }))
    }

    /// To be awaited before each step: waits if this turn is over.
    pub async fn step(&self) {
        let turn = &self.0;
        if turn.proxy.now().saturating_sub(turn.began.get()) >= LONG_AGO {
            self.begin();
        }
        while turn.left.get() == 0 {
            let number = turn.number.get();
            turn.proxy.sleep(PAUSE).await;
            // Whoever comes back first begins the next turn for all.
            if turn.number.get() == number {
                self.begin();
            }
        }
        turn.left.set(turn.left.get() - 1);
    }

    /// Tells of work that goes by bytes.
    pub fn spend(&self, bytes: usize) {
        self.0.left.set(self.0.left.get().saturating_sub(bytes / STEP_BYTES));
    }

    fn begin(&self) {
        let turn = &self.0;
        turn.left.set(TURN);
        turn.began.set(turn.proxy.now());
        turn.number.set(turn.number.get().wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn what_takes_long_waits_for_the_next_turn_and_shares_it() {
        let world = World::default();
        let proxy: Rc<dyn Proxy> = Rc::new(world.clone());
        let (pace, done) = (Pace::new(&proxy), Rc::new(Cell::new(0)));
        let work = |steps: usize| {
            let (pace, done) = (pace.clone(), Rc::clone(&done));
            world.start(async move {
                for _ in 0..steps {
                    pace.step().await;
                    done.set(done.get() + 1);
                }
            })
        };
        let (one, two) = (work(TURN + 10), work(10));
        assert_eq!(done.get(), TURN, "a turn, and then others have the thread");
        assert!(one.outcome().is_none() && two.outcome().is_none());
        world.advance(PAUSE);
        assert!(one.outcome().is_some() && two.outcome().is_some());
        let three = work(TURN - 19);
        assert!(three.outcome().is_none(), "the two have had their part of this turn");
        world.advance(PAUSE);
        assert!(three.outcome().is_some());
        world.advance(LONG_AGO);
        assert!(work(TURN).outcome().is_some(), "old steps do not count");
    }

    #[test]
    fn bytes_are_steps_too() {
        let world = World::default();
        let proxy: Rc<dyn Proxy> = Rc::new(world.clone());
        let pace = Pace::new(&proxy);
        pace.spend(TURN * STEP_BYTES);
        let waiting = world.start(async move { pace.step().await });
        assert!(waiting.outcome().is_none());
        world.advance(PAUSE);
        assert!(waiting.outcome().is_some());
    }
}
