//! Odd values through every driver of each block: empty, blank, zero, negative, huge, twice in one call, control
//! characters. The drivers of a block answer the same; what differs stands in a table with the reason, and on the page
//! of the block.

use futures::FutureExt;
use futures::future::BoxFuture;
use integration_tests::conformance::drivers::{self, World};
use integration_tests::kubernetes::{self, Kubernetes};
use integration_tests::store::{ItemOptions, delete, item, key as just, upsert};
use integration_tests::vault::{self, Vault};
use integration_tests::{Client, Config, Configuration, Dialect, Envoy, Lock, Sequencer, Store, scratch};
use serde_json::json;
use std::fmt::Write;
use tonic::{Code, Status};

/// A row: what is tried, and what every driver answers.
type Row<Subject> = (String, String, Box<dyn for<'a> Fn(&'a Subject, &'a str) -> BoxFuture<'a, String> + Send>);

/// Where a driver answers differently: the beginning of the names of rows, the driver, what it answers, why.
type Difference = (&'static str, &'static str, &'static str, &'static str);

/// What an app would say of an answer: the value, or the code of the failure.
fn said<T: Answer>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => answer.said(),
        Err(status) => format!("{:?}", status.code()),
    }
}

trait Answer {
    fn said(self) -> String;
}

impl Answer for () {
    fn said(self) -> String {
        "Ok".to_owned()
    }
}

impl Answer for bool {
    fn said(self) -> String {
        self.to_string()
    }
}

impl Answer for i64 {
    fn said(self) -> String {
        self.to_string()
    }
}

impl Answer for integration_tests::lock::Outcome {
    fn said(self) -> String {
        format!("{self:?}")
    }
}

/// Runs the rows against all drivers and panics with a table of what is not as it should be.
async fn try_all<Subject>(drivers: &[(&str, Subject)], rows: Vec<Row<Subject>>, differences: &[Difference]) {
    let mut wrong = String::new();
    let mut used = vec![false; differences.len()];
    for (number, (name, expected, run)) in rows.iter().enumerate() {
        for (driver, subject) in drivers {
            let unlike = differences.iter().position(|(rows, of, ..)| name.starts_with(rows) && driver.starts_with(of));
            let expected = unlike.map_or(expected.as_str(), |at| differences[at].2);
            if let Some(at) = unlike {
                used[at] = true;
            }
            let got = run(subject, &format!("row{number}")).await;
            if got != expected {
                writeln!(wrong, "{driver}: {name:?} gives {got:?}, not {expected:?}").unwrap();
            }
        }
    }
    for (used, (rows, driver, outcome, _)) in used.iter().zip(differences) {
        if !used {
            writeln!(wrong, "no row of {driver} begins with {rows:?} to give {outcome:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn row<Subject>(
    name: impl Into<String>,
    expected: &str,
    run: impl for<'a> Fn(&'a Subject, &'a str) -> BoxFuture<'a, String> + Send + 'static,
) -> Row<Subject> {
    (name.into(), expected.to_owned(), Box::new(run))
}

async fn finish(worlds: &[World]) {
    for world in worlds {
        world.envoy.assert_no_filter_crashed().await;
    }
}

/// Names that an app may give to things. One as long as this is taken by all servers.
const NAMES: [&str; 14] =
    [" ", "\t\r\n", "\0", "\u{1b}[0m", "ключ ✓", "a/b", "/", "..", "*", "[a-z]?", "{a}b", "\"'\\", "|", "%00%2F"];

// ---- State ----

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
async fn state() {
    let worlds =
        [drivers::in_memory().await, drivers::redis().await, drivers::etcd_v1().await, drivers::etcd_v2().await];
    let mut stores = Vec::new();
    for (name, world) in ["in-memory", "redis", "etcd v1", "etcd v2"].into_iter().zip(&worlds) {
        stores.push((name, Store::new(world.envoy.client(Dialect::Dapr).await, world.component)));
    }
    try_all(&stores, state_rows(), STATE_DIFFERENCES).await;
    finish(&worlds).await;
}

// ---- Locks ----

fn lock_rows() -> Vec<Row<Lock>> {
    let mut rows: Vec<Row<Lock>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(10_000)]) {
        let shown: String = name.chars().take(20).collect();
        let (resource, owner) = (name.clone(), name);
        rows.push(row::<Lock>(format!("resource {shown:?}"), "true false Others Done Missing", move |lock, key| {
            let resource = format!("{key}{resource}");
            async move {
                let taken = said(lock.try_lock(&resource, "o", 60).await);
                let again = said(lock.try_lock(&resource, "o", 60).await);
                let others = said(lock.unlock(&resource, "p").await);
                let released = said(lock.unlock(&resource, "o").await);
                format!("{taken} {again} {others} {released} {}", said(lock.unlock(&resource, "o").await))
            }
            .boxed()
        }));
        rows.push(row::<Lock>(format!("owner {shown:?}"), "true Others Done Done", move |lock, key| {
            let owner = owner.clone();
            async move {
                let taken = said(lock.try_lock(key, &owner, 60).await);
                let others = said(lock.unlock(key, "").await).replace("InvalidArgument", "Others");
                let renewed = said(lock.keep_alive(key, &owner, 60).await);
                format!("{taken} {others} {renewed} {}", said(lock.unlock(key, &owner).await))
            }
            .boxed()
        }));
    }
    for (seconds, expected) in [
        (i32::MIN, "InvalidArgument"),
        (-1, "InvalidArgument"),
        (0, "InvalidArgument"),
        (1, "true"),
        (i32::MAX, "true"),
    ] {
        rows.push(row::<Lock>(format!("for {seconds} s"), expected, move |lock, key| {
            async move { said(lock.try_lock(key, "o", seconds).await) }.boxed()
        }));
        rows.push(row::<Lock>(
            format!("keep alive for {seconds} s"),
            if seconds > 0 { "Done" } else { "InvalidArgument" },
            move |lock, key| {
                async move {
                    lock.try_lock(key, "o", 60).await.unwrap();
                    said(lock.keep_alive(key, "o", seconds).await)
                }
                .boxed()
            },
        ));
    }
    rows.push(row::<Lock>("no resource", "InvalidArgument InvalidArgument", |lock, _| {
        async move { format!("{} {}", said(lock.try_lock("", "o", 1).await), said(lock.unlock("", "o").await)) }.boxed()
    }));
    rows.push(row::<Lock>("no owner", "InvalidArgument InvalidArgument", |lock, key| {
        async move { format!("{} {}", said(lock.try_lock(key, "", 1).await), said(lock.unlock(key, "").await)) }.boxed()
    }));
    rows.push(row::<Lock>("the separator in the resource", "Unknown Unknown", |lock, _| {
        async move { format!("{} {}", said(lock.try_lock("a||b", "o", 1).await), said(lock.unlock("a||b", "o").await)) }
            .boxed()
    }));
    rows
}

const LOCK_DIFFERENCES: &[Difference] = &[];

#[tokio::test]
async fn lock() {
    let worlds = [
        drivers::lock_in_memory().await,
        drivers::lock_redis().await,
        drivers::lock_redis_cluster().await,
        drivers::lock_etcd().await,
    ];
    let mut locks = Vec::new();
    for (name, world) in ["in-memory", "redis", "several redis", "etcd"].into_iter().zip(&worlds) {
        locks.push((name, Lock::new(world.envoy.client(Dialect::Layotto).await, world.component)));
    }
    try_all(&locks, lock_rows(), LOCK_DIFFERENCES).await;
    finish(&worlds).await;
}

// ---- Sequencers ----

fn sequencer_rows() -> Vec<Row<Sequencer>> {
    let mut rows: Vec<Row<Sequencer>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(10_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Sequencer>(format!("key {shown:?}"), "1 2", move |sequencer, key| {
            let key = format!("{key}{name}");
            async move { format!("{} {}", said(sequencer.next_strong(&key).await), said(sequencer.next_strong(&key).await)) }
                .boxed()
        }));
    }
    for (increment, expected) in
        [(None, "1"), (Some(0), "1"), (Some(1), "1"), (Some(2), "Unknown"), (Some(-1), "Unknown")]
    {
        rows.push(row::<Sequencer>(format!("increment {increment:?}"), expected, move |sequencer, key| {
            async move { said(sequencer.next_with(key, increment).await) }.boxed()
        }));
    }
    rows.push(row::<Sequencer>("no key", "InvalidArgument", |sequencer, _| {
        async move { said(sequencer.next("").await) }.boxed()
    }));
    rows.push(row::<Sequencer>("the separator in the key", "Unknown", |sequencer, _| {
        async move { said(sequencer.next("a||b").await) }.boxed()
    }));
    for (above, expected) in [("negative", "1"), ("zero", "1"), ("hundred", "101"), ("used-up", "Unknown")] {
        rows.push(row::<Sequencer>(format!("biggerThan {above}"), expected, move |sequencer, _| {
            async move { said(sequencer.next_strong(above).await) }.boxed()
        }));
    }
    rows
}

const SEQUENCER_DIFFERENCES: &[Difference] =
    &[("biggerThan hundred", "etcd", "Unknown", "ids in etcd count writes: they cannot be raised")];

#[tokio::test]
async fn sequencer() {
    let redis = integration_tests::Redis::start(integration_tests::redis::Options::default()).await;
    let etcd = integration_tests::Etcd::start(integration_tests::etcd::Options::default()).await;
    let bigger = json!({"negative": -1, "zero": 0, "hundred": 100, "used-up": i64::MAX});
    let component = |name: &str, kind: &str, server: Option<(&str, String)>| {
        let mut metadata = json!({"biggerThan": bigger});
        if let Some((field, address)) = server {
            metadata[field] = address.into();
        }
        json!({"name": name, "type": kind, "metadata": metadata})
    };
    let config = Config::new("conformance")
        .component_document(component("in-memory", "sequencer.in-memory", None))
        .component_document(component("redis", "sequencer.redis", Some(("redisHost", redis.address()))))
        .component_document(component("etcd", "sequencer.etcd", Some(("endpoints", etcd.address()))));
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Layotto).await;
    let drivers = ["in-memory", "redis", "etcd"].map(|name| (name, Sequencer::new(client.clone(), name)));
    try_all(&drivers, sequencer_rows(), SEQUENCER_DIFFERENCES).await;
    envoy.assert_no_filter_crashed().await;
}

// ---- Configuration ----

fn configuration_rows() -> Vec<Row<Groups>> {
    let mut rows: Vec<Row<Groups>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(5_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Groups>(format!("key {shown:?}"), "Ok v Ok nothing", move |subject, key| {
            let key = format!("{key}{name}");
            async move {
                let store = subject.group("");
                let saved = said(store.save(&[(&key, "v")]).await);
                let got = content(&store, &key).await;
                let deleted = said(store.delete(&[&key]).await);
                format!("{saved} {got} {deleted} {}", content(&store, &key).await)
            }
            .boxed()
        }));
    }
    for text in ["", " ", "||", "a||b", "a||7", "\0", "ключ\n✓"] {
        let expected = format!("Ok {}", if text.is_empty() { "empty" } else { text });
        rows.push(row::<Groups>(format!("content {text:?}"), &expected, move |subject, key| {
            async move {
                let store = subject.group("");
                format!("{} {}", said(store.save(&[(key, text)]).await), content(&store, key).await)
            }
            .boxed()
        }));
    }
    for group in [" ", "\t", "ключ", "a.b", "a|b", "x y"] {
        rows.push(row::<Groups>(format!("group {group:?}"), "Ok v", move |subject, key| {
            async move {
                let store = subject.group(group);
                format!("{} {}", said(store.save(&[(key, "v")]).await), content(&store, key).await)
            }
            .boxed()
        }));
    }
    rows.push(row::<Groups>("no key", "InvalidArgument InvalidArgument InvalidArgument", |subject, _| {
        async move {
            let store = subject.group("");
            let got = said(store.get(&[""]).await.map(drop));
            format!("{} {got} {}", said(store.save(&[("", "v")]).await), said(store.delete(&[""]).await))
        }
        .boxed()
    }));
    rows.push(row::<Groups>("a key twice in a save", "Ok 2", |subject, key| {
        async move {
            let store = subject.group("");
            format!("{} {}", said(store.save(&[(key, "1"), (key, "2")]).await), content(&store, key).await)
        }
        .boxed()
    }));
    rows.push(row::<Groups>("a key twice in a read", "1 item", |subject, key| {
        async move {
            let store = subject.group("");
            store.save(&[(key, "v")]).await.unwrap();
            format!("{} item", store.get(&[key, key]).await.unwrap().len())
        }
        .boxed()
    }));
    rows.push(row::<Groups>("a key twice in a removal", "Ok nothing", |subject, key| {
        async move {
            let store = subject.group("");
            store.save(&[(key, "v")]).await.unwrap();
            format!("{} {}", said(store.delete(&[key, key]).await), content(&store, key).await)
        }
        .boxed()
    }));
    rows.push(row::<Groups>("nothing in a save and a removal", "Ok Ok", |subject, _| {
        async move {
            let store = subject.group("");
            format!("{} {}", said(store.save(&[]).await), said(store.delete(&[]).await))
        }
        .boxed()
    }));
    rows
}

/// A store of configuration of which each row takes the group that it wants.
struct Groups {
    client: Client,
    component: &'static str,
}

impl Groups {
    fn group(&self, group: &str) -> Configuration {
        Configuration::new(self.client.clone(), self.component, group)
    }
}

async fn content(store: &Configuration, key: &str) -> String {
    match store.get(&[key]).await {
        Ok(items) => match items.first() {
            None => "nothing".to_owned(),
            Some((_, content)) if content.is_empty() => "empty".to_owned(),
            Some((_, content)) => content.clone(),
        },
        Err(status) => format!("{:?}", status.code()),
    }
}

const CONFIGURATION_DIFFERENCES: &[Difference] = &[
    (
        "key \"a/b\"",
        "etcd",
        "InvalidArgument InvalidArgument InvalidArgument InvalidArgument",
        "keys in etcd have / between their parts",
    ),
    ("key \"/\"", "etcd", "InvalidArgument InvalidArgument InvalidArgument InvalidArgument", "the same"),
];

#[tokio::test]
async fn configuration() {
    let worlds = [
        drivers::configuration_in_memory().await,
        drivers::configuration_redis().await,
        drivers::configuration_etcd().await,
    ];
    let mut stores = Vec::new();
    for (name, world) in ["in-memory", "redis", "etcd"].into_iter().zip(&worlds) {
        let client = world.envoy.client(Dialect::Layotto).await;
        stores.push((name, Groups { client, component: world.component }));
    }
    try_all(&stores, configuration_rows(), CONFIGURATION_DIFFERENCES).await;
    finish(&worlds).await;
}

// ---- Secrets ----

/// A secret store.
struct Secrets {
    client: Client,
    component: &'static str,
}

impl Secrets {
    async fn get(&self, name: &str) -> String {
        let request = envoy_runtime_proto::dapr::runtime::v1::GetSecretRequest {
            store_name: self.component.to_owned(),
            key: name.to_owned(),
            ..Default::default()
        };
        match self.client.get_secret(request).await {
            Ok(answer) if answer.data.iter().eq([(&name.to_owned(), &String::new())]) => "an empty value".to_owned(),
            Ok(answer) => format!("{:?}", answer.data),
            Err(status) if status.code() == Code::Internal && status.message().contains("not found") => {
                "not found".to_owned()
            }
            Err(status) => format!("{:?}", status.code()),
        }
    }
}

fn secret_rows() -> Vec<Row<Secrets>> {
    let mut rows: Vec<Row<Secrets>> = vec![
        row::<Secrets>("a secret", r#"{"there": "v"}"#, |secrets, _| async move { secrets.get("there").await }.boxed()),
        row::<Secrets>("an empty secret", "an empty value", |secrets, _| {
            async move { secrets.get("empty").await }.boxed()
        }),
    ];
    for name in ["", "gone"].map(str::to_owned).into_iter().chain(NAMES.map(str::to_owned)).chain(["k".repeat(2_000)]) {
        let shown: String = name.chars().take(20).collect();
        rows.push(row::<Secrets>(format!("name {shown:?}"), "not found", move |secrets, _| {
            let name = name.clone();
            async move { secrets.get(&name).await }.boxed()
        }));
    }
    rows
}

const SECRETS_DIFFERENCES: &[Difference] = &[
    ("name", "env", "an empty value", "as with both incumbents: a variable that is not set is an empty one"),
    ("name \"\"", "vault", "InvalidArgument", "a path without names would list the folder"),
    ("name \"/\"", "vault", "InvalidArgument", "the same"),
    ("name \"..\"", "vault", "InvalidArgument", "it would lead out of the folder of the app"),
    ("name \"\"", "kubernetes", "Internal", "a path without a name would list all secrets"),
];

#[tokio::test]
async fn secrets() {
    let scratch = scratch::directory("odd-secrets");
    let path = scratch.path().join("secrets.json");
    std::fs::write(&path, r#"{"there": "v", "empty": ""}"#).unwrap();
    let vault = Vault::start(vault::Options::default()).await;
    vault.put("dapr/there", &[("there", "v")]);
    vault.put("dapr/empty", &[("empty", "")]);
    vault.add_token("token", &["secret/"]);
    let kubernetes = Kubernetes::start(kubernetes::Options { tls: true }).await;
    kubernetes.put("default", "there", &[("there", "v")]);
    kubernetes.put("default", "empty", &[("empty", "")]);
    kubernetes.add_token("account", "app", &["default"]);
    let config = Config::new("orders")
        .variable("ODD_there", "v")
        .variable("ODD_empty", "")
        .component("file", "secretstores.local.file", &[("secretsFile", path.to_str().unwrap())])
        .component("env", "secretstores.local.env", &[("prefix", "ODD_")])
        .component(
            "vault",
            "secretstores.hashicorp.vault",
            &[("vaultAddr", &vault.server.url()), ("vaultToken", "token")],
        )
        .component(
            "kubernetes",
            "secretstores.kubernetes",
            &[
                ("server", &kubernetes.server.url()),
                ("caCert", kubernetes.service_account().join("ca.crt").to_str().unwrap()),
                ("token", "account"),
            ],
        );
    let envoy = Envoy::start(config).await;
    let client = envoy.client(Dialect::Dapr).await;
    let drivers = ["file", "env", "vault", "kubernetes"]
        .map(|component| (component, Secrets { client: client.clone(), component }));
    try_all(&drivers, secret_rows(), SECRETS_DIFFERENCES).await;
    envoy.assert_no_filter_crashed().await;
}
