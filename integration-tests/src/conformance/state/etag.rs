//! Optimistic concurrency by etags.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tonic::Code;

use crate::client::Dialect;
use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item, key};

/// An etag that no store has given out.
const WRONG: &str = "9999999";

pub async fn every_item_has_an_etag(case: &Case) {
    let keys = case.keys(["a", "b", "c", "d"]);
    case.store.bulk_save(keys.iter().map(|key| item(key, "v")).collect()).await.unwrap();
    let names: Vec<_> = keys.iter().map(String::as_str).collect();
    for item in case.store.bulk_get(&names, 0).await.unwrap() {
        assert_ne!(item.etag, "", "{}", item.key);
        assert_eq!(item.etag, case.store.etag(&item.key).await, "get and bulk get agree");
    }
}

pub async fn an_empty_value_has_an_etag_and_a_missing_key_none(case: &Case) {
    let [empty, missing] = case.keys(["empty", "missing"]);
    case.store.save(item(&empty, "")).await.unwrap();
    assert_ne!(case.store.get(&empty).await.unwrap().etag, "", "the item exists");
    let found = case.store.bulk_get(&[&empty, &missing], 0).await.unwrap();
    let with_etag: Vec<_> = found.iter().filter(|item| !item.etag.is_empty()).map(|item| &item.key).collect();
    assert_eq!(with_etag, [&empty]);
}

pub async fn a_save_with_the_etag_changes_it(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1")).await.unwrap();
    let etag = case.store.etag(&key).await;
    case.store.save(item(&key, "2").if_etag(&etag)).await.unwrap();
    let answer = case.store.get(&key).await.unwrap();
    assert_eq!(answer.data, "2");
    assert_ne!(answer.etag, etag);
}

pub async fn a_save_with_a_wrong_etag_is_refused(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "v")).await.unwrap();
    let etag = case.store.etag(&key).await;
    let status =
        expect_status(case.store.save(item(&key, "no").if_etag(WRONG)).await, Code::Aborted, "possible etag mismatch");
    assert!(status.message().starts_with("failed saving state in state store statestore: "), "{status}");
    let answer = case.store.get(&key).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag), (&b"v"[..], etag), "nothing has changed");
}

pub async fn a_stale_etag_is_refused(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1")).await.unwrap();
    let stale = case.store.etag(&key).await;
    case.store.save(item(&key, "2")).await.unwrap();
    expect_status(case.store.save(item(&key, "3").if_etag(&stale)).await, Code::Aborted, "possible etag mismatch");
    assert_eq!(case.store.value(&key).await, "2");
}

pub async fn an_empty_etag_is_no_etag(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1").if_etag("")).await.unwrap();
    case.store.save(item(&name, "2").if_etag("")).await.unwrap();
    assert_eq!(case.store.value(&name).await, "2");
    case.store.delete(key(&name).if_etag("")).await.unwrap();
    assert_eq!(case.store.value(&name).await, "");
}

pub async fn a_bulk_save_applies_what_it_can(case: &Case) {
    let [good, bad] = case.keys(["good", "bad"]);
    case.store.bulk_save(vec![item(&good, "1"), item(&bad, "1")]).await.unwrap();
    let etag = case.store.etag(&good).await;
    let result = case.store.bulk_save(vec![item(&bad, "2").if_etag(WRONG), item(&good, "2").if_etag(&etag)]).await;
    let status = expect_status(result, Code::Aborted, "possible etag mismatch");
    assert!(
        status.message().contains(&bad) && !status.message().contains(&good),
        "only the refused key is named: {status}"
    );
    assert_eq!(case.store.value(&good).await, "2");
    assert_eq!(case.store.value(&bad).await, "1");
}

pub async fn a_delete_with_a_wrong_etag_is_refused(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "v")).await.unwrap();
    let status =
        expect_status(case.store.delete(key(&name).if_etag(WRONG)).await, Code::Aborted, "possible etag mismatch");
    assert!(status.message().starts_with(&format!("failed deleting state with key {name}: ")), "{status}");
    assert_eq!(case.store.value(&name).await, "v");
}

pub async fn a_delete_with_the_etag_deletes(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "v")).await.unwrap();
    let etag = case.store.etag(&name).await;
    case.store.delete(key(&name).if_etag(&etag)).await.unwrap();
    let answer = case.store.get(&name).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b""[..], ""));
}

pub async fn a_delete_with_a_stale_etag_is_refused_whatever_the_concurrency(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1")).await.unwrap();
    let stale = case.store.etag(&name).await;
    case.store.save(item(&name, "2")).await.unwrap();
    let late = || key(&name).if_etag(&stale);
    for late in [late(), late().first_write(), late().last_write()] {
        expect_status(case.store.delete(late.clone()).await, Code::Aborted, "possible etag mismatch");
        let many = case.store.bulk_delete(vec![late]).await.unwrap_err();
        assert!(many.message().contains("possible etag mismatch"), "{many}");
        assert_eq!(case.store.value(&name).await, "2");
    }
}

pub async fn a_bulk_delete_applies_what_it_can(case: &Case) {
    let [good, bad] = case.keys(["good", "bad"]);
    case.store.bulk_save(vec![item(&good, "v"), item(&bad, "v")]).await.unwrap();
    let etag = case.store.etag(&good).await;
    let result = case.store.bulk_delete(vec![key(&bad).if_etag(WRONG), key(&good).if_etag(&etag)]).await;
    let code = match case.store.dialect() {
        Dialect::Dapr => Code::Aborted,
        Dialect::Layotto => Code::Unknown, // it hands on what the component says as it is
    };
    expect_status(result, code, "possible etag mismatch");
    let left = case.store.bulk_get(&[&good, &bad], 0).await.unwrap();
    let value_of = |key: &String| left.iter().find(|item| item.key == *key).map(|item| item.data.clone());
    assert_eq!(value_of(&good), Some("".into()));
    assert_eq!(value_of(&bad), Some("v".into()));
}

pub async fn etags_over_http(case: &Case) {
    let (store, key) = (format!("/v1.0/state/{}", case.store.name()), case.key("k"));
    let path = format!("{store}/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
    let save = async |value: i32, etag: Option<&str>| {
        let body = json!([{"key": key, "value": value, "etag": etag}]).to_string();
        case.http(Method::PUT, &store, &[], body).await
    };
    let etag = async || {
        let there = case.http(Method::GET, &path, &[], "").await;
        there.headers()["etag"].to_str().unwrap().to_owned()
    };
    assert_eq!(save(1, None).await.status(), 204);
    let first = etag().await;
    assert_eq!(save(2, Some(&first)).await.status(), 204);
    let stale = save(3, Some(&first)).await;
    let told: Value = serde_json::from_slice(stale.body()).unwrap();
    assert_eq!((stale.status().as_u16(), &told["errorCode"]), (409, &json!("ERR_STATE_SAVE")));
    let kept = case.http(Method::DELETE, &path, &[("if-match", &first)], "").await;
    assert_eq!(kept.status(), 409, "{kept:?}");
    let gone = case.http(Method::DELETE, &path, &[("if-match", &etag().await)], "").await;
    assert_eq!(gone.status(), 204, "{gone:?}");
}
