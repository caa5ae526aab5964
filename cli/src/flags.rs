//! The flags of `dapr run`, of `daprd` and of `layotto start`: what becomes of each here. A command line that works
//! with them is to work with `run`; what cannot be done is said, each reason once.

use std::fmt::Write as _;

use clap::{Arg, ArgMatches, Command, Error, FromArgMatches};

use crate::Failure;
use crate::report::Finding;
use crate::source::Spot;

/// A flag of another program.
#[derive(Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// The programs that have it.
    pub of: &'static [Program],
    /// What becomes of it.
    pub fate: Fate,
}

/// A program of which `run` takes the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `dapr run`, of Dapr's CLI.
    DaprRun,
    /// `daprd`, the runtime of Dapr.
    Daprd,
}

use Program::{DaprRun, Daprd};

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it does there; in what way, where that is not plain.
    Served(&'static str),
    /// It is taken with its value, and one line says why it has no effect.
    Idle(&'static str),
    /// The same for a flag that needs no value.
    IdleSwitch(&'static str),
    /// It is refused, since to go on would break a promise; what to use instead.
    Refused(&'static str),
    /// The same for a flag that needs no value.
    RefusedSwitch(&'static str),
    /// This value asks for nothing that is not so; any other is refused, with what to use instead.
    Only(&'static str, &'static str),
}

use Fate::{Idle, IdleSwitch, Only, Refused, RefusedSwitch, Served};

const BOTH: &[Program] = &[DaprRun, Daprd];
const RUN: &[Program] = &[DaprRun];
const DAEMON: &[Program] = &[Daprd];

const NO_CALLS: &str = "nothing calls the app yet";
const NO_ACTORS: &str = "actors, reminders, jobs and workflows are not served yet";
const NO_PEERS: &str = "runtimes do not call each other yet, and Envoy has the TLS between services";
const METRICS: &str =
    "metrics are at /stats/prometheus of Envoy's admin interface, for which --admin-port takes a port";
const PROFILING: &str = "Envoy's admin interface has /cpuprofiler and /heapprofiler";
const HEADERS: &str = "Envoy takes headers of up to 60 KiB";

/// All flags, by name.
pub const FLAGS: &[Flag] = &[
    Flag { name: "actors-disseminate-timeout", of: DAEMON, fate: Idle(NO_ACTORS) },
    Flag { name: "actors-service", of: DAEMON, fate: Idle(NO_ACTORS) },
    Flag {
        name: "allowed-origins",
        of: DAEMON,
        fate: Served("absent: no page of another origin is allowed, and no headers of CORS are sent"),
    },
    Flag { name: "app-binding-options-timeout", of: DAEMON, fate: Idle(NO_CALLS) },
    Flag {
        name: "app-channel-address",
        of: BOTH,
        fate: Served("the app gets it as `APP_CHANNEL_ADDRESS`; nothing calls it yet"),
    },
    Flag { name: "app-health-check-path", of: BOTH, fate: Idle(NO_CALLS) },
    Flag { name: "app-health-probe-interval", of: BOTH, fate: Idle(NO_CALLS) },
    Flag { name: "app-health-probe-timeout", of: BOTH, fate: Idle(NO_CALLS) },
    Flag { name: "app-health-threshold", of: BOTH, fate: Idle(NO_CALLS) },
    Flag { name: "app-id", of: BOTH, fate: Served("also `-a`; absent: `APP_ID`, else the name of the folder") },
    Flag { name: "app-max-concurrency", of: BOTH, fate: Idle(NO_CALLS) },
    Flag { name: "app-port", of: BOTH, fate: Served("also `-p`; the app gets it as `APP_PORT`; nothing calls it yet") },
    Flag {
        name: "app-protocol",
        of: BOTH,
        fate: Served("also `-P`; the app gets it as `APP_PROTOCOL`; nothing calls it yet"),
    },
    Flag {
        name: "app-ssl",
        of: BOTH,
        fate: Served("`APP_PROTOCOL` becomes `https` or `grpcs`; nothing calls the app yet"),
    },
    Flag { name: "build-info", of: DAEMON, fate: RefusedSwitch("use `envoy-runtime --version`") },
    Flag { name: "components-path", of: BOTH, fate: Served("the same as `--resources-path`, also `-d`") },
    Flag {
        name: "config",
        of: BOTH,
        fate: Served("also `-c`, and more than once; `spec.secrets` and `spec.api` of its documents are taken"),
    },
    Flag { name: "control-plane-address", of: DAEMON, fate: Idle("there is no control plane") },
    Flag { name: "control-plane-namespace", of: DAEMON, fate: Idle("there is no control plane") },
    Flag { name: "control-plane-trust-domain", of: DAEMON, fate: Idle("there is no control plane") },
    Flag {
        name: "dapr-block-shutdown-duration",
        of: DAEMON,
        fate: Idle("the app ends first, and the runtime is there until it has"),
    },
    Flag {
        name: "dapr-graceful-shutdown-seconds",
        of: DAEMON,
        fate: Served("how long calls in flight may take at the end; 3 by default"),
    },
    Flag {
        name: "dapr-grpc-port",
        of: BOTH,
        fate: Served(
            "also `-G`; 0 or less takes a free one; absent: 50001, or a free one where another flag takes that",
        ),
    },
    Flag { name: "dapr-http-max-request-size", of: DAEMON, fate: Served("in MiB; becomes `limits.maxRequestBytes`") },
    Flag {
        name: "dapr-http-port",
        of: BOTH,
        fate: Served(
            "also `-H`; 0 or less takes a free one; absent: 3500, or a free one where another flag takes that",
        ),
    },
    Flag { name: "dapr-http-read-buffer-size", of: DAEMON, fate: Idle(HEADERS) },
    Flag { name: "dapr-internal-grpc-listen-address", of: DAEMON, fate: Idle(NO_PEERS) },
    Flag { name: "dapr-internal-grpc-port", of: BOTH, fate: Idle(NO_PEERS) },
    Flag {
        name: "dapr-listen-addresses",
        of: BOTH,
        fate: Served("one IP address, of the listeners of Dapr's API; `0.0.0.0` and `[::]` stand for all"),
    },
    Flag {
        name: "dapr-public-listen-address",
        of: DAEMON,
        fate: Refused(
            "health and metadata are on the port of --dapr-http-port alone; let --dapr-listen-addresses say where",
        ),
    },
    Flag {
        name: "dapr-public-port",
        of: DAEMON,
        fate: Refused("health and metadata are on the port of --dapr-http-port alone"),
    },
    Flag { name: "disable-builtin-k8s-secret-store", of: DAEMON, fate: IdleSwitch("no secret store is built in") },
    Flag { name: "disable-init-endpoints", of: DAEMON, fate: Idle(NO_CALLS) },
    Flag { name: "enable-api-logging", of: BOTH, fate: Served("a line for each call; `--log-level debug` has it too") },
    Flag { name: "enable-app-health-check", of: BOTH, fate: IdleSwitch(NO_CALLS) },
    Flag { name: "enable-metrics", of: DAEMON, fate: IdleSwitch(METRICS) },
    Flag { name: "enable-mtls", of: DAEMON, fate: IdleSwitch(NO_PEERS) },
    Flag { name: "enable-profiling", of: BOTH, fate: IdleSwitch(PROFILING) },
    Flag { name: "help", of: BOTH, fate: Served("also `-h`") },
    Flag {
        name: "hot-reload-reconcile-interval",
        of: DAEMON,
        fate: Idle("files are read at the start alone; start it again after a change"),
    },
    Flag {
        name: "kubernetes",
        of: RUN,
        fate: RefusedSwitch("`envoy-runtime render bootstrap` writes the configuration for an Envoy in a pod"),
    },
    Flag { name: "log-as-json", of: BOTH, fate: Served("the same as `--output json`") },
    Flag { name: "log-level", of: BOTH, fate: Served("`fatal` and `panic` are `error`") },
    Flag { name: "max-body-size", of: BOTH, fate: Served("becomes `limits.maxRequestBytes`") },
    Flag { name: "metrics-listen-address", of: DAEMON, fate: Idle(METRICS) },
    Flag { name: "metrics-port", of: BOTH, fate: Idle(METRICS) },
    Flag {
        name: "mode",
        of: DAEMON,
        fate: Only("standalone", "`envoy-runtime render bootstrap` writes the configuration for an Envoy in a pod"),
    },
    Flag { name: "placement-host-address", of: BOTH, fate: Idle(NO_ACTORS) },
    Flag { name: "profile-port", of: BOTH, fate: Idle(PROFILING) },
    Flag { name: "read-buffer-size", of: BOTH, fate: Idle(HEADERS) },
    Flag { name: "reminders-service", of: DAEMON, fate: Idle(NO_ACTORS) },
    Flag {
        name: "resources-path",
        of: BOTH,
        fate: Served(
            "more than once, or with commas; absent: the first of `./components`, `./resources`, `~/.dapr/components`",
        ),
    },
    Flag {
        name: "run-file",
        of: RUN,
        fate: Refused("an envoy-runtime for each app is to be started; `-f` names a runtime.yaml here"),
    },
    Flag { name: "runtime-path", of: RUN, fate: Idle("the runtime is in this program; --envoy names the Envoy") },
    Flag { name: "scheduler-host-address", of: BOTH, fate: Idle(NO_ACTORS) },
    Flag { name: "scheduler-job-streams", of: DAEMON, fate: Idle(NO_ACTORS) },
    Flag { name: "sentry-address", of: DAEMON, fate: Idle(NO_PEERS) },
    Flag { name: "sentry-request-jwt-audiences", of: DAEMON, fate: Idle(NO_PEERS) },
    Flag {
        name: "unix-domain-socket",
        of: BOTH,
        fate: Served("also `-u`; `dapr-<app id>-grpc.socket` and `dapr-<app id>-http.socket` in that folder"),
    },
    Flag { name: "version", of: DAEMON, fate: Served("also `-V`") },
    Flag {
        name: "wait",
        of: DAEMON,
        fate: RefusedSwitch("`run` starts the app when all answers; others ask `/v1.0/healthz/outbound`"),
    },
];

/// Flags with one letter that are not served.
const SHORT: &[(&str, char)] = &[("dapr-internal-grpc-port", 'I'), ("metrics-port", 'M'), ("kubernetes", 'k')];

/// The flags of `layotto start` that have no effect; `--config`, `-c` and `--log-level`, `-l` have one.
pub const LAYOTTO: &[&str] = &[
    "service-cluster",
    "service-node",
    "service-type",
    "service-meta",
    "service-lables",
    "cluster-domain",
    "feature-gates",
    "pod-namespace",
    "pod-name",
    "pod-ip",
    "log-format",
    "component-log-level",
    "logging-level",
    "logging-path",
    "local-address-ip-version",
    "restart-epoch",
    "drain-time-s",
    "parent-shutdown-time-s",
    "max-obj-name-len",
    "log-format-prefix-with-location",
    "bootstrap-version",
    "drain-strategy",
    "disable-hot-restart",
];

/// The flags given that this program does not serve, each with its value.
#[derive(Debug, Default)]
pub struct Foreign(Vec<(&'static Flag, String)>);

impl Foreign {
    /// Says what has no effect, each reason once, and refuses what is refused.
    pub fn judge(&self) -> Result<Vec<Finding>, Failure> {
        let mut idle: Vec<(&str, String)> = Vec::new();
        for (flag, value) in &self.0 {
            let off = value == "false" && matches!(flag.fate, IdleSwitch(_) | RefusedSwitch(_));
            match flag.fate {
                _ if off => {}
                Idle(why) | IdleSwitch(why) => add(&mut idle, why, flag.name),
                Only(value_that_holds, _) if value == value_that_holds => {}
                Only(_, instead) => {
                    return Err(Failure::new(format!("--{} {value} is not served: {instead}", flag.name)));
                }
                Refused(instead) | RefusedSwitch(instead) => {
                    return Err(Failure::new(format!("--{} is not served: {instead}", flag.name)));
                }
                Served(_) => {}
            }
        }
        let finding = |(why, flags): (&str, String)| Finding::warning(Spot::whole(flags), "", no_effect(why));
        Ok(idle.into_iter().map(finding).collect())
    }

    /// Those that nothing comes of since nothing calls the app.
    pub fn about_calls_to_the_app(flags: &[&str]) -> Option<Finding> {
        let mut idle = Vec::new();
        for flag in flags {
            add(&mut idle, NO_CALLS, flag);
        }
        let (why, flags) = idle.pop()?;
        Some(Finding::warning(Spot::whole(flags), "", no_effect(why)))
    }
}

fn add<'a>(reasons: &mut Vec<(&'a str, String)>, why: &'a str, flag: &str) {
    match reasons.iter_mut().find(|(reason, _)| *reason == why) {
        Some((_, flags)) => {
            // Writing to a text does not fail.
            let _ = write!(flags, ", --{flag}");
        }
        None => reasons.push((why, format!("--{flag}"))),
    }
}

fn no_effect(why: &str) -> String {
    format!("has no effect: {why}")
}

/// The flags that have to be added to those that this program has itself.
fn foreign() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(|flag| !matches!(flag.fate, Served(_)))
}

impl clap::Args for Foreign {
    fn augment_args(command: Command) -> Command {
        foreign().fold(command, |command, flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true).action(clap::ArgAction::Append);
            let short = SHORT.iter().find(|(name, _)| *name == flag.name);
            let arg = short.map_or(arg.clone(), |(_, letter)| arg.short(*letter));
            command.arg(match flag.fate {
                IdleSwitch(_) | RefusedSwitch(_) => {
                    arg.num_args(0..=1).require_equals(true).default_missing_value("true")
                }
                // Dapr's own defaults are often -1.
                _ => arg.allow_hyphen_values(true),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Foreign {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = foreign().flat_map(|flag| {
            let values = matches.get_many::<String>(flag.name).into_iter().flatten();
            values.map(move |value| (flag, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags of `layotto start` that were given and have no effect here.
#[derive(Debug, Default)]
pub struct LayottosFlags(Vec<&'static str>);

impl LayottosFlags {
    /// Says that they have none.
    pub fn finding(&self) -> Option<Finding> {
        let flags: Vec<String> = self.0.iter().map(|flag| format!("--{flag}")).collect();
        let text = no_effect("it is for MOSN");
        (!flags.is_empty()).then(|| Finding::warning(Spot::whole(flags.join(", ")), "", text))
    }
}

impl clap::Args for LayottosFlags {
    fn augment_args(command: Command) -> Command {
        LAYOTTO.iter().fold(command, |command, name| {
            let arg = Arg::new(*name).long(*name).hide(true).action(clap::ArgAction::Append).allow_hyphen_values(true);
            let is_switch = *name == "disable-hot-restart";
            command.arg(if is_switch {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                arg
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LayottosFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self(LAYOTTO.iter().copied().filter(|name| matches.contains_id(name)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flags of the other programs as a table for the docs.
pub fn table() -> String {
    let mut text = String::from("| Flag | Of | Here |\n|---|---|---|\n");
    for Flag { name, of, fate } in FLAGS {
        let of: Vec<&str> = of.iter().map(|it| if *it == DaprRun { "`dapr run`" } else { "`daprd`" }).collect();
        let here = match fate {
            Served(how) => format!("served: {how}"),
            Idle(why) | IdleSwitch(why) => format!("taken, without effect: {why}"),
            Refused(instead) | RefusedSwitch(instead) => format!("refused: {instead}"),
            Only(value, instead) => format!("`{value}` is taken; any other is refused: {instead}"),
        };
        // Writing to a text does not fail.
        let _ = writeln!(text, "| `--{name}` | {} | {here} |", of.join(", "));
    }
    text
}

/// A size as Kubernetes and Dapr write it, such as `4Mi`, in bytes.
pub fn quantity(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    let (number, unit) = UNITS.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
    number.parse::<i64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, bytes) in [("4Mi", Some(4 << 20)), ("16Ki", Some(16384)), ("5M", Some(5_000_000)), ("77", Some(77))]
        {
            assert_eq!(quantity(text), bytes, "{text}");
        }
        for wrong in ["", "Mi", "4MB", "many", "9223372036854775807Gi"] {
            assert_eq!(quantity(wrong), None, "{wrong}");
        }
    }
}
