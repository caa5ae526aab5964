//! Thin clients of the protocols that servers speak, over what [`crate::proxy::Proxy`] offers.

pub mod etcd;
pub mod redis;
