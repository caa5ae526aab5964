//! The description of the HTTP API, as OpenAPI 3.1 has it: made of the rows of the rooms, so that it tells what is served.

use ::http::StatusCode;
use serde_json::{Map, Value, json};

use super::Call;
use super::ROOMS;
use super::failure::Failure;
use super::http::{Asked, Response};
use super::room::{About, Api, Opening, Path, Room, V1, opens, request};
use crate::VERSION;

/// The description.
pub(super) const ROOM: Room = Room {
    open: opens::<OpenApi>(),
    methods: &[],
    paths: &[Path {
        methods: &["GET"],
        versions: &[V1],
        form: "openapi.json",
        name: "OpenApi",
        is_open: false,
        handler: request!(OpenApi, get),
        about: About {
            answers: &[(200, "This", Some(r#"{"type":"object"}"#))],
            ..About::new("The description of this API, as OpenAPI 3.1")
        },
    }],
};

/// What tells it: there is nothing to keep.
#[derive(Debug)]
struct OpenApi;

impl Api for OpenApi {
    fn open(_opening: &Opening<'_>) -> Self {
        Self
    }
}

impl OpenApi {
    async fn get(&self, _call: &Call, _asked: Asked<'_>) -> Result<Response, Failure> {
        Ok(Response::json(StatusCode::OK, description().to_string()))
    }
}

/// What may go wrong with any request: status and meaning.
const USUAL: &[(u16, &str)] = &[
    (400, "The request is wrong"),
    (401, "The token is missing or wrong, or there is no such secret store"),
    (404, "There is no such thing, or it may not be called"),
    (413, "The body is over `limits.maxRequestBytes`"),
    (429, "What was asked for is more than the runtime takes at a time"),
    (500, "No component of the block is configured, or the store failed"),
    (503, "The store cannot be reached"),
    (504, "The store did not answer in time"),
];

/// What else may go wrong.
const OTHERS: &[(u16, &str)] =
    &[(403, "The app may not read it"), (409, "The value has another version by now"), (501, "It is not served")];

/// What several rows have in common.
const SCHEMAS: &[(&str, &str)] = &[
    (
        "Error",
        r#"{"type":"object","required":["errorCode","message"],"properties":{"errorCode":{"type":"string"},"message":{"type":"string"},"details":{"type":"array","items":{"type":"object"}}}}"#,
    ),
    (
        "StateItem",
        r#"{"type":"object","properties":{"key":{"type":"string","minLength":1},"value":{},"etag":{"type":["string","null"]},"metadata":{"type":"object","additionalProperties":{"type":"string"}},"options":{"type":"object","properties":{"concurrency":{"enum":["first-write","last-write"]},"consistency":{"enum":["strong","eventual"]}}}}}"#,
    ),
    (
        "Metadata",
        r#"{"type":"object","required":["id","runtimeVersion","components","extended"],"properties":{"id":{"type":"string"},"runtimeVersion":{"type":"string"},"components":{"type":"array","items":{"type":"object","required":["name","type","version"],"properties":{"name":{"type":"string"},"type":{"type":"string"},"version":{"type":"string"},"capabilities":{"type":"array","items":{"type":"string"}}}}},"extended":{"type":"object","additionalProperties":{"type":"string"}}}}"#,
    ),
];

/// The whole description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for row in ROOMS.iter().flat_map(|room| room.paths) {
        for version in row.versions {
            let path = format!("/{version}/{}", row.form);
            let methods = paths.entry(path).or_insert_with(|| json!({}));
            for method in row.methods {
                set(methods, &method.to_ascii_lowercase(), operation(row, version, method));
            }
        }
    }
    let schemas: Map<_, _> = SCHEMAS.iter().map(|(name, text)| ((*name).to_owned(), schema(text))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Envoy Runtime",
            "version": VERSION,
            "summary": "Dapr's HTTP API, served by a filter in Envoy",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:3500"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "dapr-api-token"}},
        },
    })
}

fn operation(row: &Path, version: &str, method: &str) -> Value {
    let About { summary, query, takes_metadata, headers, body, answers, errors } = row.about;
    let parameter = |place: &str, name: &str, schema: Value, about: &str| json!({"in": place, "name": name, "schema": schema, "description": about});
    let mut parameters = Vec::new();
    for part in row.form.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let mut parameter = parameter("path", part, json!({"type": "string", "minLength": 1}), about_part(part));
        set(&mut parameter, "required", true);
        parameters.push(parameter);
    }
    parameters.extend(query.iter().map(|(name, text, about)| parameter("query", name, schema(text), about)));
    if takes_metadata {
        // Taken apart, each member is a parameter of its own name.
        let texts = json!({"type": "object", "patternProperties": {r"^metadata\.": {"type": "string"}}, "additionalProperties": false});
        let about = "Parameters such as `metadata.ttlInSeconds=60`: what the driver takes";
        let mut metadata = parameter("query", "metadata", texts, about);
        set(&mut metadata, "style", "form");
        set(&mut metadata, "explode", true);
        parameters.push(metadata);
    }
    parameters.extend(headers.iter().map(|(name, about)| parameter("header", name, json!({"type": "string"}), about)));
    let mut responses = Map::new();
    for (status, about, body) in answers {
        let content = body.map(|text| json!({"application/json": {"schema": schema(text)}}));
        responses.insert(status.to_string(), response(about, content));
    }
    let others = OTHERS.iter().filter(|(status, _)| errors.contains(status));
    // What is open needs no token, and its body does not matter.
    let usual = USUAL.iter().filter(|(status, _)| !(row.is_open && [401, 413].contains(status)));
    for (status, about) in usual.chain(others) {
        let error = json!({"schema": {"$ref": "#/components/schemas/Error"}});
        let mut content = json!({"application/json": error});
        if [401, 404, 503].contains(status) {
            set(&mut content, "text/plain", json!({"schema": {"type": "string"}}));
        }
        responses.insert(status.to_string(), response(about, Some(content)));
    }
    let form: String = row.form.chars().filter(|letter| !"{}".contains(*letter)).collect();
    let id = format!("{}-{version}-{}", method.to_ascii_lowercase(), form.replace('/', "-"));
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "tags": [row.group()],
        "parameters": parameters,
        "responses": responses,
    });
    if row.is_open {
        set(&mut operation, "security", json!([{}]));
    }
    if let Some(text) = body {
        let content = match text {
            "*" => json!({"*/*": {"schema": {"type": "string"}}}),
            text => json!({"application/json": {"schema": schema(text)}}),
        };
        set(&mut operation, "requestBody", json!({"required": text != "*", "content": content}));
    }
    operation
}

/// Adds a member to an object.
fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
}

fn response(about: &str, content: Option<Value>) -> Value {
    match content {
        Some(content) => json!({"description": about, "content": content}),
        None => json!({"description": about}),
    }
}

/// What a part of a path in braces is.
fn about_part(name: &str) -> &'static str {
    match name {
        "store" => "The name of the component",
        "key" => "The key, percent-encoded; a plus sign is a space",
        "name" => "The name of the secret",
        _ => "The id of the subscription",
    }
}

/// A schema of a table.
fn schema(text: &str) -> Value {
    serde_json::from_slice(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_the_tables_are_json() {
        let rows = || ROOMS.iter().flat_map(|room| room.paths);
        let bodies = rows().filter_map(|row| row.about.body).filter(|text| *text != "*");
        let answers = rows().flat_map(|row| row.about.answers).filter_map(|(_, _, body)| *body);
        let query = rows().flat_map(|row| row.about.query).map(|(_, text, _)| *text);
        let shared = SCHEMAS.iter().map(|(_, text)| *text);
        for text in bodies.chain(answers).chain(query).chain(shared) {
            assert!(serde_json::from_str::<Value>(text).is_ok_and(|schema| schema.is_object()), "{text}");
        }
    }

    #[test]
    fn lists_of_apis_know_all_that_is_served() {
        // The last room is there in tests alone.
        let rows = ROOMS.iter().take(ROOMS.len() - 1).flat_map(|room| room.paths);
        for row in rows.filter(|row| !row.is_open) {
            assert!(crate::config::NAMES.contains(&row.group()), "{}", row.group());
        }
    }

    #[test]
    fn operations_have_ids_of_their_own_and_known_statuses() {
        let mut ids = Vec::new();
        for (path, methods) in description()["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                ids.push(operation["operationId"].as_str().unwrap().to_owned());
                let has_answer =
                    operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2'));
                let is_refused = operation["responses"].get("501").is_some();
                assert!(has_answer || is_refused, "{method} {path}");
            }
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(count > 20, "{ids:?}");
        for row in ROOMS.iter().flat_map(|room| room.paths) {
            for status in row.about.errors {
                let known = USUAL.iter().chain(OTHERS).any(|(known, _)| known == status);
                assert!(known, "{status} of {}", row.form);
            }
        }
    }
}
