//! The bus in a real Envoy: by itself on a TCP listener, and as the runtime filter reaches it, behind a cluster with an
//! internal listener.

// The client that the bus's own tests use.
#[path = "../../filters/bus/tests/support/mod.rs"]
mod support;

use h2::Reason;
use h2::client::Builder;
use integration_tests::{Config, Envoy, ports};
use runtime_bus::message::MAX_UNACKNOWLEDGED;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use support::{Client, Told, noise};

/// An Envoy with two more listeners: the bus by itself, and an HTTP one whose requests all go to the cluster of the
/// bus.
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
async fn three_hundred_streams_get_their_events_in_order() {
    let bus = Bus::start().await;
    for mut client in bus.both(&wide()).await {
        let mut publisher = client.publisher().await;
        let mut apps = Vec::new();
        for _ in 0..300 {
            apps.push(client.app_at(&mut publisher).await);
        }
        // The client takes it ill when too many small frames wait for it, so it reads after each ten.
        for first in (1..=50).step_by(10) {
            for event in first..first + 10 {
                for app in &apps {
                    publisher.data(app, format!("{}:{event};", app.id).as_bytes());
                }
            }
            for app in &mut apps {
                let events = (first..first + 10).map(|event| format!("{}:{event};", app.id).into_bytes());
                let expected = events.collect::<Vec<_>>().concat();
                assert_eq!(app.take(expected.len()).await, expected);
            }
        }
        for app in &mut apps {
            publisher.end(app, &[("grpc-status", "5"), ("grpc-message", "over")]);
            assert_eq!(app.end().await, ("5".to_owned(), "over".to_owned()));
        }
    }
    // The main thread, which has no bus, has tried in vain.
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_active").await, 1);
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn an_app_that_does_not_read_holds_up_no_other() {
    let bus = Bus::start().await;
    for mut client in bus.both(Builder::new().initial_window_size(1000).initial_connection_window_size(1 << 26)).await {
        let mut publisher = client.publisher().await;
        let mut slow = client.app_at(&mut publisher).await;
        let mut fast = client.app_at(&mut publisher).await;
        for app in [&mut slow, &mut fast] {
            app.half_close();
            assert_eq!(publisher.next().await, Told::HalfClose(app.id));
        }
        let event = noise(20_000, 1);
        // As the publisher does: never more than the bound that is not known to be written.
        let (mut sent, mut written, mut taken) = (0, 0, 0);
        while taken < 100 {
            while sent * event.len() < written + MAX_UNACKNOWLEDGED {
                sent += 1;
                publisher.data(&slow, &event);
            }
            taken += 1;
            publisher.data(&fast, &event);
            assert_eq!(fast.take(event.len()).await, event);
            loop {
                match publisher.next().await {
                    Told::Written(stream, _) if stream == fast.id => break,
                    Told::Written(stream, bytes) if stream == slow.id => written += bytes as usize,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(sent < 50, "{sent} events for one that does not read: it is Envoy that holds them");
        publisher.end(&slow, &[("grpc-status", "0")]);
        let all = event.repeat(sent);
        assert!(slow.take(all.len()).await == all);
        assert_eq!(slow.end().await.0, "0");
    }
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn streams_end_in_every_way() {
    let bus = Bus::start().await;
    for mut client in bus.both(&wide()).await {
        let mut publisher = client.publisher().await;
        // The app cancels.
        let mut app = client.app_at(&mut publisher).await;
        publisher.data(&app, b"one");
        assert_eq!(app.take(3).await, b"one");
        app.send.send_reset(Reason::CANCEL);
        assert_eq!(publisher.next().await, Told::Gone(app.id));
        publisher.data(&app, b"two");
        // The app has not ended its side when the stream ends.
        let mut app = client.app_at(&mut publisher).await;
        app.say(b"hello");
        assert_eq!(publisher.next().await, Told::Data(app.id, b"hello".to_vec()));
        let event = noise(200_000, 2);
        publisher.data(&app, &event);
        publisher.end(&app, &[("grpc-status", "0")]);
        assert_eq!(app.take(event.len()).await, event);
        assert_eq!(app.end().await.0, "0");
        while publisher.next().await != Told::Gone(app.id) {}
        // It ends before it has said anything.
        let mut app = client.app_at(&mut publisher).await;
        publisher.end(&app, &[("grpc-status", "16"), ("grpc-message", "who?")]);
        assert_eq!(app.end().await, ("16".to_owned(), "who?".to_owned()));
        assert_eq!(publisher.next().await, Told::Gone(app.id));
        // The publisher is lost.
        let mut begun = client.app_at(&mut publisher).await;
        let mut silent = client.app_at(&mut publisher).await;
        publisher.data(&begun, b"one");
        assert_eq!(begun.take(3).await, b"one");
        publisher.send.send_reset(Reason::CANCEL);
        for app in [&mut begun, &mut silent] {
            let (code, text) = app.end().await;
            assert_eq!((code.as_str(), text.as_str()), ("14", "the stream to the runtime was lost; subscribe again"));
        }
    }
    // The main thread, which has no bus, has tried in vain.
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_active").await, 1);
    assert_eq!(bus.envoy.stat("cluster.runtime_bus.upstream_cx_protocol_error").await, 0);
    bus.envoy.assert_no_filter_crashed().await;
}

/// Nothing but the keep-alive of the cluster comes on the connection then.
#[tokio::test]
async fn the_streams_of_a_publisher_that_goes_silent_end_within_twenty_seconds() {
    let bus = Bus::start().await;
    let mut client = connect(bus.routed, &wide()).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    publisher.data(&app, b"one");
    assert_eq!(app.take(3).await, b"one");
    let (code, text) = app.end().await; // which waits no longer than that
    assert_eq!((code.as_str(), text.as_str()), ("14", "the stream to the runtime was lost; subscribe again"));
    bus.envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn connections_have_numbers_of_their_own_and_strangers_do_no_harm() {
    let bus = Bus::start().await;
    let mut client = connect(bus.direct, &wide()).await;
    let mut publisher = client.publisher().await;
    let mut numbers = vec![publisher.connection];
    for seed in 0..50 {
        let mut stranger = TcpStream::connect(("127.0.0.1", bus.direct)).await.unwrap();
        let preface = if seed % 2 == 0 { &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..] } else { b"" };
        stranger.write_all(&[preface, &noise(3000, seed)].concat()).await.unwrap();
        numbers.push(connect(bus.direct, &wide()).await.publisher().await.connection);
    }
    assert!(numbers.is_sorted_by(|earlier, later| earlier < later), "{numbers:?}");
    let mut app = client.app_at(&mut publisher).await;
    publisher.data(&app, b"well");
    assert_eq!(app.take(4).await, b"well");
    bus.envoy.assert_no_filter_crashed().await;
}
