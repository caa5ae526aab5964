//! Thin clients of the protocols that servers speak, over what [`crate::proxy::Proxy`] offers.

pub mod etcd;
pub mod apollo;
pub(crate) mod http;
pub mod redis;
