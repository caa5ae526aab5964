//! What `envoy-runtime render` prints. The examples in `envoy-configs/rendered` are the golden files; with `UPDATE=1`
//! in the environment they are written instead of compared.

// A test may end by a panic, and so may what it calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy-configs")
}

/// What is printed for these flags, given in the folder of the examples.
fn render(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
    command.current_dir(examples()).arg("render").args(arguments).env("DAPR_API_TOKEN", "");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The bootstrap of a document.
fn bootstrap(document: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runtime.yaml");
    fs::write(&file, document).unwrap();
    render(&["bootstrap", "-f", file.to_str().unwrap(), "--modules", "/modules"])
}

#[test]
fn the_rendered_examples_are_in_step() {
    let examples = [
        ("in-memory.yaml", vec!["-f", "in-memory.yaml"]),
        ("redis.yaml", vec!["-f", "redis.yaml"]),
        ("locks-and-ids.yaml", vec!["-f", "locks-and-ids.yaml"]),
        ("etcd.yaml", vec!["-f", "etcd.yaml"]),
        ("configuration.yaml", vec!["-f", "configuration.yaml"]),
        ("dapr-components.yaml", vec!["--app-id", "orders", "--resources-path", "dapr-components"]),
        ("layotto.yaml", vec!["--layotto-config", "layotto/config_redis.json"]),
    ];
    for (name, source) in examples {
        let rendered = render(&[&["bootstrap"], &source[..]].concat());
        let file = self::examples().join("rendered").join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, rendered).unwrap();
        } else {
            assert_eq!(rendered, fs::read_to_string(&file).unwrap(), "{name}: `UPDATE=1 cargo test` writes it anew");
        }
    }
}

#[test]
fn the_filter_gets_the_document_with_what_flags_and_environment_say() {
    let filter = |token: &str, arguments: &[&str]| -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
        command.current_dir(examples()).args(["render", "filter", "-f", "in-memory.yaml"]).args(arguments);
        serde_json::from_slice(&command.env("DAPR_API_TOKEN", token).output().unwrap().stdout).unwrap()
    };
    let plain =
        serde_json::json!({"appId": "orders", "components": [{"name": "statestore", "type": "state.in-memory"}]});
    assert_eq!(filter("", &[]), plain);
    let document = filter("s3cret", &["--dapr-grpc-port", "4000", "--layotto-port", "off"]);
    assert_eq!(document["apiToken"], serde_json::json!({"env": "RUNTIME_SECRET_APITOKEN"}));
    assert_eq!(document["listeners"], serde_json::json!({"daprGrpc": "127.0.0.1:4000", "layottoGrpc": "off"}));
}

/// Envoy ends the calls that a filter has lost, but none before its own deadline.
#[test]
fn a_lost_call_ends_after_the_limit_and_one_with_a_deadline_after_five_minutes() {
    let document = "appId: a\nlimits: {timeout: 7s}\ncomponents: [{name: s, type: state.in-memory}]\n";
    let bootstrap = bootstrap(document);
    let times = |text: &str| bootstrap.matches(text).count();
    let listeners = times("port_value: 34904") + times("port_value: 50001") + times("port_value: 3500");
    assert_eq!(listeners, 3, "{bootstrap}");
    assert_eq!(times("stream_idle_timeout: \"17s\""), listeners);
    assert_eq!(times("headers: [{name: grpc-timeout, present_match: true}]"), listeners);
    assert_eq!(times("route: {cluster_header: runtime-has-no-cluster, timeout: 0s, idle_timeout: 300s}"), listeners);
}

#[test]
fn an_empty_token_is_none_and_an_id_may_be_a_number() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runtime.yaml");
    let store = "components: [{name: s, type: state.in-memory, scopes: [\"42\"]}]";
    fs::write(&file, format!("appId: 42\napiToken: \"\"\n{store}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
    command.args(["render", "filter", "-f"]).arg(&file).env("DAPR_API_TOKEN", "s3cret");
    let document: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(document["apiToken"], serde_json::json!({"env": "RUNTIME_SECRET_APITOKEN"}));
    assert_eq!(document["components"][0]["name"], "s");
}

#[test]
fn the_sources_of_others_become_the_same_document() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yml", "kind: Subscription\n---\n");
    write(
        "a.yaml",
        "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore, namespace: shop, labels: {tier: data}}
spec:
  type: state.redis
  version: v1
  metadata:
  - {name: redisHost, envRef: A_REDIS}
  - {name: redisDB, value: 3}
  - {name: redisPassword, value: 007}
scopes: [orders, billing]
",
    );
    write(
        "config.json",
        "{\"kind\": \"Component\", \"metadata\": {\"name\": \"m\"}, \"spec\": {\"type\": \"state.in-memory\"}}",
    );
    let filter = |arguments: &[&str]| -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
        command.current_dir(folder.path()).args(["render", "filter"]).args(arguments);
        let output = command.env("A_REDIS", "redis:6379").env("DAPR_API_TOKEN", "").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let password = serde_json::json!({"env": "RUNTIME_SECRET_STATE_STATESTORE_REDISPASSWORD"});
    let metadata = serde_json::json!({"redisHost": "redis:6379", "redisDB": 3, "redisPassword": password});
    assert_eq!(
        filter(&["--app-id", "orders", "--resources-path", "."]),
        serde_json::json!({"appId": "orders", "components": [
            {"name": "statestore", "type": "state.redis", "version": "v1", "metadata": metadata, "scopes": ["orders", "billing"]},
            {"name": "m", "type": "state.in-memory", "metadata": {}},
        ]})
    );
    let layotto = examples().join("layotto/config_redis.json");
    let redis = serde_json::json!({"redisHost": "localhost:6379", "redisPassword": ""});
    let mut numbered = redis.clone();
    numbered["biggerThan"] = serde_json::json!({"invoice": 1000});
    assert_eq!(
        filter(&["--layotto-config", layotto.to_str().unwrap()]),
        serde_json::json!({"appId": "orders", "listeners": {"layottoGrpc": "127.0.0.1:34904"}, "components": [
            {"name": "state_demo", "type": "state.redis", "metadata": redis},
            {"name": "lock_demo", "type": "lock.redis", "metadata": redis},
            {"name": "sequencer_demo", "type": "sequencer.redis", "metadata": numbered},
        ]})
    );
}

/// What `render` gives for these flags in the folder of the workspace: rendered text, notes, and the file of secrets.
fn render_with_secrets(arguments: &[&str]) -> (String, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets.env");
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
    command.current_dir(examples().parent().unwrap()).arg("render").args(arguments);
    command.arg("--secrets-file").arg(&file).env("DAPR_API_TOKEN", "hunter2").env("SHOP_KEY", "k");
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    (text(output.stdout), text(output.stderr), fs::read_to_string(file).unwrap())
}

#[test]
fn secrets_go_into_a_file_of_their_own() {
    let content = r#"'{"testPassword":"pw2","db-user-pass":{"password":"pw1","username":"admin"}}'"#;
    let (text, notes, file) = render_with_secrets(&["bootstrap", "-f", "envoy-configs/secrets.yaml"]);
    let expected = [
        "RUNTIME_SECRET_APITOKEN=hunter2".to_owned(),
        format!("RUNTIME_SECRET_SECRETSTORES_SECRETS_SECRETS={content}"),
        r#"RUNTIME_SECRET_SECRETSTORES_ENVIRONMENT_SECRETS='{"SHOP_KEY":"k"}'"#.to_owned(),
    ];
    assert_eq!(file.lines().collect::<Vec<_>>(), expected);
    assert!(
        text.contains("host_env_keys: [RUNTIME_SECRET_APITOKEN, REDIS_PASSWORD, RUNTIME_SECRET_SECRETSTORES_"),
        "{text}"
    );
    assert!(!["hunter2", "pw1", "pw2", "SHOP_KEY"].iter().any(|secret| text.contains(secret)), "{text}");
    let note = "note: Envoy needs these variables in its environment, which hold its secrets: REDIS_PASSWORD\n";
    assert_eq!(notes, note);
}

#[test]
fn components_of_dapr_and_layotto_take_secrets_from_a_store() {
    let dapr = ["filter", "--app-id", "orders", "--resources-path", "envoy-configs/dapr-secrets"];
    let (text, _, file) = render_with_secrets(&dapr);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let password = "RUNTIME_SECRET_STATE_STATESTORE_REDISPASSWORD";
    assert_eq!(document["components"][1]["metadata"]["redisPassword"], serde_json::json!({"env": password}));
    assert_eq!(document["secrets"]["scopes"][0]["deniedSecrets"], serde_json::json!(["db-user-pass:password"]));
    assert!(file.lines().any(|line| line == format!("{password}=pw2")), "{file}");

    let (text, _, file) =
        render_with_secrets(&["filter", "--layotto-config", "envoy-configs/layotto/config_secret.json"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let password = "RUNTIME_SECRET_STATE_REDIS_STATE_DEMO_REDISPASSWORD";
    assert_eq!(document["components"][0]["metadata"]["redisPassword"], serde_json::json!({"env": password}));
    assert_eq!(document["components"][1]["type"], "secretstores.local.file");
    assert!(file.lines().any(|line| line == format!("{password}=pw2")), "{file}");
}

#[test]
fn scopes_and_lists_of_apis_may_be_in_the_file_that_dapr_calls_config() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let scopes = "scopes: [{storeName: s, defaultAccess: deny}]";
    let api = "allowed: [{name: state, version: v1.0, protocol: http}]";
    let text = format!("kind: Configuration\nspec:\n  tracing: {{}}\n  api:\n    {api}\n  secrets:\n    {scopes}\n");
    fs::write(&file, text).unwrap();
    let mut arguments =
        vec!["filter", "--app-id", "orders", "--resources-path", "dapr-components", "--config", file.to_str().unwrap()];
    arguments.extend(["--allowed-origins", "https://a.example, https://b.example"]);
    let document: serde_json::Value = serde_json::from_str(&render(&arguments)).unwrap();
    assert_eq!(document["secrets"]["scopes"][0]["defaultAccess"], "deny");
    assert_eq!(document["api"]["allowed"][0]["name"], "state");
    assert_eq!(document["api"]["allowedOrigins"], serde_json::json!(["https://a.example", "https://b.example"]));
}

#[test]
fn what_is_for_other_apps_is_neither_read_nor_rendered() {
    let text = bootstrap(
        "appId: a
components:
- {name: s, type: secretstores.local.file, metadata: {secretsFile: /nowhere}, scopes: [b]}
- {name: r, type: state.redis, metadata: {redisHost: 'redis:6379', redisPassword: hunter2}, scopes: [b]}
- {name: m, type: state.in-memory}
",
    );
    assert!(
        !text.contains("RUNTIME_SECRET") && !text.contains("hunter2") && text.contains("state.in-memory"),
        "{text}"
    );
}

#[test]
fn listeners_may_be_sockets_or_off() {
    let text = bootstrap(
        "appId: a\nlisteners: {layottoGrpc: off, daprGrpc: 'unix:///run/a b.sock', daprHttp: '[::1]:3500', admin: off}\n",
    );
    assert!(!text.contains("layotto_grpc\n") && !text.contains("\nadmin:"), "{text}");
    assert!(text.contains("- name: dapr_grpc\n    address: {pipe: {path: \"/run/a b.sock\"}}\n"), "{text}");
    assert!(
        text.contains("- name: dapr_http\n    address: {socket_address: {address: \"::1\", port_value: 3500}}\n"),
        "{text}"
    );
    // The filters are written once, with the first listener.
    assert_eq!(text.matches("http_filters: &filters").count(), 1);
    assert_eq!(text.matches("http_filters: *filters").count(), 2, "of the other listener and of the one within Envoy");
}

#[test]
fn the_buffer_holds_the_largest_message() {
    let found = |limit: &str, field: &str| {
        let text = bootstrap(&format!("appId: a\nlimits: {{maxRequestBytes: {limit}}}\n"));
        let listeners = text.split_once("clusters:").unwrap().0;
        let lines = listeners.lines().filter_map(|line| line.trim().strip_prefix(field));
        lines.map(|value| value.trim_start_matches(": ").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("1024", "per_connection_buffer_limit_bytes"), ["1048576"; 3]);
    assert_eq!(found("1024", "initial_stream_window_size"), ["16777216"; 3]);
    for field in ["per_connection_buffer_limit_bytes", "initial_stream_window_size"] {
        assert_eq!(found("16777216", field), ["16842752"; 3]);
    }
}

#[test]
fn the_filter_is_the_smallest_that_serves() {
    let filter = |kinds: &[&str]| {
        let component =
            |(index, kind)| format!("- {{name: c{index}, type: {kind}, metadata: {{redisHost: 'redis:6379'}}}}\n");
        let text = bootstrap(&format!(
            "appId: a\ncomponents:\n{}",
            kinds.iter().enumerate().map(component).collect::<String>()
        ));
        text.lines().find_map(|line| line.split_once("/modules/runtime")?.1.strip_suffix("}}").map(str::to_owned))
    };
    assert_eq!(filter(&["state.redis", "State.Redis"]).unwrap(), "-state.wasm");
    assert_eq!(filter(&["state.redis", "lock.redis"]).unwrap(), ".wasm");
}

#[test]
fn a_server_gets_a_cluster_unless_there_is_one() {
    let text = bootstrap(
        "appId: a
components:
- {name: named, type: state.redis, metadata: {redisHost: 'redis.shop:6379'}}
- {name: by.address, type: state.redis, metadata: {redisHost: '10.0.0.7:6380'}}
- {name: own, type: state.redis, metadata: {redisHost: 'redis:6379'}, cluster: my-redis}
- {name: memory, type: state.in-memory}
",
    );
    let (_, clusters) = text.split_once("  clusters:\n").unwrap();
    let names: Vec<&str> = clusters.lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
    assert_eq!(names, ["runtime.state.named", "runtime.state.by.address", "runtime.bus", "runtime.wake"]);
    assert!(clusters.contains("socket_address: {address: redis.shop, port_value: 6379}"), "{clusters}");
    assert!(clusters.contains("alt_stat_name: runtime_state_by_address\n    type: STATIC\n"), "{clusters}");
    assert!(clusters.contains("filename: /modules/tunnel.wasm"));
    assert!(!clusters.contains("transport_socket"), "{clusters}");
}

#[test]
fn tls_asks_for_the_name_and_finds_it_in_the_certificate() {
    let text = bootstrap(
        "appId: a
components:
- {name: named, type: state.redis, metadata: {redisHost: 'redis.shop:6379', enableTLS: true}}
- name: by-address
  type: state.redis
  metadata: {redisHost: '10.0.0.7:6380', enableTLS: true, caCert: /c/ca.pem, clientCert: /c/c.pem, clientKey: /c/k.pem}
",
    );
    for part in [
        "sni: redis.shop",
        "trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}",
        "[{matcher: {exact: redis.shop}, san_type: DNS}]",
        "sni: \"\"",
        "trusted_ca: {filename: /c/ca.pem}",
        "[{matcher: {exact: \"10.0.0.7\"}, san_type: IP_ADDRESS}]",
        "[{certificate_chain: {filename: /c/c.pem}, private_key: {filename: /c/k.pem}}]",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn what_a_user_writes_stays_a_value() {
    let text = bootstrap("appId: \"a\\nadmin: {x: \\u2028}\"\ncomponents: [{name: \"s: #\", type: state.in-memory}]\n");
    assert!(
        text.starts_with("# Configuration of an Envoy that serves the runtime APIs to the app \"a\\U0000000aadmin"),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("admin:")).count(), 1);
    assert!(text.is_ascii());
}

/// As daprd has it: the namespace of the environment, and none without it.
#[test]
fn the_namespace_of_component_files_is_that_of_the_environment() {
    let arguments = ["render", "filter", "--app-id", "orders", "--resources-path", "dapr-components-etcd"];
    for namespace in ["", "shop"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-runtime"));
        command.current_dir(examples()).args(arguments).env("NAMESPACE", namespace);
        let document: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        assert_eq!(document.get("namespace").and_then(|it| it.as_str()).unwrap_or_default(), namespace);
    }
}
