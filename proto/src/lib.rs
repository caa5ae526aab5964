//! The messages of the Dapr and Layotto runtime APIs, generated from the .proto files of this crate.
//!
//! `bytes` fields are [`bytes::Bytes`], so a value taken out of a message shares the buffer it was decoded from; maps
//! are `BTreeMap`s, so what is encoded does not depend on the run. With the feature `clients` each service also has a
//! tonic client and a tonic server, for tests; the filters go by [`METHODS`] instead.

mod files;
mod methods;
mod packages;

pub use files::{File, file, file_of};
pub use methods::{METHODS, Method, is_service, method};
pub use packages::{dapr, etcd, google, grpc, spec};

/// Every .proto file of this crate, compiled: a serialized `google.protobuf.FileDescriptorSet`.
#[cfg(feature = "descriptors")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
