//! Finds the filters that `make filters` builds, for `src/filters.rs` to embed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name of each filter, and where cargo puts it under the folder of the target.
const FILES: [(&str, &str); 3] = [
    ("runtime.wasm", "filter/runtime.wasm"),
    ("runtime-state.wasm", "filter-state/runtime.wasm"),
    ("tunnel.wasm", "filter/tunnel.wasm"),
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=ENVOY_RUNTIME_FILTERS");
    let (Some(out), Some(manifest)) = (folder("OUT_DIR"), folder("CARGO_MANIFEST_DIR")) else {
        println!("cargo::error=OUT_DIR and CARGO_MANIFEST_DIR are set by cargo; run this through cargo");
        return ExitCode::FAILURE;
    };
    let asked = folder("ENVOY_RUNTIME_FILTERS");
    let candidates = match &asked {
        Some(dir) => vec![FILES.map(|(name, _)| dir.join(name))],
        None => built_by_cargo(&out, &manifest).map(|dir| FILES.map(|(_, path)| dir.join(path))).collect(),
    };
    let found = candidates.iter().find(|files| files.iter().all(|file| file.is_file()));
    // Rebuilt when the filters change, and when they come to be.
    let watched = found.map_or(candidates.as_slice(), std::slice::from_ref);
    for file in watched.iter().flatten() {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if let (None, Some(dir)) = (found, asked) {
        let names = FILES.map(|(name, _)| name).join(" and no ");
        println!("cargo::error=ENVOY_RUNTIME_FILTERS={} holds no {names}; run `make filters`", dir.display());
        return ExitCode::FAILURE;
    }
    if found.is_none() {
        // Lint and unit tests need no filters; the binary says so itself where it would need them.
        println!("cargo::warning=the filters are not built, so this binary can only check; run `make filters` first");
    }
    for (index, (name, _)) in FILES.iter().enumerate() {
        let embedded = out.join(name);
        let written = match found.and_then(|files| files.get(index)) {
            Some(file) => std::fs::copy(file, &embedded).map(|_| ()),
            None => std::fs::write(&embedded, []),
        };
        if let Err(error) = written {
            println!("cargo::error={}: {error}", embedded.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Where cargo puts what it builds for the filters' target: beside what is being built now, which is
/// `<target>/<profile>/build/<package>/out` or one level deeper with `--target`, or in the workspace's own folder.
fn built_by_cargo(out: &Path, manifest: &Path) -> impl Iterator<Item = PathBuf> {
    let target = |dir: &Path| dir.join("wasm32-wasip1");
    let beside = out.ancestors().skip(4).take(2).map(target);
    beside.chain(manifest.parent().map(|root| target(&root.join("target"))))
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}
