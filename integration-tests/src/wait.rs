//! Waiting for something to come true: the only place where the harness sleeps.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Long enough for the slowest machine. A test that needs it is about to fail.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Repeats `attempt` until it gives `Ok`, and gives up with its last error after [`PATIENCE`].
pub async fn eventually<T, E: Debug>(what: &str, attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, attempt).await
}

/// As [`eventually`], with a limit of its own where a limit is what is tested.
pub async fn within<T, E: Debug>(limit: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if start.elapsed() > limit => panic!("not within {limit:?}: {what}: {error:?}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
