//! Methods that do what must never happen, so that tests see what comes of it. Only the build of `make filters-for-tests`
//! has them.

use crate::entry;

/// Ends the VM at once; `integration_tests::TRAP`.
const TRAP: &str = "/runtime.Test/Trap";

/// Calls the filter as Envoy does, within this call of Envoy's; `integration_tests::REENTER`.
const REENTER: &str = "/runtime.Test/Reenter";

/// Does what this path asks for.
pub(crate) fn at(path: &str) {
    match path {
        TRAP => std::process::abort(),
        REENTER => entry::reenter(),
        _ => {}
    }
}
