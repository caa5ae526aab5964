//! `envoy-runtime check` on wrong configurations: each folder of `tests/wrong` holds one and, in `expected.txt`, all
//! that is to be said about it. With `UPDATE=1` in the environment the files are written instead of compared.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn wrong() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong")
}

fn envoy_runtime(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
    command.current_dir(folder).args(arguments).env_remove("DAPR_API_TOKEN").env_remove("NAMESPACE");
    command.output().unwrap()
}

/// The source in a folder, as flags.
fn source(folder: &Path) -> Vec<&'static str> {
    let flags = [
        ("runtime.yaml", vec!["-f", "runtime.yaml"]),
        ("components", vec!["--app-id", "orders", "--resources-path", "components"]),
        ("layotto.json", vec!["--layotto-config", "layotto.json"]),
    ];
    flags.into_iter().find(|(file, _)| folder.join(file).exists()).unwrap().1
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let mut folders: Vec<PathBuf> = fs::read_dir(wrong()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 10, "{folders:?}");
    for folder in folders {
        let output = envoy_runtime(&folder, &[&["check"], &source(&folder)[..]].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{folder:?}: {said}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{folder:?}");
        let file = folder.join("expected.txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, said).unwrap();
        } else {
            assert_eq!(said, fs::read_to_string(&file).unwrap(), "{folder:?}");
        }
    }
}

#[test]
fn a_program_gets_the_same_as_json() {
    let folder = wrong().join("unknown-type");
    let output = envoy_runtime(&folder, &["check", "-f", "runtime.yaml", "--output", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &findings[0];
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(findings.as_array().unwrap().len(), 2);
    assert_eq!(
        (&first["file"], &first["line"], &first["column"], &first["field"], &first["severity"]),
        (&"runtime.yaml".into(), &4.into(), &3.into(), &"components[0].type".into(), &"error".into())
    );
    assert!(first["message"].as_str().unwrap().starts_with("unknown component type \"state.reddis\""), "{first}");
}

#[test]
fn a_right_one_is_said_to_be() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy-configs");
    for (arguments, said) in [
        (vec!["-f", "in-memory.yaml"], "ok: app orders, components: statestore\n"),
        (vec!["-f", "redis.yaml"], "ok: app orders, components: statestore\n"),
        (vec!["-f", "locks-and-ids.yaml"], "ok: app orders, components: lockstore, sturdy-lockstore, sequences\n"),
        (vec!["-f", "etcd.yaml"], "ok: app orders, components: statestore, lock_demo, sequencer_demo, config_demo\n"),
        (
            vec!["--app-id", "orders", "--resources-path", "dapr-components-etcd"],
            "ok: app orders, components: statestore\n",
        ),
        (
            vec!["--app-id", "orders", "--resources-path", "dapr-components"],
            "ok: app orders, components: configstore, lockstore, statestore\n",
        ),
        (vec!["--app-id", "other", "--resources-path", "dapr-components"], "ok: app other, components: none\n"),
        (
            vec!["--layotto-config", "layotto/config_etcd.json"],
            "ok: app orders, components: config_demo, lock_demo, sequencer_demo\n",
        ),
        (
            vec!["--layotto-config", "layotto/config_apollo.json"],
            "layotto/config_apollo.json:32:29: warning: servers[0].listeners[0].filter_chains[0].filters[0].config.grpc_config\
             .config_store.config_demo.metadata.is_backup_config: has no effect: a filter writes no files: nothing is read \
             while Apollo is away\n\
             ok: app orders, components: config_demo\n",
        ),
        (
            vec!["--layotto-config", "layotto/config_redis.json"],
            "ok: app orders, components: state_demo, lock_demo, sequencer_demo\n",
        ),
    ] {
        let output = envoy_runtime(&examples, &[&["check"], &arguments[..]].concat());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), said);
        assert!(output.status.success());
    }
}

#[test]
fn flags_are_checked_with_the_rest() {
    let folder = wrong().join("same-name");
    let ports = ["--dapr-grpc-port", "4000", "--dapr-http-port", "4000"];
    let output = envoy_runtime(&folder, &[&["check", "-f", "runtime.yaml"], &ports[..]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    let text = "--dapr-http-port: error: listeners.daprHttp: 127.0.0.1:4000 is taken by daprGrpc; each listener needs its own\n";
    assert!(said.contains(text), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_another_failure() {
    let output = envoy_runtime(&wrong(), &["check", "-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: nowhere.yaml: "));
}
