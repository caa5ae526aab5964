//! A process with all that it started: a process group of its own, so that nothing of it is left behind.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::{END_WITHIN, GLANCE};

/// The id of a process group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group(Pid);

impl Group {
    /// Starts a process as the first of a group.
    pub(super) fn start(command: &mut Command) -> std::io::Result<(Self, Child)> {
        let child = command.process_group(0).spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Self::of);
        let group = group.ok_or_else(|| std::io::Error::other("a process without an id"))?;
        Ok((group, child))
    }

    /// The group with this id.
    pub(super) fn of(id: i32) -> Option<Self> {
        Pid::from_raw(id).map(Self)
    }

    /// Its id.
    pub(super) fn id(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// Asks all of it to end.
    pub(super) fn ask(self) {
        // An error says that nothing is left to be asked.
        let _ = kill_process_group(self.0, Signal::TERM);
    }

    /// Ends all of it at once.
    pub(super) fn kill(self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }

    /// Ends what its first process left behind.
    pub(super) fn sweep(self) {
        self.ask();
        let deadline = Instant::now() + END_WITHIN;
        while test_kill_process_group(self.0).is_ok() {
            if Instant::now() > deadline {
                self.kill();
                return;
            }
            thread::sleep(GLANCE);
        }
    }
}
