//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Serves the Layotto and Dapr runtime APIs from inside an Envoy.
#[derive(Debug, Parser)]
#[command(name = "envoy-runtime", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start an Envoy that serves the APIs, and an app that uses them
    ///
    /// Envoy is looked for at --envoy, in the environment variable ENVOY, in PATH, and then in .tools/envoy, where
    /// `make basics` puts a copy. When all listeners answer, the components and endpoints are printed, and a line
    /// with the word ready.
    Run(Box<Run>),
    /// Print the configuration for an Envoy that you start yourself
    Render(Box<Render>),
    /// Say everything that is wrong with a configuration
    ///
    /// The exit code is 0 if it can be used (there may be warnings), 1 if not, 2 if a file could not be read.
    Check(Box<Check>),
    /// Write the filters, runtime.wasm, runtime-state.wasm and tunnel.wasm, into a folder
    Extract {
        /// The folder; it is made if need be
        dir: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Where the configuration is, and what of it is given on the command line.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("source").required(true).args(["file", "resources_path", "layotto_config"])))]
#[command(next_help_heading = "Configuration (one of --file, --resources-path, --layotto-config)")]
pub struct Source {
    /// A runtime.yaml
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A folder of Dapr component files; may be given more than once
    #[arg(long, value_name = "DIR", requires = "app_id", alias = "components-path")]
    pub resources_path: Vec<PathBuf>,
    /// The id of the app; with --resources-path, whose files don't say it
    #[arg(long, value_name = "ID", requires = "resources_path")]
    pub app_id: Option<String>,
    /// A Dapr configuration (kind: Configuration), of which spec.secrets.scopes is taken; with --resources-path
    #[arg(long, value_name = "FILE", requires = "resources_path")]
    pub config: Option<PathBuf>,
    /// A Layotto configuration (JSON)
    #[arg(long, value_name = "FILE")]
    pub layotto_config: Option<PathBuf>,
    /// Port of Dapr's gRPC API instead of the configured one; 0 takes a free one, `off` none
    #[arg(long, value_name = "PORT")]
    pub dapr_grpc_port: Option<Port>,
    /// Port of Dapr's HTTP API, likewise
    #[arg(long, value_name = "PORT")]
    pub dapr_http_port: Option<Port>,
    /// Port of Layotto's gRPC API, likewise
    #[arg(long, value_name = "PORT")]
    pub layotto_port: Option<Port>,
    /// Port of Envoy's admin interface, likewise; `run` takes a free one if none is configured
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<Port>,
}

/// A port as given to a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This one; 0: any that is free.
    Number(u16),
    /// The listener is left out.
    Off,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(port) => Ok(Self::Number(port)),
            Err(_) if text == "off" => Ok(Self::Off),
            Err(_) => Err("a port from 0 to 65535, or off, is expected".to_owned()),
        }
    }
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration.
    #[command(flatten)]
    pub source: Source,
    /// The Envoy to start
    #[arg(long, env = "ENVOY", value_name = "PATH", help_heading = "Envoy")]
    pub envoy: Option<PathBuf>,
    /// Worker threads of Envoy; by default one per CPU and at most two
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Envoy")]
    pub concurrency: Option<u16>,
    /// How much is logged, by Envoy and by the filters in it
    #[arg(long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL", help_heading = "Envoy")]
    pub log_level: LogLevel,
    /// Where Envoy's log goes instead of the standard error output
    #[arg(long, value_name = "FILE", help_heading = "Envoy")]
    pub log_file: Option<PathBuf>,
    /// The port that the app listens on; accepted as Dapr's CLI does, nothing calls the app yet
    #[arg(long, value_name = "PORT", help_heading = "App")]
    pub app_port: Option<u16>,
    /// The app to start, with its arguments: what follows `--`
    #[arg(last = true, value_name = "APP", help_heading = "App")]
    pub app: Vec<std::ffi::OsString>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// All that Envoy and the filters can say
    Trace,
    /// What the filters do, call by call
    Debug,
    /// What the filters have to say, and warnings of Envoy
    Info,
    /// Warnings and errors
    #[value(alias = "warning")]
    Warn,
    /// Errors
    Error,
}

/// `render`
#[derive(Debug, Args)]
pub struct Render {
    /// What to print
    #[arg(value_enum)]
    pub what: What,
    /// The configuration.
    #[command(flatten)]
    pub source: Source,
    /// Where to write it instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the variables that Envoy needs in its environment, which hold the secrets, into a file that only you can
    /// read; without it their names are printed to the standard error output
    #[arg(long, value_name = "FILE")]
    pub secrets_file: Option<PathBuf>,
    /// Where the filters are on the machine that runs Envoy (see `extract`)
    #[arg(long, value_name = "DIR", default_value = "/etc/envoy")]
    pub modules: PathBuf,
}

/// What `render` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A complete configuration of Envoy (YAML)
    Bootstrap,
    /// The configuration of the filter alone (JSON)
    Filter,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration.
    #[command(flatten)]
    pub source: Source,
    /// How to print what is found
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line each; with colours and the place on a terminal
    Text,
    /// An array of objects {file, line, column, field, severity, message}
    Json,
}
