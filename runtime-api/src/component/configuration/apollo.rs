//! Configuration in Apollo, the configuration centre, as Layotto's apollo store keeps it:
//!
//! - A group is a namespace of Apollo. An item is `<key>`, or with a label `<key>@$<label>`.
//! - Tags are JSON objects in the namespace `sidecar_config_tags`, under `<group>@$<key>[@$<label>]`.
//!
//! What was released is read from the config service and watched there by a long poll; what is saved is changed and
//! released by the Portal's open API.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;

use async_trait::async_trait;
use futures::future::{Either, select, try_join};

use super::{Error, Feed, Item, Metadata, Selection, Store, Topic};
use crate::component::{Block, Build, Driver, Environment, Protocol, Tls, Upstream, V1};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::protocol::apollo::{self, Account, Client, Items, Polls, Release, Released, Site};
use crate::protocol::http::{Server, server};

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "configuration.apollo",
    block: Block::Configuration,
    meaning: "Apollo, the configuration centre; items are interchangeable with Layotto's.",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check,
    upstreams,
    build: Build::Configuration(|environment| Rc::new(Apollo::new(environment))),
};

const ADDRESS: &str = "address";
const PORTAL: &str = "open_api_address";
const NAMESPACES: &str = "namespace_name";

const FIELDS: &[Field] = &[
    Field::required(ADDRESS, Kind::Text, "the URL of the config service; several that are alike with commas between"),
    Field::required("app_id", Kind::Text, "the app, as Apollo knows it"),
    Field::default("cluster", Kind::Text, "default", "the cluster of the app, as Apollo knows it"),
    Field::default(NAMESPACES, Kind::Text, "application", "the namespaces that are served, with commas between"),
    Field::default("env", Kind::Text, "DEV", "the environment, as the Portal names it"),
    Field::optional("secret", Kind::Secret, "an access key of the app; absent: it has none"),
    Field::required(PORTAL, Kind::Text, "the URL of the Portal"),
    Field::required("open_api_token", Kind::Secret, "the token for the Portal's open API"),
    Field::required("open_api_user", Kind::Text, "the user of the Portal in whose name items are changed"),
    Field::optional("caCert", Kind::Text, "the file of the authorities to trust; absent: the system's"),
    Field::optional(
        "is_backup_config",
        Kind::Ignored("a filter writes no files: nothing is read while Apollo is away"),
        "whether to keep a copy of the configuration in a file",
    ),
];

/// The namespace of Apollo that a call without a group means.
const APPLICATION: &str = "application";
/// The namespace with the tags of all others.
const TAGS: &str = "sidecar_config_tags";
/// Between the parts of a key.
const SEPARATOR: &str = "@$";

/// The servers of a field, all alike; `None` for another text.
fn servers(settings: &Settings, field: &str) -> Option<Vec<Server>> {
    let servers: Option<Vec<Server>> = list(settings, field).map(server).collect();
    let servers = servers?;
    let first = servers.first()?;
    servers.iter().all(|it| it.tls == first.tls && it.base == first.base).then_some(servers)
}

/// The parts of a field between commas.
fn list<'a>(settings: &'a Settings, field: &str) -> impl Iterator<Item = &'a str> {
    settings.text(field).unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// The namespaces that are served. The format `properties` may be written or not.
fn namespaces(settings: &Settings) -> Vec<String> {
    list(settings, NAMESPACES).map(|name| name.strip_suffix(".properties").unwrap_or(name).to_owned()).collect()
}

fn check(settings: &Settings, path: &Path, report: &mut Report) {
    for (field, example) in [(ADDRESS, "http://apollo-configservice:8080"), (PORTAL, "http://apollo-portal:8070")] {
        if settings.text(field).is_some() && servers(settings, field).is_none() {
            let text = format!("a URL such as {example} is expected, or several that differ in host and port alone");
            report.error(path.field(field), text);
        }
    }
    if namespaces(settings).iter().any(|name| name == TAGS) {
        report.error(path.field(NAMESPACES), format!("{TAGS} is where tags are kept: it is no namespace of items"));
    }
}

fn upstreams(settings: &Settings) -> Vec<Upstream> {
    let upstream = |(suffix, field): (&str, &str)| {
        let servers = servers(settings, field)?;
        let first = servers.first()?;
        let ca_file = settings.text("caCert").map(str::to_owned);
        let tls = first.tls.then(|| Tls { server_name: first.host.clone(), ca_file, certificate: None });
        let endpoints = servers.into_iter().map(|server| (server.host, server.port)).collect();
        Some(Upstream { suffix: suffix.to_owned(), protocol: Protocol::Http1, endpoints, tls })
    };
    [("", ADDRESS), ("portal", PORTAL)].into_iter().filter_map(upstream).collect()
}

/// A store of configuration in Apollo.
#[derive(Debug)]
pub struct Apollo {
    client: Client,
    /// The app of this runtime, and as Apollo knows it.
    apps: [String; 2],
    namespaces: Vec<String>,
    polls: RefCell<Polls>,
}

/// What was released, by namespace.
type Known = BTreeMap<String, Release>;

impl Apollo {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, limits, app_id, .. } = environment;
        let settings = &component.settings;
        let text = |field| settings.text(field).unwrap_or_default().to_owned();
        let site = |field, cluster| {
            let first = servers(settings, field).and_then(|servers| servers.into_iter().next());
            Site { cluster, server: first.unwrap_or_default() } // it has been checked
        };
        let account = Account {
            app: text("app_id"),
            cluster: text("cluster"),
            environment: text("env"),
            secret: settings.text("secret").map(str::to_owned),
            token: text("open_api_token"),
            operator: text("open_api_user"),
        };
        let namespaces = namespaces(settings);
        let (config, portal) = (component.cluster.clone(), component.cluster_of("portal"));
        let apps = [app_id.clone(), account.app.clone()];
        let polls = Polls::new(namespaces.iter().map(String::as_str).chain([TAGS]));
        let (config, portal) = (site(ADDRESS, config), site(PORTAL, portal));
        let client = Client::new(Rc::clone(proxy), config, portal, account, limits.timeout);
        Self { client, apps, namespaces, polls: RefCell::new(polls) }
    }

    /// Refuses what cannot be here.
    fn check(&self, app: &str, group: &str) -> Result<(), Error> {
        let [own, apollos] = &self.apps;
        if app != own && app != apollos {
            return Err(Error::Invalid(format!(
                "the app {app:?} is not the one that app_id of this store names, {apollos:?}; another app needs a store \
                 of its own"
            )));
        }
        if !self.namespaces.iter().any(|name| name == group) {
            let configured = self.namespaces.join(", ");
            return Err(Error::Invalid(format!(
                "the group {group:?} is none of the namespaces that {NAMESPACES} of this store lists: {configured}"
            )));
        }
        Ok(())
    }

    /// What was released last of a namespace.
    async fn read(&self, namespace: &str) -> Result<Items, Error> {
        match self.client.released(namespace, "", "").await? {
            Released::Now(release) => Ok(release.configurations),
            Released::AsKnown | Released::Nothing => Ok(Items::new()),
        }
    }

    /// One attempt at watching.
    async fn attend(&self, feed: &Feed) -> Result<Infallible, Error> {
        let mut known = Known::new();
        self.polls.borrow_mut().hand_over();
        let mut next = Either::Left(feed.wanted().await);
        loop {
            match next {
                Either::Left(wanted) => {
                    let mut changed = BTreeSet::new();
                    let mut namespaces: BTreeSet<&str> = wanted.added.iter().map(|topic| &*topic.group).collect();
                    if !namespaces.is_empty() {
                        namespaces.insert(TAGS);
                    }
                    for namespace in namespaces {
                        self.refresh(&mut known, &mut changed, namespace, "").await?;
                    }
                    tell(feed, &known, &changed, &wanted.added);
                    feed.cover(&wanted);
                }
                Either::Right(news) => {
                    let mut changed = BTreeSet::new();
                    for apollo::News { namespace, messages } in news {
                        self.refresh(&mut known, &mut changed, &namespace, &messages).await?;
                    }
                    tell(feed, &known, &changed, &[]);
                }
            }
            next = match select(Box::pin(feed.wanted()), Box::pin(self.client.news(&self.polls))).await {
                Either::Left((wanted, _)) => Either::Left(wanted),
                Either::Right((news, _)) => Either::Right(news?),
            };
        }
    }

    /// Brings what is known of a namespace up to date.
    async fn refresh(
        &self,
        known: &mut Known,
        changed: &mut BTreeSet<String>,
        namespace: &str,
        messages: &str,
    ) -> Result<(), Error> {
        let release = known.get(namespace).map(|release| release.release_key.clone()).unwrap_or_default();
        let is_new = match self.client.released(namespace, &release, messages).await? {
            Released::AsKnown => false,
            Released::Nothing => known.remove(namespace).is_some(),
            Released::Now(release) => {
                known.insert(namespace.to_owned(), release);
                true
            }
        };
        if is_new {
            changed.insert(namespace.to_owned());
        }
        Ok(())
    }
}

/// Tells what is there now of the topics that something changed in, and of those that are new.
fn tell(feed: &Feed, known: &Known, changed: &BTreeSet<String>, added: &[Rc<Topic>]) {
    let none = Items::new();
    let values = |namespace: &str| known.get(namespace).map_or(&none, |release| &release.configurations);
    let added: BTreeSet<&Rc<Topic>> = added.iter().collect();
    for topic in feed.topics() {
        if changed.contains(&topic.group) || changed.contains(TAGS) || added.contains(&topic) {
            let keys = topic.key.as_ref().map(std::slice::from_ref);
            feed.read(&topic, items(values(&topic.group), values(TAGS), &topic.group, &topic.label, keys));
        }
    }
}

/// The items of a group and label; of all keys if none are given.
fn items(values: &Items, tags: &Items, group: &str, label: &str, keys: Option<&[String]>) -> Vec<Item> {
    let item = |name: &str, key: &str, content: &str| {
        let tags = tags.get(&tags_name(group, name)).and_then(|tags| serde_json::from_str(tags).ok());
        Item {
            key: key.to_owned(),
            content: content.to_owned(),
            group: group.to_owned(),
            label: label.to_owned(),
            tags: tags.unwrap_or_default(),
            ..Item::default()
        }
    };
    let Some(keys) = keys else {
        let labelled = |(name, content): (&String, &String)| {
            let (key, its_label) = name.split_once(SEPARATOR).unwrap_or((name, ""));
            (its_label == label).then(|| item(name, key, content))
        };
        return values.iter().filter_map(labelled).collect();
    };
    let found = |key: &String| {
        let name = name(key, label);
        values.get(&name).map(|content| item(&name, key, content))
    };
    keys.iter().filter_map(found).collect()
}

/// What an item is called in its namespace.
fn name(key: &str, label: &str) -> String {
    if label.is_empty() { key.to_owned() } else { [key, SEPARATOR, label].concat() }
}

/// What the tags of an item are called in theirs.
fn tags_name(group: &str, name: &str) -> String {
    [group, SEPARATOR, name].concat()
}

/// A key must be told apart from a label.
fn separable(key: &str) -> Result<(), Error> {
    if key.contains(SEPARATOR) {
        return Err(Error::Invalid(format!("the key {key:?} has {SEPARATOR:?} in it, which stands before a label")));
    }
    Ok(())
}

#[async_trait(?Send)]
impl Store for Apollo {
    fn default_group(&self) -> &str {
        APPLICATION
    }

    fn default_label(&self) -> &'static str {
        ""
    }

    async fn get(&self, wanted: &Selection) -> Result<Vec<Item>, Error> {
        let Selection { group, label, keys, .. } = wanted;
        self.accepts(wanted)?;
        let (values, tags) = try_join(self.read(group), self.read(TAGS)).await?;
        Ok(items(&values, &tags, group, label, (!keys.is_empty()).then_some(keys)))
    }

    async fn save(&self, app: &str, items: Vec<Item>, _: &Metadata) -> Result<(), Error> {
        // An item that is there twice: the last counts.
        let mut groups: BTreeMap<String, BTreeMap<String, Item>> = BTreeMap::new();
        for item in items {
            self.check(app, &item.group)?;
            separable(&item.key)?;
            groups.entry(item.group.clone()).or_default().insert(name(&item.key, &item.label), item);
        }
        let before = self.client.edited(TAGS).await?;
        if before.is_none() && groups.values().flat_map(BTreeMap::values).any(|item| !item.tags.is_empty()) {
            self.client.create(TAGS).await?;
        }
        let before = before.unwrap_or_default();
        let mut tags_changed = false;
        for (group, items) in &groups {
            for (name, item) in items {
                self.client.put(group, name, &item.content).await?;
                let tags = tags_name(group, name);
                if !item.tags.is_empty() {
                    let json = serde_json::to_string(&item.tags).unwrap_or_default();
                    self.client.put(TAGS, &tags, &json).await?;
                    tags_changed = true;
                } else if before.contains_key(&tags) {
                    tags_changed |= self.client.remove(TAGS, &tags).await?;
                }
            }
        }
        let title = format!("saved by {app}");
        // First, so that a new item is told with its tags.
        if tags_changed {
            self.client.release(TAGS, &title).await?;
        }
        for group in groups.keys() {
            self.client.release(group, &title).await?;
        }
        Ok(())
    }

    async fn delete(&self, gone: &Selection) -> Result<(), Error> {
        let Selection { app, group, label, keys, .. } = gone;
        self.accepts(gone)?;
        let names: Vec<String> = keys.iter().map(|key| name(key, label)).collect();
        let before = self.client.edited(TAGS).await?.unwrap_or_default();
        let (mut changed, mut tags_changed) = (false, false);
        for name in &names {
            changed |= self.client.remove(group, name).await?;
            let tags = tags_name(group, name);
            if before.contains_key(&tags) {
                tags_changed |= self.client.remove(TAGS, &tags).await?;
            }
        }
        if !changed {
            // It may have been removed by a call that did not come to releasing it.
            let released = self.client.last_release(group).await?;
            changed = names.iter().any(|name| released.contains_key(name));
        }
        let title = format!("removed by {app}");
        if changed {
            self.client.release(group, &title).await?;
        }
        if tags_changed {
            self.client.release(TAGS, &title).await?;
        }
        Ok(())
    }

    fn accepts(&self, wanted: &Selection) -> Result<(), Error> {
        self.check(&wanted.app, &wanted.group)?;
        wanted.keys.iter().try_for_each(|key| separable(key))
    }

    async fn watch(&self, feed: &Feed) -> Error {
        match self.attend(feed).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }
}

impl From<apollo::Error> for Error {
    fn from(error: apollo::Error) -> Self {
        match error {
            apollo::Error::Invalid(text) => Self::Invalid(text),
            apollo::Error::Unavailable(text) => Self::Unavailable(text),
            apollo::Error::Failed(text) => Self::Failed(text),
        }
    }
}
