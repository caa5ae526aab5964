//! Removing what has ended, a part of the buckets a second. Items are not seen after their end in any case; this frees
//! their memory.

use std::rc::Rc;
use std::time::Duration;

use prost::Message;

use super::layout::{Journal, Sweep, millis, read};
use super::{Area, BUCKETS, Work};
use crate::proxy::MISSING;

/// So that each is looked at about once a minute.
const SWEPT_PER_SECOND: u32 = 1024;
/// A worker that wakes sooner than this after another has swept leaves it at that.
const REST_MS: u64 = 900;

impl Area {
    /// Has this worker take part if there are items with an end.
    pub(super) fn sweep_if_needed(self: &Rc<Self>, journal: &Journal) {
        if journal.mortal > 0 && !self.sweeping.replace(true) {
            self.proxy.spawn(Box::pin(Rc::clone(self).sweep()));
        }
    }

    /// Removes what has ended until nothing is left that could end. Of all workers one does it each second.
    async fn sweep(self: Rc<Self>) {
        let name = format!("{}sweep", self.prefix);
        loop {
            self.proxy.sleep(Duration::from_secs(1)).await;
            if self.journal().0.mortal == 0 {
                self.sweeping.set(false);
                return;
            }
            let (bytes, version) = self.proxy.shared_get(&name).unwrap_or(MISSING);
            let last: Sweep = read(bytes);
            let now = millis(self.proxy.wall_clock());
            if last.at.abs_diff(now) < REST_MS {
                continue;
            }
            let next = Sweep { at: now, next: (last.next + SWEPT_PER_SECOND) % BUCKETS };
            if self.proxy.shared_set(&name, &next.encode_to_vec(), Some(version)).is_err() {
                continue;
            }
            for number in last.next..last.next.saturating_add(SWEPT_PER_SECOND).min(BUCKETS) {
                self.pace.step().await;
                if self.bucket(number).0.entries.iter().any(|entry| !entry.is_alive(now)) {
                    // Nothing is refused of it; and if it were, the next pass would see to it.
                    let _ = self.commit(&Work::from([(number, Vec::new())])).await;
                }
            }
        }
    }
}
