//! Finds the two filters that `make filters` builds, for `src/filters.rs` to embed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const FILES: [&str; 2] = ["runtime.wasm", "tunnel.wasm"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=ENVOY_RUNTIME_FILTERS");
    let (Some(out), Some(manifest)) = (folder("OUT_DIR"), folder("CARGO_MANIFEST_DIR")) else {
        println!("cargo::error=OUT_DIR and CARGO_MANIFEST_DIR are set by cargo; run this through cargo");
        return ExitCode::FAILURE;
    };
    let asked = folder("ENVOY_RUNTIME_FILTERS");
    let candidates = match &asked {
        Some(dir) => vec![dir.clone()],
        None => built_by_cargo(&out, &manifest),
    };
    let found = candidates.iter().find(|dir| FILES.iter().all(|file| dir.join(file).is_file()));
    // Rebuilt when the filters change, and when they come to be.
    let watched = found.map_or(candidates.as_slice(), std::slice::from_ref);
    for file in watched.iter().flat_map(|dir| FILES.map(|file| dir.join(file))) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    if let (None, Some(dir)) = (found, asked) {
        let dir = dir.display();
        println!("cargo::error=ENVOY_RUNTIME_FILTERS={dir} holds no {}; run `make filters`", FILES.join(" and no "));
        return ExitCode::FAILURE;
    }
    if found.is_none() {
        // Lint and unit tests need no filters; the binary says so itself where it would need them.
        println!("cargo::warning=the filters are not built, so this binary can only check; run `make filters` first");
    }
    for file in FILES {
        let embedded = out.join(file);
        let written = match found {
            Some(dir) => std::fs::copy(dir.join(file), &embedded).map(|_| ()),
            None => std::fs::write(&embedded, []),
        };
        if let Err(error) = written {
            println!("cargo::error={}: {error}", embedded.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Where `cargo build --profile filter --target wasm32-wasip1` leaves them: beside what is being built now, which is
/// `<target>/<profile>/build/<package>/out` or one level deeper with `--target`, or in the workspace's own folder.
fn built_by_cargo(out: &Path, manifest: &Path) -> Vec<PathBuf> {
    let target = |dir: &Path| dir.join("wasm32-wasip1").join("filter");
    let beside = out.ancestors().skip(4).take(2).map(target);
    beside.chain(manifest.parent().map(|root| target(&root.join("target")))).collect()
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}
