//! What `envoy-runtime` says about itself.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::Command;

use envoy_runtime::flags::{self, Fate, Program};

/// Exit code, standard output and standard error output.
fn envoy_runtime(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_envoy-runtime")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, _) = envoy_runtime(&["completions", shell]);
        assert_eq!(code, Some(0));
        assert!(script.contains("resources-path"), "{shell}");
        assert!(!script.contains("keeper"), "{shell}: what is hidden stays so");
    }
}

#[test]
fn the_manual_has_the_flags_of_every_command() {
    let (code, page, _) = envoy_runtime(&["man"]);
    assert_eq!(code, Some(0));
    for part in
        [".TH envoy-runtime 1", "envoy\\-runtime run", "\\-\\-resources\\-path", "\\-\\-concurrency", "\\-\\-modules"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("keeper"), "{page}");
}

#[test]
fn exactly_one_source_is_expected() {
    for arguments in [
        &["check"][..],
        &["check", "-f", "a.yaml", "--layotto-config", "b.json"],
        &["check", "--resources-path", "dir"],
        &["check", "-f", "a.yaml", "--app-id", "orders"],
        &["check", "-f", "a.yaml", "--dapr-http-port", "many"],
    ] {
        let (code, _, errors) = envoy_runtime(arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(errors.starts_with("error: "), "{errors}");
    }
}

/// The flags of Dapr's programs in version 1.18, by name, and those that take no value.
const DAPR_RUN: &str = include_str!("dapr/run.txt");
const DAPRD: &str = include_str!("dapr/daprd.txt");
const LAYOTTO_START: &str = include_str!("dapr/layotto-start.txt");

/// Name, letter and whether a value is needed of each flag in a list.
fn listed(list: &str) -> Vec<(&str, Option<&str>, bool)> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            let rest: Vec<&str> = words.collect();
            let letter = rest.iter().find(|word| word.len() == 1).copied();
            (name, letter, !rest.contains(&"switch"))
        })
        .collect()
}

/// A value that the flag may have.
fn example(name: &str) -> &'static str {
    match name {
        "allowed-origins" => "https://shop.example",
        "app-protocol" => "grpc",
        "log-level" => "fatal",
        "mode" => "standalone",
        "dapr-listen-addresses" => "127.0.0.1",
        "max-body-size" | "read-buffer-size" => "16Mi",
        _ => "7",
    }
}

/// Each flag of Dapr's is served, taken with one line that says why it has no effect, or refused with what to use
/// instead.
#[test]
fn every_flag_of_daprs_has_its_fate() {
    let folder = tempfile::tempdir().unwrap();
    for (program, list) in [(Program::DaprRun, DAPR_RUN), (Program::Daprd, DAPRD)] {
        let listed = listed(list);
        let known = flags::FLAGS.iter().filter(|flag| flag.of.contains(&program)).map(|flag| flag.name);
        let mut names: Vec<&str> = listed.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        assert_eq!(known.collect::<Vec<_>>(), names, "{program:?}");
        for (name, letter, takes_value) in listed {
            let fate = flags::FLAGS.iter().find(|flag| flag.name == name).unwrap().fate;
            let mut forms = vec![if takes_value {
                vec![format!("--{name}"), example(name).to_owned()]
            } else {
                vec![format!("--{name}")]
            }];
            if !takes_value && !["help", "version"].contains(&name) {
                forms.push(vec![format!("--{name}=true")]);
            }
            if let Some(letter) = letter {
                forms.push(if takes_value {
                    vec![format!("-{letter}"), example(name).to_owned()]
                } else {
                    vec![format!("-{letter}")]
                });
            }
            for form in forms {
                // An Envoy that is none: what is said up to there is what matters.
                let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
                command.current_dir(&folder).env("HOME", folder.path()).env_remove("ENVOY");
                let output = command.args(["run", "--envoy", "/nowhere"]).args(&form).args(["--", "true"]).output();
                let output = output.unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                match fate {
                    _ if ["help", "version"].contains(&name) => {
                        assert!(output.status.success(), "{form:?}: {said}");
                    }
                    Fate::Idle(why) | Fate::IdleSwitch(why) => {
                        assert!(
                            said.starts_with(&format!("--{name}: warning: has no effect: {why}\n")),
                            "{form:?}: {said}"
                        );
                        assert!(said.contains("error: /nowhere is no program"), "{form:?}: {said}");
                    }
                    Fate::Refused(instead) | Fate::RefusedSwitch(instead) => {
                        assert_eq!(said, format!("error: --{name} is not served: {instead}\n"), "{form:?}");
                    }
                    Fate::Only(..) => assert!(said.starts_with("error: /nowhere is no program"), "{form:?}: {said}"),
                    Fate::Served(how) => {
                        let nothing_calls = how.contains("nothing calls");
                        assert_eq!(said.contains("nothing calls the app yet"), nothing_calls, "{form:?}: {said}");
                        let found = ["/nowhere is no program", "7: No such file"].iter().any(|end| said.contains(end));
                        assert!(found, "{form:?}: {said}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_table_of_flags_in_the_docs_is_in_step() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flags-of-dapr.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once("| Flag | Of | Here |\n").unwrap();
    let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
    let expected = format!("{before}{}\n{after}", flags::table());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&page, expected).unwrap();
    } else {
        assert_eq!(text, expected, "`UPDATE=1 cargo test` writes it anew");
    }
}

#[test]
fn a_switch_that_is_off_asks_for_nothing_and_reasons_are_given_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
        command.current_dir(&folder).env("HOME", folder.path()).args(["run", "--envoy", "/nowhere"]).args(arguments);
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        said.lines().filter(|line| !line.contains("/nowhere")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(run(&["--enable-metrics=false", "--enable-mtls=false", "--kubernetes=false"]).is_empty());
    assert_eq!(
        run(&["--app-port", "6000", "--metrics-port", "-1", "--app-protocol", "grpc", "--placement-host-address", ""]),
        [
            "--metrics-port: warning: has no effect: metrics are at /stats/prometheus of Envoy's admin interface, for which \
             --admin-port takes a port",
            "--placement-host-address: warning: has no effect: actors, reminders, jobs and workflows are not served yet",
            "--app-port, --app-protocol: warning: has no effect: nothing calls the app yet",
        ]
    );
    assert_eq!(run(&["--mode", "kubernetes"]).len(), 1);
    assert_eq!(run(&["-app-id", "x"]), ["error: -app-id has one dash; write --app-id"]);
    // What follows the app is its own.
    assert!(run(&["python3", "app.py", "-app-id", "--kubernetes"]).is_empty());
    let typo = run(&["--app-idd", "x"]).join("\n");
    assert!(typo.contains("unexpected argument '--app-idd' found") && typo.contains("'--app-id'"), "{typo}");
}

#[test]
fn every_flag_of_layottos_start_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let layotto = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layotto/standalone.json");
    for (name, _, takes_value) in listed(LAYOTTO_START) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
        command.current_dir(&folder).env("ENVOY", "/nowhere").args(["start", "-c"]).arg(&layotto);
        if name == "config" {
            // given already
        } else if takes_value {
            let value = if name == "log-level" { "CRITICAL" } else { "7" };
            command.args([format!("--{name}"), value.to_owned()]);
        } else {
            command.arg(format!("--{name}"));
        }
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(
            said.ends_with("error: /nowhere is no program that could be started (from --envoy or ENVOY)\n"),
            "{said}"
        );
        let served = ["config", "log-level", "concurrency"].contains(&name);
        let warned = said.starts_with(&format!("--{name}: warning: has no effect: it is for MOSN\n"));
        assert_eq!(warned, !served, "{said}");
    }
}

#[test]
fn the_version_is_short_or_tells_of_what_it_was_built() {
    let (code, short, _) = envoy_runtime(&["-V"]);
    assert_eq!((code, short.as_str()), (Some(0), concat!("envoy-runtime ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, long, _) = envoy_runtime(&["--version"]);
    assert_eq!(code, Some(0));
    assert!(long.starts_with(short.trim_end()), "{long}");
    // The commit and the filters where they were there when it was built; each on a line of its own.
    for line in long.lines().skip(1) {
        let told = line.strip_prefix("commit ").or_else(|| line.split_once(" sha256:").map(|(_, hash)| hash));
        assert!(told.is_some_and(|told| !told.is_empty()), "{long}");
    }
}
