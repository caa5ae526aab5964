//! The filters that Envoy loads, embedded in this binary.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use runtime_api::component::STATE_DRIVERS;
use runtime_api::config::Config;

use crate::Failure;

/// The HTTP filter that answers the APIs.
const RUNTIME: &str = "runtime.wasm";
/// The same with the drivers for state alone.
const STATE: &str = "runtime-state.wasm";
/// The upstream filter that carries raw TCP.
pub const TUNNEL: &str = "tunnel.wasm";

/// Name and content of each.
const FILES: [(&str, &[u8]); 3] = [
    (RUNTIME, include_bytes!(concat!(env!("OUT_DIR"), "/runtime.wasm"))),
    (STATE, include_bytes!(concat!(env!("OUT_DIR"), "/runtime-state.wasm"))),
    (TUNNEL, include_bytes!(concat!(env!("OUT_DIR"), "/tunnel.wasm"))),
];

/// What `--version` tells: the version, the commit if this was built for others, and the filters.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{}\n{}", runtime_api::VERSION, env!("ENVOY_RUNTIME_BUILD").replace('|', "\n")));
    VERSION.trim_end()
}

fn embedded(name: &str) -> bool {
    FILES.iter().any(|(file, content)| *file == name && !content.is_empty())
}

/// The smallest HTTP filter that serves a configuration.
pub fn runtime(config: &Config) -> &'static str {
    let is_small = |kind| STATE_DRIVERS.iter().any(|driver| driver.kind == kind);
    let small = config.components.iter().all(|component| is_small(component.driver.kind));
    // Left out of a build that is made in haste (`make run`); the other serves the same.
    let left_out = embedded(RUNTIME) && !embedded(STATE);
    if small && !left_out { STATE } else { RUNTIME }
}

/// Writes the filters into `dir`, which is made if need be.
pub fn extract(dir: &Path) -> Result<(), Failure> {
    if !embedded(RUNTIME) || !embedded(TUNNEL) {
        return Err(Failure::new("this binary was built without the filters; run make build"));
    }
    fs::create_dir_all(dir).map_err(|error| Failure::file(dir, &error))?;
    for (name, content) in FILES.into_iter().filter(|(_, content)| !content.is_empty()) {
        let path = dir.join(name);
        fs::write(&path, content).map_err(|error| Failure::file(&path, &error))?;
    }
    Ok(())
}
