//! Finds the filters that `make filters` builds, for `src/filters.rs` to embed, and says what `--version` tells of
//! them.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sha2::{Digest as _, Sha256};

/// The filters, and whether the binary can do without.
const FILES: [(&str, Need); 3] =
    [("runtime.wasm", Need::Always), ("runtime-state.wasm", Need::Saves), ("tunnel.wasm", Need::Always)];
/// How many bytes of a hash are told: enough to find out which file it is.
const TOLD: usize = 6;

#[derive(Clone, Copy, PartialEq)]
enum Need {
    /// Without it nothing runs.
    Always,
    /// It saves memory; another one does the same.
    Saves,
}

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=ENVOY_RUNTIME_FILTERS");
    println!("cargo::rerun-if-env-changed=ENVOY_RUNTIME_COMMIT");
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let (Some(out), Some(manifest)) = (folder("OUT_DIR"), folder("CARGO_MANIFEST_DIR")) else {
        return Err("OUT_DIR and CARGO_MANIFEST_DIR are set by cargo; run this through cargo".to_owned());
    };
    let asked = folder("ENVOY_RUNTIME_FILTERS");
    let candidates = asked.clone().map_or_else(|| built_by_make(&out, &manifest), |dir| vec![dir]);
    let found =
        candidates.iter().find(|dir| FILES.iter().all(|(name, need)| *need == Need::Saves || dir.join(name).is_file()));
    // Built again when the filters change, and when they come to be.
    for dir in found.map_or(candidates.as_slice(), std::slice::from_ref) {
        println!("cargo::rerun-if-changed={}", from_here(dir, &manifest).display());
    }
    if let (None, Some(dir)) = (found, asked) {
        return Err(format!(
            "ENVOY_RUNTIME_FILTERS={} does not hold runtime.wasm and tunnel.wasm; run `make filters`",
            dir.display()
        ));
    }
    if found.is_none() {
        // Lint and unit tests need no filters; the binary says so itself where it would need them.
        println!("cargo::warning=the filters are not built, so this binary can only check; run `make filters` first");
    }
    let mut told = String::new();
    if let Some(commit) = env::var("ENVOY_RUNTIME_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        let _ = write!(told, "commit {commit}|");
    }
    for (name, _) in FILES {
        let file = found.map(|dir| dir.join(name)).filter(|file| file.is_file());
        let content = match &file {
            Some(file) => fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
        };
        if file.is_some() {
            let hash = Sha256::digest(&content)
                .iter()
                .take(TOLD)
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            let _ = write!(told, "{name} sha256:{hash}|");
        }
        let embedded = out.join(name);
        // Anew, and not into what is there: that may be another build's by a link.
        let _ = fs::remove_file(&embedded);
        fs::write(&embedded, content).map_err(|error| format!("{}: {error}", embedded.display()))?;
    }
    // A line each; cargo takes one line, so the lines are told apart by a bar.
    println!("cargo::rustc-env=ENVOY_RUNTIME_BUILD={}", told.trim_end_matches('|'));
    Ok(())
}

/// Where `make filters` puts them: the folder `filters` beside those of cargo's profiles. What is being built now is in
/// `<target>/<profile>/build/<package>/out`, one level deeper with `--target`; else it is the workspace's own folder.
fn built_by_make(out: &Path, manifest: &Path) -> Vec<PathBuf> {
    // The workspace itself has a folder of that name: the sources.
    let root = manifest.parent();
    let beside = out.ancestors().skip(4).take(2).filter(|dir| root != Some(*dir)).map(Path::to_owned);
    beside.chain(root.map(|root| root.join("target"))).map(|dir| dir.join("filters")).collect()
}

/// The path seen from this package, where it lies in the workspace: what cargo keeps then names no folder of this
/// machine.
fn from_here(path: &Path, manifest: &Path) -> PathBuf {
    let within = manifest.parent().and_then(|root| path.strip_prefix(root).ok());
    within.map_or_else(|| path.to_owned(), |within| Path::new("..").join(within))
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}
