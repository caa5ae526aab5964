//! Raw TCP for the runtime filter, and the bus by which it pushes to streams of the app: `tunnel.wasm`.
//!
//! Which of the two a context is shows in what Envoy calls: a tunnel is an HTTP filter, a bus a network filter. They
//! share a VM, since a VM weighs more than both. It must not be the runtime filter's: opening a stream creates the
//! context of its tunnel at once, and a VM cannot be entered from within.
//!
//! The tunnel: a wasm filter can keep one kind of stream open, gRPC. This filter stands in front of the codec of a
//! cluster whose upstream is raw TCP, and makes a gRPC stream out of the connection: it takes the frames off what
//! goes out and puts one around what comes in.
//!
//! The bus is [`runtime_bus`]. Here it is only given its bytes.
//!
//! All bytes of all stores pass through here, and Envoy keeps three of these VMs for each worker set. So it does
//! without the SDK and without `std`, which would make it twenty times as large
//! (docs/decisions/0007-a-small-tunnel.md).

#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(not(test))]
mod abi;
mod frames;
