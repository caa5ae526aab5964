//! State.

use futures::FutureExt;
use integration_tests::conformance::drivers;
use integration_tests::store::{ItemOptions, delete, item, key as just, upsert};
use integration_tests::{Dialect, Store};

use crate::{Difference, NAMES, Row, finish, row, said, try_all};

#[allow(clippy::too_many_lines)] // a table
fn state_rows() -> Vec<Row<Store>> {
    let mut rows: Vec<Row<Store>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(10_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Store>(format!("key {shown:?}"), "Ok v Ok ", move |store, key| {
            let key = format!("{key}{name}");
            async move {
                let saved = said(store.save(item(&key, "v")).await);
                let got = value(store, &key).await;
                let deleted = said(store.delete(just(&key)).await);
                format!("{saved} {got} {deleted} {}", value(store, &key).await)
            }
            .boxed()
        }));
    }
    rows.push(row::<Store>("no key", "InvalidArgument  Ok Ok", |store, _| {
        async move {
            let saved = said(store.save(item("", "v")).await);
            let got = value(store, "").await;
            let transacted = said(store.transaction(vec![upsert(item("", ""))]).await);
            format!("{saved} {got} {} {transacted}", said(store.delete(just("")).await))
        }
        .boxed()
    }));
    rows.push(row::<Store>("an empty value", "Ok  with an etag", |store, key| {
        async move {
            let saved = said(store.save(item(key, "")).await);
            let etag = if store.etag(key).await.is_empty() { "no etag" } else { "an etag" };
            format!("{saved} {} with {etag}", value(store, key).await)
        }
        .boxed()
    }));
    for (ttl, expected) in [
        ("", "Ok v"),
        (" ", "Internal "),
        ("abc", "Internal "),
        ("1.5", "Internal "),
        ("0", "Ok v"),
        ("-1", "Ok v"),
        ("-9223372036854775808", "Ok v"),
        ("60", "Ok v"),
        ("2147483648", "Ok v"),
        ("9223372036854775807", "Ok v"),
        ("9223372036854775808", "Internal "),
    ] {
        for (call, transaction) in [("save", false), ("transaction", true)] {
            rows.push(row::<Store>(format!("{call}, ttlInSeconds {ttl:?}"), expected, move |store, key| {
                async move {
                    let item = item(key, "v").metadata("ttlInSeconds", ttl);
                    let saved =
                        if transaction { store.transaction(vec![upsert(item)]).await } else { store.save(item).await };
                    format!("{} {}", said(saved), value(store, key).await)
                }
                .boxed()
            }));
        }
    }
    for etag in ["", " ", "0", "-1", "x", "1.0", "99999999999999999999", "a\0b"] {
        let none = etag.is_empty();
        let outcome = move |ok: &'static str, refused: &'static str| if none { ok } else { refused };
        let there = async |store: &Store, key: &str| store.save(item(key, "old")).await.unwrap();
        rows.push(row::<Store>(
            format!("save over an item, etag {etag:?}"),
            outcome("Ok new", "Aborted old"),
            move |store, key| {
                async move {
                    there(store, key).await;
                    let saved = said(store.save(item(key, "new").if_etag(etag)).await);
                    format!("{saved} {}", value(store, key).await)
                }
                .boxed()
            },
        ));
        rows.push(row::<Store>(
            format!("save where nothing is, etag {etag:?}"),
            outcome("Ok new", "Aborted "),
            move |store, key| {
                async move {
                    let saved = said(store.save(item(key, "new").if_etag(etag)).await);
                    format!("{saved} {}", value(store, key).await)
                }
                .boxed()
            },
        ));
        rows.push(row::<Store>(
            format!("last-write over an item, etag {etag:?}"),
            outcome("Ok new", "Aborted old"),
            move |store, key| {
                async move {
                    there(store, key).await;
                    let saved = said(store.save(item(key, "new").if_etag(etag).last_write()).await);
                    format!("{saved} {}", value(store, key).await)
                }
                .boxed()
            },
        ));
        rows.push(row::<Store>(
            format!("removal of an item, etag {etag:?}"),
            outcome("Ok ", "Aborted old"),
            move |store, key| {
                async move {
                    there(store, key).await;
                    let deleted = said(store.delete(just(key).if_etag(etag).last_write()).await);
                    format!("{deleted} {}", value(store, key).await)
                }
                .boxed()
            },
        ));
        rows.push(row::<Store>(
            format!("removal of nothing, etag {etag:?}"),
            outcome("Ok", "Aborted"),
            move |store, key| async move { said(store.delete(just(key).if_etag(etag)).await) }.boxed(),
        ));
        rows.push(row::<Store>(
            format!("transaction over an item, etag {etag:?}"),
            outcome("Ok new", "Internal old"),
            move |store, key| {
                async move {
                    there(store, key).await;
                    let saved = said(store.transaction(vec![upsert(item(key, "new").if_etag(etag))]).await);
                    format!("{saved} {}", value(store, key).await)
                }
                .boxed()
            },
        ));
    }
    rows.push(row::<Store>("first-write over an item", "Aborted old", |store, key| {
        async move {
            store.save(item(key, "old")).await.unwrap();
            let saved = said(store.save(item(key, "new").first_write()).await);
            format!("{saved} {}", value(store, key).await)
        }
        .boxed()
    }));
    rows.push(row::<Store>("first-write removal of an item", "Aborted old", |store, key| {
        async move {
            store.save(item(key, "old")).await.unwrap();
            let deleted = said(store.delete(just(key).first_write()).await);
            format!("{deleted} {}", value(store, key).await)
        }
        .boxed()
    }));
    // Often, since what is done side by side is right by chance, too.
    rows.push(row::<Store>("a key twice in a save", "Ok 2", |store, key| {
        async move {
            let keys: Vec<String> = (0..50).map(|number| format!("{key}/{number}")).collect();
            let items = ["1", "2"].iter().flat_map(|value| keys.iter().map(|key| item(key, *value)));
            let saved = said(store.bulk_save(items.collect()).await);
            for key in &keys {
                let value = value(store, key).await;
                if value != "2" {
                    return format!("{saved} {value}");
                }
            }
            format!("{saved} 2")
        }
        .boxed()
    }));
    rows.push(row::<Store>(
        "a key twice in a save, the second time with the etag from before",
        "Aborted 1",
        |store, key| {
            async move {
                store.save(item(key, "0")).await.unwrap();
                let etag = store.etag(key).await;
                let saved = said(store.bulk_save(vec![item(key, "1"), item(key, "2").if_etag(&etag)]).await);
                format!("{saved} {}", value(store, key).await)
            }
            .boxed()
        },
    ));
    rows.push(row::<Store>("a key twice in a removal", "Ok ", |store, key| {
        async move {
            store.save(item(key, "v")).await.unwrap();
            let deleted = said(store.bulk_delete(vec![just(key), just(key)]).await);
            format!("{deleted} {}", value(store, key).await)
        }
        .boxed()
    }));
    rows.push(row::<Store>("a key twice in a bulk get", "v v", |store, key| {
        async move {
            store.save(item(key, "v")).await.unwrap();
            let items = store.bulk_get(&[key, key], -1).await.unwrap();
            items.iter().map(|item| String::from_utf8_lossy(&item.data).into_owned()).collect::<Vec<_>>().join(" ")
        }
        .boxed()
    }));
    for (name, expected) in
        [("upsert upsert", "Ok 2"), ("upsert delete", "Ok "), ("delete upsert", "Ok 2"), ("delete delete", "Ok ")]
    {
        rows.push(row::<Store>(format!("a key twice in a transaction: {name}"), expected, move |store, key| {
            async move {
                store.save(item(key, "0")).await.unwrap();
                let step = |(number, kind)| match kind {
                    "upsert" => upsert(item(key, format!("{}", number + 1))),
                    _ => delete(just(key)),
                };
                let done = said(store.transaction(name.split(' ').enumerate().map(step).collect()).await);
                format!("{done} {}", value(store, key).await)
            }
            .boxed()
        }));
    }
    rows.push(row::<Store>("a transaction of 1000 operations", "Ok v", |store, key| {
        async move {
            let steps = (0..1000).map(|number| upsert(item(&format!("{key}/{number}"), "v"))).collect();
            let done = said(store.transaction(steps).await);
            format!("{done} {}", value(store, &format!("{key}/999")).await)
        }
        .boxed()
    }));
    rows
}

async fn value(store: &Store, key: &str) -> String {
    match store.get(key).await {
        Ok(answer) => String::from_utf8_lossy(&answer.data).into_owned(),
        Err(status) => format!("{:?}", status.code()),
    }
}

const STATE_DIFFERENCES: &[Difference] = &[
    ("save over an item, etag \"0\"", "redis", "Ok new", "as Dapr's: its script takes 0 for none"),
    ("save over an item, etag \"-1\"", "redis", "Aborted old", "a number that no item has"),
    ("save over an item, etag \"\"", "redis", "Ok new", "none"),
    ("save over an item", "redis", "InvalidArgument old", "as Dapr's: etags are whole numbers"),
    ("save where nothing is, etag \"0\"", "redis", "Ok new", "as Dapr's"),
    ("save where nothing is, etag \"-1\"", "redis", "Ok new", "as Dapr's: an etag of what is not there is no mismatch"),
    ("save where nothing is, etag \"\"", "redis", "Ok new", "none"),
    ("save where nothing is", "redis", "InvalidArgument ", "as Dapr's: etags are whole numbers"),
    ("last-write over an item", "redis", "Ok new", "as Dapr's: the last write ignores its etag"),
    ("removal of an item, etag \"0\"", "redis", "Ok ", "as Dapr's: its script takes 0 for none"),
    ("removal of nothing", "redis", "Ok", "as Dapr's: an etag of what is not there is no mismatch"),
    ("transaction over an item, etag \"0\"", "redis", "Ok new", "as Dapr's: its script takes 0 for none"),
    ("first-write over an item", "redis", "Ok new", "as Dapr's: only an item with the mark is protected"),
    ("first-write removal of an item", "redis", "Ok ", "as Dapr's: a removal looks at the etag alone"),
    ("a transaction of 1000 operations", "etcd", "InvalidArgument ", "etcd takes 128 operations"),
];

#[tokio::test]
async fn the_drivers_of_state_agree() {
    let worlds =
        [drivers::in_memory().await, drivers::redis().await, drivers::etcd_v1().await, drivers::etcd_v2().await];
    let mut stores = Vec::new();
    for (name, world) in ["in-memory", "redis", "etcd v1", "etcd v2"].into_iter().zip(&worlds) {
        stores.push((name, Store::new(world.envoy.client(Dialect::Dapr).await, world.component)));
    }
    try_all(&stores, state_rows(), STATE_DIFFERENCES).await;
    finish(&worlds).await;
}
