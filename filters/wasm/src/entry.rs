//! What Envoy calls: the entry points of the proxy-wasm ABI, each handed to the root context or stream that it is
//! about. They are declared here and not by the SDK, which ends the VM on a status that it does not expect and ties
//! each call to the context it was made in (docs/decisions/0008-without-the-sdk.md).

#![allow(unsafe_code)] // one of the two modules of this filter that declare Envoy's ABI

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::abi;
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

/// Calls back with what lives in this VM. Envoy never enters it twice at a time; if it did, nothing would be done.
fn with_filter<T: Default>(act: impl FnOnce(&mut Filter) -> T) -> T {
    FILTER.with(|filter| filter.try_borrow_mut().map(|mut filter| act(&mut filter)).unwrap_or_default())
}

fn with_root<T: Default>(context: u32, act: impl FnOnce(&mut Root) -> T) -> T {
    with_filter(|filter| {
        let root = filter.roots.iter_mut().find(|(known, _)| *known == context);
        root.map(|(_, root)| act(root)).unwrap_or_default()
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

fn with_stream(context: u32, act: impl FnOnce(&mut HttpStream) -> Action) -> Action {
    with_filter(|filter| filter.streams.get_mut(&context).map(act).unwrap_or_default())
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
    with_root(root, |root| {
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
        return stream.end();
    }
    let root = with_filter(|filter| {
        let at = filter.roots.iter().position(|(known, _)| *known == context)?;
        Some(filter.roots.swap_remove(at))
    });
    drop(root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_root(root, |root| root.host.on_tick());
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _count: usize, end_of_stream: u32) -> Action {
    with_stream(context, |stream| stream.on_request_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, end_of_stream: u32) -> Action {
    with_stream(context, |stream| stream.on_request_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context: u32, _count: usize) -> Action {
    with_stream(context, HttpStream::on_request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context: u32, _count: usize, end_of_stream: u32) -> Action {
    with_stream(context, |stream| stream.on_response_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context: u32, size: usize, end_of_stream: u32) -> Action {
    with_stream(context, |stream| stream.on_response_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, headers: usize, size: usize, _trailers: usize) {
    with_root(root, |root| root.host.on_http_response(token, headers, size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
    with_root(root, |root| root.host.on_grpc_message(token, size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(root: u32, token: u32, status: u32) {
    with_root(root, |root| root.host.on_grpc_close(token, status));
}
