//! Pushes to streams of the app: the bus.
//!
//! A wasm HTTP filter cannot start bytes downstream, but its root context may write at any time to a gRPC stream that
//! it opened. The bus joins the two. It is an HTTP/2 server inside Envoy, behind a cluster of its own, and both kinds
//! of streams arrive on one connection:
//!
//! - the **publisher**: the gRPC stream of the root context, with [`message::ToBus`] one way and
//!   [`message::FromBus`] the other;
//! - **subscribers**: the app's own streams, routed here, their request body replaced by [`message::hello`].
//!
//! What the publisher sends for a subscription is written as DATA of the subscriber's stream. [`Connection`] does no
//! I/O: the network filter that drives it puts what it returns in the place of what it was given, and
//! `envoy.filters.network.echo` sends that back.
//!
//! It is part of a module that Envoy compiles on each worker, so it does without `std`, formatting and panics.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod connection;
mod frame;
pub mod message;
mod queue;
mod stream;

pub use connection::Connection;
