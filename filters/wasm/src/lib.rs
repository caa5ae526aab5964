//! The runtime API as a proxy-wasm HTTP filter: `runtime.wasm`.
//!
//! A thin adapter. The root context reads the configuration and keeps the [`Runtime`] of its worker; a stream
//! collects the request, hands it to the runtime and gives the reply back. Envoy turns a local reply to a gRPC request
//! into trailers alone, so a reply with a message goes out as a local reply without a body and with a marker
//! header; the Lua filter behind this one gives it a body of one byte, and the response callbacks here put the
//! message and the trailers in their places. The chain is `[runtime.wasm, lua, router]`.

#![allow(missing_docs)] // the entry points of the ABI, which the SDK's macro makes

mod abi;
mod host;
mod stream;

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};
use runtime_api::Runtime;
use runtime_api::config::{Config, Report, Severity};
use runtime_api::proxy::{Level, Proxy};

use host::Host;
use stream::HttpStream;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { host: Host::new(), runtime: None }));
}}

struct Root {
    host: Host,
    runtime: Option<Rc<Runtime>>,
}

impl Drop for Root {
    fn drop(&mut self) {
        self.host.end();
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        self.host.on_stream_message(token, size);
        self.host.run();
    }

    fn on_grpc_stream_close(&mut self, token: u32, _status: u32) {
        self.host.on_stream_close(token);
        self.host.run();
    }
}

impl RootContext for Root {
    /// Refuses a configuration with an error in it, and with it the filter: Envoy does not start, or keeps what it had.
    fn on_configure(&mut self, _size: usize) -> bool {
        let (config, report) = read(&self.get_plugin_configuration().unwrap_or_default());
        for problem in &report.0 {
            let level = if problem.severity == Severity::Error { Level::Error } else { Level::Info };
            self.host.log(level, &format!("configuration: {problem}"));
        }
        let Some(config) = config else { return false };
        self.runtime = Some(Rc::new(Runtime::new(Rc::new(self.host.clone()), config)));
        self.host.run();
        true
    }

    fn on_tick(&mut self) {
        self.host.on_tick();
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(HttpStream::new(context, self.host.clone(), self.runtime.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Reads the configuration: JSON, as `envoy-runtime render filter` writes it.
fn read(json: &[u8]) -> (Option<Config>, Report) {
    match serde_json::from_slice(json) {
        Ok(document) => Config::check(&document),
        Err(error) => {
            let mut report = Report::default();
            report.error(runtime_api::config::Path::default(), format!("the configuration is not JSON: {error}"));
            (None, report)
        }
    }
}
