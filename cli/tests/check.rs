//! `envoy-runtime check` on wrong configurations: each folder of `tests/wrong` holds one and, in `expected.txt`, all
//! that is to be said about it. With `UPDATE=1` in the environment the files are written instead of compared.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use runtime_api::component::DRIVERS;

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
        let said = without_types(&String::from_utf8(output.stdout).unwrap());
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

/// The lists of the types that there are stand in no file: a driver more would change them all.
fn without_types(said: &str) -> String {
    let is_type =
        |name: &str| DRIVERS.iter().any(|driver| driver.kind == name || driver.kind.ends_with(&format!(".{name}")));
    let lines = said.lines().map(|line| match line.split_once("nown are ") {
        Some((before, names)) if names.split(", ").all(is_type) => {
            format!("{before}nown are (the types that there are)\n")
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn who_misspells_a_type_is_told_all_there_are() {
    let output = envoy_runtime(&wrong().join("unknown-type"), &["check", "-f", "runtime.yaml"]);
    let said = String::from_utf8(output.stdout).unwrap();
    for line in said.lines() {
        let (_, names) = line.split_once("nown are ").unwrap();
        let mut names: Vec<&str> = names.split(", ").collect();
        names.sort_unstable();
        let mut kinds: Vec<&str> = DRIVERS.iter().map(|driver| driver.kind).collect();
        kinds.sort_unstable();
        assert_eq!(names, kinds);
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

/// What is said about a folder of component files, with these variables.
fn components(folder: &Path, app: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
    command.current_dir(folder).args(["check", "--app-id", app, "--resources-path", "."]);
    let output =
        command.env_remove("DAPR_API_TOKEN").env_remove("NAMESPACE").envs(variables.to_vec()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// Configurations of the shapes that Layotto's own samples have.
#[test]
fn what_layotto_has_and_we_have_not_is_named_in_one_line_and_passed_over() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layotto");
    let backup = "servers[0].listeners[0].filter_chains[0].filters[1].config.grpc_config.config_store.config_demo.metadata\
                  .is_backup_config: has no effect: a filter writes no files: nothing is read while Apollo is away";
    let over = "warning: passed over, since it is not served yet";
    for (file, expected) in [
        (
            "mesh.json",
            format!(
                "mesh.json:1:1: {over}: hellos, the stream filter flowControlFilter, the stream filter grpc_metric, \
                 tracing, metrics, dynamic_resources, static_resources\n\
                 ok: app without an id, components: config_demo, lock_demo, sequencer_demo\n"
            ),
        ),
        (
            "apollo.json",
            format!(
                "apollo.json:1:1: {over}: hellos\napollo.json:43:29: warning: {backup}\n\
                 ok: app without an id, components: config_demo\n"
            ),
        ),
        ("socket.json", format!("socket.json:1:1: {over}: hellos\nok: app without an id, components: none\n")),
        (
            "standalone.json",
            format!(
                "standalone.json:1:1: {over}: hellos, pub_subs, file, bindings, custom_component, \
                 app.grpc_callback_port, the listener \"actuator\", tracing\n\
                 ok: app app1, components: state_demo, lock_demo, sequencer_demo\n"
            ),
        ),
        (
            "many-stores.json",
            format!(
                "many-stores.json:1:1: {over}: config_store.far (nacos), lock.far (zookeeper), lock.other (consul), \
                 sequencer.far (snowflake), sequencer.other (mongo)\n\
                 ok: app app1, components: near\n"
            ),
        ),
    ] {
        let output = envoy_runtime(&folder, &["check", "--layotto-config", file]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        assert!(output.status.success());
    }
}

#[test]
fn a_component_of_another_app_or_namespace_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = "apiVersion: v0
kind: Component
metadata: {name: s, namespace: NAMESPACE}
spec:
  type: state.reddis
  odd: true
  metadata:
  - {name: redisHost, value: nowhere}
  - {name: redisPassword, envRef: A_VARIABLE_THAT_IS_NOT_SET}
  - {name: redisUsername, secretKeyRef: {name: x}}
  - {value: x}
";
    let right = "kind: Component\nmetadata: {name: s, namespace: shop}\nspec: {type: state.in-memory}\n";
    fs::write(folder.path().join("right.yaml"), right).unwrap();
    let elsewhere = wrong.replace("NAMESPACE", "elsewhere");
    let file = folder.path().join("wrong.yaml");
    fs::write(&file, format!("{elsewhere}scopes: [billing, mail]\n")).unwrap();
    let ok = (true, "ok: app orders, components: s\n".to_owned());
    assert_eq!(components(folder.path(), "orders", &[]), ok);
    assert!(!components(folder.path(), "mail", &[]).0);
    // As in daprd: without a namespace of the app that of a component does not count.
    fs::write(&file, elsewhere).unwrap();
    assert!(!components(folder.path(), "orders", &[]).0);
    assert_eq!(components(folder.path(), "orders", &[("NAMESPACE", "shop")]), ok);
    assert!(!components(folder.path(), "orders", &[("NAMESPACE", "elsewhere")]).0);
    let none = (true, "ok: app orders, components: none\n".to_owned());
    assert_eq!(components(folder.path(), "orders", &[("NAMESPACE", "third")]), none);
}

#[test]
fn what_would_be_lost_under_a_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "precious").unwrap();
    fs::create_dir(path("dir")).unwrap();
    std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("old")).unwrap());
    for (name, what) in [
        ("file", Some("a file that is no socket")),
        ("dir", Some("a folder")),
        ("link", Some("a symbolic link")),
        ("old", None),
        ("new", None),
    ] {
        let socket = path(name).display().to_string();
        fs::write(path("r.yaml"), format!("appId: a\nlisteners:\n  daprGrpc: unix://{socket}\n")).unwrap();
        let output = envoy_runtime(folder.path(), &["check", "-f", "r.yaml"]);
        let expected = match what {
            Some(what) => format!(
                "r.yaml:3:3: error: listeners.daprGrpc: {socket} is {what}, and Envoy would put its socket there: choose \
                 another path\n"
            ),
            None => "ok: app a, components: none\n".to_owned(),
        };
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        assert_eq!(output.status.success(), what.is_none());
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "precious");
}

#[test]
fn a_mark_in_front_of_a_text_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), format!("\u{feff}{text}")).unwrap();
    write("secrets.json", r#"{"pin": 0.10}"#);
    write("token", "hvs.token\n");
    write(
        "r.yaml",
        "appId: a\ncomponents:\n- {name: f, type: secretstores.local.file, metadata: {secretsFile: secrets.json}}\n\
         - {name: v, type: secretstores.hashicorp.vault, metadata: {vaultTokenMountPath: token}}\n",
    );
    let output = envoy_runtime(folder.path(), &["check", "-f", "r.yaml"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok: app a, components: f, v\n");
    let arguments = ["render", "filter", "-f", "r.yaml", "--secrets-file", "s.env"];
    assert!(envoy_runtime(folder.path(), &arguments).status.success());
    let secrets = fs::read_to_string(folder.path().join("s.env")).unwrap();
    assert!(secrets.contains(r#"='{"pin":0.10}'"#) && secrets.contains("=hvs.token\n"), "{secrets}");

    let bytes: Vec<u8> = "\u{feff}appId: a".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path().join("r.yaml"), bytes).unwrap();
    let output = envoy_runtime(folder.path(), &["check", "-f", "r.yaml"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: r.yaml: it is encoded as UTF-16; save it as UTF-8\n");
}

#[test]
fn a_file_of_another_kind_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    for (text, said) in [
        ("apiVersion: dapr.io/v1alpha1\nkind: Component\n", "name the folder that it is in with --resources-path"),
        ("servers: []\n", "name it with --layotto-config"),
        ("version: 1\napps: []\n", "start an envoy-runtime for each of its apps"),
        ("static_resources: {}\n", "this is a configuration of Envoy's"),
        ("print\n", "this is no runtime.yaml, which has fields such as `appId: orders`"),
    ] {
        fs::write(folder.path().join("f"), text).unwrap();
        let output = envoy_runtime(folder.path(), &["check", "-f", "f"]);
        let lines = String::from_utf8(output.stdout).unwrap();
        assert!(lines.starts_with("f:1:1: error: ") && lines.contains(said) && lines.lines().count() == 1, "{lines}");
    }
    let output = envoy_runtime(folder.path(), &["check", "--app-id", "a", "--resources-path", "f"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: f: a folder of component files is expected, not a file; name the folder that it is in\n");
}
