//! Secrets in a JSON file, as Dapr's and Layotto's secretstores.local.file. `envoy-runtime` reads the file; what is in
//! it becomes secrets here.

use std::collections::BTreeMap;
use std::rc::Rc;

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::{Allowed, Error, Fixed, Metadata, SECRETS, SECRETS_FIELD, Secret, Store, text_of};
use crate::component::{Block, Build, Driver, V1};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::text;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "secretstores.local.file",
    block: Block::Secrets,
    meaning: "A JSON file on the machine that `envoy-runtime` runs on.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check,
    upstreams: |_| Vec::new(),
    build: Build::Secrets(|environment| Rc::new(LocalFile(Fixed(secrets(&environment.component.settings))))),
};

/// The metadata field with the path of the file.
pub const FILE: &str = "secretsFile";

const SEPARATOR: &str = "nestedSeparator";
const MULTI_VALUED: &str = "multiValued";

const FIELDS: &[Field] = &[
    Field::required(FILE, Kind::Text, "the path of the file, from where envoy-runtime is started"),
    Field::default(SEPARATOR, Kind::Text, ":", "what joins the names of nested objects to the name of a secret"),
    Field::default(
        MULTI_VALUED,
        Kind::Flag,
        "false",
        "whether each field at the top is one secret, of which the values are what is below it",
    ),
    SECRETS_FIELD,
];

fn check(settings: &Settings, path: &Path, report: &mut Report) {
    super::check_secrets(settings, path, report);
    let text = settings.text(SECRETS).unwrap_or_default();
    if serde_json::from_str(text).is_ok_and(|root: &RawValue| flatten(root, settings).is_none()) {
        let text = "two secrets have the same name once the names of nested objects are joined: choose another \
                    nestedSeparator";
        report.error(path.field(SEPARATOR), text);
    }
}

/// Secrets of a file.
#[derive(Debug)]
pub struct LocalFile(Fixed);

/// What a component with these settings has.
pub fn secrets(settings: &Settings) -> BTreeMap<String, Secret> {
    let root = settings.text(SECRETS).and_then(|text| serde_json::from_str(text).ok());
    root.and_then(|root: &RawValue| flatten(root, settings)).unwrap_or_default()
}

/// The secrets in the content of a file; nothing if two have the same name.
fn flatten(root: &RawValue, settings: &Settings) -> Option<BTreeMap<String, Secret>> {
    let separator = settings.text(SEPARATOR).unwrap_or(":");
    let mut secrets = BTreeMap::new();
    if !settings.flag(MULTI_VALUED) {
        let mut values = BTreeMap::new();
        leaves(root, "", separator, &mut values)?;
        return Some(values.into_iter().map(|(name, value)| (name.clone(), Secret::single(&name, value))).collect());
    }
    for (name, value) in serde_json::from_str::<Fields>(root.get()).unwrap_or_default() {
        let secret = match value.get().as_bytes().first() {
            Some(b'{') => {
                let mut values = BTreeMap::new();
                leaves(&value, "", separator, &mut values)?;
                Secret(values)
            }
            Some(b'"') => Secret::single(&name, text_of(&value)),
            // As Dapr has it: anything else at the top is no secret.
            _ => continue,
        };
        secrets.insert(name, secret);
    }
    Some(secrets)
}

/// The fields of an object, with their values as they are written: a number read as one could lose digits.
type Fields = BTreeMap<String, Box<RawValue>>;

/// All values below one, by the names on the way to them.
fn leaves(value: &RawValue, name: &str, separator: &str, found: &mut BTreeMap<String, String>) -> Option<()> {
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { [name, separator, part].concat() };
    match value.get().as_bytes().first() {
        Some(b'{') => {
            let fields: Fields = serde_json::from_str(value.get()).ok()?;
            fields.iter().try_for_each(|(part, value)| leaves(value, &below(part), separator, found))
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(value.get()).ok()?;
            let mut items = items.iter().enumerate();
            items.try_for_each(|(index, value)| leaves(value, &below(&index.to_string()), separator, found))
        }
        _ => {
            let text = if value.get() == "null" { String::new() } else { text_of(value) };
            found.insert(name.to_owned(), text).is_none().then_some(())
        }
    }
}

#[async_trait(?Send)]
impl Store for LocalFile {
    async fn get(&self, name: &str, _: &Metadata) -> Result<Secret, Error> {
        self.0.0.get(name).cloned().ok_or_else(|| Error::NotFound(format!("secret {} not found", text::name(name))))
    }

    async fn bulk(&self, _: &Metadata, allowed: Allowed<'_>) -> Result<BTreeMap<String, Secret>, Error> {
        Ok(self.0.allowed(allowed))
    }
}
