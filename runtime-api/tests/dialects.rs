//! What differs between the two APIs, and what does not: statuses and texts, as the incumbents give them.

#![allow(clippy::unwrap_used)] // a test ends by a panic

mod support;

use std::rc::Rc;

use ::http::{Method, StatusCode};
use envoy_runtime_proto::dapr::common::v1::StateItem;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use prost::Message;
use runtime_api::Runtime;
use runtime_api::api::call::{Head, Reply};
use runtime_api::api::http;
use runtime_api::testing::{World, call, call_with, worker};
use serde_json::json;
use support::{DAPR, LAYOTTO, etag, item, let_in, message, received, resp, status};
use tonic::Code;
use tonic_types::StatusExt;

fn world() -> (World, Rc<Runtime>) {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a", "components": [{"name": "s", "type": "state.in-memory"}]}));
    (world, worker)
}

/// What both dialects say to a request.
fn both(method: &str, request: &impl Message) -> [(Code, String); 2] {
    let (world, worker) = world();
    [DAPR, LAYOTTO].map(|service| status(&call(&world, &worker, &format!("{service}/{method}"), request)))
}

fn save_request(store: &str, items: Vec<StateItem>) -> dapr::SaveStateRequest {
    dapr::SaveStateRequest { store_name: store.into(), states: items }
}

#[test]
fn an_unknown_store() {
    let request = dapr::GetStateRequest { store_name: "x".into(), ..Default::default() };
    let expected = (Code::InvalidArgument, "state store x is not found".to_owned());
    assert_eq!(both("GetState", &request), [expected.clone(), expected]);
}

#[test]
fn no_store_at_all() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a"}));
    let request = dapr::GetStateRequest { store_name: "x".into(), ..Default::default() };
    let said = [DAPR, LAYOTTO].map(|service| status(&call(&world, &worker, &format!("{service}/GetState"), &request)));
    assert_eq!(
        said,
        [
            (Code::FailedPrecondition, "state store x is not configured".into()),
            (Code::FailedPrecondition, "state store is not configured".into()),
        ]
    );
}

#[test]
fn a_key_with_the_separator() {
    let request = dapr::GetStateRequest { store_name: "s".into(), key: "a||b".into(), ..Default::default() };
    let text = "input key/keyPrefix 'a||b' can't contain '||'".to_owned();
    assert_eq!(both("GetState", &request), [(Code::InvalidArgument, text.clone()), (Code::Unknown, text)]);
}

#[test]
fn an_empty_key_is_daprs_to_refuse() {
    let (world, worker) = world();
    let request = save_request("s", vec![item("", "v")]);
    let refused = call(&world, &worker, &format!("{DAPR}/SaveState"), &request);
    assert_eq!(status(&refused), (Code::InvalidArgument, "state key cannot be empty".into()));
    let () = message(&call(&world, &worker, &format!("{LAYOTTO}/SaveState"), &request));
}

#[test]
fn an_etag_that_does_not_match() {
    let mut stale = item("k", "v");
    stale.etag = etag("7");
    let text = "failed saving state in state store s: possible etag mismatch. error from state store: ";
    for (code, said) in both("SaveState", &save_request("s", vec![stale])) {
        assert_eq!(code, Code::Aborted);
        assert!(said.starts_with(text), "{said}");
    }
}

#[test]
fn dapr_has_details() {
    let (world, worker) = world();
    let request = dapr::GetStateRequest { store_name: "x".into(), ..Default::default() };
    let details = |service: &str| match call(&world, &worker, &format!("{service}/GetState"), &request).outcome() {
        Some(Reply::Status(status)) => status.get_error_details(),
        other => panic!("{other:?}"),
    };
    let info = details(DAPR).error_info().unwrap().clone();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("DAPR_STATE_NOT_FOUND", "dapr.io"));
    assert!(details(LAYOTTO).error_info().is_none());
}

#[test]
fn keys_have_the_prefix_of_the_dialect_unless_the_store_says_otherwise() {
    for (prefix, by_dapr, by_layotto) in [
        (json!({}), "a||k", "k"),
        (json!({"keyPrefix": "none"}), "k", "k"),
        (json!({"keyPrefix": "appid"}), "a||k", "a||k"),
        (json!({"keyPrefix": "NAME"}), "s||k", "s||k"),
        (json!({"keyPrefix": "namespace"}), "prod.a||k", "namespace||k"),
        (json!({"keyPrefix": "Team"}), "team||k", "team||k"),
    ] {
        let world = World::default();
        let mut metadata = json!({"redisHost": "redis:6379"});
        metadata.as_object_mut().unwrap().append(&mut prefix.as_object().unwrap().clone());
        let component = json!({"name": "s", "type": "state.redis", "metadata": metadata});
        let worker = worker(&world, &json!({"appId": "a", "namespace": "prod", "components": [component]}));
        let request = dapr::GetStateRequest { store_name: "s".into(), key: "k".into(), ..Default::default() };
        let _calls = [DAPR, LAYOTTO].map(|service| call(&world, &worker, &format!("{service}/GetState"), &request));
        let server = world.accept("runtime.state.s").unwrap();
        server.send(b"+PONG\r\n");
        let get = |key: &str| resp(&["HMGET", key, "data", "version"]);
        let sent = String::from_utf8(server.received().to_vec()).unwrap();
        assert_eq!(sent, format!("*1\r\n$4\r\nPING\r\n{}{}", get(by_dapr), get(by_layotto)), "{prefix}");
    }
}

/// As Dapr and Layotto have it: what is empty is no part of a key.
#[test]
fn keys_have_no_part_for_an_app_or_a_namespace_without_a_name() {
    for (app, namespace, prefix, key) in [
        ("a", json!(null), "namespace", "a||k"),
        ("", json!("prod"), "namespace", "k"),
        ("", json!(null), "namespace", "k"),
        ("", json!(null), "appid", "k"),
        ("", json!(null), "name", "s||k"),
    ] {
        let world = World::default();
        let metadata = json!({"redisHost": "redis:6379", "keyPrefix": prefix});
        let components = json!([
            {"name": "s", "type": "state.redis", "metadata": metadata},
            {"name": "l", "type": "lock.redis", "metadata": {"redisHost": "redis:6379"}},
        ]);
        let document = json!({"appId": app, "namespace": namespace, "components": components});
        let worker = worker(&world, &document);
        let request = dapr::GetStateRequest { store_name: "s".into(), key: "k".into(), ..Default::default() };
        let _call = call(&world, &worker, &format!("{DAPR}/GetState"), &request);
        let server = let_in(&world, "runtime.state.s");
        let sent = received(&server);
        assert!(sent.contains(&format!("\r\n${}\r\n{key}\r\n", key.len())), "{app:?} {prefix}: {sent}");
        if app.is_empty() {
            let (store_name, resource_id, lock_owner) = ("l".to_owned(), "r".to_owned(), "o".to_owned());
            let request = dapr::TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds: 10 };
            let _call = call(&world, &worker, &format!("{LAYOTTO}/TryLock"), &request);
            let sent = received(&let_in(&world, "runtime.lock.l"));
            assert!(sent.contains("\r\nlock|||r\r\n"), "{sent}");
        }
    }
}

#[test]
fn an_attribute_may_be_called_as_its_path_begins() {
    let (world, worker) = world();
    let request = |method: Method, target: &str| {
        let request = http::Request { method, target: target.to_owned(), body: "x".into(), ..http::Request::default() };
        let worker = Rc::clone(&worker);
        world.start(async move { worker.http(&request).await }).outcome().unwrap()
    };
    assert_eq!(request(Method::PUT, "/v1.0/metadata/%2Fv1.0%2Fmetadata%2Fa").status, StatusCode::NO_CONTENT);
    let all = request(Method::GET, "/v1.0/metadata");
    assert_eq!(world.metric("runtime.requests.none.none.SetMetadata.OK"), Some(1));
    let all = String::from_utf8(all.body.to_vec()).unwrap();
    assert!(all.contains(r#""/v1.0/metadata/a":"x""#), "{all}");
}

#[test]
fn methods_that_are_not_served_name_themselves() {
    let (world, worker) = world();
    let said = |path: &str| status(&call(&world, &worker, path, &())).1;
    assert_eq!(
        said(&format!("{DAPR}/PublishEvent")),
        "dapr.proto.runtime.v1.Dapr/PublishEvent is not served by this version of Envoy Runtime"
    );
    assert_eq!(said(&format!("{LAYOTTO}/Nope")), "unknown method Nope for service spec.proto.runtime.v1.Runtime");
    assert_eq!(said("/some.Service/Nope"), "unknown service some.Service");
    assert_eq!(said("nothing"), "unknown service nothing");
    assert_eq!(world.metric("runtime.requests.none.none.unknown.UNIMPLEMENTED"), Some(3));
}

#[test]
fn a_token_is_asked_for_by_both() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a", "apiToken": "secret"}));
    for service in [DAPR, LAYOTTO] {
        for (token, code) in [(None, Code::Unauthenticated), (Some("wrong"), Code::Unauthenticated)] {
            let head = Head {
                target: format!("{service}/GetState").as_str().into(),
                token: token.map(Into::into),
                ..Head::default()
            };
            assert_eq!(status(&call_with(&world, &worker, head, &())).0, code);
        }
        let head = Head {
            target: format!("{service}/GetState").as_str().into(),
            token: Some("secret".into()),
            ..Head::default()
        };
        assert_eq!(status(&call_with(&world, &worker, head, &())).0, Code::FailedPrecondition);
    }
}
