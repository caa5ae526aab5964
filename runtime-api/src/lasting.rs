//! A future that outlasts whoever waits for it: what it has begun in a server must come to its end there.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::proxy::Proxy;

/// A future that goes on by itself when it is dropped between its first poll and its end.
pub(crate) struct Lasting<T: 'static> {
    proxy: Rc<dyn Proxy>,
    future: Option<LocalBoxFuture<'static, T>>,
    begun: bool,
    waiting: Waiting,
}

/// Whether somebody still waits for a [`Lasting`] future: what it has not begun it may leave then.
#[derive(Debug, Clone)]
pub(crate) struct Waiting(Rc<Cell<bool>>);

impl Waiting {
    pub(crate) fn is_over(&self) -> bool {
        !self.0.get()
    }
}

impl<T: 'static> Lasting<T> {
    /// Nothing is begun yet.
    pub(crate) fn new<F>(proxy: &Rc<dyn Proxy>, future: impl FnOnce(Waiting) -> F) -> Self
    where
        F: Future<Output = T> + 'static,
    {
        let waiting = Waiting(Rc::new(Cell::new(true)));
        let future = future(waiting.clone()).boxed_local();
        Self { proxy: Rc::clone(proxy), future: Some(future), begun: false, waiting }
    }
}

impl<T: 'static> fmt::Debug for Lasting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lasting")
    }
}

impl<T: 'static> Future for Lasting<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        let outcome = future.poll_unpin(context);
        if outcome.is_ready() {
            self.future = None;
        }
        outcome
    }
}

impl<T: 'static> Drop for Lasting<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take().filter(|_| self.begun) {
            self.waiting.0.set(false);
            self.proxy.spawn(Box::pin(future.map(drop)));
        }
    }
}
