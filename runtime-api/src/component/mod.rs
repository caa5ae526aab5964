//! The registry: every driver is one row of [`DRIVERS`], and nothing else in the project lists them.

mod buckets;
pub mod configuration;
pub mod etcd;
pub mod lock;
pub mod redis;
pub mod secrets;
pub mod sequencer;
pub mod state;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::{self, Field, Path, Report, Settings};
use crate::pace::Pace;
use crate::proxy::Proxy;

/// A building block: what kind of component something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Keys and values.
    State,
    /// Items of configuration, and what changes in them.
    Configuration,
    /// Locks that apps share.
    Lock,
    /// Numbers that rise.
    Sequencer,
    /// Secrets of the app.
    Secrets,
}

impl Block {
    /// The first part of a component's type, and the name of the block in metrics and clusters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Configuration => "configuration",
            Self::Lock => "lock",
            Self::Sequencer => "sequencer",
            Self::Secrets => "secretstores",
        }
    }

    /// Whether the registry of this build has a driver of the block.
    pub const fn has_drivers(self) -> bool {
        let mut rest = DRIVERS;
        while let [driver, others @ ..] = rest {
            if driver.block as u8 == self as u8 {
                return true;
            }
            rest = others;
        }
        false
    }

    /// The metadata fields that every component of the block has.
    pub const fn fields(self) -> &'static [Field] {
        match self {
            Self::State => state::FIELDS,
            Self::Lock => lock::FIELDS,
            Self::Sequencer => sequencer::FIELDS,
            Self::Configuration | Self::Secrets => &[],
        }
    }
}

/// What the project knows about a driver without building it.
#[derive(Debug)]
pub struct Driver {
    /// The type as written in a configuration, such as `state.redis`.
    pub kind: &'static str,
    /// The building block that it belongs to.
    pub block: Block,
    /// One sentence for the reference.
    pub meaning: &'static str,
    /// The versions of its configuration that there are; see [`V1`].
    pub versions: &'static [&'static str],
    /// What GetMetadata tells about it, in Dapr's words.
    pub capabilities: &'static [&'static str],
    /// Its own metadata fields.
    pub fields: &'static [Field],
    /// What a table of fields cannot say: rules between fields.
    pub check: fn(&Settings, &Path, &mut Report),
    /// The servers that Envoy must have clusters for.
    pub upstreams: fn(&Settings) -> Vec<Upstream>,
    /// Makes the component.
    pub build: Build,
}

/// What nearly every driver has for versions.
pub const V1: &[&str] = &["v1"];

/// How a component of each building block is made.
#[derive(Debug, Clone, Copy)]
pub enum Build {
    /// A state store.
    State(fn(&Environment) -> Rc<dyn state::Store>),
    /// A store of configuration.
    Configuration(fn(&Environment) -> Rc<dyn configuration::Store>),
    /// A secret store.
    Secrets(fn(&Environment) -> Rc<dyn secrets::Store>),
    /// A lock store.
    Lock(fn(&Environment) -> Rc<dyn lock::Store>),
    /// A sequencer.
    Sequencer(fn(&Environment) -> Rc<dyn sequencer::Store>),
}

/// What a driver gets when it is built.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The way to the outside.
    pub proxy: Rc<dyn Proxy>,
    /// The id of the app that this runtime serves.
    pub app_id: String,
    /// The component's configuration.
    pub component: config::Component,
    /// Bounds of a call.
    pub limits: config::Limits,
    /// For work whose length the app decides.
    pub pace: Pace,
}

/// Servers that Envoy must have a cluster for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What is added to the name of the component's cluster; empty for its first, which may be the operator's own.
    pub suffix: String,
    /// What the servers speak.
    pub protocol: Protocol,
    /// The servers, alike: a name or an IP address, and the TCP port.
    pub endpoints: Vec<(String, u16)>,
    /// How the cluster speaks TLS, if it does.
    pub tls: Option<Tls>,
}

/// The suffix of a server that is one of several, each with a cluster of its own: the first has the name of the
/// component alone, the others also their number.
fn numbered(number: usize) -> String {
    if number == 0 { String::new() } else { (number + 1).to_string() }
}

/// How the core speaks to the servers of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes on a connection: [`Proxy::connect`].
    Tcp,
    /// Requests: [`Proxy::http`].
    Http1,
    /// Calls and streams: [`Proxy::grpc`] and [`Proxy::grpc_stream`].
    Grpc,
}

/// TLS of a cluster. Paths are files on the machine that runs Envoy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The name to ask for and to find in the certificate.
    pub server_name: String,
    /// The certificate authorities to trust; none given: the system's.
    pub ca_file: Option<String>,
    /// The certificate and key to show.
    pub certificate: Option<(String, String)>,
}

/// The drivers of the filter's smaller build, `runtime-state.wasm`: code that a configuration does not use costs memory
/// in every Envoy all the same.
pub const STATE_DRIVERS: &[Driver] = &[state::in_memory::DRIVER, state::redis::DRIVER];

/// All drivers: those of the smaller build.
#[cfg(not(feature = "full"))]
pub const DRIVERS: &[Driver] = STATE_DRIVERS;

/// All drivers, by block and type.
#[cfg(feature = "full")]
pub const DRIVERS: &[Driver] = &[
    state::etcd::DRIVER,
    state::in_memory::DRIVER,
    state::memcached::DRIVER,
    state::redis::DRIVER,
    configuration::apollo::DRIVER,
    configuration::etcd::DRIVER,
    configuration::in_memory::DRIVER,
    configuration::redis::DRIVER,
    lock::etcd::DRIVER,
    lock::in_memory::DRIVER,
    lock::redis::DRIVER,
    lock::redis_cluster::DRIVER,
    sequencer::etcd::DRIVER,
    sequencer::in_memory::DRIVER,
    sequencer::redis::DRIVER,
    secrets::kubernetes::DRIVER,
    secrets::local_env::DRIVER,
    secrets::local_file::DRIVER,
    secrets::vault::DRIVER,
];

/// A field of the metadata of a request or an item by its name, which Dapr compares without regard to case.
pub(crate) fn property<'a>(metadata: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    metadata.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// In which of so many buckets of the shared area a key lies. FNV-1a: it spreads keys well and is the same in every
/// worker.
fn bucket_of(key: &str, buckets: u32) -> u32 {
    let hash = key.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % buckets
}
