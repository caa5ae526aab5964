//! The command lines in the READMEs of the examples of Dapr's SDKs, with `dapr` replaced by `envoy-runtime` and nothing else. In the
//! place of each example's program stands one that makes a call to where the SDK would. As in `run.rs` the environment says with which
//! programs.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The SDK's repository and example, the command line behind `dapr`, and where the example looks for the runtime: by the variables that
/// are set for it, or at an address that it has in it.
const LINES: [(&str, &str, &str); 12] = [
    (
        "python-sdk/configuration",
        "run --app-id configexample --resources-path components/ -- python3 configuration.py",
        "",
    ),
    (
        "python-sdk/distributed_lock",
        "run --app-id=locksapp --app-protocol grpc --resources-path components/ -- python3 lock.py",
        "",
    ),
    (
        "python-sdk/metadata",
        "run --app-id=my-metadata-app --app-protocol grpc --resources-path components/ -- python3 app.py",
        "",
    ),
    (
        "python-sdk/secret_store",
        "run --app-id=secretsapp --app-protocol grpc --config config.yaml --resources-path components/ -- python3 example.py",
        "",
    ),
    ("python-sdk/state_store", "run --resources-path components/ -- python3 state_store.py", ""),
    (
        "go-sdk/hello-world",
        "run --app-id order-app --dapr-grpc-port 3500 --log-level error -- ./order put --id 20",
        "127.0.0.1:3500",
    ),
    (
        "go-sdk/hello-world",
        "run --app-id order-app --dapr-grpc-port 3500 --log-level error ./order get",
        "127.0.0.1:3500",
    ),
    (
        "go-sdk/socket",
        "run --app-id order-app --log-level error --unix-domain-socket /tmp ./order get",
        "-unix /tmp/dapr-order-app-grpc.socket",
    ),
    (
        "go-sdk/configuration",
        "run --app-id configuration-api --app-protocol grpc --app-port 5005 --dapr-http-port 3006 --log-level debug --resources-path \
         ./config/ go run ./main.go",
        "",
    ),
    (
        "js-sdk/distributedLock",
        "run --app-id lock --app-protocol grpc --components-path ./components npm run start",
        "",
    ),
    (
        "js-sdk/configuration",
        "run --app-id example-config --app-port 50051 --app-protocol grpc --resources-path ./components -- npm run start",
        "",
    ),
    ("js-sdk/invocation", "run --app-id example-invocation --app-port 50051 --app-protocol http npm run start", ""),
];

/// What the examples keep in the folders that their command lines name.
const COMPONENTS: &str = "\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec:
  type: state.redis
  version: v1
  metadata: [{name: redisHost, value: \"localhost:6379\"}, {name: redisPassword, value: \"\"}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: configurationstore}
spec:
  type: configuration.redis
  version: v1
  metadata: [{name: redisHost, value: \"localhost:6379\"}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: lockstore}
spec:
  type: lock.redis
  version: v1
  metadata: [{name: redisHost, value: \"localhost:6379\"}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: localsecretstore}
spec:
  type: secretstores.local.file
  version: v1
  metadata: [{name: secretsFile, value: secrets.json}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec:
  type: pubsub.redis
  version: v1
  metadata: [{name: redisHost, value: \"localhost:6379\"}]
";

const CONFIG: &str = "\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: daprConfig}
spec:
  secrets:
    scopes: [{storeName: localsecretstore, defaultAccess: deny, allowedSecrets: [secretKey]}]
";

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set; run these tests by `make test`"))
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command line in a folder like that of the example.
fn run(line: &str, address: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for place in ["components", "config"] {
        write(&at(&format!("{place}/all.yaml")), COMPONENTS, 0o644);
    }
    write(&at("config.yaml"), CONFIG, 0o644);
    write(&at("secrets.json"), "{\"secretKey\": \"secretValue\"}", 0o644);
    let address = if address.is_empty() { "127.0.0.1:$DAPR_GRPC_PORT" } else { address };
    let app = format!(
        "#!/bin/sh\necho \"$(basename $0) $@ of $APP_ID, ports $DAPR_GRPC_PORT $DAPR_HTTP_PORT\"\n\
         {} -plaintext {address} dapr.proto.runtime.v1.Dapr/GetMetadata\n",
        variable("RUNTIME_TEST_GRPCURL").display()
    );
    for name in ["order", "bin/python3", "bin/go", "bin/npm"] {
        write(&at(name), &app, 0o755);
    }
    let path = [at("bin").into_os_string(), ":".into(), variable("PATH")].concat_os();
    let mut command = Command::new(variable("ENVOY_RUNTIME"));
    command.current_dir(folder.path()).env("ENVOY", variable("ENVOY")).env("HOME", folder.path()).env("PATH", path);
    for name in ["DAPR_API_TOKEN", "APP_ID", "NAMESPACE", "DAPR_GRPC_PORT", "DAPR_HTTP_PORT"] {
        command.env_remove(name);
    }
    command.args(line.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

trait ConcatOs {
    fn concat_os(self) -> OsString;
}

impl<const N: usize> ConcatOs for [OsString; N] {
    fn concat_os(self) -> OsString {
        self.into_iter().fold(OsString::new(), |mut all, part| {
            all.push(part);
            all
        })
    }
}

/// The ports are those of the command lines, or Dapr's own, so one is run after the other.
#[test]
fn they_start_and_their_apps_find_the_runtime() {
    for (example, line, address) in LINES {
        // Some of the ports are also given by Linux to outgoing connections, for a while.
        let mut output = run(line, address);
        for _ in 0..20 {
            if !String::from_utf8_lossy(&output.stderr).contains("is taken by another program") {
                break;
            }
            sleep(Duration::from_secs(1));
            output = run(line, address);
        }
        let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{example}: envoy-runtime {line}\n{out}{errors}");
        let program =
            line.split_whitespace().rev().find(|word| ["python3", "./order", "go", "npm"].contains(word)).unwrap();
        let program = program.trim_start_matches("./");
        let id =
            line.replace('=', " ").split_once("--app-id ").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned());
        let said =
            out.lines().find(|line| line.contains(&format!("{program} ")) && line.contains(" of ")).unwrap_or_default();
        assert!(said.contains(&format!(" of {}", id.unwrap_or_default())), "{example}: {said:?} in\n{out}{errors}");
        assert!(out.contains("\"runtimeVersion\""), "{example}: envoy-runtime {line}\n{out}{errors}");
    }
}
