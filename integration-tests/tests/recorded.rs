//! What daprd 1.17.13 was recorded to answer, replayed: codes, texts and details of failures. What differs stands in
//! docs/differences-from-dapr.md with the reason, and this test takes its exceptions from there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use envoy_runtime_proto::FILE_DESCRIPTOR_SET;
use integration_tests::redis::{self, Redis};
use integration_tests::wire::{Answer, Connection, frame};
use integration_tests::{Config, Envoy, installed, scratch};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::pb;

const SERVICE: &str = "dapr.proto.runtime.v1.Dapr";

/// The parts of an answer that are compared, as the table names them; an exception to one that is named before another
/// is one to that too.
const NOT_SERVED: &str = "not served";
const CODE: &str = "code";
const TEXT: &str = "text";
const DETAILS: &str = "details";

/// A call and what daprd answered.
#[derive(Debug, Deserialize)]
struct Recorded {
    block: String,
    case: String,
    #[serde(default = "main_instance")]
    instance: String,
    method: String,
    request: Value,
    #[serde(default)]
    setup: Vec<Prior>,
    #[serde(default)]
    metadata: Vec<(String, String)>,
    #[serde(default)]
    redis: Vec<Vec<String>>,
    code: String,
    message: String,
    details: Vec<Value>,
    #[serde(default)]
    response: Option<Value>,
}

/// A call that is made before.
#[derive(Debug, Deserialize)]
struct Prior {
    method: String,
    request: Value,
}

fn main_instance() -> String {
    "main".to_owned()
}

/// The runtimes that the recordings name.
struct Runtimes {
    pool: DescriptorPool,
    redis: Redis,
    envoys: BTreeMap<&'static str, Envoy>,
    _scratch: tempfile::TempDir,
}

impl Runtimes {
    async fn start() -> Self {
        let redis = Redis::start(redis::Options::default()).await;
        let scratch = scratch::directory("recorded");
        let file = scratch.path().join("secrets.json");
        let secrets = json!({"alpha": "a-value", "beta": "b-value", "nested": {"inner": "n-value", "deep": {"x": "y"}}, "empty": ""});
        std::fs::write(&file, secrets.to_string()).unwrap();
        let (file, host) = (file.to_str().unwrap(), redis.address());
        let on_redis = [("redisHost", host.as_str())];
        let in_file = [("secretsFile", file), ("nestedSeparator", ":")];
        let in_environment = [("prefix", "GOLDEN_")];
        let environment =
            |config: Config| config.variable("GOLDEN_SECRET_ONE", "one").variable("GOLDEN_SECRET_TWO", "two");
        let scopes = json!({"scopes": [
            {"storeName": "secretfile", "defaultAccess": "deny", "allowedSecrets": ["alpha"]},
            {"storeName": "secretenv", "defaultAccess": "allow", "deniedSecrets": ["SECRET_TWO"]},
        ]});
        let configs = [
            (
                "main",
                environment(Config::new("golden"))
                    .set("limits", json!({"maxRequestBytes": 1 << 20}))
                    .component("statestore", "state.redis", &on_redis)
                    .component("mem", "state.in-memory", &[])
                    .component("configstore", "configuration.redis", &on_redis)
                    .component("lockstore", "lock.redis", &on_redis)
                    .component("secretfile", "secretstores.local.file", &in_file)
                    .component("secretenv", "secretstores.local.env", &in_environment),
            ),
            ("empty", Config::new("empty")),
            ("token", Config::new("token").set("apiToken", "right-token").component("mem", "state.in-memory", &[])),
            (
                "allow",
                environment(Config::new("allow"))
                    .set("secrets", scopes)
                    .component("mem", "state.in-memory", &[])
                    .component("secretfile", "secretstores.local.file", &in_file)
                    .component("secretenv", "secretstores.local.env", &in_environment),
            ),
            ("cors", Config::new("cors").component("mem", "state.in-memory", &[])),
        ];
        let mut envoys = BTreeMap::new();
        for (name, config) in configs {
            envoys.insert(name, Envoy::start(config).await);
        }
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        Self { pool, redis, envoys, _scratch: scratch }
    }

    fn method(&self, name: &str) -> Option<MethodDescriptor> {
        self.pool.get_service_by_name(SERVICE)?.methods().find(|method| method.name() == name)
    }

    async fn call(&self, recorded: &Recorded, method: &str, request: &Value) -> Answer {
        let connection = Connection::open(self.envoys[recorded.instance.as_str()].dapr_grpc).await;
        let metadata: Vec<_> = recorded.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (path, body) = match self.method(method) {
            Some(descriptor) => {
                let messages = request.as_array().cloned().unwrap_or_else(|| vec![request.clone()]);
                let body: Vec<u8> = messages.iter().flat_map(|message| message_of(&descriptor, message)).collect();
                (format!("/{SERVICE}/{method}"), body.into())
            }
            None if method.starts_with('/') => (method.to_owned(), frame(&[])),
            None => (format!("/{SERVICE}/{method}"), frame(&[])),
        };
        connection.unary(&path, &metadata, body).await
    }

    /// Makes the call and says where its answer differs.
    async fn differences(&self, recorded: &Recorded) -> Vec<(&'static str, String)> {
        for command in &recorded.redis {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let _: ::redis::Value = self.redis.command(&words).await;
        }
        for prior in &recorded.setup {
            self.call(recorded, &prior.method, &prior.request).await;
        }
        let answer = self.call(recorded, &recorded.method, &recorded.request).await;
        let status = answer.status();
        let mut differences = Vec::new();
        let mut compare = |part, there: String, here: String| {
            if there != here {
                differences.push((part, format!("{part}\n    there {there}\n    here  {here}")));
            }
        };
        compare(CODE, recorded.code.clone(), name_of(status.code()));
        // Go's protojson puts a no-break space into its texts at random.
        compare(TEXT, recorded.message.replace('\u{a0}', " "), status.message().to_owned());
        compare(DETAILS, json!(recorded.details).to_string(), json!(details_of(&status)).to_string());
        if let (Some(there), Some(method), Code::Ok) =
            (&recorded.response, self.method(&recorded.method), status.code())
        {
            let here = DynamicMessage::decode(method.output(), answer.body.slice(5..)).unwrap();
            compare("response", there.to_string(), serde_json::to_value(&here).unwrap().to_string());
        }
        if status.code() == Code::Unimplemented
            && status.message().ends_with("is not served by this version of Envoy Runtime")
        {
            return vec![(NOT_SERVED, format!("{} is not served", recorded.method))];
        }
        differences
    }
}

/// A message in its frame; `{"repeat": [text, times]}` in it stands for bytes.
fn message_of(method: &MethodDescriptor, json: &Value) -> Bytes {
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(method.input(), expanded(json), &options)
        .unwrap_or_else(|error| panic!("{json}: {error}"));
    frame(&message.encode_to_vec())
}

fn expanded(json: &Value) -> Value {
    use base64::Engine;
    match json {
        Value::Object(fields) => match fields.get("repeat") {
            Some(repeat) => {
                let text = repeat[0].as_str().unwrap().repeat(repeat[1].as_u64().unwrap().try_into().unwrap());
                base64::engine::general_purpose::STANDARD.encode(text).into()
            }
            None => fields.iter().map(|(name, value)| (name.clone(), expanded(value))).collect::<Map<_, _>>().into(),
        },
        Value::Array(values) => values.iter().map(expanded).collect(),
        other => other.clone(),
    }
}

/// The name of a code as the specification of gRPC has it.
fn name_of(code: Code) -> String {
    let name = format!("{code:?}");
    let mut snake = String::new();
    for (at, character) in name.chars().enumerate() {
        if at > 0 && character.is_uppercase() && code != Code::Ok {
            snake.push('_');
        }
        snake.push(character.to_ascii_uppercase());
    }
    snake
}

/// The details in the form of the recordings: of each message its type and the fields that are set.
fn details_of(status: &Status) -> Vec<Value> {
    if status.details().is_empty() {
        return Vec::new();
    }
    let details = pb::Status::decode(status.details()).unwrap();
    assert_eq!(details.message, status.message(), "clients in Go and Python take the text from the details");
    let json_of = |any: &prost_types::Any| {
        let value = any.value.as_slice();
        let mut fields = match any.type_url.rsplit('.').next().unwrap() {
            "ErrorInfo" => {
                let info = pb::ErrorInfo::decode(value).unwrap();
                let metadata: BTreeMap<_, _> = info.metadata.into_iter().collect();
                json!({"domain": info.domain, "reason": info.reason, "metadata": metadata})
            }
            "ResourceInfo" => {
                let info = pb::ResourceInfo::decode(value).unwrap();
                json!({"resource_name": info.resource_name, "resource_type": info.resource_type, "owner": info.owner})
            }
            "BadRequest" => {
                let violations = pb::BadRequest::decode(value).unwrap().field_violations.into_iter();
                let violations: Vec<_> = violations
                    .map(|violation| json!({"description": violation.description, "field": violation.field}))
                    .collect();
                json!({"field_violations": violations})
            }
            other => panic!("{other} in the details"),
        };
        let fields = fields.as_object_mut().unwrap();
        fields.retain(|_, value| !(value == &json!("") || value == &json!({})));
        fields.insert("type".into(), any.type_url.clone().into());
        json!(fields)
    };
    details.details.iter().map(json_of).collect()
}

/// What may differ: for each row of the table in the docs the calls, by block and name, and the parts of the answer.
fn exceptions() -> Vec<(String, BTreeSet<String>)> {
    let page = std::fs::read_to_string(installed::workspace().join("docs/differences-from-dapr.md")).unwrap();
    let mut exceptions = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [which, parts, _, _] = cells[..] else { panic!("a row with other than four cells: {row}") };
        let parts: BTreeSet<String> = parts.split(", ").map(str::to_owned).collect();
        for call in which.split(", ") {
            exceptions.push((call.trim_matches('`').to_owned(), parts.clone()));
        }
    }
    exceptions
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |beginning| name.starts_with(beginning))
}

#[tokio::test]
async fn answers_are_those_of_daprd_but_for_what_the_docs_list() {
    let runtimes = Runtimes::start().await;
    let exceptions = exceptions();
    assert!(exceptions.len() > 5, "the table of differences is in the docs");
    let path = installed::workspace().join("integration-tests/recorded/dapr-grpc.jsonl");
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut calls, mut equal) = (0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let recorded: Recorded = serde_json::from_str(line).unwrap();
        let name = format!("{}/{}", recorded.block, recorded.case);
        let differences = runtimes.differences(&recorded).await;
        calls += 1;
        equal += usize::from(differences.is_empty());
        for (part, text) in differences {
            let mut expected = false;
            for (at, (pattern, parts)) in exceptions.iter().enumerate() {
                if fits(pattern, &name) && parts.contains(part) {
                    used.insert(at);
                    expected = true;
                }
            }
            if !expected {
                wrong.push(format!("{name} ({}): {text}", recorded.method));
            }
        }
    }
    println!("{equal} of {calls} answers are equal");
    for (at, (pattern, parts)) in exceptions.iter().enumerate() {
        if !used.contains(&at) {
            wrong.push(format!("the docs list {pattern} ({parts:?}), and nothing differs"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for envoy in runtimes.envoys.values() {
        envoy.assert_no_filter_crashed().await;
    }
}
