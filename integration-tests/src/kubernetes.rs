//! A stand-in for what of the API of Kubernetes concerns reading secrets. `tests/servers_kubernetes.rs` holds it
//! against the client for Python.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::scratch;
use crate::stand_in::{Answer, Parts, Received, StandIn, header, json};

/// The token of a service account that may read the secrets of every namespace.
pub const TOKEN: &str = "service-account-token";

/// How the server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether it speaks TLS, as one in a cluster does, and nothing else.
    pub tls: bool,
}

/// A running server.
pub struct Kubernetes {
    /// Where it listens, and what it got.
    pub server: StandIn,
    state: Arc<Mutex<State>>,
    account: TempDir,
}

#[derive(Default)]
struct State {
    /// The user behind a token, and the namespaces whose secrets it may read.
    tokens: BTreeMap<String, (String, Vec<String>)>,
    /// By namespace and name.
    secrets: BTreeMap<(String, String), Secret>,
    version: u64,
}

struct Secret {
    data: BTreeMap<String, Vec<u8>>,
    created: String,
    version: u64,
}

impl Kubernetes {
    /// Starts it.
    pub async fn start(options: Options) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let server = StandIn::start(options.tls, move |request| {
            let answer = answering.lock().unwrap().answer(&request);
            async move { answer }
        })
        .await;
        let account = scratch::directory("service-account");
        std::fs::write(account.path().join("token"), TOKEN).unwrap();
        std::fs::write(account.path().join("namespace"), "default").unwrap();
        if let Some(authority) = &server.authority {
            std::fs::copy(authority, account.path().join("ca.crt")).unwrap();
        }
        Self { server, state, account }
    }

    /// What is mounted in a pod at `/var/run/secrets/kubernetes.io/serviceaccount`: `token`, `namespace` and, with TLS,
    /// `ca.crt`.
    pub fn service_account(&self) -> &Path {
        self.account.path()
    }

    /// Makes the token of a service account that may read the secrets of these namespaces.
    pub fn add_token(&self, token: &str, account: &str, namespaces: &[&str]) {
        let namespaces = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
        let user = format!("system:serviceaccount:default:{account}");
        self.state.lock().unwrap().tokens.insert(token.into(), (user, namespaces));
    }

    /// Writes a secret.
    pub fn put<V: AsRef<[u8]>>(&self, namespace: &str, name: &str, data: &[(&str, V)]) {
        let data = data.iter().map(|(key, value)| ((*key).into(), value.as_ref().to_vec())).collect();
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let secret = Secret { data, created, version: state.version };
        state.secrets.insert((namespace.into(), name.into()), secret);
    }

    /// Deletes a secret.
    pub fn delete(&self, namespace: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        state.secrets.remove(&(namespace.into(), name.into())).expect("there is one");
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kubernetes: {:?}", self.server)
    }
}

impl State {
    fn answer(&self, request: &Received) -> Answer {
        let parts = Parts::of(request);
        let anonymous = ("system:anonymous".to_owned(), Vec::new());
        let user = match header(request, "authorization") {
            "" => Some(&anonymous),
            header => header.strip_prefix("Bearer ").and_then(|token| self.tokens.get(token)),
        };
        let all = header(request, "authorization").strip_prefix("Bearer ") == Some(TOKEN);
        if user.is_none() && !all {
            return status(401, "Unauthorized", "Unauthorized", Value::Null);
        }
        let path = parts.path();
        let ["api", "v1", "namespaces", namespace, "secrets", ref name @ ..] = path[..] else {
            let message = "the server could not find the requested resource";
            return status(404, "NotFound", message, json!({}));
        };
        let verb = match (parts.method.as_str(), name) {
            ("GET", []) => "list",
            ("GET", [_]) => "get",
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return status(405, "MethodNotAllowed", message, json!({}));
            }
        };
        let name = name.first().copied().unwrap_or_default();
        if let Some((user, _)) = user.filter(|(_, namespaces)| !namespaces.iter().any(|one| one == namespace)) {
            let subject = if name.is_empty() { "secrets".to_owned() } else { format!("secrets {name:?}") };
            let message = format!(
                "{subject} is forbidden: User {user:?} cannot {verb} resource \"secrets\" in API group \"\" in the namespace {namespace:?}"
            );
            return status(403, "Forbidden", &message, details(name));
        }
        if verb == "list" {
            return self.list(namespace, &parts);
        }
        match self.secrets.get_key_value(&(namespace.to_owned(), name.to_owned())) {
            None => status(404, "NotFound", &format!("secrets {name:?} not found"), details(name)),
            Some(entry) => {
                let mut body = json!({"kind": "Secret", "apiVersion": "v1"});
                body.as_object_mut().unwrap().extend(object(entry));
                json(200, &body)
            }
        }
    }

    /// With `limit` a page, and in `continue` where the next one begins.
    fn list(&self, namespace: &str, parts: &Parts) -> Answer {
        let from = BASE64_STANDARD.decode(parts.parameter("continue")).unwrap_or_default();
        let from = String::from_utf8_lossy(&from).into_owned();
        let all = self.secrets.iter().filter(|((place, name), _)| place == namespace && *name >= from);
        let limit = parts.parameter("limit").parse().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut items: Vec<_> = all.take(limit.saturating_add(1)).collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if items.len() > limit {
            let ((_, next), _) = items.pop().expect("there is one more");
            metadata["continue"] = BASE64_STANDARD.encode(next).into();
        }
        let items: Vec<_> = items.into_iter().map(object).collect();
        json(200, &json!({"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

fn object(((namespace, name), secret): (&(String, String), &Secret)) -> Map<String, Value> {
    let data: Map<String, Value> =
        secret.data.iter().map(|(key, value)| (key.clone(), BASE64_STANDARD.encode(value).into())).collect();
    let metadata = json!({
        "name": name,
        "namespace": namespace,
        "uid": format!("00000000-0000-0000-0000-{:012x}", secret.version),
        "resourceVersion": secret.version.to_string(),
        "creationTimestamp": secret.created,
    });
    let mut object = Map::from_iter([("metadata".to_owned(), metadata), ("type".to_owned(), "Opaque".into())]);
    if !data.is_empty() {
        object.insert("data".to_owned(), data.into());
    }
    object
}

fn details(name: &str) -> Value {
    if name.is_empty() { json!({"kind": "secrets"}) } else { json!({"name": name, "kind": "secrets"}) }
}

/// A `Status`: what the API answers when it does not answer.
fn status(code: u16, reason: &str, message: &str, details: Value) -> Answer {
    let mut body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    });
    if !details.is_null() {
        body["details"] = details;
    }
    json(code, &body)
}
