//! What daprd 1.17.13 was recorded to answer over HTTP, replayed: status, headers, bodies, and what Redis holds afterwards. What
//! differs stands in docs/differences-from-dapr.md with the reason, and this test takes its exceptions from there.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Response};
use integration_tests::recorded::{Exceptions, Runtimes};
use integration_tests::{http1, installed};
use serde::Deserialize;
use serde_json::{Value, json};

/// The parts of an answer that are compared, as the table names them.
const STATUS: &str = "status";
const HEADERS: &str = "headers";
const BODY: &str = "body";
const CODE: &str = "code";
const TEXT: &str = "text";
const DETAILS: &str = "details";
const STORE: &str = "store";

/// A request and what daprd answered.
#[derive(Debug, Deserialize)]
struct Recorded {
    block: String,
    case: String,
    #[serde(default = "main_instance")]
    instance: String,
    #[serde(default)]
    setup: Vec<Prior>,
    request: Request,
    response: Answer,
    /// What is asked of Redis afterwards.
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    compare: String,
    #[serde(default)]
    mask_headers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Request {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_b64: Option<String>,
    body_repeat: Option<(String, usize)>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    redis: Option<Value>,
}

/// What is done before.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prior {
    Redis {
        redis: Vec<String>,
    },
    Sleep {
        sleep: f64,
    },
    Request {
        #[serde(flatten)]
        request: Request,
        instance: Option<String>,
        #[serde(default)]
        capture: BTreeMap<String, String>,
    },
}

fn main_instance() -> String {
    "main".to_owned()
}

/// Values of earlier answers, by the names that the recordings give them.
type Captured = BTreeMap<String, String>;

fn with(text: &str, captured: &Captured) -> String {
    captured.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

impl Request {
    async fn send(&self, port: u16, captured: &Captured) -> Result<Response<Bytes>, String> {
        let body: Vec<u8> = match (&self.body, &self.body_b64, &self.body_repeat) {
            (Some(text), ..) => with(text, captured).into(),
            (_, Some(text), _) => STANDARD.decode(text).unwrap(),
            (.., Some((text, times))) => text.repeat(*times).into(),
            _ => Vec::new(),
        };
        let method = Method::from_bytes(self.method.as_bytes()).unwrap();
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = http1::request(port, method, &with(&self.path, captured), &headers, body).await;
        answer.map_err(|error| error.to_string())
    }
}

/// Sends the request and says where its answer differs.
async fn differences(runtimes: &Runtimes, recorded: &Recorded) -> Vec<(&'static str, String)> {
    let port = |instance: &str| runtimes.envoys[instance].dapr_http;
    let mut captured = Captured::new();
    for prior in &recorded.setup {
        match prior {
            Prior::Redis { redis } => {
                let _: redis::Value = runtimes.redis.command(redis).await;
            }
            Prior::Sleep { sleep } => tokio::time::sleep(Duration::from_secs_f64(*sleep)).await,
            Prior::Request { request, instance, capture } => {
                let instance = instance.as_ref().unwrap_or(&recorded.instance);
                let answer = request.send(port(instance), &captured).await.unwrap();
                for (name, source) in capture {
                    let (kind, key) = source.split_once(':').unwrap();
                    let value = match kind {
                        "header" => answer.headers().get(key).map(|value| value.to_str().unwrap().to_owned()),
                        _ => serde_json::from_slice::<Value>(answer.body())
                            .ok()
                            .and_then(|body| Some(body[key].as_str()?.to_owned())),
                    };
                    captured.insert(name.clone(), value.unwrap_or_default());
                }
            }
        }
    }
    let answer = match recorded.request.send(port(&recorded.instance), &captured).await {
        Ok(answer) => answer,
        Err(error) => return vec![(STATUS, format!("no answer: {error}"))],
    };
    let mut differences = compare(recorded, &answer);
    if let Some(there) = &recorded.response.redis {
        let here = stored(runtimes, &recorded.after).await;
        // A time to live may have lost a second.
        let lost = |there: &Value| {
            here.as_i64().zip(there.as_i64()).is_some_and(|(here, there)| here == there - 1 && here > 90)
        };
        if *there != here && !lost(there) {
            differences.push((STORE, different(STORE, there, &here)));
        }
    }
    differences
}

fn different(part: &str, there: &impl std::fmt::Display, here: &impl std::fmt::Display) -> String {
    format!("{part}\n    there {there}\n    here  {here}")
}

fn compare(recorded: &Recorded, answer: &Response<Bytes>) -> Vec<(&'static str, String)> {
    let expected = &recorded.response;
    let mut differences = Vec::new();
    if expected.status != answer.status().as_u16() {
        differences.push((STATUS, different(STATUS, &expected.status, &answer.status())));
    }
    for (name, there) in &expected.headers {
        let here = answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
        let is_masked = recorded.mask_headers.contains(name) && !here.is_empty();
        // How long an answer without a body would be is a matter of its text.
        if !is_masked && !same(there, here) && name != "content-length" {
            differences.push((HEADERS, different(name, there, &here)));
        }
    }
    if recorded.compare == "status" || recorded.request.method == "HEAD" {
        return differences;
    }
    let here = String::from_utf8_lossy(answer.body()).into_owned();
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (json(&expected.body), json(&here)) {
        (Some(there), Some(here)) if there.get("errorCode").is_some() && here.get("errorCode").is_some() => {
            for (part, name) in [(CODE, "errorCode"), (TEXT, "message"), (DETAILS, "details")] {
                if !alike(&there[name], &here[name]) {
                    differences.push((part, different(part, &there[name], &here[name])));
                }
            }
        }
        (Some(there), Some(here)) => {
            let unordered = |value: Value| if recorded.compare == "unordered" { sorted(value) } else { value };
            if !alike(&unordered(there.clone()), &unordered(here.clone())) {
                differences.push((BODY, different(BODY, &there, &here)));
            }
        }
        _ if !same(&expected.body, &here) => differences.push((BODY, different(BODY, &expected.body, &here))),
        _ => {}
    }
    differences
}

/// What Redis answers, in the form of the recordings.
async fn stored(runtimes: &Runtimes, command: &[String]) -> Value {
    match runtimes.redis.command(command).await {
        redis::Value::Int(number) => number.into(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into(),
        redis::Value::SimpleString(text) => text.into(),
        redis::Value::Array(words) if command[0] == "HGETALL" => {
            let words: Vec<String> = words.into_iter().map(|word| redis::from_redis_value(word).unwrap()).collect();
            let fields: BTreeMap<_, _> = words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            json!(fields)
        }
        redis::Value::Nil => Value::Null,
        other => format!("{other:?}").into(),
    }
}

/// Lists in one order, whatever theirs is.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(values) => {
            let mut values: Vec<Value> = values.into_iter().map(sorted).collect();
            values.sort_by_key(ToString::to_string);
            values.into()
        }
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, sorted(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

/// Whether values are the same but for what the recording has a placeholder for. Numbers are to have the same digits.
fn alike(there: &Value, here: &Value) -> bool {
    match (there, here) {
        (Value::Object(there), Value::Object(here)) => {
            there.len() == here.len()
                && there.iter().all(|(name, value)| here.get(name).is_some_and(|other| alike(value, other)))
        }
        (Value::Array(there), Value::Array(here)) => {
            there.len() == here.len() && there.iter().zip(here).all(|(there, here)| alike(there, here))
        }
        (Value::String(there), Value::String(here)) => same(there, here),
        _ => there == here,
    }
}

const PLACEHOLDERS: [&str; 8] = ["<uuid>", "<time>", "<etag>", "<port>", "<id>", "<traceparent>", "<value>", "<key>"];

/// Whether a text is as recorded; a placeholder there stands for any characters.
fn same(there: &str, here: &str) -> bool {
    let next = PLACEHOLDERS.iter().filter_map(|name| Some((there.find(name)?, name.len()))).min();
    let Some((at, length)) = next else { return there == here };
    let (start, rest) = (&there[..at], &there[at + length..]);
    let Some(here) = here.strip_prefix(start) else { return false };
    here.char_indices()
        .skip(1)
        .map(|(at, _)| at)
        .chain([here.len()])
        .filter(|at| *at > 0)
        .any(|at| same(rest, &here[at..]))
}

#[tokio::test]
async fn requests_are_answered_as_by_daprd_but_for_what_the_docs_list() {
    let runtimes = Runtimes::start().await;
    let mut exceptions = Exceptions::under("## Recorded requests of HTTP that are answered differently");
    let path = installed::workspace().join("integration-tests/recorded/dapr-http.jsonl");
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let recorded: Recorded = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        // The instance that is shut down by another case.
        if recorded.instance == "shutdown" {
            continue;
        }
        let name = format!("{}/{}", recorded.block, recorded.case);
        exceptions.note(&name, differences(&runtimes, &recorded).await);
    }
    exceptions.check();
    runtimes.assert_no_filter_crashed().await;
}

#[test]
fn placeholders_stand_for_what_changes() {
    assert!(same("at <time> by <id>.", "at 10:00 by me."));
    assert!(!same("at <time> by <id>.", "at 10:00 by me"));
    assert!(!same("<id>", ""));
    assert!(same("plain", "plain") && !same("plain", "plainer"));
}
