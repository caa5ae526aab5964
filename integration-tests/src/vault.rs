//! A stand-in for Vault: the secrets engine KV of version 2 over HTTP, tokens and namespaces. A real one takes longer
//! to build than all tests together. `tests/servers_vault.rs` holds it against `hvac`, the client for Python.

#![allow(clippy::result_large_err, reason = "an answer is an answer")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use crate::stand_in::{Answer, Parts, Received, StandIn, empty, header, json, now};

/// A token that may do everything.
pub const TOKEN: &str = "root-token";

/// How the server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether it speaks TLS, and nothing else.
    pub tls: bool,
}

/// A running server. The engine is mounted at `secret`, in the root namespace.
#[derive(Debug)]
pub struct Vault {
    /// Where it listens, and what it got.
    pub server: StandIn,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Beside [`TOKEN`]: the paths of the API, as in policies, that a token may read and list below.
    tokens: BTreeMap<String, Vec<String>>,
    /// Namespace (empty for the root) and path of each engine.
    mounts: BTreeSet<(String, String)>,
    /// By namespace, mount, and path.
    secrets: BTreeMap<(String, String, String), Secret>,
    sealed: bool,
    requests: u64,
}

#[derive(Clone, Debug, Default)]
struct Secret {
    versions: Vec<Version>,
}

#[derive(Clone, Debug)]
struct Version {
    data: Value,
    created: String,
    /// When it was deleted; empty when it was not.
    deleted: String,
    destroyed: bool,
}

impl Vault {
    /// Starts it.
    pub async fn start(options: Options) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().mounts.insert((String::new(), "secret".into()));
        let answering = state.clone();
        let server = StandIn::start(options.tls, move |request| {
            let answer = answering.lock().unwrap().answer(&request);
            async move { answer.unwrap_or_else(|failure| failure) }
        })
        .await;
        Self { server, state }
    }

    /// Mounts another engine in a namespace (empty for the root), which comes to be with it.
    pub fn mount(&self, namespace: &str, mount: &str) {
        self.state.lock().unwrap().mounts.insert((namespace.into(), mount.into()));
    }

    /// Makes a token that may read and list below `paths` of the API, such as `secret/data/dapr/`, and nothing else.
    pub fn add_token(&self, token: &str, paths: &[&str]) {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self.state.lock().unwrap().tokens.insert(token.into(), paths);
    }

    /// Makes a token unknown.
    pub fn revoke_token(&self, token: &str) {
        self.state.lock().unwrap().tokens.remove(token);
    }

    /// Writes a version of a secret in the engine at `secret`, and gives its number.
    pub fn put(&self, path: &str, data: &[(&str, &str)]) -> usize {
        let data: Map<String, Value> = data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.put_in("", "secret", path, Value::Object(data))
    }

    /// Writes a version of a secret, which can be any object of JSON.
    pub fn put_in(&self, namespace: &str, mount: &str, path: &str, data: Value) -> usize {
        let mut state = self.state.lock().unwrap();
        let secret = state.secrets.entry((namespace.into(), mount.into(), path.into())).or_default();
        secret.write(data);
        secret.versions.len()
    }

    /// Deletes the latest version of a secret in the engine at `secret`, as `vault kv delete` does: earlier ones stay.
    pub fn delete(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        let key = (String::new(), "secret".to_owned(), path.to_owned());
        state.secrets.get_mut(&key).and_then(|secret| secret.versions.last_mut()).expect("there is one").delete();
    }

    /// Seals or unseals it. A sealed one answers everything with 503.
    pub fn seal(&self, sealed: bool) {
        self.state.lock().unwrap().sealed = sealed;
    }
}

impl Secret {
    fn write(&mut self, data: Value) {
        self.versions.push(Version { data, created: now(), deleted: String::new(), destroyed: false });
    }

    /// The version `number`; 0 is the latest.
    fn version(&mut self, number: usize) -> Option<(usize, &mut Version)> {
        let number = if number == 0 { self.versions.len() } else { number };
        Some((number, self.versions.get_mut(number.checked_sub(1)?)?))
    }
}

impl Version {
    fn delete(&mut self) {
        self.deleted = now();
    }

    fn metadata(&self, number: usize) -> Value {
        json!({
            "created_time": self.created,
            "custom_metadata": null,
            "deletion_time": self.deleted,
            "destroyed": self.destroyed,
            "version": number,
        })
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Result<Answer, Answer> {
        self.requests += 1;
        let parts = Parts::of(request);
        let path = request.uri().path().trim_start_matches('/');
        let Some(path) = path.strip_prefix("v1/") else { return Err(errors(404, &[])) };
        if path == "sys/health" {
            let status = if self.sealed { 503 } else { 200 };
            return Ok(json(
                status,
                &json!({"initialized": true, "sealed": self.sealed, "standby": false, "version": "1.21.4"}),
            ));
        }
        if self.sealed {
            return Err(errors(503, &["Vault is sealed"]));
        }

        // The namespace can be in a header, in the path, or in both.
        let decoded: Vec<_> = parts.path[1..].iter().map(String::as_str).collect();
        let whole = match header(request, "x-vault-namespace").trim_matches('/') {
            "" => decoded.join("/"),
            namespace => format!("{namespace}/{}", decoded.join("/")),
        };
        let (namespace, mount, rest) = self
            .mounts
            .iter()
            .filter_map(|(namespace, mount)| {
                let prefix = if namespace.is_empty() { format!("{mount}/") } else { format!("{namespace}/{mount}/") };
                Some((namespace.clone(), mount.clone(), whole.strip_prefix(&prefix)?.to_owned()))
            })
            .max_by_key(|(namespace, mount, _)| namespace.len() + mount.len())
            .unwrap_or_default();

        let reads = ["GET", "LIST"].contains(&parts.method.as_str());
        let token = match header(request, "x-vault-token") {
            "" => header(request, "authorization").strip_prefix("Bearer ").unwrap_or_default(),
            token => token,
        };
        let api_path = format!("{mount}/{rest}");
        match self.tokens.get(token) {
            _ if token == TOKEN => {}
            Some(paths) if reads && paths.iter().any(|path| api_path.starts_with(path.as_str())) => {}
            Some(_) => return Err(errors(403, &["1 error occurred:\n\t* permission denied\n\n"])),
            None if token.is_empty() => return Err(errors(403, &["permission denied"])),
            None => return Err(errors(403, &["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"])),
        }
        if mount.is_empty() {
            return Err(errors(404, &[&format!("no handler for route {whole:?}. route entry not found.")]));
        }
        let lists = parts.method == "LIST" || parts.method == "GET" && parts.parameter("list") == "true";
        let (area, name) = rest.split_once('/').unwrap_or((&rest, ""));
        let key = (namespace, mount, name.to_owned());
        match (parts.method.as_str(), area) {
            (_, "metadata") if lists => self.list(&key),
            (_, "data") if lists => Err(errors(405, &["unsupported operation"])),
            ("GET", "data") => self.read(&key, &parts),
            ("POST" | "PUT", "data") => self.write(key, &parts),
            ("DELETE", "data") => {
                if let Some((_, version)) = self.secrets.get_mut(&key).and_then(|secret| secret.version(0)) {
                    version.delete();
                }
                Ok(empty(204))
            }
            ("GET", "metadata") => self.metadata(&key),
            ("DELETE", "metadata") => {
                self.secrets.remove(&key);
                Ok(empty(204))
            }
            ("POST" | "PUT", "delete" | "undelete" | "destroy") => {
                let numbers: Vec<_> = parts.body["versions"].as_array().into_iter().flatten().collect();
                for number in numbers {
                    let number = usize::try_from(number.as_u64().unwrap_or_default()).unwrap();
                    let secret = self.secrets.get_mut(&key);
                    let Some((_, version)) = secret.and_then(|secret| secret.version(number)) else { continue };
                    match area {
                        "delete" => version.delete(),
                        "undelete" => version.deleted.clear(),
                        _ => version.destroyed = true,
                    }
                }
                Ok(empty(204))
            }
            _ => Err(errors(405, &["unsupported operation"])),
        }
    }

    fn read(&mut self, key: &(String, String, String), parts: &Parts) -> Result<Answer, Answer> {
        let number = match parts.parameter("version") {
            "" => 0,
            text => text.parse().map_err(|_| {
                errors(400, &[&format!("Field validation failed: error converting input {text} for field \"version\"")])
            })?,
        };
        let Some((number, version)) = self.secrets.get_mut(key).and_then(|secret| secret.version(number)) else {
            return Err(errors(404, &[]));
        };
        let gone = version.destroyed || !version.deleted.is_empty();
        let data = if gone { &Value::Null } else { &version.data };
        let data = json!({"data": data, "metadata": version.metadata(number)});
        // A deleted version is not found, and described all the same.
        Ok(json(if gone { 404 } else { 200 }, &self.envelope(&data)))
    }

    fn write(&mut self, key: (String, String, String), parts: &Parts) -> Result<Answer, Answer> {
        if !parts.body["data"].is_object() {
            return Err(errors(400, &["no data provided"]));
        }
        let current = self.secrets.get(&key).map_or(0, |secret| secret.versions.len());
        if parts.body["options"]["cas"].as_u64().is_some_and(|wanted| wanted != current as u64) {
            return Err(errors(400, &["check-and-set parameter did not match the current version"]));
        }
        let secret = self.secrets.entry(key).or_default();
        secret.write(parts.body["data"].clone());
        let metadata = secret.versions[current].metadata(current + 1);
        Ok(json(200, &self.envelope(&metadata)))
    }

    /// The names below a path; those of what is further below end with a slash.
    fn list(&self, (namespace, mount, path): &(String, String, String)) -> Result<Answer, Answer> {
        let prefix = if path.is_empty() || path.ends_with('/') { path.clone() } else { format!("{path}/") };
        let names: BTreeSet<_> = self
            .secrets
            .keys()
            .filter(|key| (&key.0, &key.1) == (namespace, mount))
            .filter_map(|key| key.2.strip_prefix(&prefix))
            .map(|name| name.find('/').map_or(name, |slash| &name[..=slash]))
            .collect();
        if names.is_empty() {
            return Err(errors(404, &[]));
        }
        Ok(json(200, &self.envelope(&json!({"keys": names}))))
    }

    fn metadata(&self, key: &(String, String, String)) -> Result<Answer, Answer> {
        let Some(secret) = self.secrets.get(key) else { return Err(errors(404, &[])) };
        let versions: Map<String, Value> = secret
            .versions
            .iter()
            .zip(1..)
            .map(|(version, number)| {
                let about = json!({"created_time": version.created, "deletion_time": version.deleted, "destroyed": version.destroyed});
                (number.to_string(), about)
            })
            .collect();
        let times = secret.versions.first().zip(secret.versions.last());
        let data = json!({
            "cas_required": false,
            "created_time": times.map(|(first, _)| &first.created),
            "current_version": secret.versions.len(),
            "custom_metadata": null,
            "delete_version_after": "0s",
            "max_versions": 0,
            "oldest_version": 0,
            "updated_time": times.map(|(_, last)| &last.created),
            "versions": versions,
        });
        Ok(json(200, &self.envelope(&data)))
    }

    fn envelope(&self, data: &Value) -> Value {
        json!({
            "request_id": format!("00000000-0000-0000-0000-{:012x}", self.requests),
            "lease_id": "",
            "renewable": false,
            "lease_duration": 0,
            "data": data,
            "wrap_info": null,
            "warnings": null,
            "auth": null,
            "mount_type": "kv",
        })
    }
}

fn errors(status: u16, texts: &[&str]) -> Answer {
    json(status, &json!({"errors": texts}))
}
