//! The executor of a worker: it runs what can be run at the end of each callback from the host, and never waits.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::Rc;

use futures::executor::{LocalPool, LocalSpawner};
use futures::future::{AbortHandle, Abortable, FutureExt};
use futures::task::LocalSpawnExt;

/// Runs the futures of one worker.
pub struct Executor {
    pool: RefCell<LocalPool>,
    spawner: LocalSpawner,
}

impl Executor {
    /// An executor with nothing to do.
    pub fn new() -> Self {
        let pool = LocalPool::new();
        let spawner = pool.spawner();
        Self { pool: RefCell::new(pool), spawner }
    }

    /// Hands over a future. It runs with the next [`Executor::run`].
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // Refused only when the pool is gone, and with it everything that could wait for the task.
        let _ = self.spawner.spawn_local(task);
    }

    /// Hands over a future that ends early when the handle is dropped: what it holds is dropped with it.
    #[must_use = "dropping the handle ends the task"]
    pub fn spawn_cancellable(&self, task: impl Future<Output = ()> + 'static) -> Task {
        let (handle, registration) = AbortHandle::new_pair();
        let done = Rc::new(Cell::new(false));
        let mark = Rc::clone(&done);
        self.spawn(Abortable::new(task, registration).map(move |_| mark.set(true)));
        Task { handle, done }
    }

    /// Ends all futures. They hold what they were given, often the executor itself, which would keep both for ever.
    pub fn end(&self) {
        let ended = self.pool.try_borrow_mut().map(|mut pool| std::mem::take(&mut *pool));
        drop(ended); // with the pool free again, since what ends may hand over more
    }

    /// Runs all that can be run, until every future waits for something. A call from within a future does nothing:
    /// the run under way will see to it.
    pub fn run(&self) {
        if let Ok(mut pool) = self.pool.try_borrow_mut() {
            pool.run_until_stalled();
        }
    }
}

impl Default for Executor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Executor")
    }
}

/// A running future; dropping this ends it.
#[derive(Debug)]
pub struct Task {
    handle: AbortHandle,
    done: Rc<Cell<bool>>,
}

impl Task {
    /// Whether the future has run to its end.
    pub fn is_done(&self) -> bool {
        self.done.get()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_done() {
            self.handle.abort();
        }
    }
}
