//! A client of Apollo, the configuration centre: of its config service, which tells what was released and when
//! something was, and of the open API of its Portal, which changes and releases. Paths, signatures and statuses are
//! those of Apollo 2.x.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::LocalBoxFuture;
use hmac::{Hmac, Mac};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha1::Sha1;

use super::http::{Server, segment};
use crate::proxy::{Closed, HttpRequest, HttpResponse, Metadata, Proxy};
use crate::trace;

/// Longer than the config service holds a poll (60 s), as Apollo's own client has it.
const LONGEST_POLL: Duration = Duration::from_secs(90);
/// Polls that bring nothing begin no faster than this, whatever the server does.
const SHORTEST_POLL: Duration = Duration::from_secs(1);
/// What a title of a release may have.
const TITLE: usize = 64;
/// How much of a server's words is passed on.
const WORDS: usize = 200;
/// The id before the first notification.
const NONE_YET: i64 = -1;

const JSON: (&str, &str) = ("content-type", "application/json;charset=UTF-8");

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A server takes no such request.
    #[error("{0}")]
    Invalid(String),
    /// A server cannot be reached, or not just now.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Keys and values of a namespace.
pub type Items = BTreeMap<String, String>;

/// What was released of a namespace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Which release it is.
    pub release_key: String,
    /// What is in it.
    #[serde(default)]
    pub configurations: Items,
}

/// What the config service says about a namespace.
#[derive(Debug)]
pub enum Released {
    /// The release that is known is the last.
    AsKnown,
    /// There is none, or no such namespace.
    Nothing,
    /// This one.
    Now(Release),
}

/// A namespace of which something was released.
#[derive(Debug)]
pub struct News {
    /// Its name.
    pub namespace: String,
    /// What the config service wants to hear when the namespace is read, so that it does not answer from its cache.
    pub messages: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    namespace_name: String,
    #[serde(rename = "notificationId")]
    id: i64,
    messages: Option<Box<RawValue>>,
}

/// A server and the cluster by which it is reached.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) cluster: String,
    pub(crate) server: Server,
}

/// Whose configuration it is, and by what right.
#[derive(Clone, Default)]
pub struct Account {
    /// The app as Apollo knows it.
    pub app: String,
    /// The cluster of the app.
    pub cluster: String,
    /// The environment, as the Portal names it.
    pub environment: String,
    /// An access key of the app, if the config service wants one.
    pub secret: Option<String>,
    /// The token for the Portal.
    pub token: String,
    /// The user of the Portal in whose name things are changed.
    pub operator: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("app", &self.app).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A client of both servers.
pub struct Client {
    proxy: Rc<dyn Proxy>,
    config: Site,
    portal: Site,
    account: Account,
    timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.account).finish()
    }
}

impl Client {
    pub(crate) fn new(proxy: Rc<dyn Proxy>, config: Site, portal: Site, account: Account, timeout: Duration) -> Self {
        Self { proxy, config, portal, account, timeout }
    }

    // The config service.

    /// What was released last of a namespace; `known` is the release that is known, or empty.
    ///
    /// # Errors
    /// When the config service refuses it or cannot be reached.
    pub async fn released(&self, namespace: &str, known: &str, messages: &str) -> Result<Released, Error> {
        let Account { app, cluster, .. } = &self.account;
        let mut path = format!("/configs/{}/{}/{}", segment(app), segment(cluster), segment(namespace));
        for (name, value) in [("releaseKey", known), ("messages", messages)] {
            if !value.is_empty() {
                let separator = if path.contains('?') { "&" } else { "?" };
                path.extend([separator, name, "=", &segment(value)]);
            }
        }
        let answer = self.ask(&path, self.timeout).await.map_err(|closed| silent(CONFIG, &closed))?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map(Released::Now).map_err(|_| unreadable(CONFIG)),
            304 => Ok(Released::AsKnown),
            404 => Ok(Released::Nothing),
            _ => Err(self.refused_by_config(&answer)),
        }
    }

    fn ask(&self, path: &str, timeout: Duration) -> LocalBoxFuture<'static, Result<HttpResponse, Closed>> {
        let Site { cluster, server } = &self.config;
        let path = format!("{}{path}", server.base);
        let since = self.proxy.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = since.as_millis().to_string();
        let mut headers = vec![("timestamp", timestamp.as_str())];
        let authorization = self
            .account
            .secret
            .as_ref()
            .map(|secret| format!("Apollo {}:{}", self.account.app, signature(secret, &timestamp, &path)));
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        let headers: Metadata<'_> = &headers;
        let request = HttpRequest { method: "GET", path: &path, host: &server.authority, headers, body: &[] };
        trace::sends(cluster, 1, path.len());
        self.proxy.http(cluster, request, timeout)
    }

    fn refused_by_config(&self, answer: &HttpResponse) -> Error {
        let hint = match (answer.status, &self.account.secret) {
            (401, None) => "; the app has access keys, and secret is not set",
            (401, Some(_)) => "; secret must be an access key of the app that is enabled, and the clocks must agree",
            _ => "",
        };
        refused(CONFIG, &format!("to answer for the app {}", self.account.app), answer, hint)
    }

    // The Portal.

    /// The items of a namespace as edited, released or not; nothing if there is no such namespace.
    ///
    /// # Errors
    /// As of all calls to the Portal: when it refuses the call or cannot be reached.
    pub async fn edited(&self, namespace: &str) -> Result<Option<Items>, Error> {
        #[derive(Deserialize)]
        struct Item {
            #[serde(default)]
            key: String,
            #[serde(default)]
            value: String,
        }
        #[derive(Default, Deserialize)]
        struct Namespace {
            #[serde(default)]
            items: Vec<Item>,
        }
        let path = self.namespace(namespace);
        let answer = self.tell("GET", &path, None).await?;
        if is_absent(&answer) || (answer.status == 200 && answer.body.is_empty()) {
            return Ok(None);
        }
        let answer = Self::done(answer, &format!("to show the namespace {namespace}"))?;
        let found: Namespace = serde_json::from_slice(&answer.body).map_err(|_| unreadable(PORTAL))?;
        Ok(Some(found.items.into_iter().map(|item| (item.key, item.value)).collect()))
    }

    /// Makes a namespace of the app; one that is there already stays.
    ///
    /// # Errors
    /// As [`Client::edited`].
    pub async fn create(&self, namespace: &str) -> Result<(), Error> {
        let Account { app, operator, .. } = &self.account;
        let path = format!("/openapi/v1/apps/{}/appnamespaces", segment(app));
        let body = json!({
            "name": namespace,
            "appId": app,
            "format": "properties",
            "isPublic": false,
            "comment": "tags of items",
            "dataChangeCreatedBy": operator,
        });
        let answer = self.tell("POST", &path, Some(&body)).await?;
        if answer.status == 400 && said(&answer).contains("exist") && !said(&answer).contains("user") {
            return Ok(());
        }
        Self::done(answer, &format!("to make the namespace {namespace}")).map(drop)
    }

    /// Writes an item. It is told when the namespace is released.
    ///
    /// # Errors
    /// As [`Client::edited`].
    pub async fn put(&self, namespace: &str, key: &str, value: &str) -> Result<(), Error> {
        let operator = &self.account.operator;
        let path = format!("{}?createIfNotExists=true", self.item(namespace, key));
        let body = json!({
            "key": key,
            "value": value,
            "dataChangeCreatedBy": operator,
            "dataChangeLastModifiedBy": operator,
        });
        let answer = self.tell("PUT", &path, Some(&body)).await?;
        if is_absent(&answer) {
            return Err(self.no_namespace(namespace));
        }
        Self::done(answer, &format!("to write {key} into the namespace {namespace}")).map(drop)
    }

    /// Removes an item, and says whether it was there.
    ///
    /// # Errors
    /// As [`Client::edited`].
    pub async fn remove(&self, namespace: &str, key: &str) -> Result<bool, Error> {
        let (key_, operator) = (segment(key), segment(&self.account.operator));
        let path = format!("{}?key={key_}&operator={operator}", self.item(namespace, key));
        let answer = self.tell("DELETE", &path, None).await?;
        if is_absent(&answer) {
            return Ok(false);
        }
        Self::done(answer, &format!("to remove {key} from the namespace {namespace}"))?;
        Ok(true)
    }

    /// Releases a namespace as it was edited.
    ///
    /// # Errors
    /// As [`Client::edited`].
    pub async fn release(&self, namespace: &str, title: &str) -> Result<(), Error> {
        let path = format!("{}/releases", self.namespace(namespace));
        let title: String = title.chars().take(TITLE).collect();
        let body = json!({"releaseTitle": title, "releasedBy": self.account.operator});
        let answer = self.tell("POST", &path, Some(&body)).await?;
        if is_absent(&answer) {
            return Err(self.no_namespace(namespace));
        }
        Self::done(answer, &format!("to release the namespace {namespace}")).map(drop)
    }

    /// What the Portal says was released last.
    ///
    /// # Errors
    /// As [`Client::edited`].
    pub async fn last_release(&self, namespace: &str) -> Result<Items, Error> {
        #[derive(Deserialize)]
        struct Last {
            #[serde(default)]
            configurations: Items,
        }
        let path = format!("{}/releases/latest", self.namespace(namespace));
        let answer = self.tell("GET", &path, None).await?;
        if is_absent(&answer) || (answer.status == 200 && answer.body.is_empty()) {
            return Ok(Items::new());
        }
        let answer = Self::done(answer, &format!("to show the last release of the namespace {namespace}"))?;
        let last: Last = serde_json::from_slice(&answer.body).map_err(|_| unreadable(PORTAL))?;
        Ok(last.configurations)
    }

    fn namespace(&self, namespace: &str) -> String {
        let Account { app, cluster, environment, .. } = &self.account;
        format!(
            "/openapi/v1/envs/{}/apps/{}/clusters/{}/namespaces/{}",
            segment(environment),
            segment(app),
            segment(cluster),
            segment(namespace)
        )
    }

    fn item(&self, namespace: &str, key: &str) -> String {
        let namespace = self.namespace(namespace);
        // Servers that the Portal runs in refuse these in a path, however they are written.
        if key.contains(['/', '\\', ';']) || key == "." || key == ".." {
            return format!("{namespace}/encodedItems/{}", segment(&BASE64_STANDARD.encode(key)));
        }
        format!("{namespace}/items/{}", segment(key))
    }

    async fn tell(&self, method: &str, path: &str, body: Option<&Value>) -> Result<HttpResponse, Error> {
        let Site { cluster, server } = &self.portal;
        let path = format!("{}{path}", server.base);
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers: Metadata<'_> = &[("authorization", self.account.token.as_str()), JSON];
        let request = HttpRequest { method, path: &path, host: &server.authority, headers, body: body.as_bytes() };
        trace::sends(cluster, 1, path.len() + body.len());
        self.proxy.http(cluster, request, self.timeout).await.map_err(|closed| silent(PORTAL, &closed))
    }

    fn done(answer: HttpResponse, what: &str) -> Result<HttpResponse, Error> {
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let hint = match answer.status {
            401 => "; open_api_token must be a token of the Portal",
            403 => "; open_api_token must be allowed to change and release the namespaces of the app",
            _ => "",
        };
        Err(refused(PORTAL, what, &answer, hint))
    }

    fn no_namespace(&self, namespace: &str) -> Error {
        let Account { app, cluster, environment, .. } = &self.account;
        Error::Invalid(format!(
            "{PORTAL} has no namespace {namespace} in the cluster {cluster} of the app {app}, environment {environment}; \
             make it there first"
        ))
    }
}

const CONFIG: &str = "Apollo's config service";
const PORTAL: &str = "Apollo's Portal";

/// `Signature.signature` of Apollo.
fn signature(secret: &str, timestamp: &str, path_and_query: &str) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{timestamp}\n{path_and_query}").as_bytes());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

fn silent(server: &str, closed: &Closed) -> Error {
    Error::Unavailable(format!("{server} has not answered: {closed}"))
}

fn unreadable(server: &str) -> Error {
    Error::Failed(format!("{server} answered with what is none of its answers; is the address right?"))
}

fn refused(server: &str, what: &str, answer: &HttpResponse, hint: &str) -> Error {
    let (status, said) = (answer.status, said(answer));
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let text = format!("{server} refused {what} (status {status}{said}){hint}");
    match status {
        400 => Error::Invalid(text),
        // Envoy answers for a server that it cannot reach with 503.
        429 | 502..=504 => Error::Unavailable(format!("{server} cannot answer now (status {status}{said})")),
        _ => Error::Failed(text),
    }
}

/// What a server says in an error.
fn said(answer: &HttpResponse) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = body.get("message").and_then(Value::as_str).unwrap_or_default();
    message.chars().take(WORDS).collect()
}

/// Whether the Portal says that an item or a namespace is not there: by one status or the other, as its version may be.
fn is_absent(answer: &HttpResponse) -> bool {
    let said = said(answer);
    let misses = || said.contains("not exist") || said.contains("not found");
    answer.status == 404
        || (answer.status == 400 && misses() && (said.starts_with("item") || said.starts_with("namespace")))
}

/// One long poll for the namespaces of an app. It outlives who waits for it, since a poll cannot be taken back: there
/// is never more than one.
#[derive(Debug)]
pub struct Polls {
    /// The last id of each namespace.
    ids: BTreeMap<String, i64>,
    under_way: Option<UnderWay>,
    /// Whether it was begun for somebody who went away.
    left_over: bool,
    begun: Duration,
    not_before: Duration,
}

struct UnderWay(LocalBoxFuture<'static, Result<HttpResponse, Closed>>);

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnderWay")
    }
}

impl Polls {
    /// No poll yet, for these namespaces.
    pub fn new<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            ids: namespaces.into_iter().map(|name| (name.to_owned(), NONE_YET)).collect(),
            under_way: None,
            left_over: false,
            begun: Duration::ZERO,
            not_before: Duration::ZERO,
        }
    }

    /// Somebody else waits from now on.
    pub fn hand_over(&mut self) {
        self.left_over = self.under_way.is_some();
    }

    /// Takes note of an answer, and gives the namespaces that something was released of.
    fn note(&mut self, notifications: Vec<Notification>) -> Vec<News> {
        let mut news = Vec::new();
        for Notification { namespace_name, id: latest, messages } in notifications {
            let name = namespace_name.strip_suffix(".properties").unwrap_or(&namespace_name);
            let known = self.ids.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name));
            if let Some((namespace, id)) = known.filter(|(_, id)| **id != latest) {
                *id = latest;
                let messages = messages.map(|messages| messages.get().to_owned()).unwrap_or_default();
                news.push(News { namespace: namespace.clone(), messages });
            }
        }
        self.not_before = if news.is_empty() { self.begun + SHORTEST_POLL } else { Duration::ZERO };
        news
    }

    /// Forgets what was told: the server may be another one.
    fn begin_anew(&mut self) {
        self.ids.values_mut().for_each(|id| *id = NONE_YET);
    }
}

impl Client {
    /// Polls until something was released. It may be dropped and called again; nothing gets lost then.
    ///
    /// # Errors
    /// When a poll fails.
    pub async fn news(&self, polls: &std::cell::RefCell<Polls>) -> Result<Vec<News>, Error> {
        loop {
            let idle = polls.borrow().under_way.is_none();
            if idle {
                let pause = polls.borrow().not_before.saturating_sub(self.proxy.now());
                if !pause.is_zero() {
                    self.proxy.sleep(pause).await;
                }
                self.begin(&mut polls.borrow_mut());
            }
            let answer = poll_fn(|context| polls.borrow_mut().answer(context)).await;
            let mut polls = polls.borrow_mut();
            let left_over = std::mem::take(&mut polls.left_over);
            match self.notifications(answer) {
                Ok(notifications) => {
                    let news = polls.note(notifications);
                    if !news.is_empty() {
                        return Ok(news);
                    }
                }
                // It says nothing about the server as it is now.
                Err(_) if left_over => {}
                Err(why) => {
                    polls.begin_anew();
                    return Err(why);
                }
            }
        }
    }

    fn begin(&self, polls: &mut Polls) {
        let Account { app, cluster, .. } = &self.account;
        let one = |(name, id): (&String, &i64)| json!({"namespaceName": name, "notificationId": id});
        let known: Value = polls.ids.iter().map(one).collect();
        let path = format!(
            "/notifications/v2?appId={}&cluster={}&notifications={}",
            segment(app),
            segment(cluster),
            segment(&known.to_string())
        );
        polls.begun = self.proxy.now();
        polls.left_over = false;
        polls.under_way = Some(UnderWay(self.ask(&path, LONGEST_POLL)));
    }

    fn notifications(&self, answer: Result<HttpResponse, Closed>) -> Result<Vec<Notification>, Error> {
        let answer = answer.map_err(|closed| silent(CONFIG, &closed))?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|_| unreadable(CONFIG)),
            304 => Ok(Vec::new()),
            _ => Err(self.refused_by_config(&answer)),
        }
    }
}

impl Polls {
    fn answer(&mut self, context: &mut Context<'_>) -> Poll<Result<HttpResponse, Closed>> {
        let Some(UnderWay(poll)) = &mut self.under_way else { return Poll::Pending };
        let answer = Pin::new(poll).poll(context);
        if answer.is_ready() {
            self.under_way = None;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_apollos() {
        // By openssl: printf '1576478257344\n/configs/100004458/default/application?ip=10.0.0.1' | openssl dgst -sha1
        // -hmac df23df3f59884980844ff3dada30fa97 -binary | base64. It is the example of Apollo's documentation.
        let path = "/configs/100004458/default/application?ip=10.0.0.1";
        assert_eq!(
            signature("df23df3f59884980844ff3dada30fa97", "1576478257344", path),
            "EoKyziXvKqzHgwx+ijDJwgVTDgE="
        );
    }
}
