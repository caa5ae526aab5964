//! What daprd 1.17.13 was recorded to answer, replayed: codes, texts and details of failures. What differs stands in
//! docs/differences-from-dapr.md with the reason, and this test takes its exceptions from there.

use std::collections::BTreeMap;

use bytes::Bytes;
use envoy_runtime_proto::FILE_DESCRIPTOR_SET;
use integration_tests::installed;
use integration_tests::recorded::{Exceptions, Runtimes};
use integration_tests::wire::{Answer, Connection, frame};
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

/// The runtimes, and what their messages look like.
struct World {
    pool: DescriptorPool,
    runtimes: Runtimes,
}

impl World {
    async fn start() -> Self {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        Self { pool, runtimes: Runtimes::start().await }
    }

    fn method(&self, name: &str) -> Option<MethodDescriptor> {
        self.pool.get_service_by_name(SERVICE)?.methods().find(|method| method.name() == name)
    }

    async fn call(&self, recorded: &Recorded, method: &str, request: &Value) -> Answer {
        let connection = Connection::open(self.runtimes.envoys[recorded.instance.as_str()].dapr_grpc).await;
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
            let _: ::redis::Value = self.runtimes.redis.command(&words).await;
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

#[tokio::test]
async fn answers_are_those_of_daprd_but_for_what_the_docs_list() {
    let world = World::start().await;
    let mut exceptions = Exceptions::under("## Recorded calls that are answered differently");
    let path = installed::workspace().join("integration-tests/recorded/dapr-grpc.jsonl");
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let recorded: Recorded = serde_json::from_str(line).unwrap();
        let name = format!("{}/{}", recorded.block, recorded.case);
        exceptions.note(&name, world.differences(&recorded).await);
    }
    exceptions.check();
    world.runtimes.assert_no_filter_crashed().await;
}
