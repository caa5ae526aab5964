//! The bus when its connections come to an end, are several, or belong to a configuration that goes: what apps get on
//! their subscriptions.

use std::path::Path;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1::SubscribeConfigurationResponse;
use envoy_runtime_proto::spec::runtime::v1::{ConfigurationItem, SubscribeConfigurationRequest};
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use integration_tests::configuration::Configuration;
use integration_tests::listener_file::serve_listener_from_a_file;
use integration_tests::{Client, Config, Dialect, Envoy, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

const STORE: &str = "config";

/// A number that a new configuration has otherwise.
const LIMIT: u32 = 1_234_000;

/// Far more than the time between two writes: a stream that is silent for so long hangs.
const SILENCE: Duration = Duration::from_secs(20);

/// A subscription to all keys. What it tells are the numbers of the writes.
struct Subscription {
    events: BoxStream<'static, Result<u32, Status>>,
    /// Layotto's requests are a stream, which stays open.
    _requests: Option<UnboundedSender<SubscribeConfigurationRequest>>,
}

impl Subscription {
    /// With Layotto that takes until the first event.
    async fn start(client: &Client) -> Result<Self, Status> {
        type Messages = BoxStream<'static, Result<Vec<String>, Status>>;
        let (messages, requests): (Messages, _) = match client.dialect() {
            Dialect::Dapr => {
                let messages = Configuration::new(client.clone(), STORE, "").stream(&[]).await?;
                let values =
                    |message: SubscribeConfigurationResponse| message.items.into_values().map(|item| item.value);
                (messages.map_ok(move |message| values(message).collect()).boxed(), None)
            }
            Dialect::Layotto => {
                let (sender, requests) = mpsc::unbounded();
                let request = SubscribeConfigurationRequest { store_name: STORE.into(), ..Default::default() };
                sender.unbounded_send(request).expect("the stream is open");
                let messages = client.layotto().subscribe_configuration(requests).await?.into_inner();
                let values = |items: Vec<ConfigurationItem>| items.into_iter().map(|item| item.content);
                (messages.map_ok(move |message| values(message.items).collect()).boxed(), Some(sender))
            }
        };
        let number = |value: String| Ok(value.parse().expect("a value is a number"));
        let events = messages.map_ok(move |values| stream::iter(values).map(number)).try_flatten().boxed();
        Ok(Self { events, _requests: requests })
    }

    /// The next event, or how the stream ended.
    async fn next(&mut self) -> Result<u32, Status> {
        let event = timeout(SILENCE, self.events.next()).await.expect("events come, or the stream ends");
        event.expect("a stream that its app has not ended ends with a failure")
    }
}

/// Writes 0, 1, 2 and so on, each under a key of its own, until it is dropped.
struct Writer(JoinHandle<()>);

impl Writer {
    async fn start(envoy: &Envoy) -> Self {
        let store = Configuration::new(envoy.client(Dialect::Layotto).await, STORE, "");
        Self(tokio::spawn(async move {
            for number in 0_u32.. {
                store.save(&[(&format!("{number:08}"), &number.to_string())]).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an app saw that subscribes again whenever its stream ends.
#[derive(Debug, Default)]
struct Seen {
    events: u32,
    ends: Vec<Status>,
    /// The longest time from the end of a stream to the first event of the next.
    longest_gap: Duration,
}

/// Follows the writes for a time; panics when an event is lost, doubled or out of order on a stream, or none comes.
async fn follow(client: Client, time: Duration) -> Seen {
    let end = Instant::now() + time;
    let mut seen = Seen::default();
    let mut ended = Instant::now();
    while Instant::now() < end {
        let subscription = timeout(SILENCE, Subscription::start(&client)).await.expect("it is taken or refused");
        let status = match subscription {
            Ok(mut subscription) => {
                let mut last = None;
                loop {
                    match subscription.next().await {
                        Ok(_) if Instant::now() > end => return seen,
                        Ok(number) => {
                            match last.replace(number) {
                                None => seen.longest_gap = seen.longest_gap.max(ended.elapsed()),
                                Some(last) => assert_eq!(number, last + 1, "after {last}"),
                            }
                            seen.events += 1;
                        }
                        Err(status) => break status,
                    }
                }
            }
            // The request has not left: the connection was just closed.
            Err(status) if status.message() == "operation was canceled" => continue,
            Err(status) => status,
        };
        ended = Instant::now();
        seen.ends.push(status);
    }
    seen
}

fn bus_cluster(bootstrap: &mut Value) -> &mut Value {
    let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
    clusters
        .iter_mut()
        .find(|cluster| cluster["name"] == "runtime.bus")
        .expect("the bus is part of every configuration")
}

/// Puts a proxy between the cluster of the bus and the bus that closes each connection after a while, whatever it
/// carries.
fn close_connections_of_the_bus(bootstrap: &mut Value) {
    let endpoints = |listener: &str| {
        let address = json!({"envoy_internal_address": {"server_listener_name": listener}});
        json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}])
    };
    bus_cluster(bootstrap)["load_assignment"]["endpoints"] = endpoints("closing");
    let behind =
        json!({"name": "behind", "load_assignment": {"cluster_name": "behind", "endpoints": endpoints("runtime.bus")}});
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "closing",
        "cluster": "behind",
        "max_downstream_connection_duration": "0.7s",
    });
    let filters = json!([{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]);
    let closing = json!({"name": "closing", "internal_listener": {}, "filter_chains": [{"filters": filters}]});
    let resources = &mut bootstrap["static_resources"];
    resources["clusters"].as_array_mut().unwrap().push(behind);
    resources["listeners"].as_array_mut().unwrap().push(closing);
}

/// Bounds what the bus takes by the cluster that leads to it.
fn limit(bootstrap: &mut Value, options: &str, field: &str, value: Value) {
    let extensions = &mut bus_cluster(bootstrap)["typed_extension_protocol_options"];
    let http = &mut extensions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    http.pointer_mut(options).expect("the cluster has these options")[field] = value;
}

async fn envoy(workers: u32, change: impl Fn(&mut Value, &Path) + Send + Sync + 'static) -> Envoy {
    let config = Config::new("orders")
        .set("limits", json!({"maxRequestBytes": LIMIT}))
        .component(STORE, "configuration.in-memory", &[])
        .concurrency(workers);
    Envoy::start(config.change_bootstrap(change)).await
}

/// `count` apps, half of each dialect, that share a few connections.
async fn start_following(envoy: &Envoy, count: usize, time: Duration) -> Vec<JoinHandle<Seen>> {
    let mut clients = Vec::new();
    for dialect in Dialect::ALL {
        for _ in 0..2 {
            // Both dialects on one listener, so that a test which replaces it concerns both.
            clients.push(envoy.client(Dialect::Dapr).await.with_dialect(dialect));
        }
    }
    clients.into_iter().cycle().take(count).map(|client| tokio::spawn(follow(client, time))).collect()
}

async fn finish(followers: Vec<JoinHandle<Seen>>) -> Vec<Seen> {
    join_all(followers).await.into_iter().map(|seen| seen.expect("the app gets what it should")).collect()
}

/// Apps and writers have gone: so have their streams, and but for the newest of each worker the links.
async fn nothing_is_left(envoy: &Envoy) {
    for (gauge, left) in [
        ("http.dapr_grpc.downstream_rq_active", 0),
        ("http.layotto_grpc.downstream_rq_active", 0),
        ("cluster.runtime_bus.upstream_rq_active", 2),
    ] {
        wait::eventually(gauge, async || match envoy.stat(gauge).await {
            active if active <= left => Ok(()),
            active => Err(active),
        })
        .await;
    }
    envoy.assert_no_filter_crashed().await;
}

/// Nothing can be said on a stream whose connection to the bus is gone: Envoy resets it, and gRPC libraries make a
/// status of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_closed_under_load() {
    let envoy = envoy(2, |bootstrap, _| close_connections_of_the_bus(bootstrap)).await;
    let writer = Writer::start(&envoy).await;
    let all = finish(start_following(&envoy, 60, Duration::from_secs(8)).await).await;
    drop(writer);
    for seen in &all {
        assert!(seen.ends.len() >= 5 && seen.events > 100, "{seen:?}");
        assert!(seen.longest_gap < Duration::from_secs(5), "a new subscription works at once: {seen:?}");
    }
    let closed = envoy.stat("cluster.runtime_bus.upstream_cx_destroy_with_active_rq").await;
    assert!(closed >= 10, "{closed} connections were closed");
    nothing_is_left(&envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_drain_keep_their_streams() {
    let envoy = envoy(1, |bootstrap, _| {
        limit(bootstrap, "/common_http_protocol_options", "max_connection_duration", json!("0.5s"));
    })
    .await;
    let writer = Writer::start(&envoy).await;
    let mut followers = Vec::new();
    for round in 0..8 {
        // The old connections lose their streams one by one.
        followers.extend(start_following(&envoy, 20, Duration::from_secs(6 - round / 2)).await);
        sleep(Duration::from_millis(400)).await;
    }
    all_were_served(&envoy, writer, followers, 50).await;
}

/// The apps were served to their end, with more than so many events each, over several connections.
async fn all_were_served(envoy: &Envoy, writer: Writer, followers: Vec<JoinHandle<Seen>>, events: u32) {
    for seen in finish(followers).await {
        assert!(seen.ends.is_empty() && seen.events > events, "{seen:?}");
    }
    drop(writer);
    let connections = envoy.stat("cluster.runtime_bus.upstream_cx_total").await;
    assert!(connections >= 4, "{connections} connections were opened");
    nothing_is_left(envoy).await;
}

async fn envoy_with_few_streams_on_a_connection(streams: u32) -> Envoy {
    envoy(1, move |bootstrap, _| {
        limit(bootstrap, "/explicit_http_config/http2_protocol_options", "max_concurrent_streams", json!(streams));
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_apps_are_served_on_many_connections() {
    let envoy = envoy_with_few_streams_on_a_connection(30).await;
    let writer = Writer::start(&envoy).await;
    let mut followers = Vec::new();
    for round in 0..20 {
        // Every other ten go soon, and others come in their places.
        let time = Duration::from_secs(if round % 2 == 0 { 1 } else { 6 });
        followers.extend(start_following(&envoy, 10, time).await);
        sleep(Duration::from_millis(100)).await;
    }
    all_were_served(&envoy, writer, followers, 20).await;
}

/// No connection has room for a stream and its link: the filter can send nothing, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_out_of_reach_end_with_a_status() {
    let envoy = envoy_with_few_streams_on_a_connection(1).await;
    let writer = Writer::start(&envoy).await;
    for seen in finish(start_following(&envoy, 12, Duration::from_secs(3)).await).await {
        assert!(!seen.ends.is_empty() && seen.events == 0, "{seen:?}");
        for status in &seen.ends {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("subscribe again"), "{status}");
        }
    }
    drop(writer);
    let connections = envoy.stat("cluster.runtime_bus.upstream_cx_total").await;
    assert!(connections < 200, "{connections} connections: it tries again more slowly each time");
    nothing_is_left(&envoy).await;
}

/// The listener closes its connections at the end of the time to drain, five seconds here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_last_until_the_listener_of_the_old_configuration_has_drained() {
    let envoy = envoy(1, serve_listener_from_a_file).await;
    let first = envoy.listener_of_the_file().await.to_string();
    let writer = Writer::start(&envoy).await;
    let old = start_following(&envoy, 40, Duration::from_secs(12)).await;
    sleep(Duration::from_secs(1)).await;
    let changed = first.replace(&LIMIT.to_string(), &(LIMIT + 1).to_string());
    assert_ne!(changed, first, "the limit stands in the listener");
    envoy.replace_listener_of_the_file(serde_json::from_str(&changed).unwrap(), 1).await;
    for seen in finish(start_following(&envoy, 40, Duration::from_secs(2)).await).await {
        assert!(seen.ends.is_empty() && seen.events > 50, "the new configuration serves: {seen:?}");
    }
    assert!(!old.iter().any(JoinHandle::is_finished));
    envoy.old_listeners_are_gone().await;
    for seen in finish(old).await {
        assert_eq!(seen.ends.len(), 1, "{seen:?}");
        assert!(seen.events > 300 && seen.longest_gap < Duration::from_secs(5), "{seen:?}");
    }
    drop(writer);
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
    nothing_is_left(&envoy).await;
}
