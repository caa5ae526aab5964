//! Dapr's `state.redis` has nothing to compare an etag with where there is no item, and goes on.

use crate::conformance::Case;
use crate::store::{ItemOptions, item, key};

pub async fn an_etag_for_a_missing_key_is_accepted(case: &Case) {
    let name = case.key("missing");
    case.store.save(item(&name, "v").if_etag("7")).await.unwrap();
    let answer = case.store.get(&name).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b"v"[..], "1"), "the count begins anew");
}

pub async fn deleting_a_missing_key_with_an_etag_is_no_error(case: &Case) {
    case.store.delete(key(&case.key("missing")).if_etag("7")).await.unwrap();
}
