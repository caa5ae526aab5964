//! Layotto's configuration: a MOSN file with a `grpc_config` in one of its filters. The sections of [`SECTIONS`] are
//! served; all else that a MOSN may be told is named in one line and passed over.

use std::rc::Rc;

use runtime_api::component::sequencer::BIGGER_THAN;
use runtime_api::component::{Block, DRIVERS, Driver};
use runtime_api::config::{Path, suggest};
use serde_json::{Map, Value, json};

use super::origins::Children;
use super::secrets::Reference;
use super::yaml::{self, Node};
use super::{Draft, File, Spot};
use crate::report::Finding;

/// The sections of components, and which building block each is. Types in a section have no block before them.
const SECTIONS: &[Section] = &[
    Section { name: "state", block: Block::State, meaning: "state store", unserved: STATE },
    Section { name: "config_store", block: Block::Configuration, meaning: "configuration store", unserved: &["nacos"] },
    Section { name: "secret_store", block: Block::Secrets, meaning: "secret store", unserved: SECRETS },
    Section { name: "lock", block: Block::Lock, meaning: "lock store", unserved: &["consul", "mongo", "zookeeper"] },
    Section { name: "sequencer", block: Block::Sequencer, meaning: "sequencer", unserved: SEQUENCERS },
];

/// Layotto's types that are not served here yet. A component of one is passed over; any other type is a mistake.
const STATE: &[&str] = &[
    "aerospike",
    "aws.dynamodb",
    "azure.blobstorage",
    "azure.cosmosdb",
    "azure.tablestorage",
    "cassandra",
    "cloudstate.crdt",
    "consul",
    "couchbase",
    "gcp.firestore",
    "hazelcast",
    "mongodb",
    "mysql",
    "postgresql",
    "rethinkdb",
    "sqlserver",
    "zookeeper",
];
const SECRETS: &[&str] = &["aws.parameterstore", "aws.secretmanager", "azure.keyvault", "gcp.secretmanager"];
const SEQUENCERS: &[&str] = &["mongo", "mysql", "snowflake", "zookeeper"];

/// Drivers that Layotto calls otherwise: what stands here after the building block, and Layotto's type.
const RENAMED: &[(&str, &str)] = &[("redis.cluster", "redis_cluster")];

/// A section of components.
struct Section {
    name: &'static str,
    block: Block,
    /// What one of its components is called in a message.
    meaning: &'static str,
    /// Types that Layotto has and that are not served here yet.
    unserved: &'static [&'static str],
}

/// Stands for a secret until all stores are known.
const PENDING: &str = "pending";

/// The filter of the file that serves the API, and the listener that it is in.
struct Grpc<'a> {
    config: &'a Node,
    path: Path,
    listener: &'a Node,
    listener_path: Path,
}

/// Reads a Layotto configuration.
pub(super) fn read(file: &Rc<File>) -> Draft {
    let mut draft = Draft::empty(Spot::whole(&file.name));
    let documents = yaml::parse(file, &mut draft.findings);
    let Some(root) = documents.first() else {
        if draft.findings.is_empty() {
            draft.findings.push(Finding::error(Spot::whole(&file.name), "", "the file is empty"));
        }
        draft.document = Value::Null;
        return draft;
    };
    let mut found = grpc_filters(root).into_iter();
    let Some(grpc) = found.next() else {
        let text =
            "no filter with a grpc_config; it is looked for in servers[].listeners[].filter_chains[].filters[].config";
        draft.findings.push(Finding::error(root.spot.clone(), "servers", text));
        draft.document = Value::Null;
        return draft;
    };
    for other in found {
        let text = "not served: only the first grpc_config of the file is";
        draft.findings.push(Finding::warning(other.config.spot.clone(), &other.path.to_string(), text));
    }
    draft.app_id(&grpc);
    draft.listener(&grpc);
    let mut passed_over = draft.sections(&grpc);
    passed_over.extend(the_rest(root, &grpc));
    if !passed_over.is_empty() {
        let text = format!("passed over, since it is not served yet: {}", passed_over.join(", "));
        draft.findings.push(Finding::warning(root.spot.clone(), "", text));
    }
    draft
}

/// The metadata field of a driver for what Layotto writes beside the metadata of a configuration store.
fn metadata_field(kind: &str, field: &str) -> Option<&'static str> {
    let names: &[&str] = if field.eq_ignore_ascii_case("address") { &["address", "endpoints"] } else { &["timeout"] };
    let driver = DRIVERS.iter().find(|driver| driver.kind.eq_ignore_ascii_case(kind))?;
    driver.fields.iter().map(|field| field.name).find(|name| names.contains(name))
}

/// All filters with a `grpc_config`.
fn grpc_filters(root: &Node) -> Vec<Grpc<'_>> {
    let mut found = Vec::new();
    for (server, server_path) in items(root, &Path::default(), "servers") {
        for (listener, listener_path) in items(server, &server_path, "listeners") {
            for (chain, chain_path) in items(listener, &listener_path, "filter_chains") {
                for (filter, filter_path) in items(chain, &chain_path, "filters") {
                    if let Some(config) = filter.get("config").and_then(|config| config.get("grpc_config")) {
                        let path = filter_path.field("config").field("grpc_config");
                        found.push(Grpc { config, path, listener, listener_path: listener_path.clone() });
                    }
                }
            }
        }
    }
    found
}

/// The elements of a list in a field, with their paths.
fn items<'a>(node: &'a Node, path: &Path, name: &str) -> Vec<(&'a Node, Path)> {
    let list = node.get(name).map(Node::items).unwrap_or_default();
    list.iter().enumerate().map(|(index, item)| (item, path.field(name).index(index))).collect()
}

impl Draft {
    fn app_id(&mut self, grpc: &Grpc<'_>) {
        let app = grpc.config.get("app");
        let app_id = app.and_then(|app| app.get("app_id"));
        let spot = app_id.or(app).unwrap_or(grpc.config).spot.clone();
        let path = grpc.path.field("app").field("app_id");
        self.origins.add(Path::default().field("appId"), spot, path.to_string(), Children::Fields);
        if let Some(document) = self.document.as_object_mut() {
            // Most of Layotto's own configurations have none.
            let app_id = app_id.map(Node::value).filter(|id| !id.is_null());
            document.insert("appId".to_owned(), app_id.unwrap_or_else(|| json!("")));
        }
    }

    fn listener(&mut self, grpc: &Grpc<'_>) {
        let Some(address) = grpc.listener.get("address") else { return };
        let unix = grpc.listener.get("network").and_then(Node::text) == Some("unix");
        let value = match address.text() {
            Some(path) if unix && !path.starts_with("unix:") => json!(format!("unix://{path}")),
            Some(port) if port.starts_with(':') => json!(format!("0.0.0.0{port}")),
            _ => address.value(),
        };
        self.set(&["listeners", "layottoGrpc"], value, address.spot.clone());
        let path = Path::default().field("listeners").field("layottoGrpc");
        let own = grpc.listener_path.field("address");
        self.origins.add(path, address.spot.clone(), own.to_string(), Children::Fields);
    }

    /// The components of all sections. Returns what is passed over.
    fn sections(&mut self, grpc: &Grpc<'_>) -> Vec<String> {
        let (mut components, mut passed_over) = (Vec::new(), Vec::new());
        for section in SECTIONS {
            for (name, store) in grpc.config.get(section.name).map(Node::fields).unwrap_or_default() {
                let kind = store.get("type").and_then(Node::text).unwrap_or_default();
                if section.unserved.iter().any(|unserved| unserved.eq_ignore_ascii_case(kind)) {
                    passed_over.push(format!("{}.{name} ({kind})", section.name));
                    continue;
                }
                let path = Path::default().field("components").index(components.len());
                let own = grpc.path.field(section.name).field(name);
                components.push(self.section_component(section, name, store, &path, &own));
            }
        }
        if let Some(document) = self.document.as_object_mut() {
            document.insert("components".to_owned(), Value::Array(components));
        }
        passed_over
    }

    /// One component: `own` is its path in the file.
    fn section_component(&mut self, section: &Section, name: &str, store: &Node, path: &Path, own: &Path) -> Value {
        self.origins.add(path.clone(), store.spot.clone(), own.to_string(), Children::Fields);
        self.origins.add(path.field("name"), store.spot.clone(), own.to_string(), Children::Fields);
        let mut component = Map::from_iter([("name".to_owned(), json!(name))]);
        let (mut references, mut bigger_than, mut beside) = (None, None, Vec::new());
        for (field, node) in store.fields() {
            let own = own.field(field);
            match field.to_ascii_lowercase().as_str() {
                "type" => {
                    self.origins.add(path.field("type"), node.spot.clone(), own.to_string(), Children::Fields);
                    component.insert("type".to_owned(), self.driver(section, node, &path.field("type"), &own));
                }
                "metadata" => {
                    node.walk(&Path::default(), &mut |below, node| {
                        let join = |start: &Path| Path(start.0.iter().chain(&below.0).cloned().collect());
                        let at = join(&path.field("metadata"));
                        self.origins.add(at, node.spot.clone(), join(&own).to_string(), Children::Fields);
                    });
                    component.insert("metadata".to_owned(), node.value());
                }
                "secret_ref" => references = Some((node, own)),
                "address" | "timeout" if section.block == Block::Configuration => beside.push((field, node, own)),
                "biggerthan" if section.block == Block::Sequencer => bigger_than = Some((node, own)),
                _ => self.warn(node, &own, "not served yet"),
            }
        }
        if let Some((node, own)) = bigger_than {
            // Here it is a field of the metadata.
            let path = path.field("metadata").field(BIGGER_THAN);
            self.origins.add(path, node.spot.clone(), own.to_string(), Children::Fields);
            let metadata = component.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert(BIGGER_THAN.to_owned(), node.value());
            }
        }
        for (field, node, own) in beside {
            let kind = component.get("type").and_then(Value::as_str).unwrap_or_default();
            let Some(name) = metadata_field(kind, field) else {
                self.warn(node, &own, "has no effect with this type");
                continue;
            };
            self.origins.add(path.field("metadata").field(name), node.spot.clone(), own.to_string(), Children::Fields);
            let value = match node.items() {
                [] => node.value(),
                items => json!(items.iter().filter_map(Node::text).collect::<Vec<_>>().join(",")),
            };
            let metadata = component.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert(name.to_owned(), value);
            }
        }
        if let Some((node, own)) = references {
            let metadata = component.entry("metadata").or_insert_with(|| json!({}));
            self.secret_ref(node, path, &own, metadata);
        }
        Value::Object(component)
    }

    /// Secrets that become metadata fields of a component.
    fn secret_ref(&mut self, list: &Node, path: &Path, own: &Path, metadata: &mut Value) {
        for (index, item) in list.items().iter().enumerate() {
            let own = own.index(index);
            let text = |name: &str| item.get(name).and_then(Node::text).filter(|text| !text.is_empty());
            let (Some(store), Some(key)) = (text("store_name"), text("key")) else {
                let text = "store_name and key are expected: which store has which secret";
                self.findings.push(Finding::error(item.spot.clone(), &own.to_string(), text));
                continue;
            };
            // As in Layotto: the value goes by the name of the secret unless another is given.
            let value = text("sub_key").unwrap_or(key);
            let field = text("inject_as").unwrap_or(value);
            let path = path.field("metadata").field(field);
            self.origins.add(path.clone(), item.spot.clone(), own.to_string(), Children::Fields);
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.retain(|name, _| !name.eq_ignore_ascii_case(field));
                metadata.insert(field.to_owned(), json!(PENDING));
            }
            self.references.push(Reference {
                path,
                spot: item.spot.clone(),
                own_name: own.to_string(),
                store: Some(store.to_owned()),
                says_store: "store_name",
                name: key.to_owned(),
                key: value.to_owned(),
            });
        }
    }

    /// The driver for a type of Layotto's, which has no building block before it.
    fn driver(&mut self, section: &Section, node: &Node, path: &Path, own: &Path) -> Value {
        let Some(kind) = node.text() else { return node.value() };
        let Section { block, meaning, .. } = section;
        let prefix = format!("{}.", block.name());
        let drivers = DRIVERS.iter().filter(|driver| driver.block == *block);
        let named = |driver: &'static Driver| Some((layottos_name(driver.kind.strip_prefix(&prefix)?), driver.kind));
        let known: Vec<(&str, &str)> = drivers.filter_map(named).collect();
        if let Some((_, driver)) = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
            return json!(driver);
        }
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let text = format!("unknown type of a {meaning} {kind:?}; {}", suggest(kind, &names));
        self.findings.push(Finding::error(node.spot.clone(), &own.to_string(), text));
        self.refused.push(path.clone());
        json!(format!("{prefix}{kind}"))
    }

    fn warn(&mut self, node: &Node, path: &Path, text: &str) {
        self.findings.push(Finding::warning(node.spot.clone(), &path.to_string(), text));
    }
}

/// The parts of the file that nothing is made of.
fn the_rest(root: &Node, grpc: &Grpc<'_>) -> Vec<String> {
    let mut rest = Vec::new();
    for (name, node) in grpc.config.fields() {
        let mut served = SECTIONS.iter().map(|section| section.name);
        if name.eq_ignore_ascii_case("app") {
            let others = node.fields().iter().filter(|(name, _)| !name.eq_ignore_ascii_case("app_id"));
            rest.extend(others.map(|(field, _)| format!("{name}.{field}")));
        } else if !served.any(|served| name.eq_ignore_ascii_case(served)) {
            rest.push(name.clone());
        }
    }
    for (filter, _) in items(grpc.listener, &Path::default(), "stream_filters") {
        rest.push(format!("the stream filter {}", filter.get("type").and_then(Node::text).unwrap_or_default()));
    }
    for (server, path) in items(root, &Path::default(), "servers") {
        for (listener, path) in items(server, &path, "listeners") {
            if path != grpc.listener_path {
                let name = listener.get("name").and_then(Node::text).unwrap_or_default();
                rest.push(format!("the listener {name:?}"));
            }
        }
    }
    rest.extend(root.fields().iter().map(|(name, _)| name.clone()).filter(|name| name != "servers"));
    rest
}

/// What Layotto calls a driver, without the building block.
fn layottos_name(kind: &str) -> &str {
    RENAMED.iter().find(|(here, _)| *here == kind).map_or(kind, |(_, there)| there)
}

#[cfg(test)]
mod tests {
    use runtime_api::component::DRIVERS;

    use super::SECTIONS;

    #[test]
    fn what_is_served_is_not_passed_over() {
        for driver in DRIVERS {
            let (_, name) = driver.kind.split_once('.').unwrap();
            let listed =
                SECTIONS.iter().any(|section| section.block == driver.block && section.unserved.contains(&name));
            assert!(!listed, "{} is served: take it out of the list", driver.kind);
        }
    }
}
