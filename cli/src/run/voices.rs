//! Who says what while things run: the lines of the app and of Envoy are told apart for a person at a terminal, and are
//! objects for a program. Where the output goes into a pipe or a file, and no objects are asked for, all is as it was
//! said.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::report::Style;
use crate::{Failure, args};

/// How long lines that are on their way may take once who said them is gone.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// How what is said is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voices {
    /// As it was said.
    Plain,
    /// With a mark in front of each line, in colours or not.
    Marked(Style),
    /// An object in a line each.
    Json,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// The app, by one of its two outputs.
    App(&'static str),
    /// Envoy, by its log.
    Envoy,
}

/// Takes one line after the other.
pub(super) type LineSink = Box<dyn FnMut(&[u8]) + Send>;

impl Voices {
    /// By the flags, and by where the output goes.
    pub(super) fn of(args: &args::Run) -> Self {
        let out = io::stdout();
        if args.output == args::Output::Json || args.log_as_json == Some(true) {
            Self::Json
        } else if out.is_terminal() {
            Self::Marked(Style::of(&out))
        } else {
            Self::Plain
        }
    }

    /// Has the outputs of the app pass through here, if they are to be changed.
    pub(super) fn listen(self, command: &mut Command) {
        if self != Self::Plain {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            if std::env::var_os(UNBUFFERED).is_none() {
                // Python else says what it has to say when it ends, since nobody seems to watch.
                command.env(UNBUFFERED, "1");
            }
        }
    }

    /// Passes on what the app says. All has been passed on when the receiver has no sender left.
    pub(super) fn pass_on(self, app: &mut Child) -> Receiver<()> {
        let (ended, all) = channel();
        let outputs: [(_, Option<Box<dyn Read + Send>>); 2] = [
            ("stdout", app.stdout.take().map(|it| Box::new(it) as _)),
            ("stderr", app.stderr.take().map(|it| Box::new(it) as _)),
        ];
        for (name, output) in outputs {
            let (Some(output), ended) = (output, ended.clone()) else { continue };
            thread::spawn(move || {
                let mut lines = BufReader::new(output);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    self.say(Voice::App(name), &line);
                    line.clear();
                }
                drop(ended);
            });
        }
        all
    }

    /// Where Envoy's log goes: a line at a time is handed over.
    pub(super) fn envoys_log(self, file: Option<&Path>) -> Result<LineSink, Failure> {
        let Some(path) = file else { return Ok(Box::new(move |line| self.say(Voice::Envoy, line))) };
        let mut file = File::create(path).map_err(|error| Failure::file(path, &error))?;
        // Envoy must not stand still because a disk is full.
        Ok(Box::new(move |line| drop(file.write_all(line))))
    }

    /// Writes a line. Nobody is left to be told when the output is closed.
    fn say(self, voice: Voice, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\n', '\r']);
        let (start, end) = match (self, voice) {
            (Self::Marked(Style::Colour), Voice::App(_)) => ("\x1b[94m", "\x1b[0m"),
            (Self::Marked(Style::Colour), Voice::Envoy) => ("\x1b[2m", "\x1b[0m"),
            _ => ("", ""),
        };
        let to_stderr = matches!(voice, Voice::App("stderr") | Voice::Envoy);
        let written = match self {
            Self::Plain => line.to_vec(),
            Self::Marked(_) => {
                let mark = if voice == Voice::Envoy { "== ENVOY ==" } else { "== APP ==" };
                format!("{start}{mark}{end} {text}\n").into_bytes()
            }
            Self::Json => {
                let (from, output) = if let Voice::App(output) = voice { ("app", output) } else { ("envoy", "log") };
                format!("{}\n", timed(json!({"from": from, "output": output, "line": text}))).into_bytes()
            }
        };
        let _ = if to_stderr && self != Self::Json {
            io::stderr().write_all(&written)
        } else {
            io::stdout().lock().write_all(&written).and_then(|()| io::stdout().flush())
        };
    }

    /// What the runtime itself has to say: `text` to a person, `object` to a program.
    pub(super) fn tell(self, text: &str, object: Value) {
        let written = if self == Self::Json { format!("{}\n", timed(object)) } else { text.to_owned() };
        let mut out = io::stdout().lock();
        // A reader of the output that went away is no reason to stop serving.
        let _ = out.write_all(written.as_bytes()).and_then(|()| out.flush());
    }
}

/// Waits for the last lines of the app, though not for a process that left it and goes on.
pub(super) fn hear_out(all: &Receiver<()>) {
    // The end of the senders is an error as well: it is what is waited for.
    let _ = all.recv_timeout(LAST_WORDS_WITHIN);
}

const UNBUFFERED: &str = "PYTHONUNBUFFERED";

fn timed(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        fields.insert("time".to_owned(), Value::String(now.to_string()));
    }
    object
}
