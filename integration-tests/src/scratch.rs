//! Directories for temporary files. With `RUNTIME_TEST_KEEP=1` they stay, with the configurations and logs of the
//! servers in them.

use std::ffi::OsStr;
use std::path::Path;

use tempfile::{Builder, TempDir};

/// A new directory, removed when it is dropped.
pub fn directory(name: &str) -> TempDir {
    let prefix = format!("runtime-test-{name}-");
    Builder::new().prefix(&prefix).disable_cleanup(is_kept()).tempdir().expect("a temporary directory can be made")
}

/// What is to be removed of a directory when its owner could not: all of it, or nothing.
pub fn rubbish(directory: &Path) -> &OsStr {
    if is_kept() { OsStr::new("") } else { directory.as_os_str() }
}

fn is_kept() -> bool {
    std::env::var_os("RUNTIME_TEST_KEEP").is_some_and(|value| value == "1")
}
