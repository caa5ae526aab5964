//! The bus against a real HTTP/2 client: what publishers and subscribers see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test ends by a panic

mod support;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use http::{HeaderMap, Request};
use runtime_bus::Connection;
use runtime_bus::message::{FromBus, MAX_UNACKNOWLEDGED, ToBus, hello};
use support::{Client, noise, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const NUMBER: u64 = 1_700_000_000_123_456_789;

/// A client of a bus in this process.
async fn connect(builder: &Builder) -> Client {
    let (near, mut far) = duplex(1 << 20);
    tokio::spawn(async move {
        let mut bus = Connection::new(NUMBER);
        let mut bytes = vec![0; 50_000];
        while let Ok(count @ 1..) = far.read(&mut bytes).await {
            if far.write_all(&bus.receive(&bytes[..count])).await.is_err() {
                break;
            }
        }
    });
    Client::over(near, builder).await
}

#[tokio::test]
async fn publishers_and_subscribers_are_greeted() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    assert_eq!(publisher.connection, NUMBER);
    let mut subscriber = client.subscriber(7).await;
    assert_eq!(subscriber.connection, NUMBER);
    publisher.data(7, 1, b"one");
    assert_eq!(subscriber.take(3).await, b"one");
    assert_eq!(publisher.next().await, FromBus::Ack { subscription: 7, sequence: 1 });
    publisher.send(ToBus::End { subscription: 7, sequence: 2 });
    subscriber.ended().await;
    assert_eq!(publisher.next().await, FromBus::Ack { subscription: 7, sequence: 2 });
    publisher.send(ToBus::End { subscription: 7, sequence: 2 });
    assert_eq!(publisher.next().await, FromBus::Unknown { subscription: 7 });

    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
    publisher.send.send_data(Bytes::new(), true).unwrap();
    assert!(soon(publisher.receive.data()).await.is_none());
    assert_eq!(soon(publisher.receive.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn three_hundred_subscribers_get_their_events_in_order() {
    let mut client = connect(Builder::new().initial_connection_window_size(1 << 24)).await;
    let mut publisher = client.publisher().await;
    let mut subscribers = Vec::new();
    for subscription in 0..300 {
        subscribers.push(client.subscriber(subscription).await);
    }
    for sequence in 1..=40 {
        for subscription in 0..300 {
            publisher.data(subscription, sequence, format!("{subscription}:{sequence};").as_bytes());
        }
    }
    for (subscription, subscriber) in subscribers.iter_mut().enumerate() {
        let events = (1..=40).map(|sequence| format!("{subscription}:{sequence};").into_bytes());
        let expected = events.collect::<Vec<_>>().concat();
        assert_eq!(subscriber.take(expected.len()).await, expected);
    }
    publisher.acknowledged(299, 40).await;
    // A publisher that does not read gets the fewer acknowledgements: those that fit into its window of 64 KiB, and
    // the last of each.
    for sequence in 41..=100 {
        for subscription in 0..300 {
            publisher.data(subscription, sequence, b".");
        }
    }
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.take(60).await, [b'.'; 60]);
    }
    let mut last = [0; 300];
    let mut count = 0;
    while last != [100; 300] {
        let FromBus::Ack { subscription, sequence } = publisher.next().await else { panic!("acknowledgements") };
        let last = &mut last[usize::try_from(subscription).unwrap()];
        assert!(*last < sequence);
        *last = sequence;
        count += 1;
    }
    assert!(count < 65_535 / 17 + 300, "{count} acknowledgements");
}

#[tokio::test]
async fn any_window_lets_everything_through() {
    for (window, size) in [(1, 700), (10, 3000), (65_535, 60_000), (1 << 20, 60_000)] {
        let mut client =
            connect(Builder::new().initial_window_size(window).initial_connection_window_size(1 << 24)).await;
        let mut publisher = client.publisher().await;
        let mut subscribers = [client.subscriber(1).await, client.subscriber(2).await];
        let events = [noise(size, 1), Vec::new(), noise(1, 2), noise(size / 3, 3)];
        for (event, sequence) in events.iter().zip(1..) {
            publisher.data(1, sequence, event);
            publisher.data(2, sequence, event);
        }
        publisher.send(ToBus::End { subscription: 1, sequence: 5 });
        let all = events.concat();
        assert_eq!(subscribers[1].take(all.len()).await, all, "with a window of {window}");
        assert_eq!(subscribers[0].take(all.len()).await, all, "with a window of {window}");
        subscribers[0].ended().await;
        publisher.acknowledged(1, 5).await;
    }
}

#[tokio::test]
async fn large_events_go_both_ways_in_many_frames() {
    let mut client = connect(Builder::new().initial_window_size(1 << 20).max_frame_size(1 << 20)).await;
    let mut publisher = client.publisher().await;
    let mut subscriber = client.subscriber(1).await;
    for sequence in 1..=3 {
        let event = noise(5_000_000, sequence);
        publisher.data(1, sequence, &event);
        assert!(subscriber.take(event.len()).await == event, "event {sequence} arrives as it was");
        publisher.acknowledged(1, sequence).await;
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_stalls_only_itself() {
    let mut client = connect(Builder::new().initial_window_size(1000).initial_connection_window_size(1 << 24)).await;
    let mut publisher = client.publisher().await;
    let mut slow = client.subscriber(1).await;
    let mut fast = client.subscriber(2).await;
    let event = noise(900, 1);
    publisher.data(1, 1, &event);
    publisher.acknowledged(1, 1).await;
    for sequence in 1..=50 {
        publisher.data(1, sequence + 1, &event);
        publisher.data(2, sequence, &event);
        assert_eq!(fast.take(900).await, event);
        assert_eq!(publisher.next().await, FromBus::Ack { subscription: 2, sequence });
    }
    assert_eq!(slow.take(51 * 900).await, event.repeat(51));
    publisher.acknowledged(1, 51).await;
}

#[tokio::test]
async fn a_subscriber_that_cancels_is_gone() {
    let mut client = connect(Builder::new().initial_window_size(10)).await;
    let mut publisher = client.publisher().await;
    let mut subscriber = client.subscriber(1).await;
    let mut other = client.subscriber(2).await;
    publisher.data(1, 1, &noise(100, 1));
    subscriber.send.send_reset(Reason::CANCEL);
    assert_eq!(publisher.next().await, FromBus::Gone { subscription: 1 });
    publisher.data(1, 2, b"late");
    assert_eq!(publisher.next().await, FromBus::Unknown { subscription: 1 });
    publisher.data(2, 1, b"here");
    assert_eq!(other.take(4).await, b"here");
    // The number may be used again, and begins again.
    let mut again = client.subscriber(1).await;
    publisher.data(1, 1, b"there");
    assert_eq!(again.take(5).await, b"there");
}

#[tokio::test]
async fn what_a_subscriber_says_after_its_hello_is_dropped() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut subscriber = client.subscriber_that_says([&hello(1)[..], b"and more"].concat(), false).await;
    // More than the window of the stream: it is granted again.
    for _ in 0..300 {
        subscriber.send.send_data(noise(10_000, 1).into(), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    subscriber.send.send_trailers(trailers).unwrap();
    publisher.data(1, 1, b"still here");
    assert_eq!(subscriber.take(10).await, b"still here");
    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
    publisher.data(1, 2, b"and now");
    assert_eq!(subscriber.take(7).await, b"and now");
}

#[tokio::test]
async fn a_hello_may_come_in_pieces_and_must_be_one() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let request = || Request::post("http://bus/").body(()).unwrap();
    let (response, mut send) = client.requests.send_request(request(), false).unwrap();
    for byte in hello(5) {
        send.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
    }
    let mut body = soon(response).await.unwrap().into_body();
    publisher.data(5, 1, b"five");
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "five");
    for (body, end) in [(&b"X"[..], false), (b"S1234567", true), (b"", true)] {
        let (response, mut send) = client.requests.send_request(request(), false).unwrap();
        send.send_data(Bytes::copy_from_slice(body), end).unwrap();
        assert_eq!(soon(response).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR), "{body:?}");
    }
}

#[tokio::test]
async fn a_publisher_that_comes_back_goes_on_where_it_was() {
    let mut client = connect(Builder::new().initial_window_size(1000)).await;
    let mut publisher = client.publisher().await;
    let mut subscriber = client.subscriber(1).await;
    let mut idle = client.subscriber(2).await;
    let events: Vec<_> = (0..20).map(|seed| noise(300, seed)).collect();
    for (event, sequence) in events[..10].iter().zip(1..) {
        publisher.data(1, sequence, event);
    }
    publisher.data(2, 1, b"seen");
    // The first three fit into the window.
    publisher.acknowledged(1, 3).await;
    publisher.send.send_reset(Reason::CANCEL);
    // What the subscriber takes meanwhile is acknowledged to nobody.
    assert_eq!(subscriber.take(6 * 300).await.len(), 6 * 300);
    assert_eq!(idle.take(4).await, b"seen");

    let mut publisher = client.publisher().await;
    for (event, sequence) in events.iter().zip(1..).skip(3) {
        publisher.data(1, sequence, event);
    }
    publisher.data(2, 1, b"seen");
    publisher.data(2, 2, b" once");
    publisher.send(ToBus::End { subscription: 1, sequence: 21 });
    assert_eq!(subscriber.take(14 * 300).await, events[6..].concat());
    subscriber.ended().await;
    assert_eq!(idle.take(5).await, b" once");
    publisher.acknowledged(1, 21).await;
}

#[tokio::test]
async fn each_publisher_gets_the_acknowledgements_of_what_it_sent() {
    let mut client = connect(&Builder::new()).await;
    let mut first = client.publisher().await;
    let mut second = client.publisher().await;
    let _subscriber = client.subscriber(1).await;
    let mut orphan = client.subscriber(2).await;
    first.data(1, 1, b"a");
    second.data(2, 1, b"b");
    first.data(1, 2, b"c");
    assert_eq!(second.next().await, FromBus::Ack { subscription: 2, sequence: 1 });
    assert_eq!(first.next().await, FromBus::Ack { subscription: 1, sequence: 1 });
    assert_eq!(first.next().await, FromBus::Ack { subscription: 1, sequence: 2 });
    // When one is lost, the other hears of its subscribers.
    second.send.send_reset(Reason::CANCEL);
    orphan.send.send_reset(Reason::CANCEL);
    assert_eq!(first.next().await, FromBus::Gone { subscription: 2 });
}

#[tokio::test]
async fn a_publisher_that_breaks_the_rules_loses_its_stream_or_the_subscriber() {
    let mut client = connect(Builder::new().initial_window_size(10)).await;
    let mut publisher = client.publisher().await;
    // A gap: something is lost, and that must not stay unseen.
    let mut subscriber = client.subscriber(1).await;
    publisher.data(1, 2, b"second");
    assert_eq!(subscriber.reset().await, Reason::ENHANCE_YOUR_CALM);
    assert_eq!(publisher.next().await, FromBus::Gone { subscription: 1 });
    // One message more than the bound is fine, another is not.
    let mut subscriber = client.subscriber(2).await;
    publisher.data(2, 1, &noise(10 + MAX_UNACKNOWLEDGED, 1));
    publisher.data(2, 2, &noise(1_000_000, 1));
    publisher.data(2, 3, b"too much");
    assert_eq!(subscriber.reset().await, Reason::ENHANCE_YOUR_CALM);
    assert_eq!(publisher.next().await, FromBus::Gone { subscription: 2 });
    // Nothing comes after the end, which itself always may.
    let mut subscriber = client.subscriber(3).await;
    publisher.data(3, 1, &noise(100 + MAX_UNACKNOWLEDGED, 1));
    publisher.send(ToBus::End { subscription: 3, sequence: 2 });
    publisher.data(3, 3, b"more");
    assert_eq!(subscriber.reset().await, Reason::ENHANCE_YOUR_CALM);
    assert_eq!(publisher.next().await, FromBus::Gone { subscription: 3 });
    // What is no message ends its own stream.
    publisher.send.send_data(Bytes::from_static(&[0, 0, 0, 0, 1, 9]), false).unwrap();
    let error = soon(publisher.receive.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn the_later_of_two_subscribers_takes_the_place_of_the_earlier() {
    let mut client = connect(&Builder::new()).await;
    let mut publisher = client.publisher().await;
    let mut earlier = client.subscriber(1).await;
    let mut later = client.subscriber(1).await;
    assert_eq!(earlier.reset().await, Reason::CANCEL);
    publisher.data(1, 1, b"one");
    assert_eq!(later.take(3).await, b"one");
    assert_eq!(publisher.next().await, FromBus::Ack { subscription: 1, sequence: 1 });
}

#[tokio::test]
async fn the_client_may_change_its_window_at_any_time() {
    let mut client = connect(Builder::new().initial_window_size(1000)).await;
    let mut publisher = client.publisher().await;
    let mut subscriber = client.subscriber(1).await;
    let event = noise(50_000, 1);
    publisher.data(1, 1, &event);
    let mut taken = subscriber.take(1000).await;
    client.settings.send(5).unwrap();
    soon(client.ping.ping(h2::Ping::opaque())).await.unwrap();
    client.settings.send(20_000).unwrap();
    taken.extend(subscriber.take(49_000).await);
    assert_eq!(taken, event);
    publisher.acknowledged(1, 1).await;
}
