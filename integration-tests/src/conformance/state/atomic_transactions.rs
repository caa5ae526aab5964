//! Transactions that are applied whole or not at all.

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, delete, item, key, upsert};

pub async fn a_failed_transaction_changes_nothing(case: &Case) {
    let [changed, deleted, guarded, new] = case.keys(["changed", "deleted", "guarded", "new"]);
    case.store.bulk_save([&changed, &deleted, &guarded].map(|key| item(key, "1")).to_vec()).await.unwrap();
    let operations = vec![
        upsert(item(&changed, "2")),
        delete(key(&deleted)),
        upsert(item(&new, "2")),
        upsert(item(&guarded, "2").if_etag("9999999")),
    ];
    expect_status(
        case.store.transaction(operations).await,
        Code::Internal,
        "error while executing state transaction: ",
    );
    for (key, value) in [(&changed, "1"), (&deleted, "1"), (&guarded, "1"), (&new, "")] {
        assert_eq!(case.store.value(key).await, value, "{key}");
    }
}
