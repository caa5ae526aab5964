//! What a test wants to run: a runtime.yaml, put together piece by piece.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

type BootstrapChange = Arc<dyn Fn(&mut Value, &Path) + Send + Sync>;

/// A runtime.yaml and how Envoy is started with it.
#[derive(Clone)]
pub struct Config {
    pub(crate) document: Value,
    pub(crate) concurrency: u32,
    pub(crate) bootstrap_change: Option<BootstrapChange>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) log_level: &'static str,
    pub(crate) envoy: Option<PathBuf>,
    pub(crate) trap: bool,
}

impl Config {
    /// A runtime for the app `app_id`, without components, on one worker. Listeners that the test does not set get free
    /// ports.
    pub fn new(app_id: &str) -> Self {
        Self {
            document: json!({"appId": app_id, "components": []}),
            concurrency: 1,
            bootstrap_change: None,
            environment: Vec::new(),
            log_level: "info",
            envoy: None,
            trap: false,
        }
    }

    /// Sets a field of the document, such as `apiToken`.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.document[field] = value.into();
        self
    }

    /// Sets the address of a listener: `layottoGrpc`, `daprGrpc`, `daprHttp` or `admin`.
    pub fn listener(mut self, name: &str, address: &str) -> Self {
        self.document["listeners"][name] = address.into();
        self
    }

    /// Adds a component.
    pub fn component(self, name: &str, kind: &str, metadata: &[(&str, &str)]) -> Self {
        let metadata: Map<String, Value> =
            metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.component_document(json!({"name": name, "type": kind, "version": "v1", "metadata": metadata}))
    }

    /// Adds a component as it stands in runtime.yaml.
    pub fn component_document(mut self, component: Value) -> Self {
        self.document["components"].as_array_mut().expect("components is a list").push(component);
        self
    }

    /// The number of Envoy's worker threads.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// A variable of the environment in which the configuration is rendered.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How much Envoy logs.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// The Envoy to start, where it is not the one of [`installed::envoy`](crate::installed::envoy).
    pub fn envoy(mut self, binary: PathBuf) -> Self {
        self.envoy = Some(binary);
        self
    }

    /// Takes the filter that has a method which traps: [`crate::TRAP`].
    pub fn trap(mut self) -> Self {
        self.trap = true;
        self
    }

    /// Changes the rendered bootstrap before Envoy gets it. The path is a directory that Envoy can read.
    pub fn change_bootstrap(mut self, change: impl Fn(&mut Value, &Path) + Send + Sync + 'static) -> Self {
        self.bootstrap_change = Some(Arc::new(change));
        self
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} on {} workers", self.document, self.concurrency)
    }
}
