//! Thin clients of the protocols that servers speak, over what [`crate::proxy::Proxy`] offers.

use std::fmt;

pub mod apollo;
pub mod etcd;
pub(crate) mod http;
pub mod memcached;
mod pipeline;
pub mod redis;

pub use pipeline::Broken;

/// Why a server did not do what it was asked to.
pub trait Failure: fmt::Display {
    /// Whether the same may succeed a little later: there is no server, or none that is ready.
    fn is_passing(&self) -> bool;

    /// Whether there is no room for the request or its answer.
    fn is_exhausted(&self) -> bool {
        false
    }
}
