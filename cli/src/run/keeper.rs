//! The keeper: a small process that outlives this one, and when this one is gone without having ended what it
//! started (killed, or crashed), ends it and removes the temporary folder. It learns of the end by its standard input,
//! which the kernel closes whatever happened.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::{env, fs};

use super::group::Group;
use crate::Failure;

/// The argument that makes this binary a keeper.
pub const KEEPER: &str = "envoy-runtime-keeper";

const GROUP: &str = "group ";
const FOLDER: &str = "folder ";
const DONE: &str = "done";

/// The keeper, seen from the process that it watches.
#[derive(Debug)]
pub(super) struct Keeper {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts a keeper that will remove `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::new(format!("the process that watches over Envoy did not start: {error}"));
        // Where this binary was replaced since it was started, its name leads to another one; this link does not.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() { link } else { env::current_exe().map_err(failed)? };
        let mut process = Command::new(program)
            .arg(KEEPER)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // what the terminal sends to this group is not for it
            .spawn()
            .map_err(failed)?;
        let pipe = process.stdin.take();
        let mut keeper = Self { process, pipe };
        keeper.tell(&format!("{FOLDER}{}", folder.display()))?;
        Ok(keeper)
    }

    /// Puts a group under its care.
    pub(super) fn watch(&mut self, group: Group) -> Result<(), Failure> {
        self.tell(&format!("{GROUP}{}", group.id()))
    }

    /// All has ended in good order.
    pub(super) fn dismiss(mut self) {
        // Its absence is found out here at the latest, and changes nothing any more.
        let _ = self.tell(DONE);
        drop(self.pipe.take());
        let _ = self.process.wait();
    }

    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let told = self.pipe.as_mut().map_or(Ok(()), |pipe| writeln!(pipe, "{line}"));
        told.map_err(|error| Failure::new(format!("the process that watches over Envoy is gone: {error}")))
    }
}

/// What the keeper does.
pub fn keep() -> Result<(), Failure> {
    let mut groups = Vec::new();
    let mut folder = None;
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == DONE {
            return Ok(());
        }
        if let Some(id) = line.strip_prefix(GROUP) {
            groups.extend(id.parse().ok().and_then(Group::of));
        } else if let Some(path) = line.strip_prefix(FOLDER) {
            folder = Some(PathBuf::from(path));
        }
    }
    for group in &groups {
        group.ask();
    }
    for group in groups {
        group.sweep();
    }
    folder.map_or(Ok(()), |folder| fs::remove_dir_all(&folder).map_err(|error| Failure::file(&folder, &error)))
}
