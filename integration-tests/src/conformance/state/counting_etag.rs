//! Etags as Dapr's `state.redis` has them: the number of writes.

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item, key};

pub async fn etags_count_the_writes(case: &Case) {
    let name = case.key("k");
    for count in 1..=12 {
        case.store.save(item(&name, "v")).await.unwrap();
        assert_eq!(case.store.etag(&name).await, count.to_string());
    }
}

pub async fn an_etag_that_is_no_number_is_invalid(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "v")).await.unwrap();
    for etag in ["abc", "1.5", " 1", "0x1"] {
        expect_status(case.store.save(item(&name, "no").if_etag(etag)).await, Code::InvalidArgument, "invalid etag");
        let removal = case.store.delete(key(&name).if_etag(etag)).await;
        expect_status(removal, Code::Aborted, "possible etag mismatch"); // to Dapr's script any text is an etag
    }
    assert_eq!(case.store.value(&name).await, "v");
}

pub async fn last_write_overrules_the_etag(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "1")).await.unwrap();
    for (etag, value) in [("9999999", "2"), ("abc", "3")] {
        case.store.save(item(&name, value).if_etag(etag).last_write()).await.unwrap();
        assert_eq!(case.store.value(&name).await, value);
    }
}
