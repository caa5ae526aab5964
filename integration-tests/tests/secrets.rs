//! Secrets in both dialects: those of this machine, of Vault and of Kubernetes; and that no value of any stands where
//! it could be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1::{GetBulkSecretRequest, GetSecretRequest};
use integration_tests::kubernetes::{self, Kubernetes};
use integration_tests::redis::{self, Redis};
use integration_tests::status::expect_status;
use integration_tests::store::item;
use integration_tests::vault::{self, Vault};
use integration_tests::{Client, Config, Dialect, Envoy, Store, http1, installed, scratch};
use serde_json::json;
use tempfile::TempDir;
use tonic::{Code, Status};

type Values = BTreeMap<String, String>;

fn values(pairs: &[(&str, &str)]) -> Values {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

async fn get_with(client: &Client, store: &str, key: &str, metadata: &[(&str, &str)]) -> Result<Values, Status> {
    let request = GetSecretRequest { store_name: store.into(), key: key.into(), metadata: values(metadata) };
    Ok(client.get_secret(request).await?.data)
}

async fn get(client: &Client, store: &str, key: &str) -> Result<Values, Status> {
    get_with(client, store, key, &[]).await
}

async fn bulk(client: &Client, store: &str) -> Result<BTreeMap<String, Values>, Status> {
    let request = GetBulkSecretRequest { store_name: store.into(), ..Default::default() };
    let data = client.get_bulk_secret(request).await?.data;
    Ok(data.into_iter().map(|(name, secret)| (name, secret.secrets)).collect())
}

/// A file in a directory of its own, which goes with the directory.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let scratch = scratch::directory("secrets");
    let path = scratch.path().join(name);
    std::fs::write(&path, content).unwrap();
    (scratch, path)
}

/// As Layotto's own integration test has it.
const LAYOTTO_FILE: &str = r#"{"db-user-pass": {"password": "pw1", "username": "admin"}, "testPassword": "pw2"}"#;

#[tokio::test]
async fn a_file_as_layottos_own_test_has_it() {
    let (_scratch, path) = file("config_test_secret_demo.json", LAYOTTO_FILE);
    let kind = "secretstores.local.file";
    let config =
        Config::new("app1").component("local_file_secret_demo", kind, &[("secretsFile", path.to_str().unwrap())]);
    let envoy = Envoy::start(config).await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await;
        let store = "local_file_secret_demo";
        assert_eq!(get(&client, store, "testPassword").await.unwrap(), values(&[("testPassword", "pw2")]));
        let all = [("db-user-pass:username", "admin"), ("db-user-pass:password", "pw1"), ("testPassword", "pw2")];
        let all = all.map(|(name, value)| (name.to_owned(), values(&[(name, value)])));
        assert_eq!(bulk(&client, store).await.unwrap(), BTreeMap::from(all));
        expect_status(get(&client, store, "gone").await, Code::Internal, "secret gone not found");
        expect_status(get(&client, store, "").await, Code::Internal, "not found");
        let text = match dialect {
            Dialect::Dapr => "failed finding secret store with key nowhere",
            Dialect::Layotto => "error when get secret but not find : nowhere",
        };
        expect_status(get(&client, "nowhere", "k").await, Code::InvalidArgument, text);
        expect_status(bulk(&client, "nowhere").await, Code::InvalidArgument, text);
    }
    envoy.assert_no_filter_crashed().await;
}

/// The names and values that Dapr's conformance tests ask every store for.
#[tokio::test]
async fn the_environment_as_dapr_tests_it() {
    let config = Config::new("orders")
        .variable("CONF_conftestsecret", "abcd")
        .variable("CONF_secondsecret", "efgh = 'quoted' \"twice\" ünï ${HOME}\n2nd line")
        .variable("APP_API_TOKEN", "hidden")
        .component("env", "secretstores.local.env", &[])
        .component("prefixed", "secretstores.local.env", &[("prefix", "CONF_")]);
    let envoy = Envoy::start(config).await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await;
        let second = "efgh = 'quoted' \"twice\" ünï ${HOME}\n2nd line";
        assert_eq!(get(&client, "prefixed", "conftestsecret").await.unwrap(), values(&[("conftestsecret", "abcd")]));
        let all = [("conftestsecret", "abcd"), ("secondsecret", second)];
        let all = all.map(|(name, value)| (name.to_owned(), values(&[(name, value)])));
        assert_eq!(bulk(&client, "prefixed").await.unwrap(), BTreeMap::from(all));
        let every = bulk(&client, "env").await.unwrap();
        assert!(every.contains_key("CONF_conftestsecret") && every.contains_key("PATH"));
        assert!(
            !every
                .keys()
                .any(|name| name.starts_with("DAPR_") || name.starts_with("RUNTIME_") || name == "APP_API_TOKEN")
        );
        assert_eq!(get(&client, "env", "APP_API_TOKEN").await.unwrap(), values(&[("APP_API_TOKEN", "")]));
    }
}

#[tokio::test]
async fn scopes_are_kept_in_envoy() {
    let (_scratch, path) = file("secrets.json", r#"{"open": "1", "closed": "2"}"#);
    let scopes = json!([{"storeName": "file", "deniedSecrets": ["closed"]}]);
    let config = Config::new("orders").set("secrets", json!({"scopes": scopes})).component(
        "file",
        "secretstores.local.file",
        &[("secretsFile", path.to_str().unwrap())],
    );
    let envoy = Envoy::start(config).await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await;
        assert_eq!(bulk(&client, "file").await.unwrap().into_keys().collect::<Vec<_>>(), ["open"]);
        let text = "access denied by policy to get \"closed\" from \"file\"";
        expect_status(get(&client, "file", "closed").await, Code::PermissionDenied, text);
    }
}

#[tokio::test]
async fn vault() {
    for tls in [false, true] {
        let mut vault = Vault::start(vault::Options { tls }).await;
        vault.put("dapr/db", &[("user", "old")]);
        vault.put("dapr/db", &[("user", "u"), ("password", "p ü")]);
        vault.put("dapr/team/mail", &[("key", "m")]);
        vault.put("elsewhere", &[("key", "x")]);
        vault.add_token("narrow", &["secret/data/dapr/db"]);
        let url = vault.server.url();
        let authority = vault.server.authority.clone().unwrap_or_default();
        let with_token =
            |token: &str| json!({"vaultAddr": url, "vaultToken": token, "caCert": authority.to_str().unwrap()});
        let component =
            |name: &str, metadata| json!({"name": name, "type": "secretstores.hashicorp.vault", "metadata": metadata});
        let config = Config::new("orders")
            .component_document(component("vault", with_token(vault::TOKEN)))
            .component_document(component("narrow", with_token("narrow")));
        let envoy = Envoy::start(config).await;
        for dialect in Dialect::ALL {
            let client = envoy.client(dialect).await;
            let db = values(&[("user", "u"), ("password", "p ü")]);
            assert_eq!(get(&client, "vault", "db").await.unwrap(), db);
            let old = get_with(&client, "vault", "db", &[("version_id", "1")]).await.unwrap();
            assert_eq!(old, values(&[("user", "old")]));
            assert_eq!(get(&client, "vault", "team/mail").await.unwrap(), values(&[("key", "m")]));
            let all = [("db".to_owned(), db.clone()), ("team/mail".to_owned(), values(&[("key", "m")]))];
            assert_eq!(bulk(&client, "vault").await.unwrap(), BTreeMap::from(all));
            expect_status(get(&client, "vault", "gone").await, Code::Internal, "secret gone not found");
            let wrong = get_with(&client, "vault", "db", &[("version_id", "x")]).await;
            expect_status(wrong, Code::Internal, "status 400");
            assert_eq!(get(&client, "narrow", "db").await.unwrap(), db);
            expect_status(get(&client, "narrow", "team/mail").await, Code::Internal, "its policy does not allow");
            expect_status(bulk(&client, "narrow").await, Code::Internal, "status 403");
            vault.seal(true);
            expect_status(get(&client, "vault", "db").await, Code::Unavailable, "status 503");
            vault.seal(false);
        }
        vault.server.stop().await;
        for dialect in Dialect::ALL {
            let client = envoy.client(dialect).await.with_deadline(Duration::from_secs(10));
            expect_status(get(&client, "vault", "db").await, Code::Unavailable, "");
            expect_status(bulk(&client, "vault").await, Code::Unavailable, "");
        }
        vault.server.restart().await;
        let client = envoy.client(Dialect::Dapr).await;
        assert_eq!(get(&client, "vault", "team/mail").await.unwrap(), values(&[("key", "m")]));
        envoy.assert_no_filter_crashed().await;
    }
}

#[tokio::test]
async fn kubernetes() {
    let kubernetes = Kubernetes::start(kubernetes::Options { tls: true }).await;
    kubernetes.put("default", "db", &[("user", "u"), ("password", "p")]);
    for number in 0..120 {
        kubernetes.put("many", &format!("s{number:03}"), &[("key", number.to_string())]);
    }
    kubernetes.add_token("narrow", "narrow", &["default"]);
    let account = |name: &str| kubernetes.service_account().join(name).to_str().unwrap().to_owned();
    let component = |name: &str, token: Option<&str>| {
        json!({"name": name, "type": "secretstores.kubernetes", "metadata": {
            "server": kubernetes.server.url(), "caCert": account("ca.crt"), "tokenFile": account("token"), "token": token,
        }})
    };
    let config = Config::new("orders")
        .component_document(component("kubernetes", None))
        .component_document(component("narrow", Some("narrow")))
        .component_document(component("nobody", Some("nobody")));
    let envoy = Envoy::start(config).await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await;
        let db = values(&[("user", "u"), ("password", "p")]);
        assert_eq!(get(&client, "kubernetes", "db").await.unwrap(), db);
        assert_eq!(bulk(&client, "kubernetes").await.unwrap(), BTreeMap::from([("db".to_owned(), db.clone())]));
        let many = GetBulkSecretRequest { store_name: "kubernetes".into(), metadata: values(&[("namespace", "many")]) };
        let many = client.get_bulk_secret(many).await.unwrap().data;
        assert_eq!((many.len(), many["s119"].secrets["key"].as_str()), (120, "119"));
        expect_status(get(&client, "kubernetes", "gone").await, Code::Internal, "secret gone not found");
        assert_eq!(get(&client, "narrow", "db").await.unwrap(), db);
        let other = get_with(&client, "narrow", "s000", &[("namespace", "many")]).await;
        expect_status(other, Code::Internal, "status 403");
        expect_status(get(&client, "nobody", "db").await, Code::Internal, "status 401");
    }
    envoy.assert_no_filter_crashed().await;
}

/// Where a value could be read: all pages of the admin interface, the log, the files, and the command line.
async fn readable(envoy: &Envoy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in [
        "config_dump?include_eds",
        "stats",
        "clusters",
        "listeners",
        "server_info",
        "memory",
        "certs",
        "runtime",
        "contention",
        "init_dump",
        "stats/prometheus",
        "clusters?format=json",
        "listeners?format=json",
    ] {
        let (status, text) = http1::get(envoy.admin, &format!("/{page}")).await.unwrap();
        assert!(status == 200 && (!text.is_empty() || page == "runtime"), "/{page}: {status}");
        found.push((format!("/{page}"), text));
    }
    found.push(("the log".into(), envoy.log().await));
    let rendered = std::fs::read_to_string(envoy.scratch().join("bootstrap.json")).unwrap();
    found.push(("the rendered file".into(), rendered));
    found.push(("the command line".into(), envoy.command_line()));
    found
}

/// The places where this text stands, each with the first line that has it.
async fn places_of(envoy: &Envoy, text: &str) -> BTreeMap<String, String> {
    let places = readable(envoy).await.into_iter();
    let line = |content: &str| content.lines().find(|line| line.contains(text)).map(str::to_owned);
    places.filter_map(|(place, content)| Some((place, line(&content)?))).collect()
}

#[tokio::test]
async fn no_secret_stands_where_it_could_be_read() {
    let (_scratch, path) = file("secrets.json", r#"{"one": "hunter2-file", "nested": {"two": "hunter2-nested"}}"#);
    let vault = Vault::start(vault::Options::default()).await;
    vault.put("dapr/db", &[("key", "hunter2-in-vault")]);
    vault.add_token("hunter2-vault-token", &["secret/"]);
    let kubernetes = Kubernetes::start(kubernetes::Options { tls: true }).await;
    kubernetes.put("default", "db", &[("key", "hunter2-in-kubernetes")]);
    kubernetes.add_token("hunter2-account", "app", &["default"]);
    let redis = Redis::start(redis::Options { password: Some("hunter2-redis"), ..Default::default() }).await;
    let config = Config::new("orders")
        .log_level("debug")
        .variable("SHOP_KEY", "hunter2-variable")
        .set("apiToken", "hunter2-token")
        .component("statestore", "state.redis", &[("redisHost", &redis.address()), ("redisPassword", "hunter2-redis")])
        .component("file", "secretstores.local.file", &[("secretsFile", path.to_str().unwrap())])
        .component("env", "secretstores.local.env", &[("prefix", "SHOP_")])
        .component(
            "vault",
            "secretstores.hashicorp.vault",
            &[("vaultAddr", &vault.server.url()), ("vaultToken", "hunter2-vault-token")],
        )
        .component(
            "kubernetes",
            "secretstores.kubernetes",
            &[
                ("server", &kubernetes.server.url()),
                ("caCert", kubernetes.service_account().join("ca.crt").to_str().unwrap()),
                ("token", "hunter2-account"),
            ],
        );
    let envoy = Envoy::start(config).await;
    for dialect in Dialect::ALL {
        let client = envoy.client(dialect).await.with_api_token("hunter2-token");
        let refused = envoy.client(dialect).await.with_api_token("wrong");
        expect_status(get(&refused, "file", "one").await, Code::Unauthenticated, "dapr-api-token");
        for (store, key, name, value) in [
            ("file", "one", "one", "hunter2-file"),
            ("env", "KEY", "KEY", "hunter2-variable"),
            ("vault", "db", "key", "hunter2-in-vault"),
            ("kubernetes", "db", "key", "hunter2-in-kubernetes"),
        ] {
            assert_eq!(get(&client, store, key).await.unwrap(), values(&[(name, value)]));
            assert!(!bulk(&client, store).await.unwrap().is_empty(), "{store}");
            let _ = get(&client, store, "gone").await;
        }
        let store = Store::new(client, "statestore");
        store.save(item("k", "v")).await.unwrap();
        assert_eq!(store.value("k").await, "v");
    }
    let log = envoy.log().await;
    assert!(log.contains("[debug]"), "Envoy logs at the level debug");
    assert!(!places_of(&envoy, "RUNTIME_SECRET_APITOKEN").await.is_empty(), "the names are there");
    let found = places_of(&envoy, "hunter2").await;
    assert!(found.is_empty(), "secrets stand where they can be read: {found:#?}");
    let file = envoy.scratch().join(integration_tests::envoy::SECRETS);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions()) & 0o777, 0o600);
}

/// What is in names and keys is no secret to the runtime: by it the search above is seen to find what there is.
#[tokio::test]
async fn a_secret_in_the_wrong_field_is_found() {
    let nowhere = format!("127.0.0.1:{}", integration_tests::ports::free_port());
    let config = Config::new("orders").log_level("debug").component(
        "hunter2-name",
        "state.redis",
        &[("redisHost", &nowhere), ("keyPrefix", "hunter2-prefix")],
    );
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "hunter2-name");
    store.get("hunter2-key").await.unwrap_err();
    let found: Vec<_> = places_of(&envoy, "hunter2-name").await.into_keys().collect();
    for place in ["/clusters", "/config_dump?include_eds", "/stats", "/stats/prometheus", "the rendered file"] {
        assert!(found.iter().any(|found| found == place), "{place} is not among {found:?}");
    }
    let found = places_of(&envoy, "hunter2-prefix").await;
    assert!(found.contains_key("/config_dump?include_eds") && found.contains_key("the rendered file"), "{found:#?}");
    assert!(places_of(&envoy, "hunter2-key").await.contains_key("the log"));
    assert!(places_of(&envoy, "--config-path").await.contains_key("the command line"));
}

#[tokio::test]
async fn a_secret_that_envoy_was_not_given_refuses_the_configuration_with_its_field() {
    let password = json!({"env": "NOWHERE_SET"});
    let component =
        json!({"name": "s", "type": "state.redis", "metadata": {"redisHost": "redis:6379", "redisPassword": password}});
    let log = Envoy::refuses(Config::new("orders").component_document(component)).await;
    let text = "configuration: components[0].metadata.redisPassword: the variable NOWHERE_SET is not set";
    assert!(log.contains(text), "{log}");
}

/// An app with an SDK of Dapr gets a secret and all of them.
async fn sdk(command: impl FnOnce(&Path) -> Command) {
    let (_scratch, path) = file("secrets.json", r#"{"order": "42", "nested": {"key": "v"}}"#);
    let kind = "secretstores.local.file";
    let config = Config::new("orders").component("localsecretstore", kind, &[("secretsFile", path.to_str().unwrap())]);
    let envoy = Envoy::start(config).await;
    let mut command = command(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk"));
    command.env("DAPR_GRPC_PORT", envoy.dapr_grpc.to_string()).env("DAPR_HTTP_PORT", envoy.dapr_http.to_string());
    command.env("NO_PROXY", "127.0.0.1,localhost").env_remove("DAPR_API_TOKEN");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the interpreter starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.ends_with("get\nbulk\nrefused\ndone\n"), "{printed}\n{errors}");
}

#[tokio::test]
async fn python() {
    sdk(|scripts| {
        let mut command = Command::new(installed::python());
        command.arg(scripts.join("secret_store.py"));
        command
    })
    .await;
}

#[tokio::test]
async fn javascript() {
    sdk(|scripts| {
        let mut command = Command::new(installed::system("node"));
        command.arg(scripts.join("secret_store.cjs")).env("NODE_PATH", installed::node_modules());
        command
    })
    .await;
}
