//! `ttlExpireTime` in the metadata of an answer.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan};

use crate::conformance::Case;
use crate::store::{ItemOptions, item};

pub async fn an_item_without_a_time_to_live_has_no_expiry_time(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "v")).await.unwrap();
    assert_eq!(case.store.get(&key).await.unwrap().metadata.get("ttlExpireTime"), None);
}

pub async fn the_expiry_time_is_told(case: &Case) {
    let key = case.key("k");
    let before = Timestamp::now();
    case.store.save(item(&key, "v").ttl(1000)).await.unwrap();
    expect_expiry_time(&case.store.get(&key).await.unwrap().metadata, before);
}

pub async fn bulk_get_tells_the_expiry_time(case: &Case) {
    let [with, without] = case.keys(["with", "without"]);
    let before = Timestamp::now();
    case.store.bulk_save(vec![item(&with, "v").ttl(1000), item(&without, "v")]).await.unwrap();
    for item in case.store.bulk_get(&[&with, &without], 0).await.unwrap() {
        if item.key == with {
            expect_expiry_time(&item.metadata, before);
        } else {
            assert_eq!(item.metadata.get("ttlExpireTime"), None);
        }
    }
}

pub async fn minus_one_takes_the_expiry_time_away(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "v").ttl(1000)).await.unwrap();
    case.store.save(item(&key, "v").ttl(-1)).await.unwrap();
    assert_eq!(case.store.get(&key).await.unwrap().metadata.get("ttlExpireTime"), None);
}

/// 1000 seconds after a save that was made between `before` and now, to the second.
fn expect_expiry_time(metadata: &BTreeMap<String, String>, before: Timestamp) {
    let text = metadata.get("ttlExpireTime").expect("ttlExpireTime is told");
    let time: Timestamp = text.parse().unwrap_or_else(|error| panic!("{text} is not RFC 3339: {error}"));
    let (earliest, latest) = (before + 999.seconds(), Timestamp::now() + 1001.seconds());
    assert!(earliest <= time && time <= latest, "{earliest} <= {time} <= {latest}");
}

pub async fn a_write_that_does_not_say_takes_the_expiry_time_away(case: &Case) {
    let key = case.key("k");
    for silent in [item(&key, "2"), item(&key, "2").metadata("ttlInSeconds", "")] {
        case.store.save(item(&key, "1").ttl(1000)).await.unwrap();
        assert!(case.store.get(&key).await.unwrap().metadata.contains_key("ttlExpireTime"));
        case.store.save(silent).await.unwrap();
        assert!(case.store.get(&key).await.unwrap().metadata.is_empty());
    }
}
