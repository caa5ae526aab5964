//! What Envoy holds: whether it gives back, after all is over, what it took meanwhile; and whether its VMs have
//! survived.

use std::sync::Arc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use tokio::time::{sleep, timeout};

use super::client::Caller;
use super::ground::{Ground, LARGE, MOST_LARGE, PLACES};
use super::kind::Kind;
use super::messages::KEYS;
use crate::client::Dialect;
use crate::http1;
use crate::store::key;

/// What Envoy may hold more than before, for each worker: its VM keeps the memory that it once had, which `maxMemoryBytes` bounds, and
/// the allocator of Envoy gives back what has not been used for five minutes.
const MOST_MIB: u64 = 192;
/// Connections to servers that stay open.
const MOST_FILES: usize = 60;
/// How often it is looked, while nothing happens.
const READINGS: u32 = 3;

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holdings {
    pub(super) resident_mib: u64,
    pub(super) files: usize,
}

impl Holdings {
    /// What Envoy holds now; `None` when it has ended, or runs in a container.
    pub(super) fn of(ground: &Ground) -> Option<Self> {
        let process = format!("/proc/{}", ground.envoy.process_id()?);
        let status = std::fs::read_to_string(format!("{process}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
        Some(Self { resident_mib: kib >> 10, files: std::fs::read_dir(format!("{process}/fd")).ok()?.count() })
    }
}

/// How often VMs were made anew, by Envoy's counters; `None` when it does not answer.
pub(super) async fn reloads_of_vms(ground: &Ground) -> Option<u64> {
    let answer =
        timeout(Duration::from_secs(20), http1::get(ground.envoy.admin, "/stats?filter=vm_reload_success")).await;
    let (_, text) = answer.ok()?.ok()?;
    let counters = text.lines().filter_map(|line| line.split_once(": "));
    Some(
        counters
            .filter(|(name, _)| name.ends_with("vm_reload_success"))
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .sum(),
    )
}

/// Deletes what the clients have left in the memory of Envoy.
pub(super) async fn clean(ground: &Arc<Ground>) {
    let mut caller = Caller::new(ground, Kind::Rest, Dialect::Dapr);
    let names = (0..500).map(|number| format!("greedy{number}"));
    let names = names.chain((0..MOST_LARGE).map(|number| format!("{LARGE}{number}")));
    let names = names.chain((0..100).map(|number| format!("register{number}"))).chain(KEYS.map(str::to_owned));
    let states = names.map(|name| key(&name)).collect();
    let request = dapr::DeleteBulkStateRequest { store_name: "memory".into(), states };
    let deadline = Some(Duration::from_secs(20));
    if caller.unary::<()>("DeleteBulkState", &request, deadline).await.is_err() {
        ground.record.find(Kind::Rest, "what was stored in memory cannot be deleted", "");
    }
    let mut caller = Caller::new(ground, Kind::Rest, Dialect::Layotto);
    for place in PLACES {
        let keys = ["loud"].into_iter().chain(KEYS).map(str::to_owned).collect();
        let request =
            layotto::DeleteConfigurationRequest { store_name: place.name().into(), keys, ..Default::default() };
        // Some of the keys are not to the liking of every store.
        let _ = caller.unary::<()>("DeleteConfiguration", &request, deadline).await;
    }
}

/// Waits until Envoy holds about what it held before, and notes it if it does not come to that.
pub(super) async fn rest(ground: &Ground, before: Holdings) {
    let mut readings = Vec::new();
    for _ in 0..READINGS {
        sleep(Duration::from_secs(ground.options.rest) / READINGS).await;
        let Some(now) = Holdings::of(ground) else { return };
        readings.push(now);
        println!(
            "at rest: {} MiB, {} files; before: {} MiB, {} files",
            now.resident_mib, now.files, before.resident_mib, before.files
        );
        if now.resident_mib <= before.resident_mib + MOST_MIB * u64::from(ground.options.workers)
            && now.files <= before.files + MOST_FILES
        {
            return;
        }
    }
    let example = format!("{before:?} before, {readings:?} while nothing happened for {} s", ground.options.rest);
    ground.record.find(Kind::Rest, "Envoy does not give back what it took", example);
}
