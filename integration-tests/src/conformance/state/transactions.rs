//! `ExecuteStateTransaction`.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, TransactionalStateOperation, delete, item, key, upsert};
use crate::wait;

pub async fn groups_of_operations_are_applied(case: &Case) {
    let [a, b, c, d] = case.keys(["a", "b", "c", "d"]);
    case.store.transaction([&a, &b, &c].map(|key| upsert(item(key, "1"))).to_vec()).await.unwrap();
    for key in [&a, &b, &c] {
        assert_eq!(case.store.value(key).await, "1");
    }
    case.store
        .transaction(vec![upsert(item(&a, "2")), delete(key(&b)), upsert(item(&d, "2")), delete(key(&c))])
        .await
        .unwrap();
    for (key, value) in [(&a, "2"), (&b, ""), (&c, ""), (&d, "2")] {
        assert_eq!(case.store.value(key).await, value, "{key}");
    }
}

pub async fn operations_are_applied_in_order(case: &Case) {
    let [a, b] = case.keys(["a", "b"]);
    let operations = vec![
        upsert(item(&a, "1")),
        delete(key(&a)),
        upsert(item(&b, "1")),
        upsert(item(&a, "2")),
        upsert(item(&b, "2")),
        delete(key(&a)),
        upsert(item(&b, "3")),
    ];
    case.store.transaction(operations).await.unwrap();
    assert_eq!(case.store.value(&a).await, "");
    assert_eq!(case.store.value(&b).await, "3");
}

pub async fn deleting_a_missing_key_is_no_error(case: &Case) {
    let [missing, other] = case.keys(["missing", "other"]);
    case.store.transaction(vec![delete(key(&missing)), upsert(item(&other, "v"))]).await.unwrap();
    assert_eq!(case.store.value(&other).await, "v");
}

pub async fn an_empty_transaction_is_no_error(case: &Case) {
    case.store.transaction(vec![]).await.unwrap();
}

pub async fn a_time_to_live_counts(case: &Case) {
    let [short, kept] = case.keys(["short", "kept"]);
    case.store.transaction(vec![upsert(item(&short, "v").ttl(2)), upsert(item(&kept, "v"))]).await.unwrap();
    wait::eventually("the item expires", async || {
        if case.store.value(&short).await.is_empty() { Ok(()) } else { Err("it is there") }
    })
    .await;
    assert_eq!(case.store.value(&kept).await, "v");
}

pub async fn an_etag_that_fits_is_accepted(case: &Case) {
    let [a, b] = case.keys(["a", "b"]);
    case.store.bulk_save(vec![item(&a, "1"), item(&b, "1")]).await.unwrap();
    let (etag_a, etag_b) = (case.store.etag(&a).await, case.store.etag(&b).await);
    case.store
        .transaction(vec![upsert(item(&a, "2").if_etag(&etag_a)), delete(key(&b).if_etag(&etag_b))])
        .await
        .unwrap();
    assert_eq!(case.store.value(&a).await, "2");
    assert_eq!(case.store.value(&b).await, "");
}

pub async fn a_wrong_etag_fails_the_transaction(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1")).await.unwrap();
    for operation in [upsert(item(&name, "2").if_etag("9999999")), delete(key(&name).if_etag("9999999"))] {
        let result = case.store.transaction(vec![operation]).await;
        expect_status(result, Code::Internal, "error while executing state transaction: ");
        assert_eq!(case.store.value(&name).await, "1");
    }
}

pub async fn a_stale_etag_of_a_removal_fails_the_transaction_whatever_the_concurrency(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1")).await.unwrap();
    let stale = case.store.etag(&name).await;
    case.store.save(item(&name, "2")).await.unwrap();
    let late = || key(&name).if_etag(&stale);
    for late in [late(), late().first_write(), late().last_write()] {
        let result = case.store.transaction(vec![delete(late)]).await;
        expect_status(result, Code::Internal, "possible etag mismatch");
        assert_eq!(case.store.value(&name).await, "2");
    }
}

pub async fn an_unknown_operation_is_refused(case: &Case) {
    let [a, b] = case.keys(["a", "b"]);
    let unknown = TransactionalStateOperation { operation_type: "increment".into(), request: Some(item(&b, "v")) };
    let result = case.store.transaction(vec![upsert(item(&a, "v")), unknown]).await;
    expect_status(result, Code::Unimplemented, "operation type increment not supported");
    assert_eq!(case.store.value(&a).await, "", "nothing is done");
}

pub async fn transactions_over_http(case: &Case) {
    let store = format!("/v1.0/state/{}", case.store.name());
    let [written, removed] = case.keys(["written", "removed"]);
    let body = json!([{"key": removed, "value": 1}]).to_string();
    assert_eq!(case.http(Method::POST, &store, &[], body).await.status(), 204);
    let operations = json!([
        {"operation": "upsert", "request": {"key": written, "value": {"n": 1}}},
        {"operation": "delete", "request": {"key": removed}},
    ]);
    let transaction = |operations: &Value| json!({"operations": operations}).to_string();
    let path = format!("{store}/transaction");
    let done = case.http(Method::POST, &path, &[], transaction(&operations)).await;
    assert_eq!(done.status(), 204, "{done:?}");
    let read = async |key: &str| {
        let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
        case.http(Method::GET, &format!("{store}/{key}"), &[], "").await
    };
    assert_eq!(read(&written).await.body(), r#"{"n":1}"#);
    assert_eq!(read(&removed).await.status(), 204);
    let operations = json!([{"operation": "upsert", "request": {"key": written, "value": 2, "etag": "777777"}}]);
    let stale = case.http(Method::POST, &path, &[], transaction(&operations)).await;
    assert_eq!(stale.status(), 409, "{stale:?}");
    assert_eq!(read(&written).await.body(), r#"{"n":1}"#);
}
