//! The runtime API as a proxy-wasm HTTP filter: `runtime.wasm`.
//!
//! A thin adapter. The root context reads the configuration and keeps the runtime of its worker; a stream
//! collects the request, hands it to the runtime and gives the reply back. Envoy turns a local reply to a gRPC request
//! into trailers alone, so a reply with a message goes out as a local reply with the status OK and without a body; the Lua
//! filter behind this one gives it an empty body, and the response callbacks here put the message and the trailers in
//! their places. The chain is `[runtime.wasm, lua, router]`.

mod abi;
mod act;
mod bus;
mod entry;
mod host;
mod root;
mod stream;
#[cfg(feature = "trap")]
mod trap;
