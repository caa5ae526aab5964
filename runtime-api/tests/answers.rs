//! What an app is told of a failure fits what clients of gRPC take, whatever went wrong and however often.

#![allow(clippy::unwrap_used, clippy::panic)] // a test ends by a panic

mod support;

use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use runtime_api::api::call::{Head, Reply, trailers};
use runtime_api::testing::{Started, World, call, call_with, talk, worker};
use serde_json::json;
use support::{DAPR, LAYOTTO, item, save};
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

/// Less than half of what clients take for all headers of an answer together.
const MOST_HEADERS: usize = 4096;

/// The status of an answer, once it was seen that its trailers are small and its details say the same.
#[track_caller]
fn told(answer: &Started<Reply>) -> Status {
    match answer.outcome() {
        Some(Reply::Status(status)) => checked(*status),
        other => panic!("a status is expected, not {other:?}"),
    }
}

#[track_caller]
fn checked(status: Status) -> Status {
    let trailers = trailers(&status);
    let text = trailers.iter().find(|(name, _)| *name == "grpc-message").map_or("", |(_, value)| value);
    assert!(text.len() <= 1024, "{} bytes: {text}", text.len());
    let all: usize = trailers.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert!(all <= MOST_HEADERS, "{all} bytes of headers");
    if !status.details().is_empty() {
        let details = pb::Status::decode(status.details()).unwrap();
        assert_eq!((details.code, details.message.as_str()), (status.code().into(), status.message()));
    }
    status
}

#[test]
fn many_failures_are_told_by_the_first_few() {
    let world = World::default();
    let metadata = json!({"redisHost": "redis:6379"});
    let component = json!({"name": "s", "type": "state.redis", "metadata": metadata});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    let keys = (0..5_000).map(|number| item(&format!("k{number}"), "v")).collect();
    let saved = save(&world, &worker, keys);
    // So many are written in turns.
    for _ in 0..200 {
        while let Some(server) = world.accept("runtime.state.s") {
            server.close("it is down");
        }
        world.advance(Duration::from_millis(1));
    }
    let status = told(&saved);
    assert_eq!(status.code(), Code::Unavailable);
    let text = status.message();
    assert!(text.starts_with("failed saving state in state store s: key k0: "), "{text}");
    assert!(text.contains("; key k2: ") && text.ends_with("; and 4997 more"), "{text}");
}

#[test]
fn long_names_are_cut_and_the_cause_is_told_all_the_same() {
    let world = World::default();
    let component = json!({"name": "s", "type": "state.in-memory"});
    let secrets = json!({"name": "v", "type": "secretstores.local.env", "metadata": {"secrets": "{}"}});
    let worker = worker(&world, &json!({"appId": "a", "components": [component, secrets]}));
    for long in ["x".repeat(100_000), "ключ".repeat(10_000), "%".repeat(50_000), "\u{0}".repeat(50_000)] {
        let request = dapr::GetStateRequest { store_name: long.clone(), key: "k".into(), ..Default::default() };
        for service in [DAPR, LAYOTTO] {
            let status = told(&call(&world, &worker, &format!("{service}/GetState"), &request));
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with("state store "), "{status}");
        }
        let request = dapr::GetStateRequest { store_name: "s".into(), key: long.clone() + "||", ..Default::default() };
        let status = told(&call(&world, &worker, &format!("{DAPR}/GetState"), &request));
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "DAPR_STATE_ILLEGAL_KEY");
        let request = dapr::ExecuteStateTransactionRequest {
            store_name: "s".into(),
            operations: vec![dapr::TransactionalStateOperation {
                operation_type: long.clone(),
                request: Some(item("k", "v")),
            }],
            ..Default::default()
        };
        told(&call(&world, &worker, &format!("{DAPR}/ExecuteStateTransaction"), &request));
        let mut stale = item(&long, "v");
        stale.etag = support::etag(&long);
        let status = told(&save(&world, &worker, vec![stale]));
        assert_eq!(status.code(), Code::Aborted);
        told(&call(&world, &worker, &format!("{DAPR}/{long}"), &()));
        told(&call(&world, &worker, &format!("/{long}/Method"), &()));
        let head = Head {
            target: format!("{DAPR}/GetState").as_str().into(),
            encoding: Some(long.clone()),
            ..Head::default()
        };
        told(&call_with(&world, &worker, head, &item("k", "v")));
        let request = dapr::TryLockRequest { store_name: long.clone(), expiry_in_seconds: 1, ..Default::default() };
        told(&call(&world, &worker, &format!("{DAPR}/TryLockAlpha1"), &request));
        let request =
            dapr::GetSecretRequest { store_name: "v".into(), key: format!("DAPR_{long}"), ..Default::default() };
        let _ = call(&world, &worker, &format!("{DAPR}/GetSecret"), &request).outcome().map(|reply| match reply {
            Reply::Status(status) => drop(checked(*status)),
            Reply::Message(_) => {}
        });
    }
}

#[test]
fn streams_end_in_words_of_the_same_measure() {
    let world = World::default();
    let component = json!({"name": "c", "type": "configuration.in-memory"});
    let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
    let talk = talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    talk.send(&layotto::SubscribeConfigurationRequest { store_name: "é".repeat(100_000), ..Default::default() });
    let status = checked(talk.status().unwrap());
    assert!(status.message().contains("don't support now"), "{status}");
}

#[test]
fn who_has_no_token_is_told_as_daprd_tells_it() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a", "apiToken": "right"}));
    for (token, why) in
        [(None, "missing api token in request metadata"), (Some("wrong"), "authentication error: api token mismatch")]
    {
        let target = format!("{DAPR}/GetState").as_str().into();
        let head = Head { target, token: token.map(Into::into), ..Head::default() };
        let status = told(&call_with(&world, &worker, head, &()));
        let info = status.get_error_details().error_info().unwrap().clone();
        let metadata: Vec<_> = [("http.code", "401"), ("http.error_message", why)].into();
        assert_eq!((status.code(), info.reason.as_str()), (Code::Unauthenticated, "Unauthorized"));
        for (name, value) in metadata {
            assert_eq!(info.metadata[name], value);
        }
    }
}
