//! Dapr's component files: a folder of YAML or JSON with documents of the kind `Component`.

use std::path::{Path as FilePath, PathBuf};
use std::rc::Rc;

use runtime_api::config::{self, Field, Kind, Path, Report, scalar};
use serde_json::{Map, Value, json};

use super::origins::Children;
use super::secrets::Reference;
use super::yaml::{self, Node};
use super::{Draft, File, Spot, field};
use crate::Failure;
use crate::report::Finding;

/// What a component file may hold. What must be there is checked in the document that comes of it.
const FILE: &[Field] = &[
    Field::optional("apiVersion", Kind::Text, "dapr.io/v1alpha1"),
    Field::optional("kind", Kind::Text, "Component"),
    Field::optional("metadata", Kind::Metadata, "the name of the component"),
    Field::optional("spec", Kind::Object(SPEC), "the component itself"),
    Field::optional("auth", Kind::Metadata, "the secret store"),
    Field::optional("scopes", Kind::Texts, "ids of the apps that may use it"),
];

const SPEC: &[Field] = &[
    Field::optional("type", Kind::Text, "the driver"),
    Field::optional("version", Kind::Text, "the version of the driver's configuration"),
    Field::optional("metadata", Kind::Objects(ITEM), "the driver's own fields"),
    Field::optional(
        "initTimeout",
        Kind::Ignored("a component connects when it is first called, so nothing waits for it at start"),
        "",
    ),
    Field::optional(
        "ignoreErrors",
        Kind::Ignored(
            "a store that is down fails the calls to it and never the start; a wrong field is always an error",
        ),
        "",
    ),
];

const ITEM: &[Field] = &[
    Field::optional("name", Kind::Text, "the name of the field"),
    Field::optional("value", Kind::Text, "its value"),
    Field::optional("envRef", Kind::Text, "the environment variable that holds its value"),
    Field::optional("secretKeyRef", Kind::Metadata, "the secret that holds its value"),
];

/// Stands for a secret until all stores are known.
const PENDING: &str = "pending";

const CONFIGURATION: &str = "Configuration";

/// What a document of that kind may hold that has an effect; all else in its `spec` is for daprd.
const TAKEN: &[&str] = &["secrets", "api"];

const API_VERSION: &str = "dapr.io/v1alpha1";

/// Building blocks of Dapr's that are not served here yet. A component of one is passed over.
const UNSERVED_BLOCKS: &[&str] =
    &["bindings", "conversation", "crypto", "middleware", "nameresolution", "pubsub", "workflowbackend"];

/// Types of Dapr's that are not served here yet, by building block. A component of one is passed over, and any other
/// type is a mistake.
const UNSERVED: &[(&str, &[&str])] = &[
    (
        "state",
        &[
            "aerospike",
            "alicloud.tablestore",
            "aws.dynamodb",
            "azure.blobstorage",
            "azure.cosmosdb",
            "azure.tablestorage",
            "cassandra",
            "cloudflare.workerskv",
            "cockroachdb",
            "coherence",
            "consul",
            "couchbase",
            "gcp.firestore",
            "hashicorp.consul",
            "hazelcast",
            "jetstream",
            "mongodb",
            "mysql",
            "oci.objectstorage",
            "oracledatabase",
            "postgres",
            "postgresql",
            "ravendb",
            "rethinkdb",
            "sqlite",
            "sqlserver",
            "zookeeper",
        ],
    ),
    ("configuration", &["azure.appconfig", "kubernetes", "postgres", "postgresql"]),
    (
        "secretstores",
        &[
            "alicloud.parameterstore",
            "aws.parameterstore",
            "aws.secretmanager",
            "azure.keyvault",
            "gcp.secretmanager",
            "huaweicloud.csms",
            "tencentcloud.ssm",
        ],
    ),
];

/// The namespace of the app, for keys and for which components are its own, as for daprd.
const NAMESPACE: &str = "NAMESPACE";

/// Reads all components of the folders. `variable` looks up environment variables.
pub(super) fn read(
    app_id: &str,
    says_app_id: &str,
    folders: &[PathBuf],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Draft, Failure> {
    let names: Vec<String> = folders.iter().map(|dir| dir.display().to_string()).collect();
    let mut draft = Draft::empty(Spot::whole(names.join(", ")));
    draft.set(&["appId"], json!(app_id), Spot::whole(says_app_id));
    if let Some(namespace) = variable(NAMESPACE).filter(|name| !name.is_empty()) {
        draft.set(&["namespace"], json!(namespace), Spot::whole(NAMESPACE));
    }
    draft.set(&["components"], json!([]), Spot::whole(names.join(", ")));
    let (mut components, mut passed_over) = (Vec::new(), Vec::new());
    for dir in folders {
        let files = super::component_files(dir)?;
        if files.is_empty() {
            draft.findings.push(Finding::warning(folder(dir), "", "no .yaml, .yml or .json file in this folder"));
        }
        for file in files {
            for document in yaml::parse(&super::open(&file)?, &mut draft.findings) {
                if let Some(unserved) = draft.unserved(&document) {
                    passed_over.push(unserved);
                } else if let Some(component) = draft.component(&document, components.len(), &variable) {
                    components.push(component);
                }
            }
        }
    }
    if !passed_over.is_empty() {
        let text = format!("passed over, since it is not served yet: {}", passed_over.join(", "));
        draft.findings.push(Finding::warning(Spot::whole(names.join(", ")), "", text));
    }
    if let Some(list) = draft.document.get_mut("components") {
        *list = Value::Array(components);
    }
    Ok(draft)
}

fn folder(dir: &FilePath) -> Spot {
    Spot::whole(dir.display().to_string())
}

impl Draft {
    /// A file with documents of the kind Configuration, as Dapr's `--config` names it.
    pub(super) fn configurations(&mut self, file: &Rc<File>) {
        for document in yaml::parse(file, &mut self.findings) {
            match document.get("kind").and_then(Node::text) {
                Some(CONFIGURATION) => self.configuration(&document),
                kind => {
                    let text =
                        format!("{CONFIGURATION} is expected, not {}", kind.unwrap_or("a document without a kind"));
                    self.findings.push(Finding::error(document.spot.clone(), "kind", text));
                }
            }
        }
    }

    /// What the app may read of secret stores, and what of the API may be called; the rest of the document is named and passed over.
    fn configuration(&mut self, document: &Node) {
        for (name, node) in document.get("spec").map(Node::fields).unwrap_or_default() {
            match TAKEN.iter().find(|taken| taken.eq_ignore_ascii_case(name)) {
                Some(taken) => self.take(taken, node),
                None => {
                    let text = "has no effect: it is for daprd";
                    self.findings.push(Finding::warning(node.spot.clone(), &format!("spec.{name}"), text));
                }
            }
        }
    }

    /// A part of a Configuration that is the same in a document of ours.
    fn take(&mut self, name: &'static str, node: &Node) {
        if self.document.get(name).is_some() {
            let text = format!("given twice; one Configuration with spec.{name} is expected");
            self.findings.push(Finding::error(node.spot.clone(), &format!("spec.{name}"), text));
            return;
        }
        self.set(&[name], node.value(), node.spot.clone());
        let (path, own) = (Path::default().field(name), Path::default().field("spec").field(name));
        node.walk(&Path::default(), &mut |below, node| {
            let join = |start: &Path| Path(start.0.iter().chain(&below.0).cloned().collect());
            self.origins.add(join(&path), node.spot.clone(), join(&own).to_string(), Children::Fields);
        });
    }

    /// What is said of a component of this app that Dapr has and that is not served here yet: its name and type.
    fn unserved(&self, document: &Node) -> Option<String> {
        let kind = document.get("spec").and_then(|spec| spec.get("type")).and_then(Node::text)?.to_ascii_lowercase();
        let is_component = document.get("kind").and_then(Node::text) == Some("Component");
        let (block, driver) = kind.split_once('.')?;
        let known = UNSERVED_BLOCKS.contains(&block)
            || UNSERVED.iter().any(|(other, drivers)| *other == block && drivers.contains(&driver));
        let name = document.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::text);
        let ours = is_component && known && self.is_its_own(document);
        ours.then(|| format!("{} ({kind})", name.unwrap_or_default()))
    }

    /// Whether a component is for this app and, where the app has a namespace and the component names one, of that
    /// namespace. Others are not looked into: whatever is wrong in them is theirs.
    fn is_its_own(&self, component: &Node) -> bool {
        let theirs = component.get("metadata").and_then(|metadata| metadata.get("namespace")).map(Node::value);
        let theirs = theirs.as_ref().and_then(scalar).filter(|name| !name.is_empty());
        let own = field(&self.document, "namespace").and_then(Value::as_str);
        let elsewhere = own.is_some_and(|own| theirs.is_some_and(|theirs| theirs != own));
        !elsewhere && config::is_for(&component.value(), &self.served_app())
    }

    /// The component in a document of a file; none if the document is of another kind, empty or for another app.
    fn component(
        &mut self,
        document: &Node,
        index: usize,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Option<Value> {
        if document.value().is_null() {
            return None;
        }
        let kind = document.get("kind");
        if kind.and_then(Node::text) == Some(CONFIGURATION) {
            self.configuration(document);
            return None;
        }
        if kind.and_then(Node::text) != Some("Component") {
            let text = match kind.and_then(Node::text) {
                Some(kind) => {
                    format!("skipped: the kind {kind} is not served yet, only Component and Configuration are")
                }
                None => "skipped: only documents with `kind: Component` or `kind: Configuration` are read".to_owned(),
            };
            let spot = kind.unwrap_or(document).spot.clone();
            self.findings.push(Finding::warning(spot, "kind", text));
            return None;
        }
        if !self.is_its_own(document) {
            return None;
        }
        self.check_shape(document);
        let path = Path::default().field("components").index(index);
        self.origins.add(path.clone(), document.spot.clone(), String::new(), Children::Fields);
        let mut component = Map::new();
        let spec = document.get("spec");
        let parts = [
            ("name", "metadata.name", document.get("metadata"), "name"),
            ("type", "spec.type", spec, "type"),
            ("version", "spec.version", spec, "version"),
            ("scopes", "scopes", Some(document), "scopes"),
        ];
        for (name, own_name, parent, key) in parts {
            let node = parent.and_then(|parent| parent.get(key));
            let spot = node.or(parent).unwrap_or(document).spot.clone();
            self.origins.add(path.field(name), spot, own_name.to_owned(), Children::Fields);
            if let Some(node) = node {
                component.insert(name.to_owned(), node.value());
            }
        }
        let metadata = self.metadata(document, &path.field("metadata"), variable);
        component.insert("metadata".to_owned(), Value::Object(metadata));
        Some(Value::Object(component))
    }

    /// The list of named values as an object.
    fn metadata(
        &mut self,
        document: &Node,
        path: &Path,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Map<String, Value> {
        let spec = document.get("spec");
        let list = spec.and_then(|spec| spec.get("metadata"));
        let spot = list.or(spec).unwrap_or(document).spot.clone();
        self.origins.add(path.clone(), spot, "spec.metadata".to_owned(), Children::NamedItems);
        let store = document.get("auth").and_then(|auth| auth.get("secretStore")).and_then(Node::text);
        let mut metadata: Map<String, Value> = Map::new();
        for (index, item) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
            let Some(name) = item.get("name").and_then(Node::text).filter(|name| !name.is_empty()) else {
                let field = format!("spec.metadata[{index}].name");
                self.findings.push(Finding::error(
                    item.spot.clone(),
                    &field,
                    "missing; the name of the field is expected",
                ));
                continue;
            };
            if metadata.keys().any(|other| other.eq_ignore_ascii_case(name)) {
                let field = format!("spec.metadata[{name}]");
                self.findings.push(Finding::error(item.spot.clone(), &field, "given twice"));
                continue;
            }
            if let Some((value, spot)) = self.item(name, item, (path, store), variable) {
                let own_name = format!("spec.metadata[{name}].value");
                self.origins.add(path.field(name), spot, own_name, Children::Fields);
                metadata.insert(name.to_owned(), value);
            } else {
                self.refused.push(path.field(name));
            }
        }
        metadata
    }

    /// The value of an item; none if it can't be had, which is reported.
    fn item(
        &mut self,
        name: &str,
        item: &Node,
        (path, store): (&Path, Option<&str>),
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Option<(Value, Spot)> {
        let field = |part: &str| format!("spec.metadata[{name}].{part}");
        if let Some(secret) = item.get("secretKeyRef") {
            let text = |name: &str| secret.get(name).and_then(Node::text).filter(|text| !text.is_empty());
            let Some(secret_name) = text("name") else {
                let text = "missing; the name of the secret is expected";
                self.findings.push(Finding::error(secret.spot.clone(), &field("secretKeyRef.name"), text));
                return None;
            };
            self.references.push(Reference {
                path: path.field(name),
                spot: secret.spot.clone(),
                own_name: field("secretKeyRef"),
                store: store.map(str::to_owned),
                says_store: "auth.secretStore",
                name: secret_name.to_owned(),
                key: text("key").unwrap_or(secret_name).to_owned(),
            });
            return Some((json!(PENDING), secret.spot.clone()));
        }
        if let Some(reference) = item.get("envRef") {
            let key = reference.text().unwrap_or_default();
            if let Some(value) = variable(key) {
                return Some((Value::String(value), reference.spot.clone()));
            }
            let text = format!("the environment variable {key:?} is not set");
            self.findings.push(Finding::error(reference.spot.clone(), &field("envRef"), text));
            return None;
        }
        let value = item.get("value");
        let spot = value.unwrap_or(item).spot.clone();
        Some((value.map_or(Value::Null, Node::value), spot))
    }

    /// Reports what the file has that a component file does not.
    fn check_shape(&mut self, document: &Node) {
        let mut report = Report::default();
        let root = Path::default();
        config::check(&[FILE], &document.value(), &root, &mut report);
        if let Some(spec) = document.get("spec").filter(|spec| spec.value().is_object()) {
            let path = root.field("spec");
            config::check(&[SPEC], &spec.value(), &path, &mut report);
            for (index, item) in spec.get("metadata").map(Node::items).unwrap_or_default().iter().enumerate() {
                let mut shape = item.value();
                // Any value is taken here; the driver says what it must be.
                if let Some(value) = shape.as_object_mut().and_then(|item| item.get_mut("value")) {
                    *value = Value::Null;
                }
                config::check(&[ITEM], &shape, &path.field("metadata").index(index), &mut report);
            }
        }
        if let Some(version) = document.get("apiVersion").filter(|version| version.text() != Some(API_VERSION)) {
            let text = format!("{API_VERSION} is expected, not {}", version.value());
            report.error(root.field("apiVersion"), text);
        }
        let mut origins = super::Origins::new(document.spot.clone(), Children::Fields);
        document.walk(&root, &mut |path, node| {
            origins.add(path.clone(), node.spot.clone(), path.to_string(), Children::Fields);
        });
        for problem in report.0 {
            let (spot, field) = origins.locate(&problem.path);
            self.findings.push(Finding { spot, field, text: problem.text, severity: problem.severity });
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime_api::component::DRIVERS;

    use super::{UNSERVED, UNSERVED_BLOCKS};

    #[test]
    fn what_is_served_is_not_passed_over() {
        for driver in DRIVERS {
            let (block, name) = driver.kind.split_once('.').unwrap();
            let listed = UNSERVED.iter().any(|(other, names)| *other == block && names.contains(&name));
            assert!(!listed && !UNSERVED_BLOCKS.contains(&block), "{} is served: take it out of the list", driver.kind);
        }
    }
}
