//! Raw TCP for the runtime filter: `tunnel.wasm`.
//!
//! A wasm filter can keep one kind of stream open, gRPC. This filter stands in front of the codec of a cluster whose
//! upstream is raw TCP, and makes a gRPC stream out of the connection: it takes the frames off what goes out and
//! puts one around what comes in. It must have a `vm_id` of its own: opening a stream creates its context at once,
//! and a VM cannot be entered from within.
//!
//! All bytes of all stores pass through it, and Envoy keeps three of its VMs for each worker set. So it does without
//! the SDK and without `std`, which would make it twenty times as large (docs/decisions/0007-a-small-tunnel.md).

#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(not(test))]
mod abi;
mod frames;
