//! The generated code, one module for each protobuf package.
//!
//! The level `proto` of the package names is left out. The modules stand one level below the crate root to make up for
//! it: a generated path from one package to another counts four levels up.

// It is not for us to say how generated code reads.
#![allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, clippy::pedantic)]

/// The Dapr API.
pub mod dapr {
    /// Messages that several building blocks share.
    pub mod common {
        /// The package `dapr.proto.common.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/dapr.proto.common.v1.rs"));
        }
    }
    /// The services and their messages.
    pub mod runtime {
        /// The package `dapr.proto.runtime.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/dapr.proto.runtime.v1.rs"));
        }
    }
}

/// etcd's API, as far as the runtime calls it.
pub mod etcd {
    /// Keys and values: the package `mvccpb`.
    pub mod mvccpb {
        include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
    }
    /// What can be asked of the server: the package `etcdserverpb`.
    pub mod etcdserverpb {
        include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
    }
}

/// Types of Google's common protos that the APIs use.
pub mod google {
    /// The package `google.rpc`, as far as it is used.
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

/// Protocols of the gRPC project.
pub mod grpc {
    /// Health checking.
    pub mod health {
        /// The package `grpc.health.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
        }
    }
    /// Server reflection.
    pub mod reflection {
        /// The package `grpc.reflection.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
        }
        /// The package `grpc.reflection.v1alpha`.
        pub mod v1alpha {
            include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1alpha.rs"));
        }
    }
}

/// The Layotto API.
pub mod spec {
    /// The services and their messages.
    pub mod runtime {
        /// The package `spec.proto.runtime.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/spec.proto.runtime.v1.rs"));
        }
    }
}
