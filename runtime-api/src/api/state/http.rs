//! The State API over HTTP: what comes as JSON becomes the request of gRPC, and its answer JSON again. Values are JSON, and stay
//! as they were written.

use std::collections::BTreeMap;

use ::http::StatusCode;
use bytes::Bytes;
use envoy_runtime_proto::dapr::common::v1::{self as common, StateItem, StateOptions, state_options};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use serde::Serialize;
use serde_json::value::RawValue;
use state_options::{StateConcurrency, StateConsistency};
use tonic::Code;

use super::StateApi;
use crate::api::Call;
use crate::api::failure::Failure;
use crate::api::http::{Asked, Member, Object, Response, list};
use crate::api::room::{ALPHA1, About, Path, V1, request};
use crate::text::name;

/// The requests.
pub(super) const PATHS: &[Path] = &[
    Path {
        methods: &["GET"],
        versions: &[V1],
        form: "state/{store}/{key}",
        name: "GetState",
        is_open: false,
        handler: request!(StateApi, get_http),
        about: About {
            query: &[CONSISTENCY],
            takes_metadata: true,
            answers: &[
                (200, "The value, and its version as `Etag`", Some("{}")),
                (204, "There is none of this key", None),
            ],
            ..About::new("Read a value")
        },
    },
    Path {
        methods: &["POST", "PUT"],
        versions: &[V1],
        form: "state/{store}",
        name: "SaveState",
        is_open: false,
        handler: request!(StateApi, save_http),
        about: About {
            takes_metadata: true,
            body: Some(
                r##"{"type":"array","items":{"allOf":[{"$ref":"#/components/schemas/StateItem"},{"required":["key","value"]}]}}"##,
            ),
            answers: SAVED,
            errors: &[409],
            ..About::new("Save values")
        },
    },
    Path {
        methods: &["POST", "PUT"],
        versions: &[V1],
        form: "state/{store}/bulk",
        name: "GetBulkState",
        is_open: false,
        handler: request!(StateApi, get_bulk_http),
        about: About {
            takes_metadata: true,
            body: Some(
                r#"{"type":"object","properties":{"keys":{"type":"array","items":{"type":"string"}},"parallelism":{"type":"integer","format":"int32","description":"How many keys are read at the same time; 0: as many as the runtime does"}}}"#,
            ),
            answers: &[(
                200,
                "An item for each key; one that is not there has no data",
                Some(
                    r#"{"type":"array","items":{"type":"object","required":["key"],"properties":{"key":{"type":"string"},"data":{"description":"The value; a text where it is not JSON"},"etag":{"type":"string"},"metadata":{"type":"object","additionalProperties":{"type":"string"}},"error":{"type":"string","description":"Why this key could not be read"}}}}"#,
                ),
            )],
            ..About::new("Read many values")
        },
    },
    Path {
        methods: &["DELETE"],
        versions: &[V1],
        form: "state/{store}/{key}",
        name: "DeleteState",
        is_open: false,
        handler: request!(StateApi, delete_http),
        about: About {
            query: &[CONSISTENCY, CONCURRENCY],
            takes_metadata: true,
            headers: &[("If-Match", "The version that the value must still have")],
            answers: &[(204, "It is gone, or was not there", None)],
            errors: &[409],
            ..About::new("Delete a value")
        },
    },
    Path {
        methods: &["POST", "PUT"],
        versions: &[V1],
        form: "state/{store}/transaction",
        name: "ExecuteStateTransaction",
        is_open: false,
        handler: request!(StateApi, transact_http),
        about: About {
            takes_metadata: true,
            body: Some(
                r##"{"type":"object","properties":{"operations":{"type":"array","items":{"type":"object","required":["operation","request"],"properties":{"operation":{"enum":["upsert","delete"]},"request":{"allOf":[{"$ref":"#/components/schemas/StateItem"},{"required":["key"]}]}}}},"metadata":{"type":"object","additionalProperties":{"type":"string"}}}}"##,
            ),
            answers: SAVED,
            errors: &[409],
            ..About::new("Save and delete as one")
        },
    },
    Path {
        methods: &["POST", "PUT"],
        versions: &[ALPHA1],
        form: "state/{store}/query",
        name: "QueryStateAlpha1",
        is_open: false,
        handler: request!(StateApi, query_http),
        about: About {
            takes_metadata: true,
            body: Some(r#"{"type":"object"}"#),
            errors: &[501],
            ..About::new("Query values, which no store here can")
        },
    },
];

const SAVED: &[(u16, &str, Option<&str>)] = &[(204, "It is done", None)];

const CONSISTENCY: (&str, &str, &str) = (
    "consistency",
    r#"{"enum":["strong","eventual"]}"#,
    "Whether replicas have to have it too; it matters to writes in Redis",
);

const CONCURRENCY: (&str, &str, &str) =
    ("concurrency", r#"{"enum":["first-write","last-write"]}"#, "How other writers are treated");

/// An element of what is answered to a bulk read.
#[derive(Serialize)]
struct BulkItem<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    etag: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

/// A value in the midst of JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

/// What is said of a value that JSON cannot hold.
const NOT_TEXT: &str = "the value is neither JSON nor UTF-8: read it by itself, or over gRPC";

impl StateApi {
    pub(super) async fn get_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let request = dapr::GetStateRequest {
            store_name: asked.part(0).to_owned(),
            key: asked.part(1).to_owned(),
            metadata: asked.metadata(),
            ..Default::default()
        };
        let found = self.get(call, request).await?;
        let mut response = if found.data.is_empty() {
            Response::empty(StatusCode::NO_CONTENT)
        } else {
            Response::json(StatusCode::OK, found.data)
        };
        if !found.etag.is_empty() {
            response = response.with("etag", found.etag);
        }
        for (name, value) in found.metadata {
            response = response.with(format!("metadata.{}", name.to_ascii_lowercase()), value);
        }
        Ok(response)
    }

    pub(super) async fn save_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let mut states = Vec::new();
        for element in list(asked.body(), asked.most_items)? {
            self.pace.step().await;
            self.pace.spend(element.raw().len());
            states.push(item(&element.object()?, &asked)?);
        }
        self.save(call, dapr::SaveStateRequest { store_name: asked.part(0).to_owned(), states }).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn get_bulk_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object()?;
        let keys = body.list("keys")?.iter().map(Member::text).collect::<Result<_, _>>()?;
        let request = dapr::GetBulkStateRequest {
            store_name: asked.part(0).to_owned(),
            keys,
            parallelism: body.number("parallelism")?.unwrap_or_default(),
            metadata: asked.metadata_over(body.texts("metadata")?).into_iter().collect(),
        };
        let items = self.get_bulk(call, request).await?.items;
        let mut text = vec![b'['];
        for item in &items {
            self.pace.step().await;
            self.pace.spend(item.data.len());
            if text.len() > 1 {
                text.push(b',');
            }
            let element = bulk_item(item);
            let told = serde_json::to_writer(&mut text, &element);
            told.map_err(|error| Failure::new(Code::Internal, format!("an item is no JSON: {error}")))?;
        }
        text.push(b']');
        Ok(Response::json(StatusCode::OK, text))
    }

    pub(super) async fn delete_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let (concurrency, consistency) = (asked.query("concurrency"), asked.query("consistency"));
        let request = dapr::DeleteStateRequest {
            store_name: asked.part(0).to_owned(),
            key: asked.part(1).to_owned(),
            etag: asked.if_match().map(etag),
            options: Some(options(concurrency, consistency, "ERR_STATE_DELETE")?),
            metadata: asked.metadata(),
        };
        self.delete(call, request).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn transact_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let body = asked.object()?;
        let mut operations = Vec::new();
        for operation in body.list("operations")? {
            self.pace.step().await;
            self.pace.spend(operation.raw().len());
            let operation = operation.object()?;
            let of = operation.member("request").ok_or_else(|| operation.missing("request"))?;
            let mut request = plain_item(&of.object()?, asked.body(), "ERR_STATE_TRANSACTION")?;
            // What the query says goes before all, and what the body says is for those that say nothing.
            request.metadata.extend(asked.metadata::<Vec<_>>());
            operations.push(dapr::TransactionalStateOperation {
                operation_type: operation.text("operation")?.unwrap_or_default(),
                request: Some(request),
            });
        }
        let request = dapr::ExecuteStateTransactionRequest {
            store_name: asked.part(0).to_owned(),
            operations,
            metadata: body.texts("metadata")?,
        };
        self.transact(call, request).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn query_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let store_name = asked.part(0).to_owned();
        self.query(call, dapr::QueryStateRequest { store_name, ..Default::default() }).await?;
        Ok(Response::empty(StatusCode::NO_CONTENT))
    }
}

/// An item to be saved, with what the query says of all.
fn item(object: &Object<'_>, asked: &Asked<'_>) -> Result<StateItem, Failure> {
    let mut item = plain_item(object, asked.body(), "ERR_STATE_SAVE")?;
    if item.key.is_empty() {
        return Err(object.missing("key"));
    }
    item.metadata.extend(asked.metadata::<Vec<_>>());
    Ok(item)
}

fn plain_item(object: &Object<'_>, body: &Bytes, tag: &'static str) -> Result<StateItem, Failure> {
    let wanted = object.object("options")?;
    let (concurrency, consistency) = (wanted.text("concurrency")?, wanted.text("consistency")?);
    Ok(StateItem {
        key: object.text("key")?.unwrap_or_default(),
        // As in Dapr: what is not there is `null`.
        value: object.member("value").map_or_else(
            || Bytes::from_static(b"null"),
            |value| {
                // Kept in its shortest form, as Dapr does.
                super::shortest(&part(body, value.raw()))
            },
        ),
        etag: object.text("etag")?.as_deref().map(etag),
        metadata: object.texts("metadata")?,
        options: Some(options(concurrency.as_deref(), consistency.as_deref(), tag)?),
    })
}

/// A text that was read out of a body, as a part of it: without a copy.
fn part(body: &Bytes, text: &str) -> Bytes {
    let start = text.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
    match start.checked_add(text.len()) {
        Some(end) if end <= body.len() => body.slice(start..end),
        _ => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn etag(value: &str) -> common::Etag {
    common::Etag { value: value.to_owned() }
}

fn options(concurrency: Option<&str>, consistency: Option<&str>, tag: &'static str) -> Result<StateOptions, Failure> {
    let unknown = |what: &str, value: &str| {
        let text = format!("unrecognized {what} model '{}'", name(value));
        Err(Failure::new(Code::InvalidArgument, text).tag(tag))
    };
    let concurrency = match concurrency.unwrap_or_default() {
        "" => StateConcurrency::ConcurrencyUnspecified,
        "first-write" => StateConcurrency::ConcurrencyFirstWrite,
        "last-write" => StateConcurrency::ConcurrencyLastWrite,
        other => return unknown("concurrency", other),
    };
    let consistency = match consistency.unwrap_or_default() {
        "" => StateConsistency::ConsistencyUnspecified,
        "eventual" => StateConsistency::ConsistencyEventual,
        "strong" => StateConsistency::ConsistencyStrong,
        other => return unknown("consistency", other),
    };
    Ok(StateOptions { concurrency: concurrency.into(), consistency: consistency.into() })
}

fn bulk_item(item: &dapr::BulkStateItem) -> BulkItem<'_> {
    let json = || serde_json::from_slice::<&RawValue>(&item.data).ok().map(Value::Json);
    let text = || str::from_utf8(&item.data).ok().map(Value::Text);
    let data = if item.data.is_empty() { None } else { json().or_else(text) };
    let has_none = data.is_none() && !item.data.is_empty();
    BulkItem {
        key: &item.key,
        data,
        etag: &item.etag,
        metadata: item.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        error: if has_none { NOT_TEXT } else { &item.error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(data: &'static [u8]) -> String {
        let item = dapr::BulkStateItem { key: "k".into(), data: data.into(), etag: "1".into(), ..Default::default() };
        serde_json::to_string(&bulk_item(&item)).unwrap()
    }

    #[test]
    fn a_value_in_the_midst_of_json() {
        assert_eq!(
            bulk(br#"{"b": 12345678901234567890}"#),
            r#"{"key":"k","data":{"b": 12345678901234567890},"etag":"1"}"#
        );
        assert_eq!(bulk(b"not json"), r#"{"key":"k","data":"not json","etag":"1"}"#);
        assert_eq!(bulk(b""), r#"{"key":"k","etag":"1"}"#);
        assert_eq!(bulk(b"\xff"), format!(r#"{{"key":"k","etag":"1","error":"{NOT_TEXT}"}}"#));
    }

    #[test]
    fn a_part_of_a_body_is_no_copy() {
        let body = Bytes::from_static(b"[12345]");
        let text = str::from_utf8(&body[1..6]).unwrap();
        assert_eq!(part(&body, text).as_ptr(), body[1..].as_ptr());
        assert_eq!(part(&body, "elsewhere"), "elsewhere");
    }

    #[test]
    fn what_is_not_known_of_options_is_refused() {
        assert!(options(None, Some(""), "t").is_ok());
        let refused = options(Some("bogus"), None, "ERR_STATE_SAVE").unwrap_err();
        assert_eq!(refused.text(), "unrecognized concurrency model 'bogus'");
    }
}
