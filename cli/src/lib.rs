//! `envoy-runtime`: runs, renders and checks the Layotto and Dapr runtime APIs inside an Envoy.

pub mod args;
pub mod filters;
pub mod flags;
pub mod render;
pub mod report;
pub mod run;
pub mod source;

use std::fmt;
use std::path::Path;

/// Why something could not be done, for the user to read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// A reason in words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What went wrong with a file.
    pub fn file(path: &Path, error: &dyn fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}
