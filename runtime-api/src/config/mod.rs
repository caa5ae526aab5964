//! The one configuration: what a user writes as `runtime.yaml` and the filter takes as JSON.
//!
//! [`Config::check`] reads it and reports every mistake at once, with the path of the field; the CLI adds file
//! and line. The filter runs the same check at load, so that Envoy refuses a bad configuration.

mod api;
mod field;
pub mod secrets;

use std::fmt;
use std::time::Duration;

use serde_json::Value;

pub use api::{API, Api, NAMES, Protocol, RULE, Rule};
pub use field::{Field, Kind, Path, Presence, Problem, Report, Settings, Severity, Step};
pub use field::{check, joined, parse_address, scalar, suggest, unix_path};

use crate::component::{DRIVERS, Driver, Upstream};
use crate::proxy::MAX_CLUSTER_NAME;

/// The fields of the document itself.
pub const FIELDS: &[Field] = &[
    Field::required(
        "appId",
        Kind::KeyPartOrEmpty,
        "the id of the app that this runtime serves; part of keys in stores. Empty, as in many of Layotto's \
         configurations, it is part of none",
    ),
    Field::optional(
        "namespace",
        Kind::KeyPart,
        "the namespace of the app, for keyPrefix: namespace; absent, that is the same as appid. For Dapr's component files \
         it is the variable NAMESPACE where envoy-runtime runs, as for daprd",
    ),
    Field::optional("apiToken", Kind::Secret, "what a caller must send as dapr-api-token"),
    Field::optional("listeners", Kind::Object(LISTENERS), "where the runtime listens"),
    Field::optional("limits", Kind::Object(LIMITS), "bounds of a call"),
    Field::optional("api", Kind::Object(API), "what may be called, and from where"),
    Field::optional("secrets", Kind::Object(SECRETS), "what the app may read of secret stores"),
    Field::optional("components", Kind::Objects(COMPONENT), "the stores and brokers that the app may use"),
];

/// The fields of `listeners`.
pub const LISTENERS: &[Field] = &[
    Field::default("layottoGrpc", Kind::Listen, "127.0.0.1:34904", "gRPC, the port that Layotto's SDKs call"),
    Field::default("daprGrpc", Kind::Listen, "127.0.0.1:50001", "gRPC, the port that Dapr's SDKs call"),
    Field::default("daprHttp", Kind::Listen, "127.0.0.1:3500", "Dapr's HTTP API"),
    Field::default("admin", Kind::Listen, "127.0.0.1:9901", "Envoy's admin interface"),
];

/// A VM holds a gigabyte. The rest is for code, tables and copies that live for a moment.
const MOST_MEMORY: i64 = 768 << 20;

/// What part of the memory a message may be: it is held as it came, as what is sent to a store, and while either grows.
const CALLS_SHARE: i64 = 4;

/// The fields of `limits`.
pub const LIMITS: &[Field] = &[
    Field::default(
        "maxRequestBytes",
        Kind::Whole(1024, MOST_MEMORY / CALLS_SHARE),
        "4194304",
        "the largest gRPC message or HTTP body taken from the app, in bytes; a larger one is refused with RESOURCE_EXHAUSTED (HTTP: 413). \
         At most a quarter of maxMemoryBytes",
    ),
    Field::optional(
        "maxMemoryBytes",
        Kind::Whole(64 << 20, MOST_MEMORY),
        "how many bytes each worker holds at most of requests, replies and what waits for them; what would go over it is refused with \
         RESOURCE_EXHAUSTED. A worker keeps from the system what it once held. Absent: 134217728, or eight times maxRequestBytes if \
         that is more",
    ),
    Field::default(
        "maxItems",
        Kind::Whole(100, 100_000),
        "10000",
        "the most keys, items or operations in one call; one with more is refused with RESOURCE_EXHAUSTED",
    ),
    Field::default("timeout", Kind::Time, "5s", "how long a call may take when the app set no deadline"),
];

/// The fields of `secrets`.
pub const SECRETS: &[Field] =
    &[Field::optional("scopes", Kind::Objects(SCOPE), "an entry for each store of which not all may be read")];

/// The fields of an element of `secrets.scopes`, in Dapr's words.
pub const SCOPE: &[Field] = &[
    Field::required("storeName", Kind::Text, "the name of the store's component"),
    Field::default("defaultAccess", Kind::Text, "allow", "allow or deny: what holds for a secret in neither list"),
    Field::optional("allowedSecrets", Kind::Texts, "the secrets that may be read; if any are named, no others may"),
    Field::optional("deniedSecrets", Kind::Texts, "the secrets that may not be read"),
];

/// The fields of an element of `components`.
pub const COMPONENT: &[Field] = &[
    Field::required("name", Kind::KeyPart, "the name by which the app calls it"),
    Field::required("type", Kind::Text, "the driver, such as state.redis"),
    Field::default("version", Kind::Text, "v1", "the version of the driver's configuration"),
    Field::optional("metadata", Kind::Metadata, "the driver's own fields"),
    Field::optional("scopes", Kind::Texts, "ids of the apps that may use it; none given: all"),
    Field::optional("cluster", Kind::Text, "an Envoy cluster that exists already; then none is rendered for it"),
];

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The id of the app; may be empty.
    pub app_id: String,
    /// The namespace of the app; empty: none.
    pub namespace: String,
    /// What callers must send as `dapr-api-token`, if anything.
    pub api_token: Option<Secret>,
    /// Where the runtime listens.
    pub listeners: Listeners,
    /// Bounds of a call.
    pub limits: Limits,
    /// What may be called, and from where.
    pub api: Api,
    /// What the app may read of secret stores; all of a store without an entry.
    pub secret_scopes: Vec<SecretScope>,
    /// The components that this app may use, in the order written.
    pub components: Vec<Component>,
}

/// Where the runtime listens.
#[derive(Debug, Clone)]
pub struct Listeners {
    /// gRPC, for Layotto's SDKs by default.
    pub layotto_grpc: Listen,
    /// gRPC, for Dapr's SDKs by default.
    pub dapr_grpc: Listen,
    /// Dapr's HTTP API.
    pub dapr_http: Listen,
    /// Envoy's admin interface.
    pub admin: Listen,
}

/// One place to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address: host and port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(String),
    /// Not at all.
    Off,
}

/// Bounds of a call.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest message taken from an app, in bytes.
    pub max_request_bytes: usize,
    /// What a worker may hold in memory, in bytes.
    pub max_memory_bytes: usize,
    /// The most elements of a message taken from an app.
    pub max_items: usize,
    /// How long a call may take when the app set no deadline.
    pub timeout: Duration,
}

impl Limits {
    /// The largest reply to a unary call, with its frame. Envoy holds it as a whole, up to the HTTP/2 window of the
    /// listener, which is rendered so, and resets the stream of a larger one.
    pub fn max_reply_bytes(&self) -> usize {
        const ENVOYS_DEFAULT: usize = 16 << 20;
        const BESIDES_VALUE: usize = 64 << 10; // what was taken from the app can be read by it
        ENVOYS_DEFAULT.max(self.max_request_bytes.saturating_add(BESIDES_VALUE))
    }
}

/// A configured component.
#[derive(Debug, Clone)]
pub struct Component {
    /// The name by which the app calls it.
    pub name: String,
    /// Its driver.
    pub driver: &'static Driver,
    /// The version of the driver's configuration.
    pub version: String,
    /// The driver's own fields.
    pub settings: Settings,
    /// The Envoy cluster that leads to its server.
    pub cluster: String,
    /// Whether that cluster is the operator's own, not to be rendered.
    pub cluster_exists: bool,
}

/// What the app may read of a secret store.
#[derive(Debug, Clone)]
pub struct SecretScope {
    /// The name of the store's component.
    pub store: String,
    deny: bool,
    allowed: Vec<String>,
    denied: Vec<String>,
}

impl SecretScope {
    /// Whether the app may read a secret: a list of allowed ones goes before one of denied ones, as in Dapr.
    pub fn allows(&self, secret: &str) -> bool {
        let among = |list: &[String]| list.iter().any(|name| name == secret);
        if self.allowed.is_empty() { !self.deny && !among(&self.denied) } else { among(&self.allowed) }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Secret {
    /// Whether `text` is this secret, found out in a time that does not depend on where they differ.
    pub fn is(&self, text: &str) -> bool {
        let (secret, text) = (self.0.as_bytes(), text.as_bytes());
        let differing = secret.iter().zip(text).fold(0, |differing, (a, b)| differing | (a ^ b));
        secret.len() == text.len() && differing == 0
    }

    /// The text itself, for where it must be sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Config {
    /// Checks a document. The report names every mistake; with an error in it there is no configuration. References to
    /// secrets count as set: this is not where the configuration will be used.
    pub fn check(document: &Value) -> (Option<Self>, Report) {
        Self::read(document, None)
    }

    /// Checks a document where it will be used: `environment` has the secrets that it refers to.
    pub fn load(document: &Value, environment: secrets::Variables<'_>) -> (Option<Self>, Report) {
        Self::read(document, Some(environment))
    }

    #[inline(never)] // as what it calls: compiling one large function costs Envoy more than several small ones
    fn read(document: &Value, environment: Option<secrets::Variables<'_>>) -> (Option<Self>, Report) {
        let mut report = Report::default();
        let mut document = document.clone();
        secrets::resolve(&mut document, environment, &mut report);
        let document = &document;
        let root = Path::default();
        let top = field::check(&[FIELDS], document, &root, &mut report);
        let app_id = top.text("appId").unwrap_or_default();
        let config = Self {
            app_id: app_id.to_owned(),
            namespace: top.text("namespace").unwrap_or_default().to_owned(),
            api_token: top.text("apiToken").map(|token| Secret(token.to_owned())),
            listeners: Listeners::check(part(document, "listeners"), &root.field("listeners"), &mut report),
            limits: Limits::check(part(document, "limits"), &root.field("limits"), &mut report),
            api: Api::check(part(document, "api"), &root.field("api"), &mut report),
            secret_scopes: check_scopes(part(document, "secrets"), &root.field("secrets"), &mut report),
            components: check_components(document, app_id, &root.field("components"), &mut report),
        };
        ((!report.has_errors()).then_some(config), report)
    }
}

/// A field of the document by its name in any case; an empty object where it is absent or of another shape, which
/// has been reported by then.
fn part<'a>(document: &'a Value, name: &str) -> &'a Value {
    static NONE: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));
    get(document, name).filter(|value| value.is_object()).unwrap_or(&NONE)
}

fn get<'a>(document: &'a Value, name: &str) -> Option<&'a Value> {
    document.as_object()?.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn get_mut<'a>(document: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = document.as_object_mut()?.iter_mut();
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Listeners {
    /// All of them, by the name that they have in a configuration.
    pub fn all(&self) -> [(&'static str, &Listen); 4] {
        let Self { layotto_grpc, dapr_grpc, dapr_http, admin } = self;
        [("layottoGrpc", layotto_grpc), ("daprGrpc", dapr_grpc), ("daprHttp", dapr_http), ("admin", admin)]
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> [(&'static str, &mut Listen); 4] {
        let Self { layotto_grpc, dapr_grpc, dapr_http, admin } = self;
        [("layottoGrpc", layotto_grpc), ("daprGrpc", dapr_grpc), ("daprHttp", dapr_http), ("admin", admin)]
    }

    #[inline(never)]
    fn check(object: &Value, path: &Path, report: &mut Report) -> Self {
        let settings = field::check(&[LISTENERS], object, path, report);
        let mut taken: Vec<(&str, &'static str)> = Vec::new();
        let mut listen = |name: &'static str| {
            let text = settings.text(name).unwrap_or("off");
            let shareable = text == "off" || text.ends_with(":0"); // port 0: any that is free
            if let Some((_, other)) = taken.iter().find(|(address, _)| *address == text && !shareable) {
                report.error(path.field(name), format!("{text} is taken by {other}; each listener needs its own"));
            }
            if let Listen::Unix(socket) = Listen::parse(text)
                && socket.len() > MAX_SOCKET_PATH
            {
                let text =
                    format!("the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes, not {}", socket.len());
                report.error(path.field(name), text);
            }
            taken.push((text, name));
            Listen::parse(text)
        };
        Self {
            layotto_grpc: listen("layottoGrpc"),
            dapr_grpc: listen("daprGrpc"),
            dapr_http: listen("daprHttp"),
            admin: listen("admin"),
        }
    }
}

/// The longest path of a Unix socket, in bytes.
pub const MAX_SOCKET_PATH: usize = 107; // sun_path of Linux, less its closing zero

impl Listen {
    fn parse(text: &str) -> Self {
        match (unix_path(text), parse_address(text)) {
            (Some(path), _) => Self::Unix(path.to_owned()),
            (None, Some((host, port))) => Self::Tcp(host.to_owned(), port),
            (None, None) => Self::Off,
        }
    }
}

impl Limits {
    fn check(object: &Value, path: &Path, report: &mut Report) -> Self {
        let settings = field::check(&[LIMITS], object, path, report);
        let (request, memory) = (settings.whole("maxRequestBytes"), settings.whole("maxMemoryBytes"));
        if let (Some(request), Some(memory)) = (request, memory)
            && request > memory / CALLS_SHARE
        {
            let most = memory / CALLS_SHARE;
            let text = format!(
                "{request} is more than a quarter of maxMemoryBytes, and a call holds its message more than once: \
                 at most {most} is expected, or a larger maxMemoryBytes"
            );
            report.error(path.field("maxRequestBytes"), text);
        }
        let number = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        Self {
            max_request_bytes: number(request).unwrap_or(4 << 20),
            max_memory_bytes: number(memory).unwrap_or_else(|| {
                // An eighth of it has room for an item in memory.
                let for_requests = number(request).unwrap_or_default().saturating_mul(8);
                for_requests.max(128 << 20).min(number(Some(MOST_MEMORY)).unwrap_or(usize::MAX))
            }),
            max_items: number(settings.whole("maxItems")).unwrap_or(10_000),
            timeout: settings.time("timeout").unwrap_or(Duration::from_secs(5)),
        }
    }
}

#[inline(never)]
fn check_scopes(object: &Value, path: &Path, report: &mut Report) -> Vec<SecretScope> {
    field::check(&[SECRETS], object, path, report);
    let path = path.field("scopes");
    let mut scopes: Vec<SecretScope> = Vec::new();
    for (index, object) in list(object, "scopes").iter().enumerate() {
        let path = path.index(index);
        let settings = field::check(&[SCOPE], object, &path, report);
        let access = settings.text("defaultAccess").unwrap_or_default().to_ascii_lowercase();
        if !["allow", "deny"].contains(&access.as_str()) {
            report.error(path.field("defaultAccess"), format!("allow or deny is expected, not {access:?}"));
        }
        let Some(store) = settings.text("storeName") else { continue };
        if scopes.iter().any(|other| other.store == store) {
            report.error(path.field("storeName"), format!("there is another entry for {store:?}; one is expected"));
        }
        let texts = |name: &str| list(object, name).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        scopes.push(SecretScope {
            store: store.to_owned(),
            deny: access == "deny",
            allowed: texts("allowedSecrets"),
            denied: texts("deniedSecrets"),
        });
    }
    scopes
}

/// The elements of a list in a field; none where it is absent or of another shape.
fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    get(object, name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[inline(never)]
fn check_components(document: &Value, app_id: &str, path: &Path, report: &mut Report) -> Vec<Component> {
    let mut components: Vec<Component> = Vec::new();
    for (index, object) in list(document, "components").iter().enumerate() {
        if !is_for(object, app_id) {
            continue;
        }
        let path = path.index(index);
        let Some(component) = Component::check(object, &path, report) else { continue };
        let taken = |other: &Component| other.name == component.name && other.driver.block == component.driver.block;
        if components.iter().any(taken) {
            let text = format!("another component of this kind is called {:?}; names must differ", component.name);
            report.error(path.field("name"), text);
        }
        components.push(component);
    }
    components
}

/// Whether the scopes of a component let the app use it. One that is for other apps is not looked into: whatever is
/// wrong in it is theirs.
pub fn is_for(component: &Value, app_id: &str) -> bool {
    let scopes = list(component, "scopes");
    scopes.is_empty() || scopes.iter().any(|scope| scalar(scope).as_deref() == Some(app_id))
}

impl Component {
    #[inline(never)]
    fn check(object: &Value, path: &Path, report: &mut Report) -> Option<Self> {
        let settings = field::check(&[COMPONENT], object, path, report);
        let kind = settings.text("type")?;
        let Some(driver) = DRIVERS.iter().find(|driver| driver.kind.eq_ignore_ascii_case(kind)) else {
            let known: Vec<&str> = DRIVERS.iter().map(|driver| driver.kind).collect();
            let build = if cfg!(feature = "full") { "" } else { " to runtime-state.wasm (runtime.wasm knows more)" };
            let text = format!("unknown component type {kind:?}{build}; {}", suggest(kind, &known));
            report.error(path.field("type"), text);
            return None;
        };
        let version = settings.text("version").unwrap_or_default();
        if !driver.versions.contains(&version) {
            let known = driver.versions.join(" or ");
            report.error(path.field("version"), format!("{known} is expected, not {version:?}"));
        }
        let metadata = path.field("metadata");
        let tables = [driver.block.fields(), driver.fields];
        let own = field::check(&tables, part(object, "metadata"), &metadata, report);
        (driver.check)(&own, &metadata, report);
        let name = settings.text("name")?;
        let cluster = settings.text("cluster");
        let component = Self {
            name: name.to_owned(),
            driver,
            version: version.to_owned(),
            settings: own,
            cluster: cluster.map_or_else(|| format!("runtime.{}.{name}", driver.block.name()), str::to_owned),
            cluster_exists: cluster.is_some(),
        };
        component.check_clusters(path, report);
        Some(component)
    }
}

impl Component {
    fn check_clusters(&self, path: &Path, report: &mut Report) {
        let upstreams = (self.driver.upstreams)(&self.settings);
        let Some(name) = upstreams.iter().map(|upstream| self.upstream(upstream)).max_by_key(String::len) else {
            return;
        };
        if name.len() > MAX_CLUSTER_NAME {
            let field = if self.cluster_exists { "cluster" } else { "name" };
            let text = format!("too long: its Envoy cluster {name:?} may have {MAX_CLUSTER_NAME} bytes at most");
            report.error(path.field(field), text);
        }
    }

    /// The name of the Envoy cluster that leads to these of its servers.
    pub fn upstream(&self, upstream: &Upstream) -> String {
        self.cluster_of(&upstream.suffix)
    }

    /// The name of the Envoy cluster with this suffix.
    pub fn cluster_of(&self, suffix: &str) -> String {
        if suffix.is_empty() { self.cluster.clone() } else { format!("{}.{suffix}", self.cluster) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(document: &Value) -> Vec<String> {
        Config::check(document).1.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults() {
        let (config, report) = Config::check(&json!({"appId": "orders"}));
        let config = config.unwrap();
        assert!(report.0.is_empty(), "{report:?}");
        assert_eq!(config.listeners.dapr_grpc, Listen::Tcp("127.0.0.1".into(), 50001));
        assert_eq!(config.limits.max_request_bytes, 4 * 1024 * 1024);
        assert_eq!(config.limits.timeout, Duration::from_secs(5));
        assert_eq!(config.namespace, "");
    }

    #[test]
    fn an_unknown_type_names_the_nearest_first() {
        let found = errors(&json!({"appId": "a", "components": [{"name": "s", "type": "state.reddis"}]}));
        assert!(
            found[0].starts_with(
                "components[0].type: unknown component type \"state.reddis\"; did you mean \"state.redis\"?"
            ),
            "{found:?}"
        );
        assert!(found[0].contains("state.in-memory"), "{found:?}");
    }

    #[test]
    fn a_component_in_the_scope_of_other_apps_is_left_out_whatever_is_wrong_in_it() {
        let component = |scopes: Value| json!({"name": "s", "type": "state.in-memory", "scopes": scopes});
        let config =
            |scopes: Value| Config::check(&json!({"appId": "a", "components": [component(scopes)]})).0.unwrap();
        assert_eq!(config(json!(["b"])).components.len(), 0);
        assert_eq!(config(json!(["b", "a"])).components.len(), 1);
        assert_eq!(config(json!([])).components.len(), 1);
        let wrong = json!({"type": "state.reddis", "metadata": {"x": 1}, "odd": true, "scopes": ["b"]});
        let unset =
            json!({"name": "s", "type": "state.redis", "scopes": ["b"], "metadata": {"redisPassword": {"env": "X"}}});
        let document = json!({"appId": "a", "components": [wrong, unset, component(json!(["a"]))]});
        let (config, report) = Config::load(&document, &|_| None);
        assert!(report.0.is_empty(), "{report:?}");
        assert_eq!(config.unwrap().components.len(), 1);
    }

    #[test]
    fn an_empty_id_is_one_and_nothing_is_none() {
        assert_eq!(Config::check(&json!({"appId": ""})).0.unwrap().app_id, "");
        assert_eq!(errors(&json!({"appId": null})).len(), 1);
        assert_eq!(errors(&json!({"appId": "a||b"})).len(), 1);
        assert_eq!(errors(&json!({})).len(), 1);
    }

    #[test]
    fn names_and_listeners_must_differ() {
        let component = json!({"name": "s", "type": "state.in-memory"});
        let found = errors(&json!({
            "appId": "a",
            "listeners": {"daprGrpc": "127.0.0.1:34904"},
            "components": [component, component],
        }));
        assert_eq!(
            found,
            [
                "listeners.daprGrpc: 127.0.0.1:34904 is taken by layottoGrpc; each listener needs its own",
                "components[1].name: another component of this kind is called \"s\"; names must differ",
            ]
        );
    }

    #[test]
    fn a_message_is_a_part_of_the_memory() {
        let limits = |limits: Value| errors(&json!({"appId": "a", "limits": limits}));
        assert_eq!(limits(json!({"maxRequestBytes": 128 << 20})), [""; 0]);
        let memory = |request: i64| {
            let (config, _) = Config::check(&json!({"appId": "a", "limits": {"maxRequestBytes": request}}));
            config.unwrap().limits.max_memory_bytes >> 20
        };
        assert_eq!((memory(4 << 20), memory(20 << 20), memory(100 << 20)), (128, 160, 768));
        assert_eq!(limits(json!({"maxRequestBytes": 192 << 20, "maxMemoryBytes": 768 << 20})), [""; 0]);
        let found = limits(json!({"maxRequestBytes": 20_000_000, "maxMemoryBytes": 64 << 20}));
        assert_eq!(found.len(), 1);
        let text = "limits.maxRequestBytes: 20000000 is more than a quarter of maxMemoryBytes";
        assert!(found[0].starts_with(text) && found[0].contains("at most 16777216"), "{found:?}");
    }

    #[test]
    fn a_secret_shows_nothing_and_compares() {
        let secret = Secret("hunter2".into());
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert!(secret.is("hunter2") && !secret.is("hunter") && !secret.is("hunter3"));
    }
}
