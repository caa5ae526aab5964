//! The Configuration API by scenarios: subscriptions, and what is left of them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test may end by one

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::testing::{self, Connection, Talk, World};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, message, status};
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than a worker takes to see what another one wrote.
const SOON: Duration = Duration::from_millis(60);

fn in_memory() -> Value {
    json!({"appId": "a", "components": [{"name": "s", "type": "configuration.in-memory"}]})
}

fn redis() -> Value {
    let metadata = json!({"redisHost": "redis:6379", "redisDB": 2});
    json!({"appId": "a", "components": [{"name": "s", "type": "configuration.redis", "metadata": metadata}]})
}

fn item(key: &str, content: &str) -> layotto::ConfigurationItem {
    layotto::ConfigurationItem { key: key.into(), content: content.into(), ..Default::default() }
}

fn save(world: &World, worker: &Rc<Runtime>, items: Vec<layotto::ConfigurationItem>) {
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    message::<()>(&testing::call(world, worker, &format!("{LAYOTTO}/SaveConfiguration"), &request));
}

fn delete(world: &World, worker: &Rc<Runtime>, keys: &[&str]) {
    let keys = keys.iter().map(ToString::to_string).collect();
    let request = layotto::DeleteConfigurationRequest { store_name: "s".into(), keys, ..Default::default() };
    message::<()>(&testing::call(world, worker, &format!("{LAYOTTO}/DeleteConfiguration"), &request));
}

fn got(world: &World, worker: &Rc<Runtime>, keys: &[&str]) -> Vec<layotto::ConfigurationItem> {
    let keys = keys.iter().map(ToString::to_string).collect();
    let request = layotto::GetConfigurationRequest { store_name: "s".into(), keys, ..Default::default() };
    let call = testing::call(world, worker, &format!("{LAYOTTO}/GetConfiguration"), &request);
    message::<layotto::GetConfigurationResponse>(&call).items
}

/// Items as `key=content`.
fn short(items: &[layotto::ConfigurationItem]) -> Vec<String> {
    items.iter().map(|item| format!("{}={}", item.key, item.content)).collect()
}

/// What a stream of Layotto's has got, message by message.
fn told(talk: &Talk) -> Vec<Vec<String>> {
    let next = || talk.next::<layotto::SubscribeConfigurationResponse>();
    std::iter::from_fn(next).map(|message| short(&message.items)).collect()
}

/// A stream of Layotto's with a subscription to these keys.
fn subscribed(world: &World, worker: &Rc<Runtime>, keys: &[&str]) -> Talk {
    let talk = testing::talk(world, worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    add(&talk, keys);
    talk
}

fn add(talk: &Talk, keys: &[&str]) {
    let keys = keys.iter().map(ToString::to_string).collect();
    talk.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
}

/// A stream of Dapr's.
fn subscribed_dapr(world: &World, worker: &Rc<Runtime>, keys: &[&str]) -> Talk {
    let talk = testing::talk(world, worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    let keys = keys.iter().map(ToString::to_string).collect();
    talk.send(&dapr::SubscribeConfigurationRequest { store_name: "s".into(), keys, ..Default::default() });
    talk.half_close();
    talk
}

/// The id in the first message, which has nothing else.
fn id(talk: &Talk) -> String {
    let first: dapr::SubscribeConfigurationResponse = talk.next().unwrap();
    assert!(first.items.is_empty());
    first.id
}

/// What a stream of Dapr's has got since, as `key=value`.
fn told_dapr(talk: &Talk) -> Vec<String> {
    let next = || talk.next::<dapr::SubscribeConfigurationResponse>();
    let items = std::iter::from_fn(next).flat_map(|message| message.items);
    items.map(|(key, item)| format!("{key}={}", item.value)).collect()
}

fn unsubscribe(world: &World, worker: &Rc<Runtime>, id: &str) -> dapr::UnsubscribeConfigurationResponse {
    let request = dapr::UnsubscribeConfigurationRequest { store_name: "s".into(), id: id.into() };
    message(&testing::call(world, worker, &format!("{DAPR}/UnsubscribeConfigurationAlpha1"), &request))
}

#[test]
fn items_are_saved_read_and_removed() {
    let world = World::default();
    let (one, two) = (testing::worker(&world, &in_memory()), testing::worker(&world, &in_memory()));
    let tags = BTreeMap::from([("who".to_owned(), "me".to_owned())]);
    let tagged = layotto::ConfigurationItem { tags: tags.clone(), ..item("b", "2") };
    let other = layotto::ConfigurationItem { group: "g".into(), label: "l".into(), ..item("a", "other") };
    save(&world, &one, vec![item("a", "1"), tagged, other]);

    assert_eq!(short(&got(&world, &two, &["b", "none", "a", "b"])), ["b=2", "a=1"]);
    assert_eq!(short(&got(&world, &two, &[])), ["a=1", "b=2"]);
    let found = got(&world, &two, &["b"]);
    assert_eq!((&*found[0].group, &*found[0].label, &found[0].tags), ("default", "default", &tags));

    let dapr = |metadata: &[(&str, &str)]| {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = dapr::GetConfigurationRequest { store_name: "s".into(), keys: vec![], metadata };
        let call = testing::call(&world, &two, &format!("{DAPR}/GetConfigurationAlpha1"), &request);
        message::<dapr::GetConfigurationResponse>(&call).items
    };
    let items = dapr(&[]);
    assert_eq!(items.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((&*items["b"].value, &*items["b"].version, &items["b"].metadata), ("2", "1", &tags));
    assert_eq!(dapr(&[("group", "g"), ("label", "l")])["a"].value, "other");

    delete(&world, &two, &[]);
    delete(&world, &two, &["a", "none"]);
    assert_eq!(short(&got(&world, &one, &[])), ["b=2"]);
}

#[test]
fn what_does_not_fit_into_memory_is_refused_and_the_rest_stays() {
    let world = World::default();
    let worker = testing::worker(&world, &in_memory());
    save(&world, &worker, vec![item("a", "small")]);
    let large = "x".repeat(3 << 20);
    save(&world, &worker, vec![item("large", &large)]);
    delete(&world, &worker, &["large"]);
    save(&world, &worker, vec![item("large", "x")]);
    save(&world, &worker, vec![item("b", &"x".repeat(2 << 20))]);
    let items = vec![item("large", &large)];
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    let call = testing::call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request);
    let (code, text) = status(&call);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("bytes of configuration fit into memory"), "{text}");
    assert_eq!(short(&got(&world, &worker, &["a", "large"])), ["a=small", "large=x"]);
}

#[test]
fn a_stream_of_layottos_has_several_subscriptions_which_end_with_it() {
    let world = World::default();
    let (one, two) = (testing::worker(&world, &in_memory()), testing::worker(&world, &in_memory()));
    save(&world, &one, vec![item("a", "0")]);
    let stream = subscribed(&world, &one, &["a"]);
    let other = subscribed(&world, &one, &[]);
    let elsewhere = subscribed(&world, &two, &["a", "c"]);
    add(&stream, &["b"]);
    assert!(told(&stream).is_empty() && told(&other).is_empty(), "nothing has changed yet");

    save(&world, &one, vec![item("a", "1"), item("b", "1"), item("c", "1")]);
    assert_eq!(told(&stream), [["a=1", "b=1"]], "by the worker that wrote at once");
    assert_eq!(told(&other), [["a=1", "b=1", "c=1"]]);
    world.advance(SOON);
    assert_eq!(told(&elsewhere), [["a=1", "c=1"]], "by others soon");

    add(&stream, &[]); // to all as well: each change comes once all the same
    delete(&world, &two, &["a"]);
    world.advance(SOON);
    assert_eq!(told(&stream), [["a="]]);
    assert_eq!(told(&other), [["a="]]);
    assert_eq!(told(&elsewhere), [["a="]]);

    stream.half_close();
    assert_eq!(stream.status().unwrap().code(), Code::Ok);
    elsewhere.cancel();
    save(&world, &two, vec![item("a", "2")]);
    world.advance(SOON);
    assert!(told(&stream).is_empty());
    assert_eq!(told(&other), [["a=2"]]);
}

#[test]
fn groups_labels_and_apps_are_told_apart() {
    let world = World::default();
    let worker = testing::worker(&world, &in_memory());
    let stream = testing::talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    for (app, group, label) in [("", "", ""), ("b", "g", ""), ("b", "g", "l")] {
        let request = layotto::SubscribeConfigurationRequest {
            store_name: "s".into(),
            app_id: app.into(),
            group: group.into(),
            label: label.into(),
            ..Default::default()
        };
        stream.send(&request);
    }
    for (app, group, label) in [("a", " ", ""), ("b", "g", "l"), ("b", "g", "other"), ("c", "g", "l")] {
        let item = layotto::ConfigurationItem { group: group.into(), label: label.into(), ..item("k", app) };
        let request = layotto::SaveConfigurationRequest {
            store_name: "s".into(),
            app_id: app.into(),
            items: vec![item],
            ..Default::default()
        };
        message::<()>(&testing::call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request));
    }
    let next = || stream.next::<layotto::SubscribeConfigurationResponse>();
    let first = next().unwrap();
    assert_eq!((&*first.store_name, &*first.app_id, &*first.items[0].group), ("s", "a", "default"));
    let second = next().unwrap();
    assert_eq!((&*second.app_id, &*second.items[0].group, &*second.items[0].label), ("b", "g", "l"));
    assert!(next().is_none());
}

#[test]
fn any_worker_ends_a_subscription_of_daprs() {
    let world = World::default();
    let (one, two) = (testing::worker(&world, &in_memory()), testing::worker(&world, &in_memory()));
    let streams = [&one, &one, &two].map(|worker| subscribed_dapr(&world, worker, &["k"]));
    let ids = [0, 1, 2].map(|at| id(&streams[at]));
    save(&world, &two, vec![item("k", "1"), item("other", "1")]);
    world.advance(SOON);
    for stream in &streams {
        assert_eq!(told_dapr(stream), ["k=1"]);
    }

    assert!(unsubscribe(&world, &one, &ids[0]).ok);
    assert_eq!(streams[0].status().unwrap().code(), Code::Ok, "at once by its own worker");
    assert!(unsubscribe(&world, &two, &ids[1]).ok);
    world.advance(SOON);
    assert_eq!(streams[1].status().unwrap().code(), Code::Ok, "soon by another");
    for unknown in [&*ids[0], "no id", "00000000-0000-4000-8000-000000000000"] {
        let response = unsubscribe(&world, &two, unknown);
        assert!(!response.ok && response.message.contains(unknown), "{response:?}");
    }

    save(&world, &one, vec![item("k", "2")]);
    world.advance(SOON);
    assert_eq!(streams.each_ref().map(told_dapr), [vec![], vec![], vec!["k=2".to_owned()]]);
}

#[test]
fn a_thousand_subscriptions_are_told_of_each_change_once_and_in_order() {
    let world = World::default();
    let workers = [testing::worker(&world, &in_memory()), testing::worker(&world, &in_memory())];
    let streams: Vec<Talk> = (0..1000).map(|at| subscribed_dapr(&world, &workers[at % 2], &["k"])).collect();
    for stream in &streams {
        id(stream);
    }
    for number in 0..20 {
        save(&world, &workers[number % 2], vec![item("k", &number.to_string())]);
    }
    world.advance(SOON);
    let all: Vec<String> = (0..20).map(|number| format!("k={number}")).collect();
    assert!(streams.iter().all(|stream| told_dapr(stream) == all));
}

#[test]
fn ten_thousand_rounds_leave_nothing_behind() {
    let world = World::default();
    let workers = [testing::worker(&world, &in_memory()), testing::worker(&world, &in_memory())];
    let (timers, bytes) = (world.timers(), world.shared_bytes());
    for round in 0..10_000 {
        let (worker, other) = (&workers[round % 2], &workers[(round + 1) % 2]);
        let dapr = subscribed_dapr(&world, worker, &["k"]);
        let id = id(&dapr);
        let layotto = subscribed(&world, worker, &["k", "l"]);
        match round % 4 {
            0 | 1 => dapr.cancel(),
            2 => assert!(unsubscribe(&world, worker, &id).ok),
            _ => {
                assert!(unsubscribe(&world, other, &id).ok);
                world.advance(SOON);
                assert_eq!(dapr.status().unwrap().code(), Code::Ok);
            }
        }
        if round % 2 == 0 {
            layotto.cancel();
        } else {
            layotto.half_close();
            assert_eq!(layotto.status().unwrap().code(), Code::Ok);
        }
    }
    world.advance(SOON);
    assert_eq!((world.timers(), world.shared_bytes()), (timers, bytes + 1), "one byte says that something was ended");
}

#[test]
fn an_app_that_does_not_read_loses_its_stream_and_no_other_does() {
    let world = World::default();
    let worker = testing::worker(&world, &in_memory());
    let (slow, quick) = (subscribed(&world, &worker, &["k"]), subscribed(&world, &worker, &["k"]));
    let mut got = 0;
    for number in 0..300 {
        save(&world, &worker, vec![item("k", &format!("{number:5000}"))]);
        got += told(&quick).len();
    }
    assert_eq!(got, 300);
    let status = slow.status().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(quick.status().is_none());
}

#[test]
fn what_is_wrong_is_said_in_the_words_of_the_dialect() {
    let world = World::default();
    let none = testing::worker(&world, &json!({"appId": "a"}));
    let worker = testing::worker(&world, &in_memory());
    let dapr = |worker: &Rc<Runtime>, store: &str, keys: &[&str]| {
        let keys = keys.iter().map(ToString::to_string).collect();
        let request = dapr::GetConfigurationRequest { store_name: store.into(), keys, ..Default::default() };
        status(&testing::call(&world, worker, &format!("{DAPR}/GetConfiguration"), &request))
    };
    assert_eq!(dapr(&none, "x", &[]), (Code::FailedPrecondition, "configuration stores not configured".into()));
    assert_eq!(dapr(&worker, "x", &[]), (Code::InvalidArgument, "configuration store x not found".into()));
    assert_eq!(dapr(&worker, "s", &[""]), (Code::InvalidArgument, "a key for configuration store s is empty".into()));

    let request = layotto::GetConfigurationRequest { store_name: "x".into(), ..Default::default() };
    let unknown = (Code::Unknown, "configure store [x] don't support now".to_owned());
    for worker in [&none, &worker] {
        let call = testing::call(&world, worker, &format!("{LAYOTTO}/GetConfiguration"), &request);
        assert_eq!(status(&call), unknown);
    }
    let items = vec![item("", "v")];
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
    let call = testing::call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request);
    assert_eq!(status(&call).0, Code::InvalidArgument);

    let stream = subscribed(&world, &worker, &["k"]);
    stream.send(&layotto::SubscribeConfigurationRequest { store_name: "x".into(), ..Default::default() });
    let ended = stream.status().unwrap();
    assert_eq!((ended.code(), ended.message().to_owned()), unknown);
    let stream = testing::talk(&world, &worker, &format!("{DAPR}/SubscribeConfigurationAlpha1")).unwrap();
    stream.half_close();
    assert_eq!(stream.status().unwrap().code(), Code::Internal);
}

/// The server's side of one connection: commands in, replies out.
struct Server {
    connection: Connection,
}

impl Server {
    fn accept(world: &World) -> Self {
        Self { connection: world.accept("runtime.configuration.s").unwrap() }
    }

    /// What the client asks: the words of its commands, one line each.
    fn asked(&self) -> Vec<String> {
        let text = String::from_utf8(self.connection.received().to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let mut commands = Vec::new();
        while let Some(count) = lines.next().and_then(|line| line.strip_prefix('*')) {
            let words: Vec<&str> = (0..count.parse().unwrap()).filter_map(|_| lines.nth(1)).collect();
            commands.push(words.join(" "));
        }
        commands
    }

    #[track_caller]
    fn expect(&self, commands: &[&str], reply: &str) {
        assert_eq!(self.asked(), commands);
        self.connection.send(reply.as_bytes());
    }
}

/// Bulk strings in a list.
fn list(words: &[&str]) -> String {
    let mut list = format!("*{}\r\n", words.len());
    for word in words {
        let length = word.len().to_string();
        list += &["$", &length, "\r\n", word, "\r\n"].concat();
    }
    list
}

fn event(key: &str, what: &str) -> String {
    list(&["message", &format!("__keyspace@2__:{key}"), what])
}

fn confirmed(channel: &str) -> String {
    format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len())
}

/// Serves the beginning of a watch of key `k`, whose value is this.
fn begin(world: &World, value: &str) -> (Server, Server) {
    let watch = Server::accept(world);
    watch.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    let calls = Server::accept(world);
    calls.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    calls.expect(&["CONFIG GET notify-keyspace-events"], &list(&["notify-keyspace-events", "E$"]));
    calls.expect(&["CONFIG SET notify-keyspace-events E$Kgxe"], "+OK\r\n");
    watch.expect(&["SUBSCRIBE __keyspace@2__:k"], &confirmed("__keyspace@2__:k"));
    calls.expect(&["MGET k"], &list(&[value]));
    (watch, calls)
}

#[test]
fn redis_is_watched_once_and_again_after_it_was_lost() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let streams = [0, 1].map(|_| subscribed_dapr(&world, &worker, &["k"]));
    assert!(streams[0].next::<dapr::SubscribeConfigurationResponse>().is_none(), "not in force yet");
    let (watch, calls) = begin(&world, "old||1");
    for stream in &streams {
        id(stream);
    }
    assert!(world.accept("runtime.configuration.s").is_none(), "one watch is enough");

    // Two events before the answer to the first are read as one; what has not changed is not told.
    watch.connection.send(event("k", "set").as_bytes());
    watch.connection.send([event("k", "set"), event("k", "expire")].concat().as_bytes());
    calls.expect(&["MGET k"], &list(&["new||2"]));
    calls.expect(&["MGET k"], &list(&["new||2"]));
    assert_eq!(streams.each_ref().map(told_dapr), [["k=new"], ["k=new"]]);
    watch.connection.send(event("k", "del").as_bytes());
    calls.expect(&["MGET k"], "*1\r\n$-1\r\n");
    assert_eq!(streams.each_ref().map(told_dapr), [["k="], ["k="]]);

    // What changed while nobody watched is told when the server is back.
    watch.connection.close("restart");
    calls.connection.close("restart");
    world.advance(SECOND);
    let (watch, _calls) = begin(&world, "newer||1");
    assert_eq!(streams.each_ref().map(told_dapr), [["k=newer"], ["k=newer"]]);

    // The watch ends with the last subscription.
    let [first, second] = streams;
    first.cancel();
    assert!(!watch.connection.is_dropped());
    second.cancel();
    assert!(watch.connection.is_dropped());
}

#[test]
fn redis_that_cannot_be_reached_refuses_a_subscription_and_no_established_one() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let stream = subscribed_dapr(&world, &worker, &["k"]);
    Server::accept(&world).connection.close("nobody listens");
    let ended = stream.status().unwrap();
    assert_eq!(ended.code(), Code::Unavailable);
    let told = "failed to subscribe [k] from Configuration store s: redis is unreachable: nobody listens";
    assert_eq!(ended.message(), told);

    let stream = subscribed_dapr(&world, &worker, &["k"]);
    let (watch, _calls) = begin(&world, "v||1");
    id(&stream);
    watch.connection.close("gone");
    let late = subscribed_dapr(&world, &worker, &["k"]);
    world.advance(SECOND);
    Server::accept(&world).connection.close("still gone");
    assert_eq!(late.status().unwrap().code(), Code::Unavailable);
    assert!(stream.status().is_none());
}

#[test]
fn redis_that_refuses_config_is_watched_all_the_same() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let stream = subscribed_dapr(&world, &worker, &[]);
    let watch = Server::accept(&world);
    watch.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    let calls = Server::accept(&world);
    calls.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    calls.expect(&["CONFIG GET notify-keyspace-events"], "-ERR unknown command 'CONFIG'\r\n");
    watch.expect(&["PSUBSCRIBE __keyspace@2__:*"], "*3\r\n$10\r\npsubscribe\r\n$16\r\n__keyspace@2__:*\r\n:1\r\n");
    calls.expect(&["SCAN 0 MATCH * COUNT 1000"], &format!("*2\r\n$1\r\n7\r\n{}", list(&["k", "config||g||l||k"])));
    calls.expect(&["SCAN 7 MATCH * COUNT 1000"], &format!("*2\r\n$1\r\n0\r\n{}", list(&["hash", "k"])));
    calls.expect(&["MGET hash k"], "*2\r\n$-1\r\n$4\r\nv||1\r\n");
    id(&stream);
    let log = world.log_lines().join("\n");
    assert!(log.contains("event=notifications_not_set") && log.contains("unknown command"), "{log}");

    let touched = ["hset", "set"].map(|what| list(&["pmessage", "__keyspace@2__:*", "__keyspace@2__:k", what]));
    let other = list(&["pmessage", "__keyspace@2__:*", "__keyspace@2__:config||g||l||k", "set"]);
    watch.connection.send([&other, &touched[0], &touched[1]].map(String::as_str).concat().as_bytes());
    calls.expect(&["MGET k"], &list(&["a||b||2"]));
    assert_eq!(told_dapr(&stream), ["k=a||b"]);
}

#[test]
fn redis_that_says_nothing_is_asked_and_given_up() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let stream = subscribed_dapr(&world, &worker, &["k"]);
    let (watch, calls) = begin(&world, "v||1");
    id(&stream);
    world.advance(11 * SECOND);
    watch.expect(&["PING"], &list(&["pong", ""]));
    world.advance(10 * SECOND);
    assert_eq!(watch.asked(), ["PING"]);
    world.advance(6 * SECOND);
    assert!(watch.connection.is_dropped());
    let watch = Server::accept(&world);
    watch.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    calls.expect(&["CONFIG GET notify-keyspace-events"], &list(&["notify-keyspace-events", "AKE"]));
    watch.expect(&["SUBSCRIBE __keyspace@2__:k"], &confirmed("__keyspace@2__:k"));
    calls.expect(&["MGET k"], &list(&["w||2"]));
    assert_eq!(told_dapr(&stream), ["k=w"]);
}

#[test]
fn ten_thousand_rounds_of_redis_leave_no_connection_behind() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let keeper = subscribed_dapr(&world, &worker, &["k"]);
    let (watch, calls) = begin(&world, "v||1");
    id(&keeper);
    let timers = world.timers();
    for _ in 0..10_000 {
        let stream = subscribed_dapr(&world, &worker, &["l"]);
        watch.expect(&["SUBSCRIBE __keyspace@2__:l"], &confirmed("__keyspace@2__:l"));
        calls.expect(&["MGET l"], "*1\r\n$-1\r\n");
        id(&stream);
        stream.cancel();
        watch.expect(&["UNSUBSCRIBE __keyspace@2__:l"], &confirmed("__keyspace@2__:l"));
    }
    assert_eq!(world.timers(), timers);
    keeper.cancel();
    world.advance(SECOND);
    assert!(watch.connection.is_dropped() && world.accept("runtime.configuration.s").is_none());
}

#[test]
fn redis_keeps_groups_and_labels_in_the_names_of_keys() {
    let world = World::default();
    let worker = testing::worker(&world, &redis());
    let grouped = |group: &str| layotto::ConfigurationItem { group: group.into(), ..item("k", "w") };
    let save = |items| {
        let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items, ..Default::default() };
        testing::call(&world, &worker, &format!("{LAYOTTO}/SaveConfiguration"), &request)
    };
    let saved = save(vec![item("k", "v"), grouped("g")]);
    let server = Server::accept(&world);
    server.expect(&["SELECT 2", "PING"], "+OK\r\n+PONG\r\n");
    let asked = server.asked().join("\n");
    assert!(asked.ends_with("2 k config||g||default||k v w"), "{asked}");
    server.connection.send(b":2\r\n");
    message::<()>(&saved);
    assert_eq!(status(&save(vec![grouped("g||h")])).0, Code::InvalidArgument);
    let stream = testing::talk(&world, &worker, &format!("{LAYOTTO}/SubscribeConfiguration")).unwrap();
    let group = "g||h".into();
    stream.send(&layotto::SubscribeConfigurationRequest { store_name: "s".into(), group, ..Default::default() });
    assert_eq!(stream.status().unwrap().code(), Code::InvalidArgument);
}
