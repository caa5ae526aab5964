//! The proxy-wasm ABI, as far as the tunnel and the bus need it: what Envoy calls, and what it offers.

#![allow(unsafe_code)] // the one module of this filter that declares Envoy's ABI

use alloc::alloc::{Layout, alloc};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::null_mut;

use runtime_bus::Connection;

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

/// The bus's connections that are open, by context. As a rule there is one.
static CONNECTIONS: Local<Vec<(u32, Connection)>> = Local(RefCell::new(Vec::new()));

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

// Where the compiler calls `memcmp` and its like; without this they would be imports that Envoy does not have.
#[link(name = "c")]
unsafe extern "C" {}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
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

/// The first `length` bytes of a buffer. What cannot be had must not pass as it is, with frames in it or without, as if it were
/// the store's or the app's: the VM ends, and with it the streams.
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

/// Puts bytes in the place of `length` bytes of a buffer, which are the first, or none behind the last. Envoy does so while it
/// calls about the buffer; if ever not, that is the end: see [`buffer`].
fn set_buffer(buffer: u32, start: usize, length: usize, bytes: &[u8]) {
    // SAFETY: the pointer and the size are those of a slice that lives through the call.
    if unsafe { proxy_set_buffer_bytes(buffer, start, length, bytes.as_ptr(), bytes.len()) } != 0 {
        core::arch::wasm32::unreachable();
    }
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
extern "C" fn proxy_on_context_create(_context: u32, _parent: u32) {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(_context: u32) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    STREAMS.0.borrow_mut().retain(|(open, _)| *open != context);
    CONNECTIONS.0.borrow_mut().retain(|(open, _)| *open != context);
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

/// Puts a frame around what comes in: a header in front, so the bytes need not be touched. After much of it come frames with
/// nothing in them.
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
    CONNECTIONS.0.borrow_mut().push((context, Connection::new(*number)));
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
    if let Some((_, connection)) = connections.iter_mut().find(|(open, _)| *open == context) {
        set_buffer(DOWNSTREAM_DATA, 0, size, &connection.receive(&bytes));
    }
    CONTINUE
}
