//! Raw TCP for the runtime filter: `tunnel.wasm`.
//!
//! A wasm filter can keep one kind of stream open, gRPC. This filter stands in front of the codec of a cluster whose
//! upstream is raw TCP, and makes a gRPC stream out of the connection: it takes the frames off what goes out and
//! puts one around what comes in. It must have a `vm_id` of its own: opening a stream creates its context at once,
//! and a VM cannot be entered from within.

#![allow(missing_docs)] // the entry points of the ABI, which the SDK's macro makes

mod frames;

use frames::Unframer;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _context: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Tunnel { outgoing: Unframer::default() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Tunnel {
    outgoing: Unframer,
}

impl Context for Tunnel {}

impl HttpContext for Tunnel {
    fn on_http_request_body(&mut self, size: usize, _end_of_stream: bool) -> Action {
        let framed = hostcalls::get_buffer(BufferType::HttpRequestBody, 0, size).ok().flatten().unwrap_or_default();
        let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, &self.outgoing.take(framed));
        Action::Continue
    }

    /// Envoy's gRPC client wants to see gRPC; what a TCP upstream makes of the connection is a bare 200.
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.set_http_response_header("content-type", Some("application/grpc"));
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, _end_of_stream: bool) -> Action {
        if size > 0 {
            // A frame is a header in front of the bytes: these need not be touched.
            let _ = hostcalls::set_buffer(BufferType::HttpResponseBody, 0, 0, &frames::header(size));
        }
        Action::Continue
    }
}
