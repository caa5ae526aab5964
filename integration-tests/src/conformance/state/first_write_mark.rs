//! What follows from the field `first-write` of Dapr's `state.redis`.

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item, upsert};

pub async fn first_write_over_an_unmarked_item_succeeds(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1")).await.unwrap();
    case.store.save(item(&key, "2").first_write()).await.unwrap();
    assert_eq!(case.store.value(&key).await, "2");
    let third = case.store.save(item(&key, "3").first_write()).await;
    expect_status(third, Code::Internal, "failed saving state in state store statestore: ");
}

pub async fn a_marked_item_wants_its_etag_from_every_writer(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "1").first_write()).await.unwrap();
    expect_status(case.store.save(item(&key, "2")).await, Code::Internal, "failed saving state");
    expect_status(case.store.save(item(&key, "2").last_write()).await, Code::Internal, "failed saving state");
    let etag = case.store.etag(&key).await;
    case.store.save(item(&key, "2").if_etag(&etag)).await.unwrap();
    assert_eq!(case.store.value(&key).await, "2");
}

pub async fn a_transaction_sets_no_mark(case: &Case) {
    let key = case.key("k");
    case.store.transaction(vec![upsert(item(&key, "1").first_write())]).await.unwrap();
    case.store.save(item(&key, "2")).await.unwrap();
    assert_eq!(case.store.value(&key).await, "2");
}
