//! The concurrency option first-write.

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item};

pub async fn without_an_etag_only_the_first_write_counts(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1").first_write().strong()).await.unwrap();
    let status = case.store.save(item(&key, "2").first_write().strong()).await.unwrap_err();
    // Dapr's in-memory store speaks of a mismatch, its Redis store of a failure.
    assert!(matches!(status.code(), Code::Aborted | Code::Internal), "{status}");
    assert!(status.message().starts_with("failed saving state in state store statestore: "), "{status}");
    assert_eq!(case.store.value(&key).await, "1");
}

pub async fn with_an_empty_etag_only_the_first_write_counts(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1").if_etag("").first_write().strong()).await.unwrap();
    let status = case.store.save(item(&key, "2").if_etag("").first_write().strong()).await.unwrap_err();
    assert!(matches!(status.code(), Code::Aborted | Code::Internal), "{status}");
    assert_eq!(case.store.value(&key).await, "1");
}

pub async fn with_an_etag_the_first_of_two_writers_wins(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1")).await.unwrap();
    let etag = case.store.etag(&key).await;
    case.store.save(item(&key, "2").if_etag(&etag).first_write().strong()).await.unwrap();
    let late = case.store.save(item(&key, "3").if_etag(&etag).first_write().strong()).await;
    expect_status(late, Code::Aborted, "possible etag mismatch");
    assert_eq!(case.store.value(&key).await, "2");
}
