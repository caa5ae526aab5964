//! The conformance suite of stores of configuration: the cases of components-contrib's
//! `tests/conformance/configuration`, replayed over gRPC, and what only an API has beside. A driver needs nothing but
//! the basic cases.

#![allow(missing_docs, clippy::missing_panics_doc, reason = "the name of a case says what it asserts")]

/// The cases.
#[macro_export]
macro_rules! configuration_suite {
    (basic $dialect:ident) => {
        $crate::conformance! { @cases configuration basic $dialect:
            items_are_read_by_their_keys
            without_keys_all_items_are_read
            a_save_replaces_the_value
            a_deleted_item_is_gone
            many_items_are_saved_at_once
            texts_survive
            an_unknown_store_and_an_empty_key_are_refused
            subscribers_are_told_of_their_keys
            a_subscription_ends_with_its_stream
            many_changes_come_once_and_in_order
            items_over_http
        }
    };
}

/// What every driver does.
pub mod basic {
    use http::Method;
    use serde_json::{Value, json};
    use tonic::Code;

    use crate::client::Dialect;
    use crate::configuration::Configuration;
    use crate::conformance::Case;
    use crate::wait;

    /// The group of this case.
    fn group(case: &Case) -> Configuration {
        Configuration::new(case.store.client().clone(), case.store.name(), &group_name(case))
    }

    fn group_name(case: &Case) -> String {
        case.key("").replace(['/', '_'], "-").to_lowercase().trim_matches('-').to_owned()
    }

    fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
        items.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// Waits until the store answers so: some tell what was written a little later.
    async fn expect_items(store: &Configuration, keys: &[&str], items: &[(&str, &str)]) {
        wait::eventually("the items are as expected", async || {
            let found = store.get(keys).await.unwrap();
            if found == pairs(items) { Ok(()) } else { Err(found) }
        })
        .await;
    }

    pub async fn items_are_read_by_their_keys(case: &Case) {
        let store = group(case);
        store.save(&[("b", "2"), ("a", "1"), ("c", "3")]).await.unwrap();
        expect_items(&store, &["a", "missing", "c"], &[("a", "1"), ("c", "3")]).await;
        expect_items(&store, &["missing"], &[]).await;
    }

    pub async fn without_keys_all_items_are_read(case: &Case) {
        let store = group(case);
        expect_items(&store, &[], &[]).await;
        store.save(&[("b", "2"), ("a", "1"), ("c", "3")]).await.unwrap();
        expect_items(&store, &[], &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    }

    pub async fn a_save_replaces_the_value(case: &Case) {
        let store = group(case);
        store.save(&[("k", "1")]).await.unwrap();
        store.save(&[("k", "2")]).await.unwrap();
        expect_items(&store, &["k"], &[("k", "2")]).await;
    }

    pub async fn a_deleted_item_is_gone(case: &Case) {
        let store = group(case);
        store.save(&[("a", "1"), ("ab", "2"), ("b", "3")]).await.unwrap();
        store.delete(&["a", "missing"]).await.unwrap();
        expect_items(&store, &[], &[("ab", "2"), ("b", "3")]).await;
        store.delete(&[]).await.unwrap();
        expect_items(&store, &[], &[("ab", "2"), ("b", "3")]).await;
    }

    pub async fn many_items_are_saved_at_once(case: &Case) {
        let store = group(case);
        let items: Vec<(String, String)> = (0..100).map(|n| (format!("k{n:03}"), n.to_string())).collect();
        let items: Vec<(&str, &str)> = items.iter().map(|(key, value)| (&**key, &**value)).collect();
        store.save(&items).await.unwrap();
        expect_items(&store, &[], &items).await;
    }

    pub async fn texts_survive(case: &Case) {
        let store = group(case);
        let long = "x".repeat(10_000);
        let items = [("ключ", "значение"), ("k.x-y_z", "a\nb\r\n\t\"{}\""), ("l", &*long)];
        store.save(&items).await.unwrap();
        for item in items {
            expect_items(&store, &[item.0], &[item]).await;
        }
    }

    pub async fn an_unknown_store_and_an_empty_key_are_refused(case: &Case) {
        let client = case.store.client();
        let unknown = Configuration::new(client.clone(), "nowhere", "");
        let (code, text) = match client.dialect() {
            Dialect::Dapr => (Code::InvalidArgument, "configuration store nowhere not found"),
            Dialect::Layotto => (Code::Unknown, "configure store [nowhere] don't support now"),
        };
        let refused = unknown.get(&["k"]).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text));
        let store = group(case);
        assert_eq!(store.get(&[""]).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(store.save(&[("", "v")]).await.unwrap_err().code(), Code::InvalidArgument);
    }

    pub async fn subscribers_are_told_of_their_keys(case: &Case) {
        let store = group(case);
        store.save(&[("a", "0"), ("b", "0")]).await.unwrap();
        let (mut one, mut two) = (store.watch(&["a", "new"]).await, store.watch(&["b"]).await);
        let mut all = store.watch(&[]).await;
        for (key, value) in [("a", "1"), ("b", "1"), ("new", "1"), ("a", "2")] {
            store.save(&[(key, value)]).await.unwrap();
            all.expect(&[(key, value)]).await;
        }
        store.delete(&["a"]).await.unwrap();
        all.expect(&[("a", "")]).await;
        one.expect(&[("a", "1"), ("new", "1"), ("a", "2"), ("a", "")]).await;
        two.expect(&[("b", "1")]).await;
        for watch in [&mut one, &mut two, &mut all] {
            watch.expect_silence().await;
        }
    }

    pub async fn a_subscription_ends_with_its_stream(case: &Case) {
        let store = group(case);
        let (mut one, mut two) = (store.watch(&["k"]).await, store.watch(&["k"]).await);
        match case.store.client().dialect() {
            Dialect::Layotto => drop(one),
            Dialect::Dapr => {
                assert!(store.unsubscribe(&one.id).await.unwrap().ok);
                one.expect_end().await;
                let again = store.unsubscribe(&one.id).await.unwrap();
                assert!(!again.ok && again.message.contains("does not exist"), "{again:?}");
            }
        }
        store.save(&[("k", "1")]).await.unwrap();
        two.expect(&[("k", "1")]).await;
        two.expect_silence().await;
    }

    pub async fn many_changes_come_once_and_in_order(case: &Case) {
        let store = group(case);
        let mut watch = store.watch(&[]).await;
        for number in 0..200 {
            let (key, value) = (format!("k{}", number % 7), number.to_string());
            store.save(&[(&key, &value)]).await.unwrap();
            watch.expect(&[(&key, &value)]).await;
        }
        watch.expect_silence().await;
    }

    pub async fn items_over_http(case: &Case) {
        let (store, group) = (case.store.name(), group_name(case));
        let path = |version: &str, query: &str| format!("/{version}/configuration/{store}{query}");
        let keys = format!("?key=http-a&key=http-none&metadata.group={group}");
        let read = async || case.http(Method::GET, &path("v1.0", &keys), &[], "").await;
        let nothing = read().await;
        assert_eq!(nothing.status(), 204, "{nothing:?}");
        let items = json!({"items": [{"key": "http-a", "value": "1 \u{17c}", "group": group}]}).to_string();
        let saved = case.http(Method::POST, &path("v1.0-alpha1", ""), &[], items).await;
        assert_eq!(saved.status(), 204, "{saved:?}");
        let there: Value = serde_json::from_slice(read().await.body()).unwrap();
        assert_eq!(there["http-a"]["value"], "1 \u{17c}");
        let deleted = case.http(Method::DELETE, &path("v1.0-alpha1", &keys), &[], "").await;
        assert_eq!(deleted.status(), 204, "{deleted:?}");
        assert_eq!(read().await.status(), 204);
    }
}
