//! A stand-in for Apollo, the configuration centre: its config service, which apps read and poll, and its Portal, which
//! they write to. It follows the controllers of Apollo 2.x (the packages `configservice` and `openapi.v1`);
//! `tests/servers_apollo.rs` holds it against Apollo's own clients for Java. Every app and every cluster exists, there
//! is one environment, and left out are public namespaces of other apps, gray releases, incremental synchronisation and
//! permissions of a token for single namespaces.

#![allow(clippy::result_large_err, reason = "an answer is an answer")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::stand_in::{Answer, Parts, Received, StandIn, empty, header, json, now};

/// The environment that the Portal knows.
pub const ENVIRONMENT: &str = "DEV";
/// The token with which the Portal lets everything happen.
pub const TOKEN: &str = "portal-token";
/// A token with which the Portal lets only reading happen.
pub const READ_ONLY_TOKEN: &str = "portal-token-without-rights";
/// The user that the Portal knows, to be named by whoever writes.
pub const OPERATOR: &str = "apollo";

/// How the servers are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// An access key: the config service wants every request of every app signed with it.
    pub secret: Option<&'static str>,
    /// After how long without news a poll ends with 304.
    pub poll_timeout: Duration,
    /// Whether both servers speak TLS, and nothing else.
    pub tls: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { secret: None, poll_timeout: Duration::from_mins(1), tls: false }
    }
}

/// Both servers. They know the same, and each can be stopped, be late, and be cut off by itself.
#[derive(Debug)]
pub struct Apollo {
    /// What apps read from and poll.
    pub config: StandIn,
    /// What changes and releases.
    pub portal: StandIn,
    center: Arc<Center>,
}

/// The same namespace of a cluster of an app: app, cluster, namespace.
type Place = (String, String, String);

#[derive(Debug)]
struct Center {
    options: Options,
    config_url: Mutex<String>,
    content: Mutex<Content>,
    /// How many releases and wake-ups there were.
    news: watch::Sender<u64>,
    /// How often all polls were sent home.
    endings: watch::Sender<u64>,
    polls: AtomicUsize,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Content {
    /// What is created by name; `application` is there without.
    namespaces: BTreeSet<(String, String)>,
    /// As edited, released or not.
    items: BTreeMap<Place, BTreeMap<String, String>>,
    releases: BTreeMap<Place, Release>,
    /// The last id of a message about each place.
    messages: BTreeMap<Place, u64>,
    last_id: u64,
}

#[derive(Clone, Debug)]
struct Release {
    id: u64,
    key: String,
    title: String,
    comment: String,
    author: String,
    configurations: BTreeMap<String, String>,
}

impl Apollo {
    /// Starts both.
    pub async fn start(options: Options) -> Self {
        let tls = options.tls;
        let center = Arc::new(Center {
            options,
            config_url: Mutex::default(),
            content: Mutex::default(),
            news: watch::Sender::new(0),
            endings: watch::Sender::new(0),
            polls: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        let (for_config, for_portal) = (center.clone(), center.clone());
        let config = StandIn::start(tls, move |request| for_config.clone().serve_config(request)).await;
        let portal = StandIn::start(tls, move |request| {
            let answer = for_portal.serve_portal(&request);
            async move { answer.unwrap_or_else(|failure| failure) }
        })
        .await;
        *center.config_url.lock().unwrap() = config.url() + "/";
        Self { config, portal, center }
    }

    /// Makes a namespace known. `application` always is.
    pub fn create_namespace(&self, app: &str, namespace: &str) {
        self.center.content.lock().unwrap().namespaces.insert((app.into(), namespace.into()));
    }

    /// Makes these the items of a namespace, which comes to be where it is not, and releases them.
    pub fn publish(&self, app: &str, cluster: &str, namespace: &str, items: &[(&str, &str)]) {
        self.create_namespace(app, namespace);
        let items = items.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        self.center.content.lock().unwrap().items.insert(place(app, cluster, namespace), items);
        self.release(app, cluster, namespace);
    }

    /// Releases a namespace as it was edited.
    pub fn release(&self, app: &str, cluster: &str, namespace: &str) {
        self.center.release(&place(app, cluster, namespace), "by the test", "", OPERATOR);
    }

    /// The items of a namespace as edited, released or not.
    pub fn items(&self, app: &str, cluster: &str, namespace: &str) -> BTreeMap<String, String> {
        let content = self.center.content.lock().unwrap();
        content.items.get(&place(app, cluster, namespace)).cloned().unwrap_or_default()
    }

    /// The items of the last release of a namespace; `None` before the first.
    pub fn released(&self, app: &str, cluster: &str, namespace: &str) -> Option<BTreeMap<String, String>> {
        let content = self.center.content.lock().unwrap();
        content.releases.get(&place(app, cluster, namespace)).map(|release| release.configurations.clone())
    }

    /// How many polls there were so far.
    pub fn polls(&self) -> usize {
        self.center.polls.load(Ordering::SeqCst)
    }

    /// How many polls wait for news now.
    pub fn waiting_polls(&self) -> usize {
        self.center.waiting.load(Ordering::SeqCst)
    }

    /// Answers the polls that wait with 304, as when their time is over.
    pub fn end_polls(&self) {
        self.center.endings.send_modify(|endings| *endings += 1);
    }
}

fn place(app: &str, cluster: &str, namespace: &str) -> Place {
    (app.into(), cluster.into(), namespace.into())
}

/// `Signature.signature` of Apollo: what follows `Apollo <app>:` in the header `Authorization`.
pub fn signature(secret: &str, timestamp: &str, path_and_query: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    BASE64_STANDARD.encode(hmac::sign(&key, format!("{timestamp}\n{path_and_query}").as_bytes()))
}

// The config service.

impl Center {
    async fn serve_config(self: Arc<Self>, request: Received) -> Answer {
        let parts = Parts::of(&request);
        let path = parts.path();
        if parts.method != "GET" {
            return refused(405, "Method Not Allowed", "", &request);
        }
        if path == ["services", "config"] {
            let url = self.config_url.lock().unwrap().clone();
            let instance = format!("localhost:apollo-configservice:{}", url.trim_end_matches('/'));
            let service = json!({"appName": "APOLLO-CONFIGSERVICE", "instanceId": instance, "homepageUrl": url});
            return json(200, &json!([service]));
        }
        let app = match path[..] {
            ["configs", app, _, _] | ["configfiles", "json", app, _, _] => app,
            ["notifications", "v2"] => parts.parameter("appId"),
            _ => return refused(404, "Not Found", "", &request),
        };
        if app.is_empty() {
            return refused(400, "Bad Request", "InvalidAppId", &request);
        }
        if let Err(message) = self.check_signature(&request) {
            return refused(401, "Unauthorized", message, &request);
        }
        match path[..] {
            ["configs", app, cluster, namespace] => {
                let Some((cluster_found, release)) = self.find(app, cluster, strip(namespace)) else {
                    let message = format!(
                        "Could not load configurations with appId: {app}, clusterName: {cluster}, namespace: {namespace}"
                    );
                    return refused(404, "Not Found", &message, &request);
                };
                if parts.parameter("releaseKey") == release.key {
                    return empty(304);
                }
                json(
                    200,
                    &json!({
                        "appId": app,
                        "cluster": cluster_found,
                        "namespaceName": namespace,
                        "configurations": release.configurations,
                        "releaseKey": release.key,
                    }),
                )
            }
            ["configfiles", "json", app, cluster, namespace] => match self.find(app, cluster, strip(namespace)) {
                Some((_, release)) => json(200, &json!(release.configurations)),
                None => empty(404),
            },
            _ => self.poll(app, &parts).await,
        }
    }

    /// `ClientAuthenticationFilter`
    fn check_signature(&self, request: &Received) -> Result<(), &'static str> {
        let Some(secret) = self.options.secret else { return Ok(()) };
        let timestamp = header(request, "timestamp");
        let now = jiff::Timestamp::now().as_millisecond();
        if timestamp.parse().is_ok_and(|then: i64| now.abs_diff(then) < 60_000) {
            let expected = signature(secret, timestamp, request.uri().path_and_query().unwrap().as_str());
            let given = header(request, "authorization").split(':').nth(1);
            if given == Some(&expected) { Ok(()) } else { Err("Unauthorized") }
        } else {
            Err("RequestTimeTooSkewed")
        }
    }

    /// The release for a cluster, or else for the cluster `default`, with the cluster that it is of.
    fn find(&self, app: &str, cluster: &str, namespace: &str) -> Option<(String, Release)> {
        let content = self.content.lock().unwrap();
        [cluster, "default"].into_iter().find_map(|cluster| {
            content.releases.get(&place(app, cluster, namespace)).map(|release| (cluster.to_owned(), release.clone()))
        })
    }

    /// `NotificationControllerV2`
    async fn poll(&self, app: &str, parts: &Parts) -> Answer {
        let cluster = parts.parameter("cluster");
        let text = parts.parameter("notifications");
        let known: Vec<(String, i64)> = serde_json::from_str::<Value>(text)
            .ok()
            .and_then(|known| {
                known
                    .as_array()?
                    .iter()
                    .map(|one| {
                        Some((strip(one["namespaceName"].as_str()?).to_owned(), one["notificationId"].as_i64()?))
                    })
                    .collect()
            })
            .unwrap_or_default();
        if known.is_empty() {
            return failed(400, "BadRequestException", &format!("invalid notifications format:{text}"));
        }
        self.polls.fetch_add(1, Ordering::SeqCst);
        let mut news = self.news.subscribe();
        let mut endings = self.endings.subscribe();
        let end = Instant::now() + self.options.poll_timeout;
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let notifications = self.notifications(app, cluster, &known);
            if !notifications.is_empty() {
                return json(200, &Value::Array(notifications));
            }
            tokio::select! {
                changed = timeout_at(end, news.changed()) => if changed.is_err() { return empty(304) },
                _ = endings.changed() => return empty(304),
            }
        }
    }

    fn notifications(&self, app: &str, cluster: &str, known: &[(String, i64)]) -> Vec<Value> {
        let content = self.content.lock().unwrap();
        let clusters = BTreeSet::from([cluster, "default"]);
        let news = known.iter().filter_map(|(namespace, known)| {
            let messages: BTreeMap<String, u64> = clusters
                .iter()
                .filter_map(|cluster| Some((cluster, *content.messages.get(&place(app, cluster, namespace))?)))
                .map(|(cluster, id)| (format!("{app}+{cluster}+{namespace}"), id))
                .collect();
            let latest = *messages.values().max()?;
            (i64::try_from(latest).unwrap() > *known).then(
                || json!({"namespaceName": namespace, "notificationId": latest, "messages": {"details": messages}}),
            )
        });
        news.collect()
    }

    fn release(&self, place: &Place, title: &str, comment: &str, author: &str) -> Release {
        let mut content = self.content.lock().unwrap();
        content.last_id += 1;
        let id = content.last_id;
        let configurations = content.items.get(place).cloned().unwrap_or_default();
        let key = format!("{}-{id:016x}", jiff::Timestamp::now().strftime("%Y%m%d%H%M%S"));
        let [title, comment, author] = [title, comment, author].map(str::to_owned);
        let release = Release { id, key, title, comment, author, configurations };
        content.releases.insert(place.clone(), release.clone());
        content.messages.insert(place.clone(), id);
        drop(content);
        self.news.send_modify(|news| *news += 1);
        release
    }
}

/// Counts a poll as long as it waits: also until the client goes away.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The name of a namespace without the suffix that the format `properties` may have.
fn strip(namespace: &str) -> &str {
    namespace.strip_suffix(".properties").unwrap_or(namespace)
}

/// What a servlet's `sendError` becomes.
fn refused(status: u16, error: &str, message: &str, request: &Received) -> Answer {
    let path = request.uri().path();
    json(status, &json!({"timestamp": now(), "status": status, "error": error, "message": message, "path": path}))
}

/// What `GlobalDefaultExceptionHandler` makes of an exception.
fn failed(status: u16, exception: &str, message: &str) -> Answer {
    let exception = format!("com.ctrip.framework.apollo.common.exception.{exception}");
    json(status, &json!({"status": status, "message": message, "timestamp": now(), "exception": exception}))
}

// The Portal.

impl Center {
    fn serve_portal(&self, request: &Received) -> Result<Answer, Answer> {
        let parts = Parts::of(request);
        let path = parts.path();
        let token = header(request, "authorization");
        if ![TOKEN, READ_ONLY_TOKEN].contains(&token) {
            return Err(refused(401, "Unauthorized", "Unauthorized", request));
        }
        if token == READ_ONLY_TOKEN && parts.method != "GET" {
            return Err(failed(403, "AccessDeniedException", "Access is denied"));
        }
        let not_there = || refused(404, "Not Found", "", request);
        match path[..] {
            ["openapi", "v1", "apps", _, "envclusters"] => {
                Ok(json(200, &json!([{"env": ENVIRONMENT, "clusters": ["default"]}])))
            }
            ["openapi", "v1", "apps", app, "appnamespaces"] => self.create_app_namespace(app, &parts),
            [
                "openapi",
                "v1",
                "envs",
                environment,
                "apps",
                app,
                "clusters",
                cluster,
                "namespaces",
                namespace,
                ref rest @ ..,
            ] => {
                if environment != ENVIRONMENT {
                    return Err(failed(500, "ServiceException", &format!("{environment} not exist")));
                }
                let place = place(app, cluster, namespace);
                match (parts.method.as_str(), rest) {
                    ("GET", []) => self.namespace(&place),
                    ("GET", ["items"]) => self.page_of_items(&place, &parts),
                    ("POST", ["items"]) => self.create_item(&place, &parts),
                    ("GET", ["releases", "latest"]) => Ok(self.latest_release(&place)),
                    ("POST", ["releases"]) => self.create_release(&place, &parts),
                    (method, ["items", key]) => self.item(method, &place, key, &parts),
                    (method, ["encodedItems", key]) => {
                        let key = BASE64_STANDARD.decode(key).ok().and_then(|key| String::from_utf8(key).ok());
                        self.item(method, &place, &key.ok_or_else(not_there)?, &parts)
                    }
                    _ => Err(not_there()),
                }
            }
            _ => Err(not_there()),
        }
    }

    fn create_app_namespace(&self, app: &str, parts: &Parts) -> Result<Answer, Answer> {
        if parts.field("appId") != app {
            let given = parts.body["appId"].as_str().unwrap_or("null");
            return Err(bad(&format!("AppId not equal. AppId in path = {app}, AppId in payload = {given}")));
        }
        let (name, format) = (parts.field("name"), parts.field("format"));
        if name.is_empty() {
            return Err(bad("request payload should not be contain empty."));
        }
        if !["properties", "xml", "json", "yml", "yaml", "txt"].contains(&format) {
            return Err(bad(&format!("invalid namespace format:{format}")));
        }
        known_operator(parts.field("dataChangeCreatedBy"))?;
        let namespace = if format == "properties" { name.to_owned() } else { format!("{name}.{format}") };
        let mut content = self.content.lock().unwrap();
        let is_default = namespace == "application";
        if is_default || !content.namespaces.insert((app.to_owned(), namespace.clone())) {
            return Err(bad(&format!("appNamespace already exists for appId:{app} namespaceName:{namespace}")));
        }
        let mut created = parts.body.clone();
        created["name"] = namespace.into();
        Ok(json(200, &created))
    }

    fn namespace(&self, place: &Place) -> Result<Answer, Answer> {
        self.exists(place)?;
        let content = self.content.lock().unwrap();
        let items: Vec<_> = content.items.get(place).into_iter().flatten().map(item).collect();
        let (app, cluster, namespace) = place;
        let format = namespace.rsplit_once('.').map_or("properties", |(_, format)| format);
        Ok(json(
            200,
            &json!({
                "appId": app,
                "clusterName": cluster,
                "namespaceName": namespace,
                "format": format,
                "isPublic": false,
                "items": items,
            }),
        ))
    }

    fn page_of_items(&self, place: &Place, parts: &Parts) -> Result<Answer, Answer> {
        self.exists(place)?;
        let number = |name, default| parts.parameter(name).parse().unwrap_or(default);
        let (page, size) = (number("page", 0), number("size", 50));
        let content = self.content.lock().unwrap();
        let items: Vec<_> = content.items.get(place).into_iter().flatten().map(item).collect();
        let on_page: Vec<_> = items.iter().skip(page * size).take(size).collect();
        Ok(json(200, &json!({"page": page, "size": size, "total": items.len(), "content": on_page})))
    }

    fn create_item(&self, place: &Place, parts: &Parts) -> Result<Answer, Answer> {
        let key = parts.field("key");
        let value = value_of(parts)?;
        known_operator(or(parts.parameter("operator"), parts.field("dataChangeCreatedBy")))?;
        self.exists(place).map_err(|_| bad("namespace not exist."))?;
        let mut content = self.content.lock().unwrap();
        let items = content.items.entry(place.clone()).or_default();
        if items.contains_key(key) {
            return Err(bad(&format!("item already exists for itemKey:{key}")));
        }
        items.insert(key.to_owned(), value.clone());
        Ok(json(200, &item((&key.to_owned(), &value))))
    }

    fn item(&self, method: &str, place: &Place, key: &str, parts: &Parts) -> Result<Answer, Answer> {
        let (app, cluster, namespace) = place;
        let not_found = || {
            let text =
                format!("item not found for appId:{app} clusterName:{cluster} namespaceName:{namespace} itemKey:{key}");
            failed(404, "NotFoundException", &text)
        };
        match method {
            "GET" => {
                self.exists(place)?;
                let content = self.content.lock().unwrap();
                let found = content.items.get(place).and_then(|items| items.get_key_value(key));
                Ok(json(200, &item(found.ok_or_else(not_found)?)))
            }
            "PUT" => {
                let value = value_of(parts)?;
                if parts.field("key") != key {
                    return Err(bad("Key in path and payload is not consistent"));
                }
                let create = parts.parameter("createIfNotExists") == "true";
                let author = or(
                    parts.field("dataChangeLastModifiedBy"),
                    if create { parts.field("dataChangeCreatedBy") } else { "" },
                );
                known_operator(or(parts.parameter("operator"), author))?;
                self.exists(place).map_err(|not_there| if create { bad("namespace not exist.") } else { not_there })?;
                let mut content = self.content.lock().unwrap();
                let items = content.items.entry(place.clone()).or_default();
                if !create && !items.contains_key(key) {
                    return Err(not_found());
                }
                items.insert(key.to_owned(), value);
                Ok(empty(200))
            }
            "DELETE" => {
                known_operator(parts.parameter("operator"))?;
                self.exists(place)?;
                let mut content = self.content.lock().unwrap();
                content.items.get_mut(place).and_then(|items| items.remove(key)).ok_or_else(not_found)?;
                Ok(empty(200))
            }
            _ => Err(failed(405, "MethodNotAllowed", &format!("Request method '{method}' is not supported"))),
        }
    }

    fn create_release(&self, place: &Place, parts: &Parts) -> Result<Answer, Answer> {
        let (title, author) = (parts.field("releaseTitle"), parts.field("releasedBy"));
        if title.is_empty() {
            return Err(bad("Params(releaseTitle and releasedBy) can not be empty"));
        }
        known_operator(or(parts.parameter("operator"), author))?;
        self.exists(place)?;
        let release = self.release(place, title, parts.field("releaseComment"), author);
        Ok(json(200, &description(place, &release)))
    }

    fn latest_release(&self, place: &Place) -> Answer {
        match self.content.lock().unwrap().releases.get(place) {
            Some(release) => json(200, &description(place, release)),
            None => empty(200),
        }
    }

    fn exists(&self, place: &Place) -> Result<(), Answer> {
        let (app, cluster, namespace) = place;
        if namespace == "application"
            || self.content.lock().unwrap().namespaces.contains(&(app.clone(), namespace.clone()))
        {
            return Ok(());
        }
        let text = format!("namespace not found for appId:{app} clusterName:{cluster} namespaceName:{namespace}");
        Err(failed(404, "NotFoundException", &text))
    }
}

fn bad(message: &str) -> Answer {
    failed(400, "BadRequestException", message)
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

fn known_operator(name: &str) -> Result<(), Answer> {
    match name {
        OPERATOR => Ok(()),
        "" => Err(bad("operator should not be null or empty")),
        unknown => Err(bad(&format!("user not exists for userName:{unknown}"))),
    }
}

/// The value of an item that is to be written, where key and value are what Apollo takes.
fn value_of(parts: &Parts) -> Result<String, Answer> {
    let key = parts.field("key");
    if key.is_empty() {
        return Err(bad("key should not be null or empty"));
    }
    let value = parts.body["value"].as_str().ok_or_else(|| bad("value should not be null"))?;
    if key.chars().count() > 128 {
        return Err(bad("key too long. length limit:128"));
    }
    if value.chars().count() > 20_000 {
        return Err(bad("value too long. length limit:20000"));
    }
    Ok(value.to_owned())
}

/// `OpenItemDTO`
fn item((key, value): (&String, &String)) -> Value {
    json!({"key": key, "type": 0, "value": value, "dataChangeCreatedBy": OPERATOR, "dataChangeLastModifiedBy": OPERATOR})
}

/// `OpenReleaseDTO`
fn description((app, cluster, namespace): &Place, release: &Release) -> Value {
    json!({
        "id": release.id,
        "appId": app,
        "clusterName": cluster,
        "namespaceName": namespace,
        "name": release.title,
        "configurations": release.configurations,
        "comment": release.comment,
        "dataChangeCreatedBy": release.author,
        "dataChangeLastModifiedBy": release.author,
    })
}
