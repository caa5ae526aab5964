//! Thin clients of the protocols that servers speak, over what [`crate::proxy::Proxy`] offers.

pub mod apollo;
pub mod etcd;
pub(crate) mod http;
pub mod redis;
