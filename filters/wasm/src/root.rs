//! A root context: one configuration on one worker, and the runtime that serves it.

use std::rc::Rc;

use runtime_api::Runtime;
use runtime_api::config::{Config, Path, Report, Severity};
use runtime_api::proxy::{Level, Proxy};

use crate::abi;
use crate::bus::Bus;
use crate::host::Host;
use crate::stream::HttpStream;

#[derive(Debug, Default)]
pub(crate) struct Root {
    pub(crate) host: Host,
    /// Absent when the configuration was refused.
    runtime: Option<Rc<Runtime>>,
    bus: Option<Bus>,
}

impl Drop for Root {
    fn drop(&mut self) {
        self.host.end();
    }
}

impl Root {
    /// Refuses a configuration with an error in it, and with it the filter: Envoy does not start, or keeps what it had.
    pub(crate) fn on_configure(&mut self, json: &[u8]) -> bool {
        let (config, report) = read(json);
        for problem in &report.0 {
            let level = if problem.severity == Severity::Error { Level::Error } else { Level::Info };
            self.host.log(level, &format!("configuration: {problem}"));
        }
        let Some(config) = config else { return false };
        let runtime = Rc::new(Runtime::new(Rc::new(self.host.clone()), config));
        self.bus = Some(Bus::new(self.host.clone(), Rc::clone(&runtime), abi::root_id()));
        self.runtime = Some(runtime);
        self.host.run();
        true
    }

    /// A stream of an app.
    pub(crate) fn stream(&self, context: u32) -> HttpStream {
        HttpStream::new(context, self.host.clone(), self.bus.clone(), self.runtime.clone())
    }
}

/// Reads the configuration: JSON, as `envoy-runtime render filter` writes it.
fn read(json: &[u8]) -> (Option<Config>, Report) {
    match serde_json::from_slice(json) {
        // Secrets are in the environment, which Envoy hands over to this VM as far as `host_env_keys` names it.
        Ok(document) => Config::load(&document, &|variable| std::env::var(variable).ok()),
        Err(error) => {
            let mut report = Report::default();
            report.error(Path::default(), format!("the configuration is not JSON: {error}"));
            (None, report)
        }
    }
}
