//! `envoy-runtime`: runs, renders and checks the Layotto and Dapr runtime APIs inside an Envoy.

pub mod args;
pub mod filters;
pub mod flags;
pub mod render;
pub mod report;
pub mod run;
pub mod source;

use std::fmt;
use std::io::{self, ErrorKind};
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

    /// Why a file or a folder of the user's could not be read, and what to do about it.
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::NotFound => "; check the path, or say nothing of it: `envoy-runtime run` takes what is here",
            ErrorKind::PermissionDenied => "; let this user read it (chmod u+r, chown)",
            _ => "",
        };
        Self(format!("{}: {error}{advice}", path.display()))
    }

    /// What went wrong with a file.
    pub fn file(path: &Path, error: &dyn fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}
