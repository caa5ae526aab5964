//! The app: started with the environment that the SDKs of Dapr and Layotto look at.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use runtime_api::config::Config;

use super::group::Group;
use super::keeper::Keeper;
use super::voices::Voices;
use super::{Event, places};
use crate::args::{AppProtocol, Port};
use crate::{Failure, args};

/// Starts the app; its end becomes an event.
pub(super) fn start(
    args: &args::Run,
    config: &Config,
    events: &Sender<Event>,
    keeper: &mut Keeper,
) -> Result<(Group, Receiver<()>), Failure> {
    let Some((program, arguments)) = args.app.split_first() else { return Err(Failure::new("no app is given")) };
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, value) in environment(args, config) {
        match value {
            Some(value) => command.env(name, value),
            // What is inherited would lead to some other runtime.
            None => command.env_remove(name),
        };
    }
    if io::stdin().is_terminal() {
        // A group that is not the terminal's own would be stopped when it reads.
        command.stdin(Stdio::null());
    }
    let voices = Voices::of(args);
    voices.listen(&mut command);
    let (group, mut child) = Group::start(&mut command).map_err(|error| did_not_start(Path::new(program), &error))?;
    let heard = voices.pass_on(&mut child);
    keeper.watch(group).inspect_err(|_| group.kill())?;
    let events = events.clone();
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            // The receiver is gone only when all has been ended anyway.
            let _ = events.send(Event::App(status));
        }
    });
    Ok((group, heard))
}

/// Why an app did not start, and what would help.
fn did_not_start(program: &Path, error: &io::Error) -> Failure {
    let name = program.display();
    let help = match error.kind() {
        io::ErrorKind::NotFound if program.components().count() == 1 => {
            format!("; there is no program {name} in PATH: check its name, or give its path")
        }
        io::ErrorKind::NotFound => "; check its path, and the interpreter in its first line".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("; make it executable (chmod +x {name}), or start it by its interpreter, such as python3 {name}")
        }
        _ if error.raw_os_error() == Some(NO_PROGRAM) => {
            format!("; start it by its interpreter, such as python3 {name}")
        }
        _ => String::new(),
    };
    Failure::new(format!("the app {name} did not start: {error}{help}"))
}

/// Linux says so of a file that is no program, such as a script without `#!`.
const NO_PROGRAM: i32 = 8; // ENOEXEC

/// The variables of the app; `None`: must not be set.
fn environment(args: &args::Run, config: &Config) -> Vec<(&'static str, Option<String>)> {
    let listeners = &config.listeners;
    let text = |port: Option<u16>| port.map(|port| port.to_string());
    let app_port = if let Some(Port::Number(port @ 1..)) = args.app_port { Some(port) } else { None };
    let address = args.app_channel_address.as_deref().unwrap_or("127.0.0.1");
    let mut variables = vec![
        ("APP_ID", Some(config.app_id.clone()).filter(|id| !id.is_empty())),
        ("APP_PROTOCOL", Some(protocol(args).to_owned())),
        ("APP_CHANNEL_ADDRESS", Some(address.to_owned())),
        ("DAPR_GRPC_PORT", text(places::port(&listeners.dapr_grpc))),
        ("DAPR_HTTP_PORT", text(places::port(&listeners.dapr_http))),
        ("DAPR_GRPC_ENDPOINT", places::grpc_endpoint(&listeners.dapr_grpc)),
        ("DAPR_HTTP_ENDPOINT", places::http_endpoint(&listeners.dapr_http)),
        ("runtime_GRPC_PORT", text(places::port(&listeners.layotto_grpc))), // Layotto's own spelling
    ];
    if app_port.is_some() {
        variables.push(("APP_PORT", text(app_port)));
    }
    if let Some(token) = &config.api_token {
        variables.push(("DAPR_API_TOKEN", Some(token.reveal().to_owned())));
    }
    variables
}

/// What the app speaks, as Dapr's CLI tells it.
fn protocol(args: &args::Run) -> &'static str {
    match (args.app_protocol.unwrap_or(AppProtocol::Http), args.app_ssl == Some(true)) {
        (AppProtocol::Http, false) => "http",
        (AppProtocol::Http, true) | (AppProtocol::Https, _) => "https",
        (AppProtocol::Grpc, false) => "grpc",
        (AppProtocol::Grpc, true) | (AppProtocol::Grpcs, _) => "grpcs",
        (AppProtocol::H2c, _) => "h2c",
    }
}
