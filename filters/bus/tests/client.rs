//! The bus against a real HTTP/2 client: what publishers and apps see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test ends by a panic

mod support;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use http::HeaderMap;
use runtime_bus::Connection;
use runtime_bus::message::{CONFIGURATION_HEADER, INSTANCE_HEADER, MAX_UNACKNOWLEDGED, STREAM_WINDOW, ToBus};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc;

use support::{CONFIGURATION, Client, Told, noise, soon};

const NUMBER: u64 = 1_700_000_000_123_456_789;
const LOST: (&str, &str) = ("14", "the stream to the runtime was lost; subscribe again");

fn status((code, text): (&str, &str)) -> (String, String) {
    (code.to_owned(), text.to_owned())
}

/// A client of a bus in this process.
async fn connect(builder: &Builder) -> Client {
    connect_with_ticks(builder).await.0
}

/// The same, and a way to have the bus tick.
async fn connect_with_ticks(builder: &Builder) -> (Client, mpsc::UnboundedSender<()>) {
    let (near, mut far) = duplex(1 << 20);
    let (tick, mut ticks) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut bus = Connection::new(NUMBER);
        let mut bytes = vec![0; 50_000];
        loop {
            tokio::select! {
                biased;
                Some(()) = ticks.recv() => bus.tick(),
                read = far.read(&mut bytes) => {
                    let Ok(count @ 1..) = read else { break };
                    if far.write_all(&bus.receive(&bytes[..count])).await.is_err() {
                        break;
                    }
                }
            }
        }
    });
    (Client::over(near, builder).await, tick)
}

/// So many ticks, and then something that comes.
async fn ticks(client: &mut Client, tick: &mpsc::UnboundedSender<()>, count: u32) {
    for _ in 0..count {
        tick.send(()).unwrap();
    }
    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
}

#[tokio::test]
async fn a_stream_is_served_from_its_head_to_its_trailers() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    assert_eq!(publisher.connection, NUMBER);
    for round in 0..3 {
        let headers = [(CONFIGURATION_HEADER, CONFIGURATION), ("grpc-timeout", "5S"), ("x-round", &round.to_string())];
        let (response, mut send) = client.request("/a.Service/Stream", &headers).await;
        let stream = response.stream_id().as_u32();
        let Told::Head(head, headers) = publisher.next().await else { panic!("the head is first") };
        assert_eq!(head, stream);
        for (name, value) in [
            (":method", "POST"),
            (":path", "/a.Service/Stream"),
            ("grpc-timeout", "5S"),
            ("x-round", &round.to_string()),
        ] {
            assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{name} is {value}: {headers:?}");
        }
        send.send_data(Bytes::from_static(b"ask"), false).unwrap();
        assert_eq!(publisher.next().await, Told::Data(stream, b"ask".to_vec()));
        publisher.send(ToBus::Begin { stream });
        let mut body = soon(response).await.unwrap().into_body();
        publisher.send_all(&[ToBus::Data { stream, bytes: b"one" }, ToBus::Data { stream, bytes: b"two" }]);
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), "one");
        assert_eq!(soon(body.data()).await.unwrap().unwrap(), "two");
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(publisher.next().await, Told::HalfClose(stream));
        let mut trailers = Vec::new();
        let text = "x".repeat(20_000); // more than one frame of headers
        for (name, value) in [("grpc-status", "5"), ("grpc-message", "no such thing"), ("x-more", &text)] {
            runtime_bus::message::add_trailer(&mut trailers, name, value);
        }
        publisher.send(ToBus::End { stream, trailers: &trailers });
        assert!(soon(body.data()).await.is_none());
        let trailers = soon(body.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-message"], "no such thing");
        assert_eq!(trailers["x-more"], text);
        assert_eq!(publisher.next().await, Told::Gone(stream));
    }
    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_has_said_nothing_ends_with_headers_alone() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    publisher.end(&app, &[("grpc-status", "16"), ("grpc-message", "who are you?")]);
    assert!(app.body().await.is_end_stream());
    assert_eq!(app.end().await, status(("16", "who are you?")));
    assert_eq!(publisher.next().await, Told::Gone(app.id));
    publisher.data(&app, b"late");
    app.send.send_reset(Reason::CANCEL);
    // Neither does harm.
    let mut other = client.app_at(&mut publisher).await;
    publisher.data(&other, b"well");
    assert_eq!(other.take(4).await, b"well");
}

#[tokio::test]
async fn three_hundred_streams_get_their_events_in_order() {
    let mut client = connect(Builder::new().initial_connection_window_size(1 << 24)).await;
    let mut publisher = client.publisher().await;
    let mut apps = Vec::new();
    for _ in 0..300 {
        apps.push(client.app_at(&mut publisher).await);
    }
    for event in 1..=40 {
        for app in &apps {
            publisher.data(app, format!("{}:{event};", app.id).as_bytes());
        }
    }
    for app in &mut apps {
        let events = (1..=40).map(|event| format!("{}:{event};", app.id).into_bytes());
        let expected = events.collect::<Vec<_>>().concat();
        assert_eq!(app.take(expected.len()).await, expected);
    }
}

#[tokio::test]
async fn any_window_lets_everything_through() {
    for (window, size) in [(1, 700), (10, 3000), (65_535, 60_000), (1 << 20, 60_000)] {
        let mut client =
            connect(Builder::new().initial_window_size(window).initial_connection_window_size(1 << 24)).await;
        let mut publisher = client.publisher().await;
        let mut apps = [client.app_at(&mut publisher).await, client.app_at(&mut publisher).await];
        let events = [noise(size, 1), Vec::new(), noise(1, 2), noise(size / 3, 3)];
        for event in &events {
            publisher.data(&apps[0], event);
            publisher.data(&apps[1], event);
        }
        publisher.end(&apps[0], &[("grpc-status", "0")]);
        let all = events.concat();
        assert_eq!(apps[1].take(all.len()).await, all, "with a window of {window}");
        assert_eq!(apps[0].take(all.len()).await, all, "with a window of {window}");
        assert_eq!(apps[0].end().await, status(("0", "")), "with a window of {window}");
    }
}

#[tokio::test]
async fn large_events_go_both_ways_in_many_frames() {
    let mut client = connect(Builder::new().initial_window_size(1 << 20).max_frame_size(1 << 20)).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    for seed in 1..=3 {
        let event = noise(5_000_000, seed);
        publisher.data(&app, &event);
        assert!(app.take(event.len()).await == event, "event {seed} arrives as it was");
    }
    publisher.written(&app, 14_900_000).await;
}

#[tokio::test]
async fn an_app_that_does_not_read_stalls_only_itself() {
    let mut client = connect(Builder::new().initial_window_size(30_000).initial_connection_window_size(1 << 24)).await;
    let mut publisher = client.publisher().await;
    let mut slow = client.app_at(&mut publisher).await;
    let mut fast = client.app_at(&mut publisher).await;
    let event = noise(20_000, 1);
    for _ in 0..4 {
        publisher.data(&slow, &event);
        publisher.data(&fast, &event);
        assert_eq!(fast.take(20_000).await, event);
        publisher.written(&fast, 20_000).await;
    }
    assert_eq!(slow.take(80_000).await, event.repeat(4));
    publisher.written(&slow, 50_000).await; // the rest is written, and too little to be told
}

#[tokio::test]
async fn an_app_that_cancels_is_gone() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    let mut other = client.app_at(&mut publisher).await;
    publisher.data(&app, &noise(100, 1));
    app.send.send_reset(Reason::CANCEL);
    assert_eq!(publisher.next().await, Told::Gone(app.id));
    publisher.data(&app, b"late");
    publisher.end(&app, &[("grpc-status", "0")]);
    publisher.data(&other, b"here");
    assert_eq!(other.take(4).await, b"here");
}

#[tokio::test]
async fn an_app_sends_what_the_publisher_grants() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    let mut other = client.app_at(&mut publisher).await;
    let flood = noise(10 * STREAM_WINDOW, 1);
    app.say(&flood);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    app.send.send_trailers(trailers).unwrap();
    let mut came = Vec::new();
    while came.len() < flood.len() {
        let window = came.len() + STREAM_WINDOW;
        while came.len() < window.min(flood.len()) {
            match publisher.next().await {
                Told::Data(stream, bytes) if stream == app.id => came.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        if came.len() < flood.len() {
            // No more comes before it is granted, and what others say does.
            other.say(b"hello");
            assert_eq!(publisher.next().await, Told::Data(other.id, b"hello".to_vec()));
        }
        publisher.send(ToBus::Grant { stream: app.id, bytes: u32::try_from(STREAM_WINDOW).unwrap() });
    }
    assert!(came == flood);
    assert_eq!(publisher.next().await, Told::HalfClose(app.id));
}

#[tokio::test]
async fn a_stream_waits_for_a_publisher_of_its_configuration_and_goes_to_the_newest() {
    let mut client = connect(&Builder::new()).await;
    let mut app = client.app().await;
    app.say(b"early");
    app.half_close();
    let mut stranger = client.publisher_of("runtime-2").await;
    let mut publisher = client.publisher().await;
    assert!(matches!(publisher.next().await, Told::Head(stream, _) if stream == app.id));
    assert_eq!(publisher.next().await, Told::Data(app.id, b"early".to_vec()));
    assert_eq!(publisher.next().await, Told::HalfClose(app.id));
    let mut newest = client.publisher().await;
    let mut late = client.app_at(&mut newest).await;
    let foreign = client.app_of("runtime-2").await;
    assert!(matches!(stranger.next().await, Told::Head(stream, _) if stream == foreign.id));
    // Nobody can send to another's stream.
    stranger.data(&late, b"wrong");
    publisher.data(&late, b"wrong");
    newest.data(&late, b"right");
    assert_eq!(late.take(5).await, b"right");
    publisher.data(&app, b"still mine");
    assert_eq!(app.take(10).await, b"still mine");
}

#[tokio::test]
async fn a_publisher_has_one_link_on_a_connection() {
    let mut client = connect(&Builder::new()).await;
    let headers = [(CONFIGURATION_HEADER, CONFIGURATION), (INSTANCE_HEADER, "7")];
    let mut publisher = client.publisher_with(&headers).await;
    let again = client.publisher_with(&headers).await;
    assert_eq!(again.connection, 0, "refused");
    assert!(again.receive.is_end_stream());
    let mut app = client.app_at(&mut publisher).await;
    publisher.data(&app, b"one");
    assert_eq!(app.take(3).await, b"one");
}

#[tokio::test]
async fn the_streams_of_a_publisher_that_ends_end_unavailable_and_no_others() {
    for reset in [true, false] {
        let mut client = connect(Builder::new().initial_window_size(10)).await;
        let mut publisher = client.publisher().await;
        let mut silent = client.app_at(&mut publisher).await;
        let mut busy = client.app_at(&mut publisher).await;
        let mut done = client.app_at(&mut publisher).await;
        publisher.data(&busy, b"more than its window");
        publisher.data(&done, b"more than its window");
        publisher.end(&done, &[("grpc-status", "0")]);
        assert_eq!(busy.take(1).await, b"m");
        let mut other = client.publisher().await;
        let mut kept = client.app_at(&mut other).await;
        if reset {
            publisher.send.send_reset(Reason::CANCEL);
        } else {
            publisher.send.send_data(Bytes::new(), true).unwrap();
        }
        assert_eq!(silent.end().await, status(LOST));
        assert_eq!(busy.take(19).await, b"ore than its window");
        assert_eq!(busy.end().await, status(LOST), "after what it was sent");
        assert_eq!(done.take(20).await, b"more than its window");
        assert_eq!(done.end().await, status(("0", "")), "its end was known");
        other.data(&kept, b"kept");
        assert_eq!(kept.take(4).await, b"kept");
    }
}

#[tokio::test]
async fn a_publisher_that_goes_silent_loses_its_streams() {
    let (mut client, tick) = connect_with_ticks(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    for _ in 0..20 {
        ticks(&mut client, &tick, 2).await;
        publisher.send(ToBus::Beat);
    }
    publisher.data(&app, b"well");
    assert_eq!(app.take(4).await, b"well");
    ticks(&mut client, &tick, 7).await;
    assert_eq!(app.end().await, status(LOST));
    let error = soon(publisher.receive.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    // The next stream waits for another publisher.
    let mut app = client.app().await;
    let mut publisher = client.publisher().await;
    assert!(matches!(publisher.next().await, Told::Head(stream, _) if stream == app.id));
    publisher.data(&app, b"again");
    assert_eq!(app.take(5).await, b"again");
}

#[tokio::test]
async fn a_stream_that_nobody_takes_up_ends_unavailable() {
    let (mut client, tick) = connect_with_ticks(&Builder::new()).await;
    let _stranger = client.publisher_of("runtime-2").await;
    let mut app = client.app().await;
    app.say(b"hello?");
    ticks(&mut client, &tick, 1).await;
    ticks(&mut client, &tick, 7).await;
    assert_eq!(
        app.end().await,
        status(("14", "the runtime filter did not take up the stream in time; subscribe again"))
    );
}

#[tokio::test]
async fn a_publisher_that_breaks_the_rules_loses_its_stream_or_the_apps() {
    let mut client = connect(Builder::new().initial_window_size(10)).await;
    let mut publisher = client.publisher().await;
    // One message more than the bound is fine, another is not.
    let mut app = client.app_at(&mut publisher).await;
    publisher.data(&app, &noise(10 + MAX_UNACKNOWLEDGED, 1));
    publisher.data(&app, &noise(1_000_000, 1));
    publisher.data(&app, b"too much");
    assert_eq!(app.reset().await, Reason::ENHANCE_YOUR_CALM);
    // Nothing comes after the end, which itself always may.
    let mut app = client.app().await;
    publisher.data(&app, &noise(100 + MAX_UNACKNOWLEDGED, 1));
    publisher.end(&app, &[("grpc-status", "0")]);
    publisher.data(&app, b"more");
    assert_eq!(app.reset().await, Reason::ENHANCE_YOUR_CALM);
    // What is no message ends its own stream.
    publisher.send.send_data(Bytes::from_static(&[0, 0, 0, 0, 1, 9]), false).unwrap();
    loop {
        match soon(publisher.receive.data()).await.unwrap() {
            Ok(bytes) => publisher.receive.flow_control().release_capacity(bytes.len()).unwrap(),
            Err(error) => break assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR)),
        }
    }
}

#[tokio::test]
async fn the_client_may_change_its_window_at_any_time() {
    let mut client = connect(Builder::new().initial_window_size(1000)).await;
    let mut publisher = client.publisher().await;
    let mut app = client.app_at(&mut publisher).await;
    let event = noise(50_000, 1);
    publisher.data(&app, &event);
    let mut taken = app.take(1000).await;
    client.settings.send(5).unwrap();
    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
    client.settings.send(20_000).unwrap();
    taken.extend(app.take(49_000).await);
    assert_eq!(taken, event);
}
