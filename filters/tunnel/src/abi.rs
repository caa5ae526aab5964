//! The proxy-wasm ABI, as far as the tunnel needs it: what Envoy calls, and what it offers.

#![allow(unsafe_code)] // the one module of this filter that declares Envoy's ABI

use alloc::alloc::{Layout, alloc};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::null_mut;

use crate::frames::{self, Unframer};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Ends the VM; Envoy makes a new one (`failure_policy: FAIL_RELOAD`).
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The streams that are open, by context. There are few: one for each store.
static STREAMS: Streams = Streams(RefCell::new(Vec::new()));

struct Streams(RefCell<Vec<(u32, Unframer)>>);

// SAFETY: a VM belongs to one thread, and Envoy never enters it twice at a time.
unsafe impl Sync for Streams {}

const REQUEST_BODY: u32 = 0;
const RESPONSE_BODY: u32 = 1;
const RESPONSE_HEADERS: u32 = 2;
const CONTINUE: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
}

/// Puts bytes in the place of the first `length` bytes of a body. Refused when the stream has just ended.
fn set_body(buffer: u32, length: usize, bytes: &[u8]) {
    // SAFETY: the pointer and the size are those of a slice that lives through the call.
    unsafe { proxy_set_buffer_bytes(buffer, 0, length, bytes.as_ptr(), bytes.len()) };
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
}

/// Takes the frames off what goes out.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context: u32, size: usize, _end_of_stream: u32) -> u32 {
    let (mut data, mut taken) = (null_mut(), 0);
    // SAFETY: both pointers are to locals that live through the call.
    let status = unsafe { proxy_get_buffer_bytes(REQUEST_BODY, 0, size, &raw mut data, &raw mut taken) };
    if status != 0 || data.is_null() {
        return CONTINUE;
    }
    // SAFETY: the host got this memory from `proxy_on_memory_allocate`, with this size; it has filled it and keeps no
    // pointer to it.
    #[allow(clippy::same_length_and_capacity)] // which is what was allocated
    let framed = unsafe { Vec::from_raw_parts(data, taken, taken) };
    let mut streams = STREAMS.0.borrow_mut();
    let at = streams.iter().position(|(open, _)| *open == context).unwrap_or_else(|| {
        streams.push((context, Unframer::default()));
        streams.len() - 1
    });
    if let Some((_, unframer)) = streams.get_mut(at) {
        set_body(REQUEST_BODY, size, &unframer.take(framed));
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

/// Puts a frame around what comes in: a header in front, so the bytes need not be touched.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(_context: u32, size: usize, _end_of_stream: u32) -> u32 {
    if size > 0 {
        set_body(RESPONSE_BODY, 0, &frames::header(size));
    }
    CONTINUE
}
