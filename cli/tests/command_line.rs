//! What `envoy-runtime` says about itself.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;

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
