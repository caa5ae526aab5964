//! What daprd 1.17.13 was recorded to answer, and what of it may be answered otherwise here: the tables in
//! docs/differences-from-dapr.md, from which the tests take their exceptions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::redis::{self, Redis};
use crate::{Config, Envoy, installed, scratch};

/// The runtimes that the recordings name, and the Redis behind them.
#[derive(Debug)]
pub struct Runtimes {
    /// The Redis.
    pub redis: Redis,
    /// By the name of the recordings: main, empty, token, allow, cors, corsall.
    pub envoys: BTreeMap<&'static str, Envoy>,
    _scratch: tempfile::TempDir,
}

impl Runtimes {
    /// Starts all of them, configured as the daprds were that were recorded.
    pub async fn start() -> Self {
        let redis = Redis::start(redis::Options::default()).await;
        let scratch = scratch::directory("recorded");
        let file = scratch.path().join("secrets.json");
        let secrets = json!({
            "alpha": "a-value", "beta": "b-value", "nested": {"inner": "n-value", "deep": {"x": "y"}}, "empty": "",
            "uni": "zażółć", "num": 5,
        });
        std::fs::write(&file, secrets.to_string()).unwrap();
        let (file, host) = (file.to_str().unwrap(), redis.address());
        let on_redis = [("redisHost", host.as_str())];
        let in_file = [("secretsFile", file), ("nestedSeparator", ":")];
        let whole = [("secretsFile", file), ("multiValued", "true")];
        let in_environment = [("prefix", "GOLDEN_")];
        let environment =
            |config: Config| config.variable("GOLDEN_SECRET_ONE", "one").variable("GOLDEN_SECRET_TWO", "two");
        let scopes = json!({"scopes": [
            {"storeName": "secretfile", "defaultAccess": "deny", "allowedSecrets": ["alpha"]},
            {"storeName": "secretenv", "defaultAccess": "allow", "deniedSecrets": ["SECRET_TWO"]},
        ]});
        let rule =
            |name: &str, version: &str, protocol: &str| json!({"name": name, "version": version, "protocol": protocol});
        let allowed = json!({"allowed": [
            rule("state", "v1.0", "http"), rule("secrets", "v1.0", "http"), rule("state", "v1", "grpc"), rule("secrets", "v1", "grpc"),
        ]});
        let in_memory = |config: Config| config.component("mem", "state.in-memory", &[]);
        let small = |config: Config| in_memory(config).component("secretfile", "secretstores.local.file", &in_file);
        let limits = json!({"maxRequestBytes": 1 << 20});
        let origins = |origins: &[&str]| json!({"allowedOrigins": origins});
        let configs = [
            (
                "main",
                environment(in_memory(Config::new("golden")))
                    .set("limits", limits)
                    .component("statestore", "state.redis", &on_redis)
                    .component("configstore", "configuration.redis", &on_redis)
                    .component("lockstore", "lock.redis", &on_redis)
                    .component("secretfile", "secretstores.local.file", &in_file)
                    .component("secretmulti", "secretstores.local.file", &whole)
                    .component("secretenv", "secretstores.local.env", &in_environment),
            ),
            ("empty", Config::new("empty")),
            ("token", small(Config::new("token")).set("apiToken", "right-token")),
            (
                "allow",
                environment(small(Config::new("allow"))).set("secrets", scopes).set("api", allowed).component(
                    "secretenv",
                    "secretstores.local.env",
                    &in_environment,
                ),
            ),
            ("cors", small(Config::new("cors")).set("api", origins(&["https://good.example", "https://two.example"]))),
            ("corsall", small(Config::new("corsall")).set("api", origins(&["*"]))),
        ];
        let mut envoys = BTreeMap::new();
        for (name, config) in configs {
            envoys.insert(name, Envoy::start(config).await);
        }
        Self { redis, envoys, _scratch: scratch }
    }

    /// Fails if a filter of one of them has crashed.
    pub async fn assert_no_filter_crashed(&self) {
        for envoy in self.envoys.values() {
            envoy.assert_no_filter_crashed().await;
        }
    }
}

/// What may differ, and what did.
#[derive(Debug)]
pub struct Exceptions {
    /// For each row the calls, by block and name, and the parts of the answer.
    rows: Vec<(String, BTreeSet<String>)>,
    used: BTreeSet<usize>,
    wrong: Vec<String>,
    calls: usize,
    equal: usize,
}

impl Exceptions {
    /// Those of the table under a heading.
    pub fn under(heading: &str) -> Self {
        let page = std::fs::read_to_string(installed::workspace().join("docs/differences-from-dapr.md")).unwrap();
        let mut rows = Vec::new();
        let section =
            page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
        for row in section.filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [which, parts, _, _] = cells[..] else { panic!("a row with other than four cells: {row}") };
            let parts: BTreeSet<String> = parts.split(", ").map(str::to_owned).collect();
            for call in which.split(", ") {
                rows.push((call.trim_matches('`').to_owned(), parts.clone()));
            }
        }
        assert!(rows.len() > 5, "the table {heading:?} is in the docs");
        Self { rows, used: BTreeSet::new(), wrong: Vec::new(), calls: 0, equal: 0 }
    }

    /// Notes the differences of a call, each with the part of the answer that differs.
    pub fn note(&mut self, name: &str, differences: Vec<(&'static str, String)>) {
        self.calls += 1;
        self.equal += usize::from(differences.is_empty());
        for (part, text) in differences {
            let mut expected = false;
            for (at, (pattern, parts)) in self.rows.iter().enumerate() {
                if fits(pattern, name) && parts.contains(part) {
                    self.used.insert(at);
                    expected = true;
                }
            }
            if !expected {
                self.wrong.push(format!("{name}: {text}"));
            }
        }
    }

    /// Fails at what differs and is not listed, and at what is listed and does not differ.
    pub fn check(mut self) {
        println!("{} of {} answers are equal", self.equal, self.calls);
        for (at, (pattern, parts)) in self.rows.iter().enumerate() {
            if !self.used.contains(&at) {
                self.wrong.push(format!("the docs list {pattern} ({parts:?}), and nothing differs"));
            }
        }
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// Whether a name is that of a row, where `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((beginning, end)) = pattern.split_once('*') else { return pattern == name };
    name.strip_prefix(beginning).is_some_and(|rest| rest.ends_with(end))
}
