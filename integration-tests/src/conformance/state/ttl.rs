//! Items that expire.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::conformance::Case;
use crate::status::expect_status;
use crate::store::{ItemOptions, item};
use crate::wait;

/// Enough that the item is surely still there when it is looked for at once.
const SECONDS: i64 = 3;
const TIME_TO_LIVE: Duration = Duration::from_secs(SECONDS.unsigned_abs());
/// By how much the clocks of the test and of the store may differ in speed.
const SLACK: Duration = Duration::from_millis(100);

pub async fn a_time_to_live_that_is_no_number_is_refused(case: &Case) {
    let key = case.key("k");
    for bad in ["foo", "1.5", ""] {
        let result = case.store.save(item(&key, "v").metadata("ttlInSeconds", bad)).await;
        if bad.is_empty() && result.is_ok() {
            continue; // an empty value may count as none
        }
        expect_status(result, Code::Internal, "failed saving state in state store statestore: ");
        assert_eq!(case.store.value(&key).await, "");
    }
}

pub async fn an_item_expires(case: &Case) {
    let key = case.key("k");
    let start = Instant::now();
    case.store.save(item(&key, "v").ttl(SECONDS)).await.unwrap();
    expect_alive_until_expiry(case, &key, start).await;
    let answer = case.store.get(&key).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b""[..], ""));
}

pub async fn minus_one_takes_the_time_to_live_away(case: &Case) {
    let [kept, expires] = case.keys(["kept", "expires"]);
    case.store.save(item(&kept, "1").ttl(SECONDS)).await.unwrap();
    case.store.save(item(&kept, "2").ttl(-1)).await.unwrap();
    let start = Instant::now();
    case.store.save(item(&expires, "v").ttl(SECONDS)).await.unwrap();
    expect_alive_until_expiry(case, &expires, start).await;
    assert_eq!(case.store.value(&kept).await, "2", "it was saved before the item that has expired");
}

pub async fn items_of_one_save_expire_on_their_own(case: &Case) {
    let [short, long, never] = case.keys(["short", "long", "never"]);
    let start = Instant::now();
    case.store
        .bulk_save(vec![item(&short, "v").ttl(SECONDS), item(&long, "v").ttl(1000), item(&never, "v")])
        .await
        .unwrap();
    expect_alive_until_expiry(case, &short, start).await;
    assert_eq!(case.store.value(&long).await, "v");
    assert_eq!(case.store.value(&never).await, "v");
}

/// Watches an item that was saved after `start`: it must be there at first, and go, but not before its time.
async fn expect_alive_until_expiry(case: &Case, key: &str, start: Instant) {
    let first = case.store.value(key).await;
    if start.elapsed() + SLACK < TIME_TO_LIVE {
        assert_eq!(first, "v", "the item is there at once");
    }
    wait::eventually("the item expires", async || {
        if case.store.value(key).await.is_empty() { Ok(()) } else { Err("it is there") }
    })
    .await;
    assert!(start.elapsed() + SLACK > TIME_TO_LIVE, "the item lived {:?} only", start.elapsed());
}
