//! The command line of `envoy-runtime`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use envoy_runtime::args::{self, Cli, Command, Output, What};
use envoy_runtime::flags::{self, Foreign};
use envoy_runtime::render::Machine;
use envoy_runtime::report::{self, Finding, Style};
use envoy_runtime::source::{self, Checked, Place};
use envoy_runtime::{Failure, filters, render, run};
use runtime_api::config::secrets;

/// The configuration is wrong, or what was asked for failed.
const FAILED: u8 = 1;
/// A file could not be read; clap's own code for a wrong command line.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    // No command for a user: this is how the binary starts itself.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == run::KEEPER) {
        return run::keep().map_or_else(|failure| fail(&failure, FAILED), |()| ExitCode::SUCCESS);
    }
    let outcome = match Cli::parse().command {
        Command::Run(args) => start(&args),
        Command::Start(args) => {
            if let Some(finding) = args.idle.finding() {
                tell(&[finding]);
            }
            start(&args.as_run())
        }
        Command::Render(args) => print_rendered(&args),
        Command::Check(args) => return check(&args),
        Command::Extract { dir } => filters::extract(&dir).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "envoy-runtime", &mut script);
            print(&script)
        }
        Command::Man => manual(),
    };
    outcome.unwrap_or_else(|failure| fail(&failure, FAILED))
}

fn fail(failure: &Failure, code: u8) -> ExitCode {
    let (start, end) = if Style::of(&io::stderr()) == Style::Colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    // Nobody is left to be told when the standard error output is closed.
    let _ = writeln!(io::stderr(), "{start}error:{end} {failure}");
    ExitCode::from(code)
}

fn start(args: &args::Run) -> Result<ExitCode, Failure> {
    check_dashes(args, std::env::args_os())?;
    let mut idle = args.foreign.judge()?;
    idle.extend(Foreign::about_calls_to_the_app(&args.about_calls_to_the_app()));
    tell(&idle);
    let Some(checked) = usable(&args.source, Place::Here)? else { return Ok(ExitCode::from(FAILED)) };
    if let Some(file) = &args.write_config {
        render::write_runtime(file, &checked)?;
    }
    run::run(args, checked).map(ExitCode::from)
}

/// Long flags with one dash, which `daprd` takes, would be read as short ones with a value.
fn check_dashes(args: &args::Run, arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let arguments: Vec<OsString> = arguments.collect();
    let ours = arguments.len().saturating_sub(args.app.len());
    for argument in arguments.iter().take(ours).filter_map(|argument| argument.to_str()) {
        let Some(name) = argument.strip_prefix('-').filter(|name| !name.starts_with('-')) else { continue };
        let name = name.split('=').next().unwrap_or_default();
        if name.len() > 1 && flags::FLAGS.iter().any(|flag| flag.name == name) {
            return Err(Failure::new(format!("-{name} has one dash; write --{name}")));
        }
    }
    Ok(())
}

/// Says what has no effect.
fn tell(findings: &[Finding]) {
    let mut errors = io::stderr();
    // Nobody is left to be warned when the standard error output is closed.
    let _ = report::write(findings, Style::of(&errors), &mut errors);
}

fn print_rendered(args: &args::Render) -> Result<ExitCode, Failure> {
    let Some(checked) = usable(&args.source, Place::Elsewhere)? else { return Ok(ExitCode::from(FAILED)) };
    let text = match (args.what, &checked.config) {
        (What::Bootstrap, Some(config)) => {
            let machine = Machine { modules: &args.modules, authorities: Path::new(render::AUTHORITIES) };
            render::bootstrap(config, &checked.document, machine)?
        }
        _ => format!("{:#}\n", checked.document),
    };
    hand_over_secrets(args, &checked)?;
    match &args.output {
        Some(file) => fs::write(file, text).map_err(|error| Failure::file(file, &error))?,
        None => return print(text.as_bytes()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the secrets apart from the configuration, or says what Envoy must be given.
fn hand_over_secrets(args: &args::Render, checked: &Checked) -> Result<(), Failure> {
    let mut needed = secrets::variables(&checked.document);
    let mut instead = ", which hold its secrets";
    if let Some(file) = &args.secrets_file {
        render::write_private(file, &source::environment_file(&checked.secrets))?;
        needed.retain(|name| !checked.secrets.iter().any(|written| written.name == *name));
    } else if !checked.secrets.is_empty() {
        instead = ", which hold its secrets; --secrets-file FILE writes them";
    }
    if !needed.is_empty() {
        let names = needed.join(", ");
        // Nobody is left to be told when the standard error output is closed.
        let _ = writeln!(io::stderr(), "note: Envoy needs these variables in its environment{instead}: {names}");
    }
    Ok(())
}

/// The configuration, if it can be used; what is to be said about it goes to the standard error output.
fn usable(source: &args::Source, place: Place) -> Result<Option<Checked>, Failure> {
    let checked = source::read(source, place)?;
    let mut errors = io::stderr();
    report::write(&checked.findings, Style::of(&errors), &mut errors)
        .map_err(|error| Failure::file(Path::new("standard error output"), &error))?;
    Ok(checked.config.is_some().then_some(checked))
}

fn check(args: &args::Check) -> ExitCode {
    let checked = match source::read(&args.source, Place::Elsewhere) {
        Ok(checked) => checked,
        Err(failure) => return fail(&failure, UNUSABLE),
    };
    let mut out = io::stdout();
    let style = if args.output == Output::Json { Style::Json } else { Style::of(&out) };
    let written = report::write(&checked.findings, style, &mut out).and_then(|()| match &checked.config {
        Some(config) if style != Style::Json => {
            let names: Vec<&str> = config.components.iter().map(|component| component.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let app = if config.app_id.is_empty() { "without an id" } else { &config.app_id };
            writeln!(out, "ok: app {app}, components: {names}")
        }
        _ => Ok(()),
    });
    match (written, checked.config) {
        (Ok(()), Some(_)) => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    }
}

fn manual() -> Result<ExitCode, Failure> {
    let mut page = Vec::new();
    let unwritten = |error: io::Error| Failure::new(error.to_string());
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(unwritten)?;
    let mut command = Cli::command();
    command.build();
    // One page for all: the flags of each command follow as sections of their own.
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        writeln!(page, ".SH \"envoy\\-runtime {}\"", sub.get_name()).map_err(unwritten)?;
        let part = clap_mangen::Man::new(sub.clone());
        part.render_synopsis_section(&mut page).map_err(unwritten)?;
        part.render_description_section(&mut page).map_err(unwritten)?;
        part.render_options_section(&mut page).map_err(unwritten)?;
    }
    print(&page)
}

/// Writes to the standard output; a reader that has read enough is no failure.
fn print(bytes: &[u8]) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("standard output: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
