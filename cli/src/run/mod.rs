//! `run`: an Envoy and the app that uses it, started together and ended together.

mod admin;
mod app;
mod envoy;
mod group;
mod keeper;
mod places;
mod python;
mod servers;
mod voices;

use std::io::{self, Write};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, iter};

use runtime_api::config::{Config, Listen};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::render::{self, Machine};
use crate::source::{Checked, Origin};
use crate::{Failure, args, filters};
use envoy::Envoy;
use group::Group;
pub use keeper::{KEEPER, keep};
use voices::Voices;

/// How long Envoy may take to answer on all listeners: the look-up of a name that does not answer takes 15 s, and a
/// busy machine takes long to compile the filters.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a process may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often something is looked at that cannot be waited for.
const GLANCE: Duration = Duration::from_millis(20);

/// What can happen while both run.
#[derive(Debug)]
enum Event {
    App(ExitStatus),
    Envoy(ExitStatus),
    Signal,
}

/// Runs Envoy, and the app if there is one, until either ends or a signal asks for the end. Returns the exit code:
/// the app's, or that of a failure.
pub fn run(args: &args::Run, checked: Checked) -> Result<u8, Failure> {
    let Checked { document, secrets, config, admin_given, origin, .. } = checked;
    let Some(mut config) = config else { return Err(Failure::new("the configuration has errors")) };
    let program = envoy::find(args.envoy.as_deref())?;
    let folder = places::folder()?;
    places::settle(&mut config, admin_given, folder.path())?;
    let (events, happened) = channel();
    watch_signals(&events)?;
    filters::extract(folder.path())?;
    let machine = Machine { modules: folder.path(), authorities: envoy::authorities() };
    let bootstrap = folder.path().join("bootstrap.yaml");
    let text = render::bootstrap(&config, &document, machine)?;
    fs::write(&bootstrap, text).map_err(|error| Failure::file(&bootstrap, &error))?;
    let mut keeper = keeper::Keeper::start(folder.path())?;
    let envoy = Envoy::start(&program, &bootstrap, &secrets, args, &events, &mut keeper)?;
    let drain = Duration::from_secs(args.dapr_graceful_shutdown_seconds.into());
    let mut session = Session { config: &config, origin, drain, happened, envoy, app: None };
    let code = session.serve(args, &events, &mut keeper);
    session.end_envoy();
    places::remove_sockets(&config);
    keeper.dismiss();
    code
}

fn watch_signals(events: &Sender<Event>) -> Result<(), Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::new(format!("signals can't be received: {error}")))?;
    let events = events.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Envoy, the app, and what happens to them.
struct Session<'a> {
    config: &'a Config,
    /// Where the configuration comes from.
    origin: Origin,
    /// How long calls in flight may take when the end is near.
    drain: Duration,
    happened: Receiver<Event>,
    envoy: Envoy,
    app: Option<App>,
}

/// The app, and what tells when all that it said has been passed on.
struct App {
    group: Group,
    heard: Receiver<()>,
    started: Instant,
}

impl Session<'_> {
    fn serve(&mut self, args: &args::Run, events: &Sender<Event>, keeper: &mut keeper::Keeper) -> Result<u8, Failure> {
        if !self.wait_until_ready()? {
            return Ok(0);
        }
        for line in servers::silent(self.config) {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        let voices = Voices::of(args);
        voices.tell(&places::table(self.config, &self.origin), places::object(self.config, &self.origin));
        if !args.app.is_empty() {
            let (group, heard) = app::start(args, self.config, events, keeper)?;
            self.app = Some(App { group, heard, started: Instant::now() });
        }
        match self.happened.recv() {
            Ok(Event::App(status)) => {
                let lasted = self.app.as_ref().map(|app| app.started.elapsed()).unwrap_or_default();
                self.end_app(false);
                if !status.success() {
                    let seconds = lasted.as_secs_f32();
                    let text = format!("the app ended after {seconds:.1} s ({status}), and Envoy ends with it\n");
                    // Nobody is left to be told when the standard error output is closed.
                    let _ = io::stderr().write_all(text.as_bytes());
                }
                Ok(exit_code(status))
            }
            Ok(Event::Envoy(status)) => {
                self.end_app(true);
                Err(self.envoy.ended(status))
            }
            // A signal; the threads that send keep the channel open.
            Ok(Event::Signal) | Err(_) => Ok(self.end_app(true).map_or(0, exit_code)),
        }
    }

    /// Waits until every listener answers. False: a signal asked for the end before.
    fn wait_until_ready(&mut self) -> Result<bool, Failure> {
        let started = Instant::now();
        let listeners = || render::api_listeners(self.config).map(|(_, listen)| listen);
        loop {
            match self.happened.recv_timeout(GLANCE) {
                Ok(Event::Envoy(status)) => return Err(self.envoy.ended(status)),
                Ok(Event::Signal) => return Ok(false),
                Ok(Event::App(_)) | Err(_) => {}
            }
            let admin = &self.config.listeners.admin;
            let live = *admin == Listen::Off || admin::get(admin, "/ready").is_ok();
            if live && listeners().into_iter().all(|listen| *listen == Listen::Off || admin::connect(listen).is_ok()) {
                return Ok(true);
            }
            if started.elapsed() > READY_WITHIN {
                let seconds = READY_WITHIN.as_secs();
                return Err(Failure::new(format!(
                    "Envoy does not answer on all listeners after {seconds} s{}",
                    self.envoy.what_it_said()
                )));
            }
        }
    }

    /// Ends the app with all that it started. `ask`: it is still there and must be asked to end.
    fn end_app(&mut self, ask: bool) -> Option<ExitStatus> {
        let App { group, heard, .. } = self.app.take()?;
        let status = if ask {
            self.end(group, |event| if let Event::App(status) = event { Some(status) } else { None })
        } else {
            None
        };
        group.sweep();
        voices::hear_out(&heard);
        status
    }

    fn end_envoy(&mut self) {
        if self.envoy.has_ended() {
            return;
        }
        self.drain();
        self.end(self.envoy.group, |event| if let Event::Envoy(status) = event { Some(status) } else { None });
        self.envoy.group.sweep();
    }

    /// Lets calls in flight come to their end.
    fn drain(&self) {
        let admin = &self.config.listeners.admin;
        if *admin == Listen::Off || admin::post(admin, "/healthcheck/fail").is_err() {
            return;
        }
        let started = Instant::now();
        while admin::calls_in_flight(admin).is_ok_and(|calls| calls > 0) && started.elapsed() < self.drain {
            // A second signal is impatience.
            if matches!(self.happened.recv_timeout(GLANCE), Ok(Event::Signal)) {
                return;
            }
        }
    }

    /// Asks a group to end, and ends it if it does not within [`END_WITHIN`] or when another signal arrives.
    fn end(&self, group: Group, ended: impl Fn(Event) -> Option<ExitStatus>) -> Option<ExitStatus> {
        group.ask();
        let mut deadline = Instant::now() + END_WITHIN;
        let mut killed = false;
        loop {
            match self.happened.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Signal) | Err(RecvTimeoutError::Timeout) if !killed => {
                    group.kill();
                    killed = true;
                    deadline = Instant::now() + END_WITHIN;
                }
                Ok(event) => {
                    if let Some(status) = ended(event) {
                        return Some(status);
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

/// The exit code of a shell for what ended like that.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Lines with columns of equal width.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let missing = width(at).unwrap_or_default().saturating_sub(cell.chars().count());
            cell.chars().chain(iter::repeat_n(' ', missing)).collect::<String>()
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}
