//! What Envoy calls: the entry points of the proxy-wasm ABI, each handed to the root context or stream that it is
//! about. They are declared here and not by the SDK, which ends the VM on a status that it does not expect and ties
//! each call to the context it was made in (docs/decisions/0008-without-the-sdk.md).

#![allow(unsafe_code)] // one of the two modules of this filter that declare Envoy's ABI

use std::cell::{Cell, RefCell};

use rustc_hash::FxHashMap;

use crate::abi;
use crate::host::Host;
use crate::root::Root;
use crate::stream::HttpStream;

/// All that lives in this VM. A VM belongs to one thread.
#[derive(Default)]
struct Filter {
    /// As a rule one; two for the while in which a configuration takes the place of another.
    roots: Vec<(u32, Root)>,
    streams: FxHashMap<u32, HttpStream>,
}

thread_local! {
    static FILTER: RefCell<Filter> = RefCell::default();
}

/// How a call of Envoy stands to the acts that it puts off to the end of one: see [`runtime_api::outbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It comes by itself, so all that was put off is done.
    Alone,
    /// As a rule it comes by itself, but Envoy may have put it off too, behind acts.
    PerhapsPutOff,
    /// It is about the request of this stream. An act on another stream would stop this one: the host takes each for the
    /// answer to the request under way.
    Request(u32),
    /// It may be in the course of an act: what a reply or a reset leads to.
    Within,
}

/// Calls back with what lives in this VM. Envoy does not enter it twice at a time; if it did, nothing would be done, and it
/// is said once.
fn with_filter<T: Default>(act: impl FnOnce(&mut Filter) -> T) -> T {
    thread_local! {
        static IS_TOLD: Cell<bool> = const { Cell::new(false) };
    }
    FILTER.with(|filter| {
        if let Ok(mut filter) = filter.try_borrow_mut() {
            return act(&mut filter);
        }
        if !IS_TOLD.replace(true) {
            abi::log(
                4,
                "event=filter_entered_twice: Envoy called the filter within a call of the filter, which was not served",
            );
        }
        T::default()
    })
}

/// Finds a host and has something done with it, and then the acts that came of it, once the filter can be entered again.
fn enter<T: Default>(entry: Entry, act: impl FnOnce(&mut Filter, Entry) -> Option<(Host, T)>) -> T {
    let Some((host, outcome)) = with_filter(|filter| act(filter, entry)) else { return T::default() };
    host.leave(entry, may_answer);
    outcome
}

/// Whether the stream is there and waits for its answer.
fn may_answer(context: u32) -> bool {
    with_filter(|filter| filter.streams.get_mut(&context).is_some_and(HttpStream::may_answer))
}

fn with_root<T: Default>(context: u32, entry: Entry, act: impl FnOnce(&mut Root) -> T) -> T {
    enter(entry, |filter, entry| {
        let (_, root) = filter.roots.iter_mut().find(|(known, _)| *known == context)?;
        root.host.enter(entry);
        let outcome = act(root);
        Some((root.host.clone(), outcome))
    })
}

/// What Envoy is told at the end of a callback about a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Action {
    #[default]
    Continue = 0,
    Pause = 1,
}

fn with_stream(context: u32, entry: Entry, act: impl FnOnce(&mut HttpStream) -> Action) -> Action {
    enter(entry, |filter, entry| {
        let stream = filter.streams.get_mut(&context)?;
        let host = stream.host().clone();
        host.enter(entry);
        Some((host, act(stream)))
    })
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker makes this function, and Envoy calls us once, before all else.
    unsafe { __wasm_call_ctors() };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    abi::allocate(size)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
    with_root(root, Entry::Within, |root| {
        u32::from(root.on_configure(&abi::bytes(abi::Buffer::Configuration, size).unwrap_or_default()))
    })
}

/// A root context has no parent; a stream has its root.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with_filter(|filter| {
        if parent == 0 {
            filter.roots.push((context, Root::default()));
        } else if let Some((_, root)) = filter.roots.iter().find(|(known, _)| *known == parent) {
            filter.streams.insert(context, root.stream(context));
        }
    });
}

/// The context has ended. What belongs to it ends with it.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    if let Some(stream) = with_filter(|filter| filter.streams.remove(&context)) {
        let host = stream.host().clone();
        host.enter(Entry::Within);
        stream.end();
        return host.leave(Entry::Within, may_answer);
    }
    let root = with_filter(|filter| {
        let at = filter.roots.iter().position(|(known, _)| *known == context)?;
        Some(filter.roots.swap_remove(at))
    });
    drop(root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_root(root, Entry::Alone, |root| root.host.on_tick());
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _count: usize, end_of_stream: u32) -> Action {
    with_stream(context, Entry::Request(context), |stream| stream.on_request_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, end_of_stream: u32) -> Action {
    with_stream(context, Entry::Request(context), |stream| stream.on_request_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, _count: usize) -> Action {
    with_stream(context, Entry::Request(context), HttpStream::on_request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context: u32, _count: usize, end_of_stream: u32) -> Action {
    with_stream(context, Entry::Within, |stream| stream.on_response_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context: u32, size: usize, end_of_stream: u32) -> Action {
    with_stream(context, Entry::Within, |stream| stream.on_response_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, headers: usize, size: usize, _trailers: usize) {
    with_root(root, Entry::PerhapsPutOff, |root| root.host.on_http_response(token, headers, size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
    with_root(root, Entry::Alone, |root| root.host.on_grpc_message(token, size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(root: u32, token: u32, status: u32) {
    with_root(root, Entry::PerhapsPutOff, |root| root.host.on_grpc_close(token, status));
}

/// A call of Envoy's, for a test that makes it where Envoy would not.
#[cfg(feature = "trap")]
pub(crate) fn reenter() {
    proxy_on_tick(0);
}
