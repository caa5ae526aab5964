//! The executor of a worker: it runs what can be run at the end of each callback from the host, and never waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_task::Runnable;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

/// Runs the futures of one worker.
#[derive(Default)]
pub struct Executor {
    queue: Arc<Queue>,
    /// Whether a run is under way.
    running: Cell<bool>,
    ended: Cell<bool>,
    /// The futures that nobody else holds.
    spawned: RefCell<Vec<Task<()>>>,
}

/// What can be run. Wakers may be sent to other threads, by their type, so it is behind a lock; a worker has but one.
#[derive(Default)]
struct Queue(Mutex<VecDeque<Runnable>>);

impl Queue {
    fn push(&self, runnable: Runnable) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(runnable);
    }

    fn pop(&self) -> Option<Runnable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Executor {
    /// An executor with nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands over a future. It runs with the next [`Executor::run`].
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        // Behind a pointer, so that there is one kind of such tasks and not one for each kind of future.
        let future: LocalBoxFuture<'static, ()> = Box::pin(future);
        let task = self.spawn_cancellable(future);
        let mut spawned = self.spawned.borrow_mut();
        spawned.retain(|task| !task.is_done());
        spawned.push(task);
    }

    /// Hands over a future that ends early when the task is dropped: what it holds is dropped with the next run.
    #[must_use = "dropping the task ends the future"]
    pub fn spawn_cancellable<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let queue = Arc::clone(&self.queue);
        let (runnable, task) = async_task::spawn_local(future, move |runnable| queue.push(runnable));
        runnable.schedule();
        Task(task)
    }

    /// Ends all futures: those of [`Executor::spawn`] now, and what others would still do with the next run. They hold
    /// what they were given, often the executor itself, which would keep both for ever.
    pub fn end(&self) {
        self.ended.set(true);
        let spawned = self.spawned.take();
        drop(spawned); // with the list free again, since what ends may hand over more
        self.run();
    }

    /// Runs all that can be run, until every future waits for something. A call from within a future does nothing:
    /// the run under way will see to it.
    pub fn run(&self) {
        if self.running.replace(true) {
            return;
        }
        let _run = Run(&self.running);
        while let Some(runnable) = self.queue.pop() {
            if self.ended.get() {
                drop(runnable); // and the future with it
            } else {
                runnable.run();
            }
        }
    }
}

/// A run under way, which is over also where a test has a future panic.
struct Run<'a>(&'a Cell<bool>);

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Executor")
    }
}

/// A running future; dropping this ends it.
#[derive(Debug)]
pub struct Task<T = ()>(async_task::Task<T>);

impl<T> Task<T> {
    /// Whether the future has run to its end.
    pub fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// What the future gave, once it has: then the task is spent.
    pub fn outcome(self) -> Result<T, Self> {
        let Self(mut task) = self;
        if !task.is_finished() {
            return Err(Self(task));
        }
        (&mut task).now_or_never().ok_or(Self(task))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::rc::Rc;

    use super::*;

    /// A future that never ends and holds what it is given.
    async fn hold<T>(held: T) -> T {
        pending::<()>().await;
        held
    }

    #[test]
    fn a_task_gives_its_outcome_once_it_has_run() {
        let executor = Executor::new();
        let task = executor.spawn_cancellable(ready(7));
        let task = task.outcome().unwrap_err();
        executor.run();
        assert!(task.is_done());
        assert_eq!(task.outcome().unwrap(), 7);
    }

    #[test]
    fn a_dropped_task_ends_with_what_it_holds() {
        let (executor, held) = (Executor::new(), Rc::new(()));
        let task = executor.spawn_cancellable(hold(Rc::clone(&held)));
        executor.run();
        assert_eq!(Rc::strong_count(&held), 2);
        drop(task);
        executor.run();
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn the_end_is_that_of_all_futures_even_of_those_that_hold_the_executor() {
        let executor = Rc::new(Executor::new());
        executor.spawn(async {});
        executor.run();
        executor.spawn(hold((Rc::clone(&executor), ())).map(drop));
        executor.spawn(hold(Rc::clone(&executor)).map(drop));
        executor.run();
        assert_eq!(executor.spawned.borrow().len(), 2, "the first has ended and is forgotten");
        assert_eq!(Rc::strong_count(&executor), 3);
        executor.end();
        assert_eq!(Rc::strong_count(&executor), 1);
        executor.spawn(hold(Rc::clone(&executor)).map(drop));
        executor.run();
        assert_eq!(Rc::strong_count(&executor), 1, "nothing runs after the end");
    }
}
