//! What every lock store does.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tonic::Code;

use crate::client::Dialect;
use crate::conformance::Case;
use crate::lock::{Lock, Outcome};
use crate::status::expect_status;
use crate::wait;

fn lock(case: &Case) -> Lock {
    Lock::new(case.store.client().clone(), case.store.name())
}

pub async fn a_lock_has_one_holder(case: &Case) {
    let (lock, key) = (lock(case), case.key("r"));
    assert!(lock.try_lock(&key, "one", 60).await.unwrap());
    assert!(!lock.try_lock(&key, "other", 60).await.unwrap());
    assert_eq!(lock.unlock(&key, "one").await.unwrap(), Outcome::Done);
    assert!(lock.try_lock(&key, "other", 60).await.unwrap());
    assert_eq!(lock.unlock(&key, "other").await.unwrap(), Outcome::Done);
}

pub async fn a_lock_is_not_reentrant(case: &Case) {
    let (lock, key) = (lock(case), case.key("r"));
    assert!(lock.try_lock(&key, "one", 60).await.unwrap());
    assert!(!lock.try_lock(&key, "one", 60).await.unwrap());
    assert!(!lock.try_lock(&key, "other", 60).await.unwrap(), "the second try has not released it");
    assert_eq!(lock.unlock(&key, "one").await.unwrap(), Outcome::Done);
}

pub async fn a_lock_that_nobody_holds_cannot_be_released(case: &Case) {
    assert_eq!(lock(case).unlock(&case.key("nonexistent"), "one").await.unwrap(), Outcome::Missing);
}

pub async fn a_lock_is_released_by_its_owner_alone(case: &Case) {
    let (lock, key) = (lock(case), case.key("r"));
    assert!(lock.try_lock(&key, "one", 60).await.unwrap());
    assert_eq!(lock.unlock(&key, "other").await.unwrap(), Outcome::Others);
    assert!(!lock.try_lock(&key, "other", 60).await.unwrap());
    assert_eq!(lock.unlock(&key, "one").await.unwrap(), Outcome::Done);
    assert_eq!(lock.unlock(&key, "one").await.unwrap(), Outcome::Missing);
}

pub async fn a_lock_ends_by_itself(case: &Case) {
    let (lock, key) = (lock(case), case.key("r"));
    let begun = Instant::now();
    assert!(lock.try_lock(&key, "one", 3).await.unwrap());
    wait::within(Duration::from_secs(5), "the lock has ended", async || {
        lock.try_lock(&key, "other", 60).await.unwrap().then_some(()).ok_or("it is held")
    })
    .await;
    assert!(begun.elapsed() > Duration::from_millis(2900), "not before its time: {:?}", begun.elapsed());
    assert_eq!(lock.unlock(&key, "one").await.unwrap(), Outcome::Others, "it is another's now");
    assert_eq!(lock.unlock(&key, "other").await.unwrap(), Outcome::Done);
}

pub async fn locks_do_not_touch_each_other(case: &Case) {
    let lock = lock(case);
    for number in 0..100 {
        assert!(lock.try_lock(&case.key(&number.to_string()), "one", 60).await.unwrap());
    }
    for number in 0..100 {
        assert_eq!(lock.unlock(&case.key(&number.to_string()), "one").await.unwrap(), Outcome::Done);
    }
}

pub async fn names_may_hold_any_text(case: &Case) {
    let lock = lock(case);
    for name in ["with space", "ключ", "a|b", "*", "{slot}", "line\nbreak", "quote\"'"] {
        let key = case.key(name);
        assert!(lock.try_lock(&key, name, 60).await.unwrap(), "{name}");
        assert_eq!(lock.unlock(&key, "other").await.unwrap(), Outcome::Others, "{name}");
        assert_eq!(lock.unlock(&key, name).await.unwrap(), Outcome::Done, "{name}");
    }
}

pub async fn what_is_missing_is_named(case: &Case) {
    let (own, store) = (lock(case), case.store.name());
    let unknown = Lock::new(case.store.client().clone(), "nowhere");
    let refused = Code::InvalidArgument;
    expect_status(unknown.try_lock("r", "o", 1).await, refused, "lock store nowhere not found");
    expect_status(unknown.unlock("r", "o").await, refused, "lock store nowhere not found");
    expect_status(own.try_lock("", "o", 1).await, refused, &format!("ResourceId is empty in lock store {store}"));
    expect_status(own.unlock("", "o").await, refused, &format!("ResourceId is empty in lock store {store}"));
    expect_status(own.try_lock("r", "", 1).await, refused, &format!("LockOwner is empty in lock store {store}"));
    expect_status(own.unlock("r", "").await, refused, &format!("LockOwner is empty in lock store {store}"));
    let (expiry, illegal) = match case.store.dialect() {
        Dialect::Dapr => ("ExpiryInSeconds", Code::Internal), // as a failure of the store
        Dialect::Layotto => ("Expire", Code::Unknown),
    };
    for seconds in [0, -1] {
        let text = format!("{expiry} is not positive in lock store {store}");
        expect_status(own.try_lock("r", "o", seconds).await, refused, &text);
    }
    let text = "input key/keyPrefix 'a||b' can't contain '||'";
    expect_status(own.try_lock("a||b", "o", 1).await, illegal, text);
    expect_status(own.unlock("a||b", "o").await, illegal, text);
}

pub async fn a_lock_over_http(case: &Case) {
    let (store, resource) = (case.store.name(), case.key("r"));
    let ask = async |path: &str, owner: &str| {
        let body = json!({"resourceId": resource, "lockOwner": owner, "expiryInSeconds": 30}).to_string();
        let answer = case.http(Method::POST, &format!("/v1.0-alpha1/{path}/{store}"), &[], body).await;
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    assert_eq!(ask("lock", "one").await["success"], true);
    assert_eq!(ask("lock", "other").await["success"], false);
    assert_eq!(ask("unlock", "other").await, json!({"status": 2}));
    assert_eq!(ask("unlock", "one").await, json!({"status": 0}));
    assert_eq!(ask("unlock", "one").await, json!({"status": 1}));
}
