//! A server that runs as a child process, and that is gone when its owner is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};

use rustix::process::{Pid, Signal, kill_process};

use crate::scratch;

/// A child process with its output in a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Guard,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr in the file `log` (appended). When this process ends without dropping
    /// the `Process`, as it does for one in a static, the child is killed and `directory` removed all the same.
    pub fn start(mut command: Command, log: &Path, directory: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("the log file can be opened");
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = spawn(command).unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let guard = Guard::new(
            r#"kill -9 "$1" 2>/dev/null; rm -rf -- "$2""#,
            [child.id().to_string().as_ref(), scratch::rubbish(directory)],
        );
        Self { child, guard, log: log.to_path_buf() }
    }

    /// The operating system's id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child takes signals");
    }

    /// How the child ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// What the child has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard first: later the id may belong to another process.
        self.guard.dismiss();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Spawns from a thread that lives as long as this process: Envoy asks the kernel to end it when the thread that
/// started it ends, and the thread of a test ends before the next test begins.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = mpsc::channel();
    spawner.send((command, reply)).expect("the spawner takes orders");
    child.recv().expect("the spawner answers")
}

/// A shell that cleans up when this process is gone, however it ended.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// Runs `script` with `arguments` when this process has ended without dropping the guard.
    pub fn new<const N: usize>(script: &str, arguments: [&OsStr; N]) -> Self {
        // It reads from a pipe that only this process can write to, and wakes up when the pipe is closed.
        let guard = Command::new("sh")
            .args(["-c", &format!("cat >/dev/null; {script}"), "guard"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Self(guard)
    }

    fn dismiss(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dismiss();
    }
}
