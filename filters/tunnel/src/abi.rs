//! The proxy-wasm ABI, as far as the tunnel and the bus need it: what Envoy calls, and what it offers.

#![allow(unsafe_code)] // the one module of this filter that declares Envoy's ABI

use alloc::alloc::{Layout, alloc};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::null_mut;

use runtime_bus::Connection;
use runtime_bus::message::{TICK, WAKE};

use crate::frames::{self, Unframer};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Ends the VM; Envoy makes a new one (`failure_policy: FAIL_RELOAD`).
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The tunnel's streams that are open, by context. There are few: one for each store.
static STREAMS: Local<Vec<(u32, Unframer)>> = Local(RefCell::new(Vec::new()));

/// The bus's connections that are open, by context and root context. As a rule there is one.
static CONNECTIONS: Local<Vec<(u32, u32, Connection)>> = Local(RefCell::new(Vec::new()));

/// The root contexts of the connections that Envoy is about to tell of.
static ROOTS: Local<Vec<(u32, u32)>> = Local(RefCell::new(Vec::new()));

/// The number of the newest connection.
static NUMBER: Local<u64> = Local(RefCell::new(0));

struct Local<T>(RefCell<T>);

// SAFETY: a VM belongs to one thread, and Envoy never enters it twice at a time.
unsafe impl<T> Sync for Local<T> {}

const REQUEST_BODY: u32 = 0;
const RESPONSE_BODY: u32 = 1;
const DOWNSTREAM_DATA: u32 = 2;
const RESPONSE_HEADERS: u32 = 2;
const CONTINUE: u32 = 0;

/// The cluster that leads to a listener with the runtime filter on this worker.
const CLUSTER_OF_FILTER: &str = "runtime.wake";

// Where the compiler calls `memcmp` and its like; without this they would be imports that Envoy does not have.
#[link(name = "c")]
unsafe extern "C" {}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
}

/// The first `length` bytes of a buffer. What cannot be had must not pass as it is, with frames in it or without, as if
/// it were the store's or the app's: the VM ends, and with it the streams.
fn buffer(buffer: u32, length: usize) -> Vec<u8> {
    if length == 0 {
        return Vec::new();
    }
    let (mut data, mut taken) = (null_mut(), 0);
    // SAFETY: both pointers are to locals that live through the call.
    let status = unsafe { proxy_get_buffer_bytes(buffer, 0, length, &raw mut data, &raw mut taken) };
    if status != 0 || data.is_null() || taken != length {
        core::arch::wasm32::unreachable();
    }
    // SAFETY: the host got this memory from `proxy_on_memory_allocate`, with this size; it has filled it and keeps no
    // pointer to it.
    #[allow(clippy::same_length_and_capacity)] // which is what was allocated
    unsafe {
        Vec::from_raw_parts(data, taken, taken)
    }
}

/// Puts bytes in the place of `length` bytes of a buffer, which are the first, or none behind the last. Envoy does so
/// while it calls about the buffer; if ever not, that is the end: see [`buffer`].
fn set_buffer(buffer: u32, start: usize, length: usize, bytes: &[u8]) {
    // SAFETY: the pointer and the size are those of a slice that lives through the call.
    if unsafe { proxy_set_buffer_bytes(buffer, start, length, bytes.as_ptr(), bytes.len()) } != 0 {
        core::arch::wasm32::unreachable();
    }
}

/// Has the runtime filter of this worker open a link: by a request to it, upon which Envoy also makes a new VM for one
/// that has trapped. The answer says nothing; what counts is the link.
fn wake() {
    let (cluster, timeout) = (CLUSTER_OF_FILTER, 5000);
    let mut headers = Vec::from(3_u32.to_le_bytes());
    let pairs = [(":method", "POST"), (":path", WAKE), (":authority", "runtime")];
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        headers.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        headers.extend_from_slice(text.as_bytes());
        headers.push(0);
    }
    let (trailers, mut token) = (0_u32.to_le_bytes(), 0);
    // SAFETY: pointers and sizes are those of buffers that live through the call, and of a local that does. Refused
    // when there is no such cluster: then streams wait for nothing, and end with a status that says so.
    unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            cluster.as_ptr(),
            0,
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            &raw mut token,
        )
    };
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Envoy takes memory here for what it hands over.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout is that of `size` bytes, and not empty.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => null_mut(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_context: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_context: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    if parent != 0 {
        ROOTS.0.borrow_mut().push((context, parent));
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(_context: u32) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    STREAMS.0.borrow_mut().retain(|(open, _)| *open != context);
    ROOTS.0.borrow_mut().retain(|(open, _)| *open != context);
    let mut connections = CONNECTIONS.0.borrow_mut();
    let Some(at) = connections.iter().position(|(open, _, _)| *open == context) else { return };
    let (_, root, _) = connections.swap_remove(at);
    if !connections.iter().any(|(_, other, _)| *other == root) {
        // SAFETY: takes no pointer. It is the tick of the context's root.
        unsafe { proxy_set_tick_period_milliseconds(0) };
    }
}

/// Takes the frames off what goes out.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, _end_of_stream: u32) -> u32 {
    if size == 0 {
        return CONTINUE;
    }
    let framed = buffer(REQUEST_BODY, size);
    let mut streams = STREAMS.0.borrow_mut();
    let at = streams.iter().position(|(open, _)| *open == context).unwrap_or_else(|| {
        streams.push((context, Unframer::default()));
        streams.len() - 1
    });
    if let Some((_, unframer)) = streams.get_mut(at) {
        set_buffer(REQUEST_BODY, 0, size, &unframer.take(framed));
    }
    CONTINUE
}

/// Envoy's gRPC client wants to see gRPC; what a TCP upstream makes of the connection is a bare 200.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(_context: u32, _count: usize, _end_of_stream: u32) -> u32 {
    let (name, value) = ("content-type", "application/grpc");
    // SAFETY: pointers and sizes are those of texts that live for ever.
    unsafe { proxy_replace_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
    CONTINUE
}

/// Puts a frame around what comes in: a header in front, so the bytes need not be touched. After much of it come frames
/// with nothing in them.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(_context: u32, size: usize, _end_of_stream: u32) -> u32 {
    if size > 0 {
        let header = frames::header(size);
        set_buffer(RESPONSE_BODY, 0, 0, &header);
        let calls = frames::calls(size);
        if !calls.is_empty() {
            set_buffer(RESPONSE_BODY, size + header.len(), 0, &calls);
        }
    }
    CONTINUE
}

/// A connection of the cluster of the bus.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_new_connection(context: u32) -> u32 {
    let mut now = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    unsafe { proxy_get_current_time_nanoseconds(&raw mut now) };
    // Numbers that go up from the time are not those of a VM that was before this one, either.
    let mut number = NUMBER.0.borrow_mut();
    *number = now.max(*number + 1);
    let root = ROOTS.0.borrow().iter().find(|(known, _)| *known == context).map_or(0, |(_, root)| *root);
    let mut connections = CONNECTIONS.0.borrow_mut();
    if !connections.iter().any(|(_, other, _)| *other == root) {
        // SAFETY: takes no pointer. It is the tick of the context's root.
        unsafe { proxy_set_tick_period_milliseconds(TICK) };
    }
    connections.push((context, root, Connection::new(*number)));
    CONTINUE
}

/// Puts what the bus answers in the place of what has come. The next filter, echo, sends it back.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_data(context: u32, size: usize, _end_of_stream: u32) -> u32 {
    if size == 0 {
        return CONTINUE;
    }
    let bytes = buffer(DOWNSTREAM_DATA, size);
    let mut connections = CONNECTIONS.0.borrow_mut();
    let Some((_, _, connection)) = connections.iter_mut().find(|(open, _, _)| *open == context) else {
        return CONTINUE;
    };
    let wanted = connection.wants_publisher();
    set_buffer(DOWNSTREAM_DATA, 0, size, &connection.receive(&bytes));
    // At once for the first stream that waits, and then at each tick.
    let wanting = !wanted && connection.wants_publisher();
    drop(connections);
    if wanting {
        wake();
    }
    CONTINUE
}

/// A tick of the bus.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    let mut wanting = false;
    for (_, _, connection) in CONNECTIONS.0.borrow_mut().iter_mut().filter(|(_, of, _)| *of == root) {
        connection.tick();
        wanting |= connection.wants_publisher();
    }
    if wanting {
        wake();
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(_: u32, _: u32, _: usize, _: usize, _: usize) {}
