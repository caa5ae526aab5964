//! Secrets on their way to the filter, which takes them from Envoy's environment: what stores on this machine hold is
//! read, references to secrets are followed, and then every secret in the document gives way to the name of a variable.

use std::collections::BTreeMap;
use std::path::Path as FilePath;

use runtime_api::component::secrets::{SECRETS, Secret, kubernetes, local_env, local_file, vault};
use runtime_api::component::{Block, DRIVERS, Driver};
use runtime_api::config::{self, Config, Field, Kind, Path, Presence, Settings, Step, scalar, secrets};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{Draft, Spot, field, text_of};
use crate::report::Finding;

/// The most bytes that Linux takes for one variable: its name, `=`, its value and a zero.
const LARGEST_VARIABLE: usize = 128 * 1024;

/// What the names of variables begin with that hold secrets.
const VARIABLE: &str = "RUNTIME_SECRET";

/// Where the service account of a pod has its namespace; Dapr takes it from the variable.
const NAMESPACE: &str = "NAMESPACE";

/// Fields that are read from elsewhere when a configuration is, which no person writes: the type of their component,
/// their name, and the field that says from where, if one must.
pub const DERIVED: &[(&str, &str, Option<&str>)] = &[
    (local_env::DRIVER.kind, SECRETS, None),
    (local_file::DRIVER.kind, SECRETS, Some(local_file::FILE)),
    (vault::DRIVER.kind, vault::TOKEN, Some(vault::TOKEN_FILE)),
    (kubernetes::DRIVER.kind, kubernetes::TOKEN, None),
];

/// A secret, and the variable that is to hold it in the environment of Envoy.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A value in a Dapr component file or in Layotto's JSON that is a secret of a store.
#[derive(Debug)]
pub(super) struct Reference {
    /// The field that it is for.
    pub(super) path: Path,
    /// Where the reference is, and what it is called there.
    pub(super) spot: Spot,
    pub(super) own_name: String,
    /// The store that has it; nothing if none is named.
    pub(super) store: Option<String>,
    /// How the user's file says which store.
    pub(super) says_store: &'static str,
    /// The secret in the store.
    pub(super) name: String,
    /// The value in the secret.
    pub(super) key: String,
}

/// The environment of this program.
pub(super) type Variables = BTreeMap<String, String>;

/// The environment of this program, as far as it is text.
pub(super) fn variables() -> Variables {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Draft {
    /// Reads what the secret stores on this machine hold, and what shows who asks at those elsewhere.
    pub(super) fn read_stores(&mut self, environment: &Variables) {
        let namespace = field(&self.document, "namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
        for index in 0..self.components().len() {
            let Some(component) = self.components().get(index).cloned() else { return };
            if !self.is_for_the_app(&component) {
                continue;
            }
            let metadata = field(&component, "metadata").cloned().unwrap_or_else(|| json!({}));
            let text = |name: &str| field(&metadata, name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let absent = |name: &str| field(&metadata, name).is_none_or(|value| value.is_null() || value == "");
            let known = driver(&component).filter(|driver| driver.block == Block::Secrets);
            let kind = known.map_or("", |driver| driver.kind);
            let path = Path::default().field("components").index(index).field("metadata");
            match kind {
                kind if kind == local_env::DRIVER.kind && absent(SECRETS) => {
                    let prefix = text(local_env::PREFIX).unwrap_or_default();
                    let visible: Map<String, Value> = environment
                        .iter()
                        .filter(|(name, _)| local_env::is_visible(name) && name.starts_with(prefix))
                        .map(|(name, value)| (name.clone(), json!(value)))
                        .collect();
                    self.set_metadata(index, SECRETS, Value::Object(visible).to_string());
                }
                kind if kind == local_file::DRIVER.kind && absent(SECRETS) => {
                    let Some(file) = text(local_file::FILE) else {
                        // That it is missing is reported by the check, and what follows from it is no news.
                        self.refused.push(path.field(SECRETS));
                        continue;
                    };
                    if let Some(text) = self.read_file(file, &path, local_file::FILE, SECRETS) {
                        self.set_metadata(index, SECRETS, shortest(text));
                        let spot = self.origins.locate(&path.field(local_file::FILE)).0;
                        let own_name = format!("{} ({file})", self.origins.locate(&path.field(local_file::FILE)).1);
                        self.origins.add(path.field(SECRETS), spot, own_name, super::Children::Fields);
                    }
                }
                kind if kind == vault::DRIVER.kind && absent(vault::TOKEN) => {
                    let Some(file) = text(vault::TOKEN_FILE) else { continue };
                    if let Some(token) = self.read_file(file, &path, vault::TOKEN_FILE, vault::TOKEN) {
                        self.set_metadata(index, vault::TOKEN, token.trim().to_owned());
                    }
                }
                kind if kind == vault::DRIVER.kind && !absent(vault::TOKEN_FILE) => {
                    let (spot, name) = self.origins.locate(&path.field(vault::TOKEN_FILE));
                    let text = format!("{} is given too: one of them is expected", vault::TOKEN);
                    self.findings.push(Finding::error(spot, &name, text));
                }
                kind if kind == kubernetes::DRIVER.kind => {
                    if absent(kubernetes::TOKEN) {
                        let usual = default(kubernetes::DRIVER.fields, kubernetes::TOKEN_FILE);
                        let file = text(kubernetes::TOKEN_FILE).unwrap_or(usual);
                        let (from, to) = (kubernetes::TOKEN_FILE, kubernetes::TOKEN);
                        if let Some(token) = self.read_file(file, &path, from, to) {
                            self.set_metadata(index, kubernetes::TOKEN, token.trim().to_owned());
                        }
                    }
                    if absent(kubernetes::NAMESPACE) {
                        let own = environment.get(NAMESPACE).filter(|name| !name.is_empty());
                        let name = own.unwrap_or(&namespace).clone();
                        self.set_metadata(index, kubernetes::NAMESPACE, name);
                    }
                }
                _ => {}
            }
        }
    }

    /// The text of a file; nothing if it can't be read, which is reported.
    fn read_file(&mut self, file: &str, path: &Path, from: &str, to: &str) -> Option<String> {
        match text_of(FilePath::new(file)) {
            Ok(text) => Some(text),
            Err(error) => {
                let (spot, name) = self.origins.locate(&path.field(from));
                self.findings.push(Finding::error(spot, &name, format!("{file}: {error}")));
                self.refused.push(path.field(to));
                None
            }
        }
    }

    /// Puts secrets in the place of references to them.
    pub(super) fn follow_references(&mut self) {
        for reference in std::mem::take(&mut self.references) {
            match self.follow(&reference) {
                Ok(value) => {
                    if let Some((index, name)) = metadata_field(&reference.path) {
                        self.set_metadata(index, name, value);
                    }
                }
                Err(text) => {
                    self.findings.push(Finding::error(reference.spot.clone(), &reference.own_name, text));
                    self.refused.push(reference.path);
                }
            }
        }
    }

    fn follow(&self, reference: &Reference) -> Result<String, String> {
        let Reference { path, store, says_store, name, key, .. } = reference;
        let components = self.components();
        if let Some((index, name)) = metadata_field(path)
            && let Some(driver) = components.get(index).and_then(driver)
        {
            let mut fields = driver.block.fields().iter().chain(driver.fields);
            let known = fields.find(|field| field.name.eq_ignore_ascii_case(name));
            if known.is_some_and(|field| !matches!(field.kind, Kind::Secret | Kind::Ignored(_) | Kind::Refused(_))) {
                return Err(format!(
                    "{name} is no field for a secret: its value would stand in Envoy's configuration, where it can be \
                     read; if it need not be kept secret, give it by `value` or `envRef`"
                ));
            }
        }
        let Some(store) = store else { return Err(format!("no store is named: {says_store} is missing")) };
        let found = components.iter().find(|component| {
            let is_store = driver(component).is_some_and(|driver| driver.block == Block::Secrets);
            is_store && field(component, "name").and_then(Value::as_str) == Some(store)
        });
        let Some(component) = found else {
            return Err(format!(
                "there is no secret store {store:?} among the components of this app, as {says_store} names it"
            ));
        };
        let kind = driver(component).map_or("", |driver| driver.kind);
        let secrets = match kind {
            kind if kind == local_env::DRIVER.kind => local_env::secrets(&settings(component)?),
            kind if kind == local_file::DRIVER.kind => local_file::secrets(&settings(component)?),
            kind => {
                return Err(format!(
                    "{store} is a {kind}, and envoy-runtime asks no server; it takes secrets for components from \
                     {} and {}, and from a variable by envRef",
                    local_env::DRIVER.kind,
                    local_file::DRIVER.kind
                ));
            }
        };
        let Some(Secret(values)) = secrets.get(name) else {
            return Err(format!("the secret store {store} has no secret {name:?}"));
        };
        values.get(key).filter(|value| !value.is_empty()).cloned().ok_or_else(|| {
            let names: Vec<&str> = values.keys().map(String::as_str).collect();
            format!("the secret {name:?} of {store} has no value {key:?}; it has {}", names.join(", "))
        })
    }

    /// Leaves out what is not for this app, and gives every secret of the document to a variable.
    pub(super) fn conceal(&mut self) -> Vec<Variable> {
        let app_id = self.served_app();
        let mut document = std::mem::take(&mut self.document);
        let names: Vec<(String, String)> = components_of(&document).iter().map(named).collect();
        let mut taken = secrets::variables(&document);
        let mut concealed = Vec::new();
        secrets::each_secret(&mut document, &mut |path, value| {
            let text = match value {
                Value::String(text) if !text.is_empty() => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return,
            };
            let name = variable(path, &names, &taken);
            *value = secrets::reference(&name);
            taken.push(name.clone());
            let too_large = name.len() + text.len() + 2 > LARGEST_VARIABLE;
            if text.contains('\0') || too_large {
                let (spot, field) = self.origins.locate(path);
                let why = if too_large {
                    format!(
                        "it has {} bytes as one text, and must have less than {LARGEST_VARIABLE}: a variable in Envoy's \
                         environment is to hold it, and the system takes no larger one. Several stores may share it, a \
                         prefix may choose a part, or keep it in Vault",
                        text.len()
                    )
                } else {
                    "it holds a zero byte, which a variable of the environment cannot".to_owned()
                };
                self.findings.push(Finding::error(spot, &field, why));
            }
            concealed.push(Variable { name, value: text });
        });
        if let Some(list) = components_mut(&mut document) {
            list.retain(|component| config::is_for(component, &app_id));
        }
        self.document = document;
        concealed
    }

    pub(super) fn served_app(&self) -> String {
        field(&self.document, "appId").and_then(scalar).unwrap_or_default()
    }

    fn is_for_the_app(&self, component: &Value) -> bool {
        config::is_for(component, &self.served_app())
    }

    fn components(&self) -> &[Value] {
        components_of(&self.document)
    }

    /// Sets a metadata field of a component.
    fn set_metadata(&mut self, index: usize, name: &str, value: String) {
        let component = components_mut(&mut self.document).and_then(|list| list.get_mut(index));
        let Some(component) = component.and_then(Value::as_object_mut) else { return };
        let found = component.keys().find(|field| field.eq_ignore_ascii_case("metadata")).cloned();
        let metadata = component.entry(found.unwrap_or_else(|| "metadata".to_owned())).or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
        let Some(metadata) = metadata.as_object_mut() else { return };
        let found = metadata.keys().find(|field| field.eq_ignore_ascii_case(name)).cloned();
        metadata.insert(found.unwrap_or_else(|| name.to_owned()), Value::String(value));
    }
}

fn components_of(document: &Value) -> &[Value] {
    field(document, "components").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn components_mut(document: &mut Value) -> Option<&mut Vec<Value>> {
    let mut fields = document.as_object_mut()?.iter_mut();
    fields.find(|(name, _)| name.eq_ignore_ascii_case("components"))?.1.as_array_mut()
}

/// JSON in its shortest form, since a variable of the environment has to hold it. Only blanks between values go, so
/// that numbers keep their digits; what is no JSON stays as it is, with the lines that its mistakes are counted by.
fn shortest(json: String) -> String {
    if serde_json::from_str::<IgnoredAny>(&json).is_err() {
        return json;
    }
    let (mut quoted, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            let kept = quoted || !c.is_ascii_whitespace();
            quoted = quoted != (c == '"' && !escaped);
            escaped = quoted && c == '\\' && !escaped;
            kept
        })
        .collect()
}

fn driver(component: &Value) -> Option<&'static Driver> {
    let kind = field(component, "type")?.as_str()?;
    DRIVERS.iter().find(|driver| driver.kind.eq_ignore_ascii_case(kind))
}

/// The checked metadata of a store.
fn settings(component: &Value) -> Result<Settings, String> {
    let mut component = component.clone();
    if let Some(component) = component.as_object_mut() {
        component.retain(|name, _| !name.eq_ignore_ascii_case("scopes"));
    }
    let (config, _) = Config::check(&json!({"appId": "any", "components": [component]}));
    let component = config.and_then(|config| config.components.into_iter().next());
    component.map(|component| component.settings).ok_or_else(|| "the secret store has errors itself".to_owned())
}

fn default(fields: &[Field], name: &str) -> &'static str {
    let field = fields.iter().find(|field| field.name == name);
    match field.map(|field| field.presence) {
        Some(Presence::Default(text)) => text,
        _ => "",
    }
}

/// The component and the name of a metadata field.
fn metadata_field(path: &Path) -> Option<(usize, &str)> {
    let [_, Step::Index(index), _, Step::Field(name)] = path.0.as_slice() else { return None };
    Some((*index, name))
}

/// The building block and the name of a component.
fn named(component: &Value) -> (String, String) {
    let block = driver(component).map_or("", |driver| driver.block.name());
    (block.to_owned(), field(component, "name").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// A name for the variable of a field, which no other has: such as `RUNTIME_SECRET_STATE_ORDERS_REDISPASSWORD`.
fn variable(path: &Path, components: &[(String, String)], taken: &[String]) -> String {
    let mut words = vec![VARIABLE.to_owned()];
    for (depth, step) in path.0.iter().enumerate() {
        match step {
            Step::Index(index) if depth == 1 => {
                let (block, name) = components.get(*index).cloned().unwrap_or_default();
                words.extend([block, name]);
            }
            Step::Index(index) => words.push(index.to_string()),
            Step::Field(name) if depth > 0 || path.0.len() == 1 => words.push(name.clone()),
            Step::Field(_) => {}
        }
    }
    words.retain(|word| word != "metadata");
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = words.join("_").chars().map(plain).collect();
    let mut numbers = 2..;
    let mut unique = name.clone();
    while taken.contains(&unique) {
        unique = format!("{name}_{}", numbers.next().unwrap_or_default());
    }
    unique
}

/// Variables as a file: a shell reads it (`set -a; . FILE`), and so does systemd (`EnvironmentFile=`).
pub fn environment_file(variables: &[Variable]) -> String {
    let line = |Variable { name, value }: &Variable| format!("{name}={}\n", quoted(value));
    variables.iter().map(line).collect()
}

/// As it is where that is clear to everybody; else in quotes, and a quote in it in quotes of the other kind.
fn quoted(value: &str) -> String {
    if value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c)) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r#"'"'"'"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shortened_between_values_alone() {
        let json = "{\n \"a b\": [1.10, \"x \\\" y\\\\\" ,\t{ } ] }\n";
        assert_eq!(shortest(json.to_owned()), r#"{"a b":[1.10,"x \" y\\",{}]}"#);
        assert_eq!(shortest("{ a }".to_owned()), "{ a }");
    }

    #[test]
    fn values_are_quoted_for_a_shell() {
        assert_eq!(quoted("hunter2"), "hunter2");
        assert_eq!(quoted(r#"{"a":"it's $x"}"#), r#"'{"a":"it'"'"'s $x"}'"#);
        let variables = [
            Variable { name: "A".into(), value: "it's\n$x \\".into() },
            Variable { name: "B".into(), value: "b".into() },
        ];
        let script = format!("{}printf '%s|%s' \"$A\" \"$B\"", environment_file(&variables));
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's\n$x \\|b");
        assert_eq!(format!("{variables:?}"), "[A, B]");
    }
}
