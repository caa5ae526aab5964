//! What is taken where the user names no configuration: the first there is of the files that people have, else
//! everything in memory, under the names that Dapr's quick starts use.

use std::path::{Path as FilePath, PathBuf};

use serde_json::{Value, json};

use super::{component_files, text_of};

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The user named it.
    Named,
    /// This file or folder was found.
    Found(PathBuf),
    /// There was none: everything is in memory.
    Nothing,
}

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    /// A `runtime.yaml`.
    File(PathBuf),
    /// A folder of Dapr component files, with a Dapr configuration beside it.
    Folder(PathBuf, Option<PathBuf>),
    /// Nothing.
    Nothing,
}

const FILE: &str = "runtime.yaml";
const FOLDERS: [&str; 2] = ["components", "resources"];
const DAPR: &str = ".dapr";
const CONFIGURATION: &str = "config.yaml";

/// All places that are looked at, as a message names them.
pub const PLACES: &str = "runtime.yaml, components, resources and ~/.dapr/components";

/// Looks in the current folder, and then in what `dapr init` leaves at `home`.
pub(super) fn look(home: Option<&FilePath>) -> Found {
    let file = PathBuf::from(FILE);
    if file.is_file() {
        return Found::File(file);
    }
    let beside = |folder: &FilePath| Some(folder.with_file_name(CONFIGURATION)).filter(|file| file.is_file());
    let here = FOLDERS.iter().map(PathBuf::from);
    let there = home.map(|home| home.join(DAPR).join("components"));
    let found = here.chain(there).find(|folder| holds_components(folder));
    found.map_or(Found::Nothing, |folder| Found::Folder(folder.clone(), beside(&folder)))
}

/// Whether a folder has files of Dapr's: many a project has a folder called so for something else.
fn holds_components(folder: &FilePath) -> bool {
    let files = component_files(folder).unwrap_or_default();
    files
        .iter()
        .any(|file| text_of(file).is_ok_and(|text| text.contains("dapr.io/") || text.contains("kind: Component")))
}

/// The secret store over the environment, of which nothing is shown until its scope says so.
const SECRETS: &str = "localsecretstore";

/// A component of every building block that is served, in memory; the one for secrets only `with_secrets`, since it
/// comes with a scope.
pub(super) fn in_memory(app_id: &str, with_secrets: bool) -> Value {
    let mut document = json!({
        "appId": app_id,
        "components": [
            {"name": "statestore", "type": "state.in-memory"},
            {"name": "configstore", "type": "configuration.in-memory"},
            {"name": "lockstore", "type": "lock.in-memory"},
            {"name": "sequencer", "type": "sequencer.in-memory"},
        ],
    });
    if let (true, Some(fields)) = (with_secrets, document.as_object_mut()) {
        let scope = json!({"storeName": SECRETS, "defaultAccess": "deny", "allowedSecrets": []});
        fields.insert("secrets".to_owned(), json!({"scopes": [scope]}));
        if let Some(components) = fields.get_mut("components").and_then(Value::as_array_mut) {
            components.push(json!({"name": SECRETS, "type": "secretstores.local.env"}));
        }
    }
    document
}
