//! Where a server of a test runs: in a process, or in a container (`RUNTIME_TEST_BACKEND=containers`).

#![cfg_attr(not(feature = "containers"), allow(clippy::unused_async, reason = "containers need it"))]

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::process::Process;

/// What to run. Paths and ports hold for both backends.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// A directory of the test's own that the program may read and write. It is removed with the program.
    pub scratch: PathBuf,
}

/// A running program. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub enum Server {
    /// A child process.
    Process(Process),
    /// A container.
    #[cfg(feature = "containers")]
    Container(Box<crate::container::Container>),
}

impl Server {
    /// Starts a program; its output goes to the file `log`.
    pub async fn start(program: &Program, log: &Path) -> Self {
        Self::start_with(program, log, &[]).await
    }

    /// The same with these variables in its environment.
    pub async fn start_with(program: &Program, log: &Path, environment: &[(String, String)]) -> Self {
        match std::env::var("RUNTIME_TEST_BACKEND").as_deref() {
            #[cfg(feature = "containers")]
            Ok("containers") => {
                Self::Container(Box::new(crate::container::Container::start(program, environment).await))
            }
            #[cfg(not(feature = "containers"))]
            Ok("containers") => panic!("RUNTIME_TEST_BACKEND=containers needs the feature `containers`"),
            Err(_) | Ok("" | "processes") => {
                let mut command = Command::new(&program.binary);
                command.args(&program.arguments).current_dir(&program.scratch);
                command.envs(environment.iter().map(|(name, value)| (name, value)));
                Self::Process(Process::start(command, log, &program.scratch))
            }
            Ok(other) => panic!("RUNTIME_TEST_BACKEND is `processes` or `containers`, not {other:?}"),
        }
    }

    /// Stops the program where it stands (SIGSTOP); its connections stay open.
    pub async fn pause(&self) {
        match self {
            Self::Process(process) => process.signal(Signal::STOP),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.pause().await,
        }
    }

    /// Lets a paused program go on.
    pub async fn resume(&self) {
        match self {
            Self::Process(process) => process.signal(Signal::CONT),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.resume().await,
        }
    }

    /// Kills the program and returns when it is gone.
    pub async fn kill(self) {
        match self {
            Self::Process(process) => drop(process),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.kill().await,
        }
    }

    /// Whether the program has ended by itself.
    pub async fn has_ended(&mut self) -> bool {
        match self {
            Self::Process(process) => process.ended().is_some(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.has_ended().await,
        }
    }

    /// The operating system's id of the program; `None` in a container, which has its own.
    pub fn process_id(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.id()),
            #[cfg(feature = "containers")]
            Self::Container(_) => None,
        }
    }

    /// What the program has written so far.
    pub async fn log(&self) -> String {
        match self {
            Self::Process(process) => process.log(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.log().await,
        }
    }
}
