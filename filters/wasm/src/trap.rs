//! A method that ends the VM at once, so that tests see what becomes of all that the worker had open. Only the build of
//! `make filters-for-tests` has it.

/// Its path, as `integration_tests::TRAP` has it.
const PATH: &str = "/runtime.Test/Trap";

/// Traps if this is the path of a request.
pub(crate) fn at(path: &str) {
    if path == PATH {
        std::process::abort();
    }
}
