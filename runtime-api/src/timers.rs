//! Who waits for which time. Most of those who wait are deadlines of calls: they come in about the order of their times
//! and go long before these. So they stand in a line, and one that goes leaves a gap, to be closed when there are many.

use std::collections::VecDeque;
use std::task::Waker;

use crate::proxy::Instant;

/// A time, and a number to tell those apart who wait for the same.
pub type Timer = (Instant, u64);

/// All who wait, in the order of their times.
#[derive(Debug, Default)]
pub struct Timers {
    /// The first is never a gap.
    line: VecDeque<(Timer, Option<Waker>)>,
    gaps: usize,
}

/// So many gaps are no matter.
const FEW: usize = 64;

impl Timers {
    /// Has the waker woken at the time of the timer; a later one takes its place.
    pub fn insert(&mut self, timer: Timer, waker: Waker) {
        let last = self.line.back().is_none_or(|(last, _)| *last < timer);
        if last {
            return self.line.push_back((timer, Some(waker)));
        }
        match self.place(timer) {
            Ok(at) => {
                if let Some((_, known)) = self.line.get_mut(at)
                    && known.replace(waker).is_none()
                {
                    self.gaps -= 1;
                }
            }
            Err(at) => self.line.insert(at, (timer, Some(waker))),
        }
    }

    /// Forgets a timer.
    pub fn remove(&mut self, timer: Timer) {
        let known = self.place(timer).ok().and_then(|at| self.line.get_mut(at));
        if known.and_then(|(_, waker)| waker.take()).is_some() {
            self.gaps += 1;
            self.close_gaps();
        }
    }

    /// Takes the first timer if its time has come.
    pub fn take_due(&mut self, now: Instant) -> Option<(Timer, Waker)> {
        let (timer, waker) = self.line.pop_front_if(|(timer, _)| timer.0 <= now)?;
        self.close_gaps();
        waker.map(|waker| (timer, waker))
    }

    /// The first time that somebody waits for.
    pub fn next(&self) -> Option<Instant> {
        self.line.front().map(|((at, _), _)| *at)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.line.len() - self.gaps
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    fn place(&self, timer: Timer) -> Result<usize, usize> {
        self.line.binary_search_by(|(known, _)| known.cmp(&timer))
    }

    fn close_gaps(&mut self) {
        while self.line.pop_front_if(|(_, waker)| waker.is_none()).is_some() {
            self.gaps -= 1;
        }
        if self.gaps > FEW && self.gaps > self.line.len() / 2 {
            self.line.retain(|(_, waker)| waker.is_some());
            self.gaps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_an_ordered_set(steps: Vec<(u8, u8, u8)>) {
            let (mut timers, mut expected) = (Timers::default(), BTreeSet::new());
            for (step, at, number) in steps {
                let timer = (Duration::from_secs(at.into()), u64::from(number % 4));
                match step % 8 {
                    0..4 => {
                        timers.insert(timer, Waker::noop().clone());
                        expected.insert(timer);
                    }
                    4..7 => {
                        timers.remove(timer);
                        expected.remove(&timer);
                    }
                    _ => {
                        let due = expected.first().copied().filter(|first| first.0 <= timer.0);
                        proptest::prop_assert_eq!(timers.take_due(timer.0).map(|(timer, _)| timer), due);
                        due.map(|due| expected.remove(&due));
                    }
                }
                proptest::prop_assert_eq!(timers.len(), expected.len());
                proptest::prop_assert_eq!(timers.is_empty(), expected.is_empty());
                proptest::prop_assert_eq!(timers.next(), expected.first().map(|first| first.0));
            }
        }
    }

    #[test]
    fn gaps_behind_one_that_waits_long_are_closed() {
        let mut timers = Timers::default();
        timers.insert((Duration::ZERO, 0), Waker::noop().clone());
        for number in 1..10_000 {
            timers.insert((Duration::from_secs(5), number), Waker::noop().clone());
            timers.remove((Duration::from_secs(5), number));
        }
        assert!(timers.line.len() <= FEW + 2, "{} places for one", timers.line.len());
    }
}
