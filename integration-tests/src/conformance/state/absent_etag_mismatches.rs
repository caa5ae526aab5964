//! The reference rule for an etag whose item does not exist: it does not match.

use std::collections::HashSet;

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item, key};

pub async fn an_etag_for_a_missing_key_is_refused(case: &Case) {
    let name = case.key("missing");
    expect_status(case.store.save(item(&name, "v").if_etag("1")).await, Code::Aborted, "possible etag mismatch");
    assert_eq!(case.store.value(&name).await, "");
}

pub async fn deleting_a_missing_key_with_an_etag_is_refused(case: &Case) {
    let name = case.key("missing");
    expect_status(case.store.delete(key(&name).if_etag("1")).await, Code::Aborted, "possible etag mismatch");
}

pub async fn an_etag_counts_at_a_last_write_too(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1")).await.unwrap();
    let stale = case.store.etag(&name).await;
    case.store.save(item(&name, "2")).await.unwrap();
    for etag in [stale.as_str(), "abc"] {
        let late = case.store.save(item(&name, "3").if_etag(etag).last_write()).await;
        expect_status(late, Code::Aborted, "possible etag mismatch");
        assert_eq!(case.store.value(&name).await, "2");
    }
    let etag = case.store.etag(&name).await;
    case.store.save(item(&name, "3").if_etag(&etag).last_write()).await.unwrap();
    assert_eq!(case.store.value(&name).await, "3");
}

pub async fn an_etag_is_never_used_twice(case: &Case) {
    let name = case.key("k");
    let mut seen = HashSet::new();
    for _ in 0..20 {
        case.store.save(item(&name, "v")).await.unwrap();
        assert!(seen.insert(case.store.etag(&name).await));
        case.store.delete(key(&name)).await.unwrap();
    }
}
