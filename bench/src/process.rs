//! What a process has used, as Linux tells it under /proc.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::Result;

/// A process of this machine.
#[derive(Debug)]
pub(crate) struct Process(PathBuf);

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// The same, with pages that others have too divided among them.
    pub(crate) pss: u64,
}

/// What Linux counts the time of `stat` in, on every machine: 1/100 s.
const TICK: Duration = Duration::from_millis(10);

impl Process {
    pub(crate) fn new(id: u32) -> Self {
        Self(format!("/proc/{id}").into())
    }

    /// The time that all its threads have run: by the scheduler, to the nanosecond, or else in ticks.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(self.0.join("task"))? {
            match fs::read_to_string(thread?.path().join("schedstat")) {
                Ok(text) => nanos += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?,
                Err(_) => return self.ticks(),
            }
        }
        if nanos == 0 { self.ticks() } else { Ok(Duration::from_nanos(nanos)) }
    }

    fn ticks(&self) -> Result<Duration> {
        let text = fs::read_to_string(self.0.join("stat"))?;
        // The name before may hold anything; after it stand the state, and from the twelfth on user and system time.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
        let ticks = fields.map(str::parse::<u32>).sum::<std::result::Result<u32, _>>()?;
        Ok(TICK * ticks)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let kib = |file: &str, field: &str| -> Result<u64> {
            let text = fs::read_to_string(self.0.join(file))?;
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            Ok(line.trim().trim_end_matches("kB").trim().parse().unwrap_or_default())
        };
        Ok(Memory { rss: kib("status", "VmRSS:")?, pss: kib("smaps_rollup", "Pss:").unwrap_or_default() })
    }
}
