//! The Secrets API and its drivers, with scripted servers.

#![allow(clippy::unwrap_used)] // a test ends by a panic

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::config::Config;
use runtime_api::testing::{Request, Started, World, call, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, message, status};
use tonic::Code;

type Map = BTreeMap<String, String>;

fn map(pairs: &[(&str, &str)]) -> Map {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn get_with(
    world: &World,
    worker: &Rc<Runtime>,
    service: &str,
    key: &str,
    metadata: &[(&str, &str)],
) -> Started<Reply> {
    let request = dapr::GetSecretRequest { store_name: "vault".into(), key: key.into(), metadata: map(metadata) };
    call(world, worker, &format!("{service}/GetSecret"), &request)
}

fn get(world: &World, worker: &Rc<Runtime>, key: &str) -> Started<Reply> {
    get_with(world, worker, DAPR, key, &[])
}

fn bulk(world: &World, worker: &Rc<Runtime>, service: &str) -> Started<Reply> {
    let request = dapr::GetBulkSecretRequest { store_name: "vault".into(), ..Default::default() };
    call(world, worker, &format!("{service}/GetBulkSecret"), &request)
}

#[track_caller]
fn secret(started: &Started<Reply>) -> Map {
    message::<dapr::GetSecretResponse>(started).data
}

#[track_caller]
fn secrets(started: &Started<Reply>) -> BTreeMap<String, Map> {
    let reply: dapr::GetBulkSecretResponse = message(started);
    reply.data.into_iter().map(|(name, secret)| (name, secret.secrets)).collect()
}

fn single(pairs: &[(&str, &str)]) -> BTreeMap<String, Map> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), map(&[(name, value)]))).collect()
}

/// A worker with one store, called `vault` whatever its kind.
fn with(world: &World, kind: &str, metadata: Value) -> Rc<Runtime> {
    with_scopes(world, kind, metadata, json!([]))
}

fn with_scopes(world: &World, kind: &str, metadata: Value, scopes: Value) -> Rc<Runtime> {
    let component = json!({"name": "vault", "type": kind, "metadata": metadata});
    worker(world, &json!({"appId": "a", "secrets": {"scopes": scopes}, "components": [component]}))
}

fn file(content: &Value) -> Value {
    json!({"secretsFile": "secrets.json", "secrets": content.to_string()})
}

fn errors(kind: &str, metadata: Value) -> Vec<String> {
    let component = json!({"name": "vault", "type": kind, "metadata": metadata});
    let (config, report) = Config::check(&json!({"appId": "a", "components": [component]}));
    assert!(config.is_none(), "it is accepted");
    report.0.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_there_is_said_in_the_words_of_the_dialect() {
    let world = World::default();
    let none = worker(&world, &json!({"appId": "a"}));
    let other = with(&world, "secretstores.local.file", file(&json!({"k": "v"})));
    let asked = |worker, service: &str, method: &str, store: &str| {
        // The request of GetBulkSecret has its metadata where this one has the key.
        let key = if method == "GetSecret" { "gone" } else { "" };
        let request = dapr::GetSecretRequest { store_name: store.into(), key: key.into(), ..Default::default() };
        status(&call(&world, worker, &format!("{service}/{method}"), &request))
    };
    for method in ["GetSecret", "GetBulkSecret"] {
        let said = asked(&none, DAPR, method, "vault");
        assert_eq!(said, (Code::FailedPrecondition, "secret store is not configured".into()));
        let said = asked(&none, LAYOTTO, method, "vault");
        assert_eq!(said, (Code::FailedPrecondition, "error when get secret but not find configured".into()));
        let said = asked(&other, DAPR, method, "{name}");
        assert_eq!(said, (Code::InvalidArgument, "failed finding secret store with key {name}".into()));
        let said = asked(&other, LAYOTTO, method, "else");
        assert_eq!(said, (Code::InvalidArgument, "error when get secret but not find : else".into()));
    }
    let text = "failed getting secret with key gone from secret store vault: secret gone not found";
    assert_eq!(asked(&other, DAPR, "GetSecret", "vault"), (Code::Internal, text.into()));
    let text = "error when get secret : secret name => gone,store name =>vault,error => secret gone not found";
    assert_eq!(asked(&other, LAYOTTO, "GetSecret", "vault"), (Code::Internal, text.into()));
}

#[test]
fn a_file_becomes_secrets_by_the_names_of_nested_objects() {
    let world = World::default();
    let content = json!({
        "testPassword": "pw2",
        "db-user-pass": {"username": "admin", "password": "pw1"},
        "deep": {"list": ["a", {"b": 1.5}], "flag": true, "none": null, "empty": {}},
    });
    let worker = with(&world, "secretstores.local.file", file(&content));
    for service in [DAPR, LAYOTTO] {
        let found = secret(&get_with(&world, &worker, service, "testPassword", &[]));
        assert_eq!(found, map(&[("testPassword", "pw2")]));
        let expected = single(&[
            ("testPassword", "pw2"),
            ("db-user-pass:username", "admin"),
            ("db-user-pass:password", "pw1"),
            ("deep:list:0", "a"),
            ("deep:list:1:b", "1.5"),
            ("deep:flag", "true"),
            ("deep:none", ""),
        ]);
        assert_eq!(secrets(&bulk(&world, &worker, service)), expected);
    }
    assert_eq!(status(&get(&world, &worker, "db-user-pass")).0, Code::Internal);
}

#[test]
fn a_secret_of_a_file_may_have_several_values() {
    let world = World::default();
    let mut metadata = file(&json!({"one": "1", "db": {"user": "u", "more": {"port": 5}}, "number": 3}));
    metadata["multiValued"] = "true".into();
    metadata["nestedSeparator"] = ".".into();
    let worker = with(&world, "secretstores.local.file", metadata);
    assert_eq!(secret(&get(&world, &worker, "one")), map(&[("one", "1")]));
    let db = map(&[("user", "u"), ("more.port", "5")]);
    assert_eq!(secret(&get(&world, &worker, "db")), db);
    let all = [("one".to_owned(), map(&[("one", "1")])), ("db".to_owned(), db)];
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)), BTreeMap::from(all));
}

#[test]
fn a_file_must_be_an_object_with_one_secret_a_name() {
    let kind = "secretstores.local.file";
    let path = "components[0].metadata";
    assert_eq!(
        errors(kind, json!({}))[0],
        format!(
            "{path}.secretsFile: missing; a text is expected: the path of the file, from where envoy-runtime is started"
        )
    );
    assert!(
        errors(kind, json!({"secretsFile": "f"}))[0].starts_with(&format!("{path}.secrets: missing: a filter cannot"))
    );
    let said = errors(kind, json!({"secretsFile": "f", "secrets": "{\"a\": hunter2}"}));
    assert_eq!(
        said,
        [format!("{path}.secrets: the secrets are not a JSON object: there is a mistake in line 1, column 7")]
    );
    assert_eq!(errors(kind, json!({"secretsFile": "f", "secrets": "[1]"})).len(), 1);
    let said = errors(kind, file(&json!({"a:b": "1", "a": {"b": "2"}})));
    assert!(said[0].starts_with(&format!("{path}.nestedSeparator: two secrets have the same name")), "{said:?}");
}

#[test]
fn variables_of_the_environment_but_not_those_of_runtimes() {
    let world = World::default();
    let variables = json!({
        "HOME": "/root", "APP_API_TOKEN": "t", "DAPR_API_TOKEN": "t", "dapr_x": "t", "RUNTIME_SECRET_X": "t",
    });
    let metadata = json!({"secrets": variables.to_string()});
    let worker = with(&world, "secretstores.local.env", metadata);
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)), single(&[("HOME", "/root")]));
    assert_eq!(secret(&get(&world, &worker, "HOME")), map(&[("HOME", "/root")]));
    for hidden in ["APP_API_TOKEN", "DAPR_API_TOKEN", "dapr_x", "RUNTIME_SECRET_X", "NOT_SET"] {
        assert_eq!(secret(&get(&world, &worker, hidden)), map(&[(hidden, "")]), "{hidden}");
    }
}

#[test]
fn a_prefix_is_left_out_of_names_and_opens_nothing() {
    let world = World::default();
    let variables = json!({"SHOP_KEY": "k", "SHOP_": "none", "OTHER": "o", "DAPR_API_TOKEN": "t"});
    let metadata = |prefix: &str| json!({"prefix": prefix, "secrets": variables.to_string()});
    let worker = with(&world, "secretstores.local.env", metadata("SHOP_"));
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)), single(&[("KEY", "k")]));
    assert_eq!(secret(&get(&world, &worker, "KEY")), map(&[("KEY", "k")]));
    let worker = with(&world, "secretstores.local.env", metadata("DAPR_"));
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)), single(&[]));
    assert_eq!(secret(&get(&world, &worker, "API_TOKEN")), map(&[("API_TOKEN", "")]));
}

#[test]
fn scopes_say_what_the_app_may_read() {
    let world = World::default();
    let content = file(&json!({"a": "1", "b": "2", "c": "3"}));
    for (scope, may) in [
        (json!({"defaultAccess": "allow"}), vec!["a", "b", "c"]),
        (json!({"defaultAccess": "Deny"}), vec![]),
        (json!({"defaultAccess": "deny", "allowedSecrets": ["a"]}), vec!["a"]),
        (json!({"allowedSecrets": ["a", "b"], "deniedSecrets": ["b"]}), vec!["a", "b"]),
        (json!({"deniedSecrets": ["b"]}), vec!["a", "c"]),
        (json!({"defaultAccess": "deny", "deniedSecrets": ["b"]}), vec![]),
    ] {
        let mut scope = scope;
        scope["storeName"] = "vault".into();
        let worker = with_scopes(&world, "secretstores.local.file", content.clone(), json!([scope]));
        for service in [DAPR, LAYOTTO] {
            let all = secrets(&bulk(&world, &worker, service));
            assert_eq!(all.keys().collect::<Vec<_>>(), may, "{scope}");
            for key in ["a", "b", "c"] {
                let started = get_with(&world, &worker, service, key, &[]);
                if may.contains(&key) {
                    secret(&started);
                } else {
                    let text = format!("access denied by policy to get \"{key}\" from \"vault\"");
                    assert_eq!(status(&started), (Code::PermissionDenied, text));
                }
            }
        }
    }
    let other = json!([{"storeName": "other", "defaultAccess": "deny"}]);
    let worker = with_scopes(&world, "secretstores.local.file", content, other);
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)).len(), 3);
}

#[test]
fn scopes_are_checked() {
    let scopes = json!([
        {"storeName": "s", "defaultAccess": "maybe"},
        {"storeName": "s", "allowed": []},
        {"deniedSecrets": [1]},
    ]);
    let (_, report) = Config::check(&json!({"appId": "a", "secrets": {"scopes": scopes}}));
    let said: Vec<String> = report.0.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 5, "{said:?}");
    assert_eq!(said[0], "secrets.scopes[0].defaultAccess: allow or deny is expected, not \"maybe\"");
    assert!(said[1].starts_with("secrets.scopes[1].allowed: unknown field; known are allowedSecrets"), "{said:?}");
    assert_eq!(said[2], "secrets.scopes[1].storeName: there is another entry for \"s\"; one is expected");
    assert!(said[3].starts_with("secrets.scopes[2].deniedSecrets: a list of texts is expected"), "{said:?}");
    assert!(said[4].starts_with("secrets.scopes[2].storeName: missing"), "{said:?}");
}

fn vault(world: &World, more: &Value) -> Rc<Runtime> {
    let mut metadata = json!({"vaultAddr": "https://vault.shop:8200", "vaultToken": "hvs.token"});
    metadata.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    with(world, "secretstores.hashicorp.vault", metadata)
}

#[track_caller]
fn asked(world: &World) -> Request {
    world.http_request("runtime.secretstores.vault").unwrap()
}

#[test]
fn vault_is_asked_as_dapr_asks_it() {
    let world = World::default();
    let worker = vault(&world, &json!({"vaultNamespace": "team"}));
    let started = get(&world, &worker, "db creds/x");
    let request = asked(&world);
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("GET", "/v1/secret/data/dapr/db%20creds/x?version=0")
    );
    assert_eq!(request.header("host"), Some("vault.shop:8200"));
    assert_eq!(request.header("x-vault-token"), Some("hvs.token"));
    assert_eq!(request.header("x-vault-request"), Some("true"));
    assert_eq!(request.header("x-vault-namespace"), Some("team"));
    request.reply(200, r#"{"data": {"data": {"user": "u", "port": 5, "none": null}, "metadata": {"version": 2}}}"#);
    assert_eq!(secret(&started), map(&[("user", "u"), ("port", "5"), ("none", "null")]));

    let started = get_with(&world, &worker, LAYOTTO, "db", &[("version_id", "3&x")]);
    let request = asked(&world);
    assert_eq!(request.path, "/v1/secret/data/dapr/db?version=3%26x");
    request.reply(200, r#"{"data": {"data": {}}}"#);
    assert_eq!(secret(&started), map(&[]));
}

#[test]
fn a_secret_of_vault_as_one_text_elsewhere_in_it() {
    let world = World::default();
    let worker = vault(
        &world,
        &json!({"vaultValueType": "text", "enginePath": "team/kv/", "vaultKVUsePrefix": "false", "vaultAddr": "http://vault/base/"}),
    );
    let started = get(&world, &worker, "db");
    let request = asked(&world);
    assert_eq!(request.path, "/base/v1/team/kv/data/db?version=0");
    assert_eq!((request.header("host"), request.header("x-vault-namespace")), (Some("vault"), None));
    request.reply(200, r#"{"data":{"data":{"b": 1.50, "a":"x"}}}"#);
    assert_eq!(secret(&started), map(&[("db", r#"{"b": 1.50, "a":"x"}"#)]));
}

#[test]
fn all_secrets_of_vault_those_in_folders_too() {
    let world = World::default();
    let worker = vault(&world, &json!({}));
    let started = bulk(&world, &worker, DAPR);
    let request = asked(&world);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("LIST", "/v1/secret/metadata/dapr/"));
    request.reply(200, r#"{"data": {"keys": ["a", "team/", "gone"]}}"#);
    let request = asked(&world);
    assert_eq!(request.path, "/v1/secret/metadata/dapr/team/");
    request.reply(200, r#"{"data": {"keys": ["b"]}}"#);
    let value = |value: &str| format!(r#"{{"data": {{"data": {{"v": "{value}"}}}}}}"#);
    for (path, code, body) in [("a", 200, value("1")), ("gone", 404, "{}".into()), ("team/b", 200, value("2"))] {
        let request = asked(&world);
        assert_eq!(request.path, format!("/v1/secret/data/dapr/{path}?version=0"));
        request.reply(code, body);
    }
    let expected = [("a", "1"), ("team/b", "2")].map(|(name, value)| (name.to_owned(), map(&[("v", value)])));
    assert_eq!(secrets(&started), BTreeMap::from(expected));

    let started = bulk(&world, &worker, DAPR);
    asked(&world).reply(404, r#"{"errors": []}"#);
    assert_eq!(secrets(&started), BTreeMap::new());
}

#[test]
fn many_secrets_are_read_side_by_side_within_a_bound_and_only_those_allowed() {
    let world = World::default();
    let scopes = json!([{"storeName": "vault", "deniedSecrets": ["s0"]}]);
    let metadata = json!({"vaultAddr": "http://vault", "vaultToken": "t"});
    let worker = with_scopes(&world, "secretstores.hashicorp.vault", metadata, scopes);
    let started = bulk(&world, &worker, DAPR);
    let keys: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    asked(&world).reply(200, json!({"data": {"keys": keys}}).to_string());
    let mut waiting: Vec<Request> = std::iter::from_fn(|| world.http_request("runtime.secretstores.vault")).collect();
    assert_eq!(waiting.len(), 16);
    let mut answered = 0;
    while let Some(request) = waiting.pop() {
        assert!(!request.path.contains("/s0?"), "{}", request.path);
        request.reply(200, r#"{"data": {"data": {"v": "x"}}}"#);
        answered += 1;
        waiting.extend(std::iter::from_fn(|| world.http_request("runtime.secretstores.vault")));
    }
    assert_eq!((answered, secrets(&started).len()), (39, 39));
}

#[test]
fn failures_of_vault() {
    let world = World::default();
    let worker = vault(&world, &json!({}));
    let begin = "failed getting secret with key db from secret store vault: ";
    for (code, body, expected, text) in [
        (404, "hunter2", Code::Internal, "secret db not found: Vault has no such path or version"),
        (
            403,
            "hunter2",
            Code::Internal,
            "Vault refused it (status 403): the token is not valid, or its policy does not allow to read this path",
        ),
        (400, "hunter2", Code::Internal, "Vault answered with status 400"),
        (429, "hunter2", Code::Unavailable, "Vault has too many requests (status 429)"),
        (503, "hunter2", Code::Unavailable, "Vault cannot answer now (status 503)"),
        (473, "hunter2", Code::Unavailable, "Vault cannot answer now (status 473)"),
        (200, "hunter2", Code::Internal, "Vault answered with what is no secret of a key-value engine in version 2"),
        (
            200,
            r#"{"data": {"v": "hunter2"}}"#,
            Code::Internal,
            "secret db not found: Vault has no such path or version",
        ),
    ] {
        let started = get(&world, &worker, "db");
        asked(&world).reply(code, body);
        assert_eq!(status(&started), (expected, format!("{begin}{text}")), "{code}");
    }
    let started = get(&world, &worker, "db");
    asked(&world).fail("connection refused");
    let text = format!("{begin}Vault has not answered: connection refused");
    assert_eq!(status(&started), (Code::Unavailable, text));

    let started = bulk(&world, &worker, LAYOTTO);
    asked(&world).reply(200, r#"{"data": {"keys": ["a"]}}"#);
    asked(&world).reply(503, "");
    let text = "error when bulk get secret vault: Vault cannot answer now (status 503)";
    assert_eq!(status(&started), (Code::Unavailable, text.into()));

    let started = get(&world, &worker, "db");
    world.advance(Duration::from_secs(5));
    assert!(matches!(status(&started).0, Code::DeadlineExceeded | Code::Unavailable));
}

#[test]
fn the_configuration_of_vault_is_checked() {
    let kind = "secretstores.hashicorp.vault";
    let said = errors(kind, json!({"vaultAddr": "vault:8200", "vaultValueType": "yaml", "skipVerify": "true"}));
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("skipVerify: not supported: the token would go to whoever answers"), "{said:?}");
    assert!(said[1].ends_with("vaultAddr: a URL such as https://vault:8200 is expected"), "{said:?}");
    assert!(said[2].ends_with("vaultValueType: map or text is expected, not \"yaml\""), "{said:?}");
    assert!(said[3].contains("vaultToken: missing"), "{said:?}");
}

fn kubernetes(world: &World) -> Rc<Runtime> {
    let metadata = json!({"token": "jwt", "defaultNamespace": "shop"});
    with(world, "secretstores.kubernetes", metadata)
}

#[test]
fn a_secret_of_kubernetes() {
    let world = World::default();
    let worker = kubernetes(&world);
    let started = get(&world, &worker, "db");
    let request = asked(&world);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/api/v1/namespaces/shop/secrets/db"));
    assert_eq!(request.header("host"), Some("kubernetes.default.svc"));
    assert_eq!(request.header("authorization"), Some("Bearer jwt"));
    request.reply(
        200,
        r#"{"kind": "Secret", "metadata": {"name": "db"}, "data": {"user": "dQ==", "empty": "", "bytes": "/w=="}}"#,
    );
    assert_eq!(secret(&started), map(&[("user", "u"), ("empty", ""), ("bytes", "\u{fffd}")]));

    let started = get_with(&world, &worker, DAPR, "../x", &[("namespace", "team/b")]);
    let request = asked(&world);
    assert_eq!(request.path, "/api/v1/namespaces/team%2Fb/secrets/..%2Fx");
    request.reply(200, r#"{"metadata": {}}"#);
    assert_eq!(secret(&started), map(&[]));
}

#[test]
fn all_secrets_of_a_namespace_page_by_page() {
    let world = World::default();
    let worker = kubernetes(&world);
    let started = bulk(&world, &worker, DAPR);
    let request = asked(&world);
    assert_eq!(request.path, "/api/v1/namespaces/shop/secrets?limit=100");
    request.reply(
        200,
        r#"{"metadata": {"continue": "a+b"}, "items": [{"metadata": {"name": "one"}, "data": {"k": "dg=="}}]}"#,
    );
    let request = asked(&world);
    assert_eq!(request.path, "/api/v1/namespaces/shop/secrets?limit=100&continue=a%2Bb");
    request.reply(200, r#"{"metadata": {}, "items": [{"metadata": {"name": "two"}}]}"#);
    let expected = [("one".to_owned(), map(&[("k", "v")])), ("two".to_owned(), map(&[]))];
    assert_eq!(secrets(&started), BTreeMap::from(expected));
}

#[test]
fn failures_of_kubernetes() {
    let world = World::default();
    let worker = kubernetes(&world);
    for (code, body, expected, text) in [
        (404, "", Code::Internal, "secret db not found in its namespace"),
        (
            403,
            "",
            Code::Internal,
            "the API server of Kubernetes refused it (status 403): the token is not valid, or no role allows its account to get and list secrets there",
        ),
        (500, "", Code::Unavailable, "the API server of Kubernetes cannot answer now (status 500)"),
        (
            200,
            r#"{"data": {"k": "hunter2!"}}"#,
            Code::Internal,
            "the API server of Kubernetes answered with what is no secret",
        ),
    ] {
        let started = get(&world, &worker, "db");
        asked(&world).reply(code, body);
        let text = format!("failed getting secret with key db from secret store vault: {text}");
        assert_eq!(status(&started), (expected, text), "{code}");
    }
    let text = "failed getting secret with key  from secret store vault: the name of the secret is empty";
    assert_eq!(status(&get(&world, &worker, "")), (Code::Internal, text.into()));
    assert!(errors("secretstores.kubernetes", json!({}))[0].contains("token: missing"));
}

#[test]
fn nothing_secret_is_logged_or_shown() {
    let world = World::default();
    world.explain();
    let worker = vault(&world, &json!({}));
    let started = get(&world, &worker, "db");
    asked(&world).reply(200, r#"{"data": {"data": "hunter2"}}"#);
    status(&started);
    let shown = format!("{worker:?} {:?}", world.log_lines());
    assert!(!shown.contains("hvs.token") && !shown.contains("hunter2"), "{shown}");
    assert!(world.log_lines().iter().any(|line| line.contains("method=GetSecret api=dapr component=vault")), "{shown}");
}

#[test]
fn numbers_keep_their_digits() {
    let numbers = r#"{"pin": 0.10, "long": 12345678901234567890123456, "deep": [1e3, -0]}"#;
    let world = World::default();
    let file = json!({"secretsFile": "secrets.json", "secrets": numbers});
    let worker = with(&world, "secretstores.local.file", file);
    let expected =
        single(&[("pin", "0.10"), ("long", "12345678901234567890123456"), ("deep:0", "1e3"), ("deep:1", "-0")]);
    assert_eq!(secrets(&bulk(&world, &worker, DAPR)), expected);

    let world = World::default();
    let worker = vault(&world, &json!({}));
    let started = get(&world, &worker, "db");
    asked(&world).reply(200, format!(r#"{{"data": {{"data": {numbers}}}}}"#));
    let expected = [("pin", "0.10"), ("long", "12345678901234567890123456"), ("deep", "[1e3, -0]")];
    assert_eq!(secret(&started), map(&expected));
}

/// A name that leads elsewhere could read what is outside of the prefix.
#[test]
fn names_lead_down_from_the_prefix_alone() {
    let world = World::default();
    let worker = vault(&world, &json!({}));
    for name in ["", "/db", "db/", "a//b", ".", "..", "a/./b", "../other/db", "a/../../b"] {
        let (code, text) = status(&get(&world, &worker, name));
        assert_eq!(code, Code::InvalidArgument, "{name:?}");
        assert!(text.contains("none of them empty, . or .."), "{text}");
    }
    let started = bulk(&world, &worker, DAPR);
    asked(&world).reply(200, r#"{"data": {"keys": ["/", "../", "a//", "..", ""]}}"#);
    assert_eq!(secrets(&started), BTreeMap::new());

    let kind = "secretstores.hashicorp.vault";
    let said = errors(kind, json!({"vaultToken": "t", "enginePath": "a//b", "vaultKVPrefix": "../x"}));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("enginePath: names of folders with single slashes"), "{said:?}");
}
