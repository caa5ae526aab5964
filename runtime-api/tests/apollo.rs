//! `configuration.apollo` by scenarios: what is asked of the config service and of the Portal, and what comes of their
//! answers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test may end by one

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::config::Config;
use runtime_api::testing::{self, Request, Started, Talk, World};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, message, status};
use tonic::Code;

const CONFIG: &str = "runtime.configuration.s";
const PORTAL: &str = "runtime.configuration.s.portal";
const NAMESPACES: &str = "/openapi/v1/envs/DEV/apps/shop/clusters/default/namespaces";

fn configuration(more: &[(&str, &str)]) -> Value {
    let mut metadata = json!({
        "address": "http://config:8080",
        "app_id": "shop",
        "namespace_name": "application, other.properties",
        "open_api_address": "http://portal:8070",
        "open_api_token": "t0ken",
        "open_api_user": "apollo",
    });
    for (name, value) in more {
        metadata[*name] = json!(value);
    }
    json!({"appId": "a", "components": [{"name": "s", "type": "configuration.apollo", "metadata": metadata}]})
}

fn start() -> (World, Rc<Runtime>) {
    let world = World::default();
    let worker = testing::worker(&world, &configuration(&[]));
    (world, worker)
}

fn get(world: &World, worker: &Rc<Runtime>, group: &str, label: &str, keys: &[&str]) -> Started<Reply> {
    let request = layotto::GetConfigurationRequest {
        store_name: "s".into(),
        group: group.into(),
        label: label.into(),
        keys: keys.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    testing::call(world, worker, &format!("{LAYOTTO}/GetConfiguration"), &request)
}

fn item(key: &str, content: &str, tags: &[(&str, &str)]) -> layotto::ConfigurationItem {
    let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    layotto::ConfigurationItem { key: key.into(), content: content.into(), tags, ..Default::default() }
}

fn save(world: &World, worker: &Rc<Runtime>, items: Vec<layotto::ConfigurationItem>) -> Started<Reply> {
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    testing::call(world, worker, &format!("{LAYOTTO}/SaveConfiguration"), &request)
}

fn delete(world: &World, worker: &Rc<Runtime>, label: &str, keys: &[&str]) -> Started<Reply> {
    let keys = keys.iter().map(ToString::to_string).collect();
    let (store_name, label) = ("s".into(), label.into());
    let request = layotto::DeleteConfigurationRequest { store_name, label, keys, ..Default::default() };
    testing::call(world, worker, &format!("{LAYOTTO}/DeleteConfiguration"), &request)
}

/// The next request to the config service, which must be for this path.
#[track_caller]
fn asked(world: &World, path: &str) -> Request {
    let request = world.http_request(CONFIG).unwrap_or_else(|| panic!("{path} is expected, not nothing"));
    assert_eq!((&*request.method, &*request.path), ("GET", path));
    request
}

/// Answers the next request for a namespace.
#[track_caller]
fn release(world: &World, namespace: &str, known: &str, now: &str, items: &Value) {
    let query = if known.is_empty() { String::new() } else { format!("?releaseKey={known}") };
    let request = asked(world, &format!("/configs/shop/default/{namespace}{query}"));
    request.reply(200, json!({"releaseKey": now, "configurations": items}).to_string());
}

/// The next request to the Portal, which must be this; gives its body.
#[track_caller]
fn told(world: &World, method: &str, path: &str, status: u16, answer: &Value) -> Value {
    let request = world.http_request(PORTAL).unwrap_or_else(|| panic!("{method} {path} is expected, not nothing"));
    assert_eq!((&*request.method, &*request.path), (method, path));
    assert_eq!((request.header("authorization"), request.header("host")), (Some("t0ken"), Some("portal:8070")));
    assert_eq!(request.header("content-type"), Some("application/json;charset=UTF-8"));
    let body = serde_json::from_slice(&request.body).unwrap_or_default();
    request.reply(status, if answer.is_null() { String::new() } else { answer.to_string() });
    body
}

#[test]
fn items_are_read_with_their_tags() {
    let (world, worker) = start();
    let call = get(&world, &worker, "", "", &["b", "none", "a"]);
    release(&world, "application", "", "r1", &json!({"a": "1", "a@$l": "labelled", "b": "2"}));
    release(&world, "sidecar_config_tags", "", "r2", &json!({"application@$a": r#"{"who":"me"}"#, "other@$b": "{}"}));
    let items = message::<layotto::GetConfigurationResponse>(&call).items;
    let (group, who) = ("application".to_owned(), BTreeMap::from([("who".to_owned(), "me".to_owned())]));
    let expected =
        |key, content, tags| layotto::ConfigurationItem { group: group.clone(), tags, ..item(key, content, &[]) };
    assert_eq!(items, [expected("b", "2", BTreeMap::new()), expected("a", "1", who)]);

    let call = get(&world, &worker, "other", "l", &[]);
    release(&world, "other", "", "r1", &json!({"a": "1", "b@$l": "2", "c@$m": "3"}));
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    let items = message::<layotto::GetConfigurationResponse>(&call).items;
    assert_eq!(items.iter().map(|item| (&*item.key, &*item.label)).collect::<Vec<_>>(), [("b", "l")]);

    // Nothing was released yet.
    let call = get(&world, &worker, "", "", &[]);
    asked(&world, "/configs/shop/default/application").reply(404, "");
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    assert!(message::<layotto::GetConfigurationResponse>(&call).items.is_empty());
}

#[test]
fn what_cannot_be_here_is_refused() {
    let (world, worker) = start();
    let (code, text) = status(&get(&world, &worker, "third", "", &[]));
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("lists: application, other"), "{text}");
    let (code, text) = status(&get(&world, &worker, "", "", &["a@$b"]));
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("stands before a label"), "{text}");
    let request = layotto::GetConfigurationRequest {
        store_name: "s".into(),
        app_id: "stranger".into(),
        keys: vec!["a".into()],
        ..Default::default()
    };
    let (code, text) = status(&testing::call(&world, &worker, &format!("{LAYOTTO}/GetConfiguration"), &request));
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("\"shop\""), "{text}");
    let talk = testing::talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    let group = "third".to_owned();
    talk.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), group, ..Default::default() });
    assert_eq!(talk.status().unwrap().code(), Code::InvalidArgument);
    assert!(world.http_request(CONFIG).is_none(), "nobody is asked");
}

#[test]
fn requests_are_signed_with_an_access_key() {
    let world = World::default();
    let worker = testing::worker(&world, &configuration(&[("secret", "df23df3f59884980844ff3dada30fa97")]));
    let call = get(&world, &worker, "", "", &["a"]);
    let request = asked(&world, "/configs/shop/default/application");
    // The time of day at which a world begins.
    assert_eq!(request.header("timestamp"), Some("1800000000000"));
    // By openssl: printf '1800000000000\n/configs/shop/default/application' | openssl dgst -sha1
    // -hmac df23df3f59884980844ff3dada30fa97 -binary | base64
    assert_eq!(request.header("authorization"), Some("Apollo shop:hibuPg+zWluaT9VLO8nV91eYAf8="));
    request.reply(401, json!({"message": "Unauthorized"}).to_string());
    let (code, text) = status(&call);
    assert_eq!(code, Code::Unknown);
    assert!(text.contains("(status 401: Unauthorized); secret must be an access key"), "{text}");
    assert!(!text.contains("df23"), "{text}");

    let (world, worker) = start();
    let _call = get(&world, &worker, "", "", &["a"]);
    let request = asked(&world, "/configs/shop/default/application");
    assert_eq!((request.header("authorization"), request.header("host")), (None, Some("config:8080")));
    assert!(request.header("timestamp").is_some());
}

#[test]
fn a_save_writes_items_and_tags_and_releases_them() {
    let (world, worker) = start();
    let labelled = layotto::ConfigurationItem { label: "l".into(), ..item("b/ü", "2", &[]) };
    let call = save(&world, &worker, vec![item("a", "1", &[("who", "me")]), labelled]);
    told(&world, "GET", &format!("{NAMESPACES}/sidecar_config_tags"), 404, &json!({"message": "namespace not found"}));
    let made = told(&world, "POST", "/openapi/v1/apps/shop/appnamespaces", 200, &json!({}));
    assert_eq!(
        (&made["name"], &made["appId"], &made["format"]),
        (&json!("sidecar_config_tags"), &json!("shop"), &json!("properties"))
    );
    let put =
        told(&world, "PUT", &format!("{NAMESPACES}/application/items/a?createIfNotExists=true"), 200, &Value::Null);
    let who = "apollo";
    assert_eq!(put, json!({"key": "a", "value": "1", "dataChangeCreatedBy": who, "dataChangeLastModifiedBy": who}));
    let tags = format!("{NAMESPACES}/sidecar_config_tags/items/application%40%24a?createIfNotExists=true");
    let put = told(&world, "PUT", &tags, 200, &Value::Null);
    assert_eq!((&put["key"], &put["value"]), (&json!("application@$a"), &json!(r#"{"who":"me"}"#)));
    // A slash cannot be in a path: base64 of b/ü@$l.
    let encoded = format!("{NAMESPACES}/application/encodedItems/Yi%2FDvEAkbA%3D%3D?createIfNotExists=true");
    let put = told(&world, "PUT", &encoded, 200, &Value::Null);
    assert_eq!(put["key"], "b/ü@$l");
    let released = told(&world, "POST", &format!("{NAMESPACES}/sidecar_config_tags/releases"), 200, &json!({}));
    assert_eq!(released, json!({"releaseTitle": "saved by a", "releasedBy": "apollo"}));
    assert!(call.outcome().is_none(), "the item is not released yet");
    told(&world, "POST", &format!("{NAMESPACES}/application/releases"), 200, &json!({}));
    message::<()>(&call);

    // Tags that are no longer there are removed; one that made the namespace meanwhile is no obstacle.
    let call = save(&world, &worker, vec![item("a", "2", &[]), item("c", "1", &[("x", "y")])]);
    let there = json!({"items": [{"key": "application@$a", "value": "{}"}]});
    told(&world, "GET", &format!("{NAMESPACES}/sidecar_config_tags"), 200, &there);
    told(&world, "PUT", &format!("{NAMESPACES}/application/items/a?createIfNotExists=true"), 200, &Value::Null);
    let gone = "application%40%24a?key=application%40%24a&operator=apollo";
    told(&world, "DELETE", &format!("{NAMESPACES}/sidecar_config_tags/items/{gone}"), 200, &Value::Null);
    told(&world, "PUT", &format!("{NAMESPACES}/application/items/c?createIfNotExists=true"), 200, &Value::Null);
    let tags = "application%40%24c?createIfNotExists=true";
    let refused = json!({"message": "value too long. length limit:20000"});
    told(&world, "PUT", &format!("{NAMESPACES}/sidecar_config_tags/items/{tags}"), 400, &refused);
    let (code, text) = status(&call);
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("refused to write application@$c") && text.contains("length limit:20000"), "{text}");
    assert!(world.http_request(PORTAL).is_none(), "nothing is released");
}

#[test]
fn every_status_of_the_portal_is_looked_at() {
    let tags = format!("{NAMESPACES}/sidecar_config_tags");
    for (http, said, code, hint) in [
        (401, "Unauthorized", Code::Unknown, "open_api_token must be a token"),
        (403, "Access is denied", Code::Unknown, "must be allowed"),
        (404, "namespace not found", Code::InvalidArgument, "make it there first"),
        (400, "namespace not exist.", Code::InvalidArgument, "make it there first"),
        (400, "user not exists for userName:apollo", Code::InvalidArgument, "user not exists"),
        (503, "", Code::Unavailable, "status 503"),
        (500, "DEV not exist", Code::Unknown, "status 500: DEV not exist"),
    ] {
        for at_release in [false, true] {
            let (world, worker) = start();
            let call = save(&world, &worker, vec![item("k", "v", &[])]);
            told(&world, "GET", &tags, 404, &Value::Null);
            let put = format!("{NAMESPACES}/application/items/k?createIfNotExists=true");
            let refusal = json!({"message": said});
            if at_release {
                told(&world, "PUT", &put, 200, &Value::Null);
                told(&world, "POST", &format!("{NAMESPACES}/application/releases"), http, &refusal);
            } else {
                told(&world, "PUT", &put, http, &refusal);
            }
            let (found, text) = status(&call);
            assert_eq!(found, code, "{text}");
            assert!(text.contains(hint) && !text.contains("t0ken"), "{text}");
        }
    }
    let (world, worker) = start();
    let call = save(&world, &worker, vec![item("k", "v", &[])]);
    world.http_request(PORTAL).unwrap().fail("connection refused");
    let (code, text) = status(&call);
    assert_eq!(code, Code::Unavailable);
    assert!(text.contains("Apollo's Portal has not answered: connection refused"), "{text}");
}

#[test]
fn a_delete_removes_the_item_with_its_tags() {
    let (world, worker) = start();
    let call = delete(&world, &worker, "l", &["a", "b"]);
    let there = json!({"items": [{"key": "application@$a@$l", "value": "{}"}]});
    told(&world, "GET", &format!("{NAMESPACES}/sidecar_config_tags"), 200, &there);
    let gone = |key: &str| format!("items/{key}?key={key}&operator=apollo");
    told(&world, "DELETE", &format!("{NAMESPACES}/application/{}", gone("a%40%24l")), 200, &Value::Null);
    let tags = gone("application%40%24a%40%24l");
    told(&world, "DELETE", &format!("{NAMESPACES}/sidecar_config_tags/{tags}"), 200, &Value::Null);
    let missing = json!({"message": "item not found for itemKey:b@$l"});
    told(&world, "DELETE", &format!("{NAMESPACES}/application/{}", gone("b%40%24l")), 404, &missing);
    told(&world, "POST", &format!("{NAMESPACES}/application/releases"), 200, &json!({}));
    told(&world, "POST", &format!("{NAMESPACES}/sidecar_config_tags/releases"), 200, &json!({}));
    message::<()>(&call);

    // One that was removed and not released is released now; one that never was is let be.
    for (released, again) in [(json!({"c": "1"}), true), (json!({"d": "1"}), false)] {
        let call = delete(&world, &worker, "", &["c"]);
        told(&world, "GET", &format!("{NAMESPACES}/sidecar_config_tags"), 200, &json!({"items": []}));
        told(&world, "DELETE", &format!("{NAMESPACES}/application/{}", gone("c")), 404, &missing);
        let last = json!({"configurations": released});
        told(&world, "GET", &format!("{NAMESPACES}/application/releases/latest"), 200, &last);
        if again {
            told(&world, "POST", &format!("{NAMESPACES}/application/releases"), 200, &json!({}));
        }
        message::<()>(&call);
    }
}

/// A stream of Layotto's that is subscribed to keys of the namespace `application`.
fn subscribe(world: &World, worker: &Rc<Runtime>, keys: &[&str]) -> Talk {
    let talk = testing::talk(world, worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    let keys = keys.iter().map(ToString::to_string).collect();
    talk.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
    talk
}

/// What a stream was told, message by message, as `key=content`.
fn heard(talk: &Talk) -> Vec<Vec<String>> {
    let next = || talk.next::<layotto::SubscribeConfigurationResponse>();
    let short = |item: &layotto::ConfigurationItem| format!("{}={}", item.key, item.content);
    std::iter::from_fn(next).map(|message| message.items.iter().map(short).collect()).collect()
}

/// The poll that waits, which must know these ids of `application`, `other` and the tags.
#[track_caller]
fn polled(world: &World, [application, other, tags]: [i64; 3]) -> Request {
    let request = world.http_request(CONFIG).unwrap_or_else(|| panic!("a poll is expected, not nothing"));
    let known = json!([
        {"namespaceName": "application", "notificationId": application},
        {"namespaceName": "other", "notificationId": other},
        {"namespaceName": "sidecar_config_tags", "notificationId": tags},
    ]);
    let query = request.path.strip_prefix("/notifications/v2?appId=shop&cluster=default&notifications=").unwrap();
    let decoded = percent_encoding::percent_decode_str(query).decode_utf8().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&decoded).unwrap(), known);
    request
}

fn notification(namespace: &str, id: i64) -> Value {
    json!({"namespaceName": namespace, "notificationId": id})
}

/// Answers a first subscription to `application`: everything is read, then polled, and a poll waits.
#[track_caller]
fn settle(world: &World, items: &Value) -> Request {
    release(world, "application", "", "r1", items);
    asked(world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    polled(world, [-1; 3]).reply(200, json!([notification("application", 7)]).to_string());
    asked(world, "/configs/shop/default/application?releaseKey=r1").reply(304, "");
    polled(world, [7, -1, -1])
}

#[test]
fn changes_and_removals_are_told() {
    let (world, worker) = start();
    let talk = subscribe(&world, &worker, &[]);
    let poll = settle(&world, &json!({"a": "1", "b": "1", "c@$l": "1"}));
    assert!(heard(&talk).is_empty(), "what is there is not told");

    // What the config service says goes along when the namespace is read.
    let details = json!({"details": {"shop+default+application": 8}});
    let mut news = notification("application", 8);
    news["messages"] = details.clone();
    poll.reply(200, json!([news]).to_string());
    let request = world.http_request(CONFIG).unwrap();
    let messages = request.path.strip_prefix("/configs/shop/default/application?releaseKey=r1&messages=").unwrap();
    let messages = percent_encoding::percent_decode_str(messages).decode_utf8().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&messages).unwrap(), details);
    let now = json!({"b": "2", "c@$l": "2", "d": "1"});
    request.reply(200, json!({"releaseKey": "r2", "configurations": now}).to_string());
    assert_eq!(heard(&talk), [["b=2", "d=1", "a="]], "as one; nothing of another label");

    // Nothing for a minute: the next poll begins at once.
    let poll = polled(&world, [8, -1, -1]);
    world.advance(Duration::from_secs(60));
    poll.reply(304, "");
    // A server that does not hold polls is asked once a second.
    polled(&world, [8, -1, -1]).reply(304, "");
    assert!(world.http_request(CONFIG).is_none());
    world.advance(Duration::from_secs(1));
    let poll = polled(&world, [8, -1, -1]);

    // Tags are told as well.
    poll.reply(200, json!([notification("sidecar_config_tags", 9)]).to_string());
    release(&world, "sidecar_config_tags", "", "t1", &json!({"application@$b": r#"{"who":"me"}"#}));
    let told: layotto::SubscribeConfigurationResponse = talk.next().unwrap();
    assert_eq!((&*told.items[0].key, &*told.items[0].tags["who"], told.items.len()), ("b", "me", 1));
    let _poll = polled(&world, [8, -1, 9]);
}

#[test]
fn a_subscription_more_is_no_poll_more() {
    let (world, worker) = start();
    let talk = subscribe(&world, &worker, &["a"]);
    let poll = settle(&world, &json!({"a": "1"}));
    let request = dapr::SubscribeConfigurationRequest { store_name: "s".into(), ..Default::default() };
    let other = testing::talk(&world, &worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    other.send(&request);
    other.half_close();
    assert!(other.next::<dapr::SubscribeConfigurationResponse>().is_none(), "it is not in force yet");
    // What is read for it is news to the first.
    release(&world, "application", "r1", "r2", &json!({"a": "2"}));
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    assert_eq!(heard(&talk), [["a=2"]]);
    assert!(!other.next::<dapr::SubscribeConfigurationResponse>().unwrap().id.is_empty());
    assert!(world.http_request(CONFIG).is_none() && !poll.is_cancelled());

    // When all are gone the poll stays, and serves who comes next.
    talk.cancel();
    other.cancel();
    let talk = subscribe(&world, &worker, &["a"]);
    release(&world, "application", "", "r2", &json!({"a": "2"}));
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    assert!(world.http_request(CONFIG).is_none());
    poll.reply(200, json!([notification("application", 8)]).to_string());
    release(&world, "application", "r2", "r3", &json!({}));
    assert_eq!(heard(&talk), [["a="]]);

    // That it failed says nothing about the server as it is now.
    talk.cancel();
    let poll = polled(&world, [8, -1, -1]);
    let talk = subscribe(&world, &worker, &["a"]);
    release(&world, "application", "", "r3", &json!({}));
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    poll.fail("reset");
    let _poll = polled(&world, [8, -1, -1]);
    assert!(talk.status().is_none());
}

#[test]
fn what_changed_while_the_server_was_away_is_told() {
    let (world, worker) = start();
    let talk = subscribe(&world, &worker, &[]);
    settle(&world, &json!({"a": "1", "b": "1"})).fail("reset");
    assert!(world.http_request(CONFIG).is_none(), "not at once");
    world.advance(Duration::from_secs(1));
    world.http_request(CONFIG).unwrap().fail("connection refused");
    world.advance(Duration::from_secs(1));
    release(&world, "application", "", "r9", &json!({"a": "2", "c": "1"}));
    asked(&world, "/configs/shop/default/sidecar_config_tags").reply(404, "");
    assert_eq!(heard(&talk), [["a=2", "c=1", "b="]]);
    // Another server may count from the beginning.
    let poll = polled(&world, [-1; 3]);
    assert!(talk.status().is_none(), "the stream stays open");

    // A server that says nothing at all for longer than it may hold a poll is lost too.
    world.advance(Duration::from_secs(89));
    assert!(!poll.is_cancelled());
    world.advance(Duration::from_secs(2));
    assert!(poll.is_cancelled());
    assert_eq!(world.log_lines().iter().filter(|line| line.contains("event=watch_lost")).count(), 3);

    // A new subscription is refused in the meantime.
    world.http_request(CONFIG).unwrap().reply(401, json!({"message": "Unauthorized"}).to_string());
    let late = subscribe(&world, &worker, &["a"]);
    world.advance(Duration::from_secs(1));
    world.http_request(CONFIG).unwrap().fail("connection refused");
    assert_eq!(late.status().unwrap().code(), Code::Unavailable);
}

#[test]
fn a_configuration_is_checked() {
    let problems = |more: &[(&str, &str)]| -> Vec<String> {
        let (_, report) = Config::check(&configuration(more));
        report.0.iter().map(ToString::to_string).collect()
    };
    assert!(problems(&[("address", "http://one:8080,http://two:8080"), ("env", "PRO")]).is_empty());
    let wrong = problems(&[("address", "config:8080"), ("open_api_address", "http://a:1/x,http://b:1/y")]);
    assert!(wrong[0].contains("a URL such as http://apollo-configservice:8080 is expected"), "{wrong:?}");
    assert!(wrong[1].contains("that differ in host and port alone"), "{wrong:?}");
    let tags = problems(&[("namespace_name", "sidecar_config_tags")]);
    assert!(tags[0].contains("is where tags are kept"), "{tags:?}");
    let ignored = problems(&[("is_backup_config", "true")]);
    assert!(ignored[0].contains("a filter writes no files"), "{ignored:?}");
}
