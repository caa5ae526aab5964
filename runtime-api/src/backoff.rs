//! How long to wait before the next attempt.

use std::time::Duration;

use crate::proxy::Proxy;

/// Between half and all of a time that doubles with each failure, so that workers do not return in step.
pub(crate) fn backoff(proxy: &dyn Proxy, failures: u32, first: Duration, longest: Duration) -> Duration {
    let whole = first.saturating_mul(1 << failures.min(10)).min(longest);
    let mut random = [0];
    proxy.random(&mut random);
    let [random] = random;
    whole / 2 + whole / 2 * u32::from(random) / 255
}
