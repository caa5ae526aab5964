//! What a call sends to servers, for the line of the log that explains it. Clients tell it here while the call runs; where nobody
//! listens, which is as a rule, that costs a look at a cell.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;

thread_local! {
    /// That of the call which runs just now.
    static CURRENT: RefCell<Option<Rc<Trace>>> = const { RefCell::new(None) };
}

/// What a call has sent so far.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    clusters: RefCell<Vec<String>>,
    requests: Cell<usize>,
    bytes: Cell<usize>,
}

impl Trace {
    /// Runs a future; what it sends is noted here.
    pub(crate) async fn of<T>(self: &Rc<Self>, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        poll_fn(|context| {
            let before = CURRENT.replace(Some(Rc::clone(self)));
            let outcome = call.as_mut().poll(context);
            CURRENT.set(before);
            outcome
        })
        .await
    }
}

impl fmt::Display for Trace {
    /// Such as `3 to runtime.state.s, 120 bytes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.requests.get() {
            0 => f.write_str("nothing"),
            requests => {
                write!(f, "{requests} to {}, {} bytes", self.clusters.borrow().join(" and "), self.bytes.get())
            }
        }
    }
}

/// The call that runs just now sends so many commands or requests to a cluster.
pub(crate) fn sends(cluster: &str, requests: usize, bytes: usize) {
    CURRENT.with_borrow(|current| {
        let Some(trace) = current else { return };
        trace.requests.set(trace.requests.get() + requests);
        trace.bytes.set(trace.bytes.get() + bytes);
        let mut clusters = trace.clusters.borrow_mut();
        if clusters.iter().all(|known| known != cluster) {
            clusters.push(cluster.to_owned());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt;
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn what_a_call_sends_is_its_own() {
        let (one, two) = (Rc::new(Trace::default()), Rc::new(Trace::default()));
        sends("nobody's", 1, 1);
        assert_eq!(one.to_string(), "nothing");
        block_on(one.of(async {
            sends("a", 1, 10);
            assert!(two.of(async { sends("b", 1, 5) }).now_or_never().is_some());
            sends("a", 2, 30);
            sends("c", 1, 1);
        }));
        assert_eq!(one.to_string(), "4 to a and c, 41 bytes");
        assert_eq!(two.to_string(), "1 to b, 5 bytes");
        let waits = async {
            sends("a", 1, 1);
            pending::<()>().await;
        };
        assert!(one.of(waits).now_or_never().is_none());
        sends("nobody's", 1, 1);
        assert_eq!(one.to_string(), "5 to a and c, 42 bytes", "a call that waits does not run");
    }
}
