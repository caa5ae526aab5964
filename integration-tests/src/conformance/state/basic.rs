//! What every state store does.

use bytes::Bytes;
use envoy_runtime_proto::dapr::common::v1::StateItem;
use futures::future::join_all;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;
use serde_json::{Value, json};

use crate::client::Dialect;
use crate::conformance::Case;
use crate::store::{ItemOptions, item, key};

pub async fn every_kind_of_value_is_read_as_it_was_saved(case: &Case) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let values: [(&str, &[u8]); 8] = [
        ("whole number", b"123"),
        ("boolean", b"true"),
        ("one byte", &[1]),
        ("text", b"hello world"),
        ("json text", br#"{"order":7}"#),
        ("text that looks like Redis", b"$-1\r\n*0\r\n"),
        ("every byte", &every_byte),
        ("not UTF-8", &[0xff, 0xfe, 0x00, 0x80]),
    ];
    for (n, (kind, value)) in values.into_iter().enumerate() {
        let key = case.key(&n.to_string());
        case.store.save(item(&key, value.to_vec())).await.unwrap();
        assert_eq!(case.store.value(&key).await, value, "{kind}");
    }
}

pub async fn an_empty_value_is_a_value(case: &Case) {
    let key = case.key("k");
    case.store.save(item(&key, "")).await.unwrap();
    assert_eq!(case.store.value(&key).await, "");
}

pub async fn a_protobuf_message_survives(case: &Case) {
    let key = case.key("k");
    let message = item("inner", vec![0, 0x80, 0xff]).if_etag("7").ttl(9);
    case.store.save(item(&key, message.encode_to_vec())).await.unwrap();
    assert_eq!(StateItem::decode(case.store.value(&key).await), Ok(message));
}

pub async fn a_missing_key_is_an_empty_answer(case: &Case) {
    let answer = case.store.get(&case.key("missing")).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b""[..], ""));
}

pub async fn a_save_replaces_the_value(case: &Case) {
    let key = case.key("k");
    for value in ["first", "second, and longer", ""] {
        case.store.save(item(&key, value)).await.unwrap();
        assert_eq!(case.store.value(&key).await, value);
    }
}

pub async fn a_deleted_key_is_gone(case: &Case) {
    let name = case.key("k");
    case.store.save(item(&name, "v")).await.unwrap();
    case.store.delete(key(&name)).await.unwrap();
    let answer = case.store.get(&name).await.unwrap();
    assert_eq!((answer.data.as_ref(), answer.etag.as_str()), (&b""[..], ""));
}

pub async fn deleting_a_missing_key_is_no_error(case: &Case) {
    case.store.delete(key(&case.key("missing"))).await.unwrap();
}

pub async fn many_items_are_saved_at_once(case: &Case) {
    let keys: Vec<_> = (0..100).map(|n| case.key(&n.to_string())).collect();
    case.store.bulk_save(keys.iter().map(|key| item(key, format!("value of {key}"))).collect()).await.unwrap();
    for key in &keys {
        assert_eq!(case.store.value(key).await, format!("value of {key}"));
    }
}

pub async fn saving_nothing_is_no_error(case: &Case) {
    case.store.bulk_save(vec![]).await.unwrap();
    case.store.bulk_delete(vec![]).await.unwrap();
}

pub async fn bulk_get_answers_every_key(case: &Case) {
    let [a, b, missing, c] = case.keys(["a", "b", "missing", "c"]);
    let saved = [&a, &b, &c].map(|key| item(key, format!("value of {key}")));
    case.store.bulk_save(saved.to_vec()).await.unwrap();

    for parallelism in [0, 1, 100] {
        let mut items = case.store.bulk_get(&[&c, &missing, &a, &b], parallelism).await.unwrap();
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        if case.store.dialect() == Dialect::Dapr {
            assert_eq!(keys, [&c, &missing, &a, &b].map(Clone::clone), "in the order of the request");
        }
        items.sort_by(|left, right| left.key.cmp(&right.key));
        let found: Vec<_> = items.iter().map(|item| (item.key.as_str(), item.data.as_ref())).collect();
        let value = |key: &String| format!("value of {key}").into_bytes();
        let (va, vb, vc) = (value(&a), value(&b), value(&c));
        let expected: [(&str, &[u8]); 4] = [(&a, &va), (&b, &vb), (&c, &vc), (&missing, b"")];
        assert_eq!(found, expected);
        assert!(items.iter().all(|item| item.error.is_empty()), "{items:?}");
    }
}

pub async fn bulk_get_of_nothing_is_empty(case: &Case) {
    assert_eq!(case.store.bulk_get(&[], 0).await.unwrap(), []);
}

pub async fn many_items_are_deleted_at_once(case: &Case) {
    let [a, b, kept] = case.keys(["a", "b", "kept"]);
    case.store.bulk_save([&a, &b, &kept].map(|key| item(key, "v")).to_vec()).await.unwrap();
    case.store.bulk_delete(vec![key(&a), key(&b), key(&case.key("missing"))]).await.unwrap();
    assert_eq!(case.store.value(&a).await, "");
    assert_eq!(case.store.value(&b).await, "");
    assert_eq!(case.store.value(&kept).await, "v");
}

pub async fn json_is_saved_as_json(case: &Case) {
    let values =
        [json!({"order": 7, "items": ["a", "b"], "paid": true}), json!("text"), json!(42), json!(null), json!([])];
    for (n, value) in values.iter().enumerate() {
        let key = case.key(&n.to_string());
        let text = serde_json::to_string_pretty(value).unwrap();
        case.store.save(item(&key, text).json()).await.unwrap();
        let read = case.store.get_with(&key, &[("contentType", "application/json")]).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&read.data).ok().as_ref(), Some(value), "{:?}", read.data);
    }
}

pub async fn calls_on_one_connection_do_not_mix(case: &Case) {
    join_all((0..200).map(|n| async move {
        let key = case.key(&n.to_string());
        let value = "x".repeat(n * 37) + &key;
        case.store.save(item(&key, value.clone())).await.unwrap();
        assert_eq!(case.store.value(&key).await, value);
    }))
    .await;
}

pub async fn the_same_over_http(case: &Case) {
    let (store, key) = (format!("/v1.0/state/{}", case.store.name()), case.key("k"));
    let path = format!("{store}/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC));
    let read = async || case.http(Method::GET, &path, &[], "").await;
    assert_eq!(read().await.status(), 204);
    let value = r#"{"b":[1.50,"\u017c"],"a":12345678901234567890123}"#;
    let body = format!(r#"[{{"key":"{key}","value":{value}}},{{"key":"{key}2","value":"x"}}]"#);
    let saved = case.http(Method::POST, &store, &[], body).await;
    assert_eq!(saved.status(), 204, "{saved:?}");
    let there = read().await;
    assert_eq!((there.status().as_u16(), there.body()), (200, &Bytes::from(value)), "digits and order are kept");
    let keys = json!({"keys": [format!("{key}2"), format!("{key}-none"), key]}).to_string();
    let bulk = case.http(Method::POST, &format!("{store}/bulk"), &[], keys).await;
    let bulk: Value = serde_json::from_slice(bulk.body()).unwrap();
    let expected = (&json!("x"), &json!({"key": format!("{key}-none")}), &json!(key));
    assert_eq!((&bulk[0]["data"], &bulk[1], &bulk[2]["key"]), expected);
    assert_eq!(case.http(Method::DELETE, &path, &[], "").await.status(), 204);
    assert_eq!(read().await.status(), 204);
}
