//! Where the programs are that the tests run. `make test` says it by environment variables; the defaults are where
//! `make tools` and `make build` put things.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::fresh;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// Envoy: `ENVOY`.
pub fn envoy() -> PathBuf {
    from_environment("ENVOY", ".tools/envoy/1.40.0/envoy", "make tools")
}

/// The CLI of this project: `ENVOY_RUNTIME`. What is older than its sources is refused.
pub fn envoy_runtime() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let program = from_environment("ENVOY_RUNTIME", "target/quick/envoy-runtime", "make quick");
        fresh::insist(&program);
        program
    };
    PROGRAM.get_or_init(find).clone()
}

/// A Python with the Dapr SDK: `RUNTIME_TEST_PYTHON`.
pub fn python() -> PathBuf {
    from_environment("RUNTIME_TEST_PYTHON", ".tools/python/bin/python", "make tools")
}

/// The directory `node_modules` with the Dapr SDK for JavaScript.
pub fn node_modules() -> PathBuf {
    from_environment("RUNTIME_TEST_NODE_MODULES", ".tools/node/node_modules", "make tools")
}

/// The new etcd: `RUNTIME_TEST_ETCD`.
pub fn etcd() -> PathBuf {
    from_environment("RUNTIME_TEST_ETCD", ".tools/etcd/3.7/etcd", "make tools")
}

/// The etcd of Debian, 3.4: `RUNTIME_TEST_ETCD_DEBIAN`.
pub fn etcd_of_debian() -> PathBuf {
    from_environment("RUNTIME_TEST_ETCD_DEBIAN", ".tools/etcd/debian/etcd", "make tools")
}

/// The directory with Apollo's clients for Java: `RUNTIME_TEST_JARS`.
pub fn jars() -> PathBuf {
    from_environment("RUNTIME_TEST_JARS", ".tools/java", "make tools")
}

/// A gRPC client that is not ours: `RUNTIME_TEST_GRPCURL`.
pub fn grpcurl() -> PathBuf {
    from_environment("RUNTIME_TEST_GRPCURL", ".tools/bin/grpcurl", "make tools")
}

/// The filter with a method that traps: `RUNTIME_TEST_TRAP`.
pub fn filter_that_traps() -> PathBuf {
    let filter =
        from_environment("RUNTIME_TEST_TRAP", "target/quick/filters/runtime-trap.wasm", "make filters-for-tests");
    fresh::insist(&filter);
    filter
}

/// An app with Dapr's SDK for Go: `RUNTIME_TEST_DAPR_GO`.
pub fn dapr_go() -> PathBuf {
    from_environment("RUNTIME_TEST_DAPR_GO", ".tools/bin/dapr-go", "make tools")
}

/// A program of the operating system, looked up in PATH.
pub fn system(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `make tools` installs it"))
}

fn from_environment(variable: &str, default: &str, remedy: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| workspace().join(default), PathBuf::from);
    assert!(path.exists(), "{} does not exist: set {variable}, or run `{remedy}`", path.display());
    path
}
