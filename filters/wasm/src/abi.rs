//! What Envoy offers to a proxy-wasm filter, as far as this one uses it: each call once, refusals as values.

#![allow(unsafe_code)] // one of the two modules of this filter that declare Envoy's ABI

use std::ptr::{null, null_mut};
use std::time::Duration;

/// The host refused a call, with this status of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub u32);

/// Which headers are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Map {
    RequestHeaders = 0,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
    CallHeaders = 6, // of the answer to an HTTP call
}

/// Which bytes are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CallBody = 4,    // of the answer to an HTTP call
    GrpcMessage = 5, // what a gRPC call or stream has received
    Configuration = 7,
}

/// What a metric does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetricKind {
    Counter = 0,
    Histogram = 2,
}

mod host {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
        pub(super) fn proxy_get_log_level(level: *mut u32) -> u32;
        pub(super) fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub(super) fn proxy_define_metric(kind: u32, name: *const u8, size: usize, metric: *mut u32) -> u32;
        pub(super) fn proxy_increment_metric(metric: u32, by: i64) -> u32;
        pub(super) fn proxy_record_metric(metric: u32, value: u64) -> u32;
        pub(super) fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        pub(super) fn proxy_add_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            length: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_buffer_bytes(
            buffer: u32,
            start: usize,
            length: usize,
            data: *const u8,
            size: usize,
        ) -> u32;
        pub(super) fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
        pub(super) fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            version: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            data: *const u8,
            size: usize,
            version: u32,
        ) -> u32;
        pub(super) fn proxy_http_call(
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
        pub(super) fn proxy_grpc_call(
            service: *const u8,
            service_size: usize,
            name: *const u8,
            name_size: usize,
            method: *const u8,
            method_size: usize,
            metadata: *const u8,
            metadata_size: usize,
            message: *const u8,
            message_size: usize,
            timeout: u32,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_grpc_stream(
            service: *const u8,
            service_size: usize,
            name: *const u8,
            name_size: usize,
            method: *const u8,
            method_size: usize,
            metadata: *const u8,
            metadata_size: usize,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_get_property(path: *const u8, size: usize, data: *mut *mut u8, length: *mut usize) -> u32;
        pub(super) fn proxy_grpc_send(token: u32, message: *const u8, size: usize, end_stream: u32) -> u32;
        pub(super) fn proxy_grpc_cancel(token: u32) -> u32;
        pub(super) fn proxy_get_status(code: *mut u32, text: *mut *mut u8, size: *mut usize) -> u32;
    }
}

fn accepted(status: u32) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

/// Takes over what the host has allocated for us.
fn taken(status: u32, data: *mut u8, size: usize) -> Result<Vec<u8>, Refused> {
    accepted(status)?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the host got this memory from `allocate` below, which takes it from a `Vec<u8>` with this capacity and
    // forgets it; the host has written `size` bytes and keeps no pointer to them.
    #[allow(clippy::same_length_and_capacity)] // which is what was allocated
    let bytes = unsafe { Vec::from_raw_parts(data, size, size) };
    Ok(bytes)
}

/// Memory for what the host hands over: `proxy_on_memory_allocate`. It comes back by [`taken`].
pub(crate) fn allocate(size: usize) -> *mut u8 {
    if size == 0 {
        return null_mut();
    }
    let mut bytes = std::mem::ManuallyDrop::new(Vec::<u8>::with_capacity(size));
    bytes.as_mut_ptr()
}

/// Writes a line to Envoy's log: 1 is debug, 2 info, 3 warn, 4 error.
pub(crate) fn log(level: u32, line: &str) {
    // SAFETY: the pointer and the size are those of a text that lives through the call.
    unsafe { host::proxy_log(level, line.as_ptr(), line.len()) };
}

/// The least level whose lines Envoy keeps, in the numbers of [`log`].
pub(crate) fn log_level() -> u32 {
    let mut level = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    unsafe { host::proxy_get_log_level(&raw mut level) };
    level
}

/// The `root_id` of the filter in Envoy's configuration; each configuration has its own.
pub(crate) fn root_id() -> String {
    let (path, mut data, mut size) = ("plugin_root_id", null_mut(), 0);
    // SAFETY: the path lives through the call, and the pointers are to locals that do.
    let status = unsafe { host::proxy_get_property(path.as_ptr(), path.len(), &raw mut data, &raw mut size) };
    String::from_utf8_lossy(&taken(status, data, size).unwrap_or_default()).into_owned()
}

/// How often the root context is to tick; zero for never.
pub(crate) fn set_tick_period(period: Duration) {
    // SAFETY: takes no pointer.
    unsafe { host::proxy_set_tick_period_milliseconds(u32::try_from(period.as_millis()).unwrap_or(u32::MAX)) };
}

/// The metric of this name.
pub(crate) fn metric(kind: MetricKind, name: &str) -> u32 {
    let mut metric = 0;
    // SAFETY: the name lives through the call, and the pointer is to a local that does.
    unsafe { host::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut metric) };
    metric
}

/// Adds to a counter; by zero is refused by the host, and nothing lost.
pub(crate) fn increment(metric: u32, by: u64) {
    // SAFETY: takes no pointer.
    unsafe { host::proxy_increment_metric(metric, i64::try_from(by).unwrap_or(i64::MAX)) };
}

/// Adds an observation to a histogram.
pub(crate) fn record(metric: u32, value: u64) {
    // SAFETY: takes no pointer.
    unsafe { host::proxy_record_metric(metric, value) };
}

/// All headers, as name and value.
pub(crate) fn headers(map: Map) -> Result<Headers, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: both pointers are to locals that live through the call.
    let status = unsafe { host::proxy_get_header_map_pairs(map as u32, &raw mut data, &raw mut size) };
    Ok(Headers(taken(status, data, size)?))
}

/// Headers as the ABI lays them out: their number, the lengths of each name and value, and then these, each with a
/// zero behind it.
#[derive(Debug)]
pub(crate) struct Headers(Vec<u8>);

impl Headers {
    /// Calls back with each header.
    pub(crate) fn each(&self, mut take: impl FnMut(&[u8], &[u8])) {
        let number = |at: usize| {
            let bytes = self.0.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let count = number(0).unwrap_or_default();
        let mut at = 4 + count * 8;
        for index in 0..count {
            let (Some(name), Some(value)) = (number(4 + index * 8), number(8 + index * 8)) else { return };
            let value_at = at + name + 1;
            let end = value_at + value;
            if let (Some(name), Some(value)) = (self.0.get(at..at + name), self.0.get(value_at..end)) {
                take(name, value);
            }
            at = end + 1;
        }
    }
}

fn pairs(headers: &[(&str, &[u8])]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let size = headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum::<usize>();
    let mut bytes = Vec::with_capacity(size + 4);
    bytes.extend_from_slice(&number(headers.len()));
    for (name, value) in headers {
        bytes.extend_from_slice(&number(name.len()));
        bytes.extend_from_slice(&number(value.len()));
    }
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.push(0);
    }
    bytes
}

/// Removes a header.
pub(crate) fn remove_header(map: Map, name: &str) -> Result<(), Refused> {
    // SAFETY: the pointer and the size are those of a text that lives through the call.
    accepted(unsafe { host::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Adds a header.
pub(crate) fn add_header(map: Map, name: &str, value: &str) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of texts that live through the call.
    accepted(unsafe {
        host::proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// Sets a header, whatever its value was.
pub(crate) fn replace_header(map: Map, name: &str, value: &str) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of texts that live through the call.
    accepted(unsafe {
        host::proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// The first `length` bytes of a buffer.
pub(crate) fn bytes(buffer: Buffer, length: usize) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: both pointers are to locals that live through the call.
    let status = unsafe { host::proxy_get_buffer_bytes(buffer as u32, 0, length, &raw mut data, &raw mut size) };
    taken(status, data, size)
}

/// Puts bytes in the place of the first `length` bytes of a body.
pub(crate) fn set_body(buffer: Buffer, length: usize, bytes: &[u8]) -> Result<(), Refused> {
    // SAFETY: the pointer and the size are those of a slice that lives through the call.
    accepted(unsafe { host::proxy_set_buffer_bytes(buffer as u32, 0, length, bytes.as_ptr(), bytes.len()) })
}

/// Answers the request of the effective context. On a gRPC request `body` is the message of the status.
pub(crate) fn send_local_response(
    status: u32,
    headers: &[(&str, &[u8])],
    body: &[u8],
    grpc_status: Option<i32>,
) -> Result<(), Refused> {
    let headers = pairs(headers);
    // SAFETY: pointers and sizes are those of buffers that live through the call; null stands for no details.
    accepted(unsafe {
        host::proxy_send_local_response(
            status,
            null(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status.unwrap_or(-1),
        )
    })
}

/// Makes later calls concern this context; refused when it is gone.
pub(crate) fn set_effective_context(context: u32) -> Result<(), Refused> {
    // SAFETY: takes no pointer.
    accepted(unsafe { host::proxy_set_effective_context(context) })
}

/// A value of the shared area and its version.
pub(crate) fn shared(key: &str) -> Option<(Vec<u8>, u32)> {
    let (mut data, mut size, mut version) = (null_mut(), 0, 0);
    // SAFETY: the key lives through the call, and the pointers are to locals that do.
    let status =
        unsafe { host::proxy_get_shared_data(key.as_ptr(), key.len(), &raw mut data, &raw mut size, &raw mut version) };
    taken(status, data, size).ok().map(|value| (value, version))
}

/// Writes a value of the shared area if it has this version; zero stands for any.
pub(crate) fn set_shared(key: &str, value: &[u8], version: u32) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of slices that live through the call.
    accepted(unsafe { host::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) })
}

/// Sends an HTTP request. `proxy_on_http_call_response` follows with the token.
pub(crate) fn http_call(
    cluster: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
    timeout: Duration,
) -> Result<u32, Refused> {
    let (headers, trailers, mut token) = (pairs(headers), pairs(&[]), 0);
    // SAFETY: pointers and sizes are those of buffers that live through the call, and of a local that does.
    accepted(unsafe {
        host::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            milliseconds(timeout),
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Makes a unary gRPC call. `service` is a serialized `GrpcService`: see [`crate::host`].
pub(crate) fn grpc_call(
    service: &[u8],
    (name, method): (&str, &str),
    metadata: &[(&str, &[u8])],
    message: &[u8],
    timeout: Duration,
) -> Result<u32, Refused> {
    let (metadata, mut token) = (pairs(metadata), 0);
    // SAFETY: pointers and sizes are those of buffers that live through the call, and of a local that does.
    accepted(unsafe {
        host::proxy_grpc_call(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            message.as_ptr(),
            message.len(),
            milliseconds(timeout),
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Opens a gRPC stream. `service` is a serialized `GrpcService`: see [`crate::host`].
pub(crate) fn grpc_stream(
    service: &[u8],
    (name, method): (&str, &str),
    metadata: &[(&str, &[u8])],
) -> Result<u32, Refused> {
    let (metadata, mut token) = (pairs(metadata), 0);
    // SAFETY: pointers and sizes are those of buffers that live through the call, and of a local that does.
    accepted(unsafe {
        host::proxy_grpc_stream(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Sends a message on a gRPC stream; refused when the stream has just ended.
pub(crate) fn grpc_send(token: u32, message: &[u8]) -> Result<(), Refused> {
    // SAFETY: the pointer and the size are those of a slice that lives through the call.
    accepted(unsafe { host::proxy_grpc_send(token, message.as_ptr(), message.len(), 0) })
}

/// Ends a gRPC call or stream at once.
pub(crate) fn grpc_cancel(token: u32) {
    // SAFETY: takes no pointer.
    unsafe { host::proxy_grpc_cancel(token) };
}

/// The message of the status with which a gRPC call or stream has ended, in the callback that tells of it.
pub(crate) fn grpc_status_message() -> String {
    let (mut code, mut data, mut size) = (0, null_mut(), 0);
    // SAFETY: the pointers are to locals that live through the call.
    let status = unsafe { host::proxy_get_status(&raw mut code, &raw mut data, &raw mut size) };
    String::from_utf8_lossy(&taken(status, data, size).unwrap_or_default()).into_owned()
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
