//! Streams of the app for the runtime filter: the bus.
//!
//! A wasm HTTP filter cannot start bytes downstream, and when its VM traps nothing can pass it any more. So streams of
//! apps do not pass it: the routes of the listeners lead them to the bus, an HTTP/2 server inside Envoy behind a
//! cluster of its own, in another VM. The root context of the filter may write at any time to a gRPC stream that it
//! opened, and it keeps one to the same cluster, the link. Both kinds of streams arrive on one connection:
//!
//! - a **publisher** is the link of a root context, with [`message::ToBus`] one way and [`message::FromBus`] the other;
//! - all others are streams of **apps**, with whatever path and headers the apps gave them.
//!
//! The bus tells the newest publisher of the same configuration what an app says and the publisher tells it what the
//! app gets. A publisher that ends or goes silent takes its streams along: they end UNAVAILABLE.
//!
//! [`Connection`] does no I/O: the network filter that drives it puts what it returns in the place of what it was
//! given, and `envoy.filters.network.echo` sends that back. So it can write only when something comes, which the
//! cluster's keep-alive sees to.
//!
//! It is part of a module that Envoy compiles on each worker, so it does without `std`, formatting and panics.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod connection;
mod frame;
mod hpack;
pub mod message;
mod queue;
mod stream;

pub use connection::Connection;
