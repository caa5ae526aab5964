//! The bus in a real Envoy: by itself on a TCP listener, and as the runtime filter reaches it, behind a cluster with an internal listener.

// The client that the bus's own tests use.
#[path = "../../filters/bus/tests/support/mod.rs"]
mod support;

use h2::Reason;
use h2::client::Builder;
use integration_tests::{Config, Envoy, ports};
use runtime_bus::message::{FromBus, MAX_UNACKNOWLEDGED, ToBus, hello};
use serde_json::{Value, json};
use support::{Client, noise};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// An Envoy with two more listeners: the bus by itself, and an HTTP one whose requests all go to the cluster of the bus.
struct Bus {
    envoy: Envoy,
    direct: u16,
    routed: u16,
}

impl Bus {
    async fn start() -> Self {
        let [direct, routed] = [(); 2].map(|()| ports::free_port());
        let config = Config::new("orders").change_bootstrap(move |bootstrap, _| add(bootstrap, direct, routed));
        Self { envoy: Envoy::start(config).await, direct, routed }
    }

    async fn both(&self, builder: &Builder) -> [Client; 2] {
        [connect(self.direct, builder).await, connect(self.routed, builder).await]
    }
}

/// The bus on a TCP port, and a port whose streams are routed to the bus within Envoy.
fn add(bootstrap: &mut Value, direct: u16, routed: u16) {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().unwrap();
    let bus = listeners.iter().find(|listener| listener["name"] == "runtime.bus");
    let mut on_tcp = bus.expect("the bus is part of every configuration").clone();
    on_tcp["name"] = "bus_on_tcp".into();
    on_tcp["address"] = address(direct);
    on_tcp.as_object_mut().unwrap().remove("internal_listener");
    let route =
        json!({"match": {"prefix": "/"}, "route": {"cluster": "runtime.bus", "timeout": "0s", "idle_timeout": "0s"}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "routed",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        // What Envoy holds for an app that does not read is as large as this window; the default is 16 MiB and more.
        "http2_protocol_options": {"max_concurrent_streams": 10000, "initial_stream_window_size": 65536},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let filters = json!([{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]);
    let through_cluster =
        json!({"name": "routed", "address": address(routed), "filter_chains": [{"filters": filters}]});
    listeners.extend([on_tcp, through_cluster]);
}

async fn connect(port: u16, builder: &Builder) -> Client {
    let connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connection.set_nodelay(true).unwrap();
    Client::over(connection, builder).await
}

fn wide() -> Builder {
    let mut builder = Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 26);
    builder
}

#[tokio::test]
async fn three_hundred_subscribers_get_their_events_in_order() {
    let bus = Bus::start().await;
    for mut client in bus.both(&wide()).await {
        let mut publisher = client.publisher().await;
        let mut subscribers = Vec::new();
        for subscription in 0..300 {
            let subscriber = client.subscriber(subscription).await;
            assert_eq!(subscriber.connection, publisher.connection, "all are on one connection");
            subscribers.push(subscriber);
        }
        // The client takes it ill when too many small frames wait for it, so it reads after each ten.
        for first in (1..=50).step_by(10) {
            for sequence in first..first + 10 {
                for subscription in 0..300 {
                    publisher.data(subscription, sequence, format!("{subscription}:{sequence};").as_bytes());
                }
            }
            for (subscription, subscriber) in subscribers.iter_mut().enumerate() {
                let events = (first..first + 10).map(|sequence| format!("{subscription}:{sequence};").into_bytes());
                let expected = events.collect::<Vec<_>>().concat();
                assert_eq!(subscriber.take(expected.len()).await, expected);
            }
            publisher.acknowledged(299, first + 9).await;
        }
        for subscription in 0..300 {
            publisher.send(ToBus::End { subscription, sequence: 51 });
        }
        for subscriber in &mut subscribers {
            subscriber.ended().await;
        }
        publisher.acknowledged(299, 51).await;
    }
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_total").await, 1);
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn an_app_that_does_not_read_holds_up_no_other() {
    let bus = Bus::start().await;
    for mut client in bus.both(Builder::new().initial_window_size(1000).initial_connection_window_size(1 << 26)).await {
        let mut publisher = client.publisher().await;
        let mut slow = client.subscriber(1).await;
        let mut fast = client.subscriber(2).await;
        let event = noise(5000, 1);
        // As the publisher does: never more than the bound without an acknowledgement.
        let (mut sent, mut acknowledged, mut taken) = (0, 0, 0);
        while taken < 100 {
            while (sent - acknowledged) * 5000 <= MAX_UNACKNOWLEDGED as u64 {
                sent += 1;
                publisher.data(1, sent, &event);
            }
            taken += 1;
            publisher.data(2, taken, &event);
            assert_eq!(fast.take(5000).await, event);
            loop {
                match publisher.next().await {
                    FromBus::Ack { subscription: 2, sequence } if sequence == taken => break,
                    FromBus::Ack { subscription: 1, sequence } => acknowledged = sequence,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(sent < 100, "{sent} events for one that does not read: it is Envoy that holds them");
        publisher.send(ToBus::End { subscription: 1, sequence: sent + 1 });
        let all = event.repeat(usize::try_from(sent).unwrap());
        assert_eq!(slow.take(all.len()).await, all);
        slow.ended().await;
        publisher.acknowledged(1, sent + 1).await;
    }
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn streams_end_in_every_way() {
    let bus = Bus::start().await;
    for mut client in bus.both(&wide()).await {
        let mut publisher = client.publisher().await;
        // The app cancels.
        let mut subscriber = client.subscriber(1).await;
        publisher.data(1, 1, b"one");
        assert_eq!(subscriber.take(3).await, b"one");
        subscriber.send.send_reset(Reason::CANCEL);
        publisher.acknowledged(1, 1).await;
        assert_eq!(publisher.next().await, FromBus::Gone { subscription: 1 });
        publisher.data(1, 2, b"two");
        assert_eq!(publisher.next().await, FromBus::Unknown { subscription: 1 });
        // The app has not ended its side when the stream ends.
        let mut subscriber = client.subscriber_that_says(hello(2).to_vec(), false).await;
        let event = noise(200_000, 2);
        publisher.data(2, 1, &event);
        publisher.send(ToBus::End { subscription: 2, sequence: 2 });
        assert_eq!(subscriber.take(event.len()).await, event);
        subscriber.ended().await;
        publisher.acknowledged(2, 2).await;
        // The publisher is lost and comes back; what was under way is there once.
        let mut subscriber = client.subscriber(3).await;
        publisher.data(3, 1, b"one,");
        publisher.data(3, 2, b"two,");
        publisher.acknowledged(3, 2).await;
        publisher.data(3, 3, b"three,");
        publisher.send.send_reset(Reason::CANCEL);
        let mut publisher = client.publisher().await;
        for (event, sequence) in [&b"two,"[..], b"three,", b"four"].iter().zip(2..) {
            publisher.data(3, sequence, event);
        }
        assert_eq!(subscriber.take(18).await, b"one,two,three,four");
        publisher.acknowledged(3, 4).await;
        // The publisher ends.
        publisher.send.send_data(bytes::Bytes::new(), true).unwrap();
        assert!(publisher.receive.data().await.is_none());
        assert_eq!(publisher.receive.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_total").await, 1);
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_protocol_error").await, 0);
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn connections_have_numbers_of_their_own_and_strangers_do_no_harm() {
    let bus = Bus::start().await;
    let mut client = connect(bus.direct, &wide()).await;
    let publisher = client.publisher().await;
    let mut numbers = vec![publisher.connection];
    for seed in 0..50 {
        let mut stranger = TcpStream::connect(("127.0.0.1", bus.direct)).await.unwrap();
        let preface = if seed % 2 == 0 { &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..] } else { b"" };
        stranger.write_all(&[preface, &noise(3000, seed)].concat()).await.unwrap();
        numbers.push(connect(bus.direct, &wide()).await.publisher().await.connection);
    }
    assert!(numbers.is_sorted_by(|earlier, later| earlier < later), "{numbers:?}");
    let mut subscriber = client.subscriber(1).await;
    assert_eq!(subscriber.connection, numbers[0]);
    let mut publisher = publisher;
    publisher.data(1, 1, b"well");
    assert_eq!(subscriber.take(4).await, b"well");
    bus.envoy.assert_no_filter_crashed().await;
}
