//! Configuration.

use futures::FutureExt;
use integration_tests::apollo::{self, Apollo};
use integration_tests::conformance::drivers;
use integration_tests::{Client, Config, Configuration, Dialect, Envoy};

use crate::{Difference, NAMES, Row, finish, row, said, try_all};

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
    for group in GROUPS {
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
    (
        "key \"kkkk",
        "apollo",
        "InvalidArgument nothing Ok nothing",
        "Apollo takes keys of 128 characters, and reads and removes longer ones as what is not there",
    ),
];

/// Groups that an app may take; in Apollo each is a namespace that somebody has made.
const GROUPS: [&str; 6] = [" ", "\t", "ключ", "a.b", "a|b", "x y"];

/// An Envoy with a store in Apollo, which has the namespaces that a name in a list can have.
async fn with_apollo() -> (Apollo, Envoy) {
    let apollo = Apollo::start(apollo::Options::default()).await;
    let groups: Vec<&str> =
        ["application"].into_iter().chain(GROUPS.into_iter().filter(|it| it.trim() == *it)).collect();
    for group in &groups {
        apollo.create_namespace("shop", group);
    }
    let metadata = [
        ("address", apollo.config.url()),
        ("app_id", "shop".to_owned()),
        ("namespace_name", groups.join(",")),
        ("open_api_address", apollo.portal.url()),
        ("open_api_token", apollo::TOKEN.to_owned()),
        ("open_api_user", apollo::OPERATOR.to_owned()),
    ];
    let metadata = metadata.each_ref().map(|(name, value)| (*name, value.as_str()));
    let envoy = Envoy::start(Config::new("shop").component("config", "configuration.apollo", &metadata)).await;
    (apollo, envoy)
}

#[tokio::test]
async fn the_drivers_of_configuration_agree() {
    let worlds = [
        drivers::configuration_in_memory().await,
        drivers::configuration_redis().await,
        drivers::configuration_etcd().await,
    ];
    let (_apollo, envoy) = with_apollo().await;
    let mut stores = Vec::new();
    for (name, world) in ["in-memory", "redis", "etcd"].into_iter().zip(&worlds) {
        let client = world.envoy.client(Dialect::Layotto).await;
        stores.push((name, Groups { client, component: world.component }));
    }
    stores.push(("apollo", Groups { client: envoy.client(Dialect::Layotto).await, component: "config" }));
    try_all(&stores, configuration_rows(), CONFIGURATION_DIFFERENCES).await;
    finish(&worlds).await;
    envoy.assert_no_filter_crashed().await;
}
