//! The bus byte by byte: what RFC 9113 asks of a server, and that nothing upsets it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // a test ends by a panic

use proptest::prelude::*;
use runtime_bus::Connection;
use runtime_bus::message::{FromBus, STREAM_WINDOW, ToBus, add_trailer};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

const PROTOCOL_ERROR: u8 = 1;
const FLOW_CONTROL_ERROR: u8 = 3;
const STREAM_CLOSED: u8 = 5;
const FRAME_SIZE_ERROR: u8 = 6;
const CANCEL: u8 = 8;
const COMPRESSION_ERROR: u8 = 9;
const ENHANCE_YOUR_CALM: u8 = 11;

#[derive(Clone, Debug, PartialEq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x84")
}

/// A stream of an app that has ended its side.
fn app(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x83\x86\x84")
}

fn publisher(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x04\x14/runtime.Bus/Publish")
}

fn message(stream: u32, message: ToBus<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    message.encode(&mut payload);
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&payload);
    framed.chunks(16_384).flat_map(|part| frame(DATA, 0, stream, part)).collect()
}

/// Bytes for the app on a stream, from the publisher on another.
fn event(publisher: u32, stream: u32, bytes: &[u8]) -> Vec<u8> {
    message(publisher, ToBus::Data { stream, bytes })
}

fn end(publisher: u32, stream: u32) -> Vec<u8> {
    let mut trailers = Vec::new();
    add_trailer(&mut trailers, "grpc-status", "0");
    message(publisher, ToBus::End { stream, trailers: &trailers })
}

fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(([a, b, c, kind, flags, stream @ ..], rest)) = bytes.split_first_chunk::<9>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        let stream = u32::from_be_bytes(*stream);
        frames.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "whole frames");
    frames
}

/// A connection on which settings were exchanged.
fn connection() -> Connection {
    let mut bus = Connection::new(5);
    let greeting = frames(&bus.receive(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()));
    assert_eq!(greeting[0].kind, SETTINGS);
    assert_eq!(*greeting.last().unwrap(), Frame { kind: SETTINGS, flags: ACK, stream: 0, payload: vec![] });
    assert!(bus.receive(&frame(SETTINGS, ACK, 0, &[])).is_empty());
    bus
}

/// The bytes of DATA for a stream.
fn data(frames: &[Frame], stream: u32) -> Vec<u8> {
    let of_stream = frames.iter().filter(|frame| (frame.kind, frame.stream) == (DATA, stream));
    of_stream.flat_map(|frame| frame.payload.clone()).collect()
}

/// What a publisher was told, less the greeting and the heads of streams.
fn told(frames: &[Frame], stream: u32) -> Vec<Told> {
    let bytes = data(frames, stream);
    let (mut rest, mut told) = (bytes.as_slice(), Vec::new());
    while let Some(([0, size @ ..], after)) = rest.split_first_chunk::<5>() {
        let (mut messages, after) = after.split_at(u32::from_be_bytes(*size) as usize);
        while let Some(message) = FromBus::take(&mut messages).unwrap() {
            match message {
                FromBus::Hello { .. } | FromBus::Head { .. } => {}
                FromBus::Data { stream, bytes } => told.push(Told::Data(stream, bytes.to_vec())),
                FromBus::HalfClose { stream } => told.push(Told::HalfClose(stream)),
                FromBus::Gone { stream } => told.push(Told::Gone(stream)),
                FromBus::Written { stream, bytes } => told.push(Told::Written(stream, bytes)),
            }
        }
        rest = after;
    }
    assert!(rest.is_empty());
    told
}

#[derive(Debug, PartialEq)]
enum Told {
    Data(u32, Vec<u8>),
    HalfClose(u32),
    Gone(u32),
    Written(u32, u32),
}

#[test]
fn what_ends_the_connection() {
    let open = app(1);
    let cases: &[(&str, Vec<u8>, u8)] = &[
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("DATA on an idle stream", frame(DATA, 0, 3, b"x"), PROTOCOL_ERROR),
        ("DATA on a stream of the server", frame(DATA, 0, 2, b"x"), PROTOCOL_ERROR),
        ("padding longer than the payload", frame(DATA, PADDED, 1, b"\x05x"), PROTOCOL_ERROR),
        ("HEADERS on stream 0", request(0), PROTOCOL_ERROR),
        ("HEADERS on an even stream", request(4), PROTOCOL_ERROR),
        ("HEADERS with a cut priority", frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, b"\0\0"), FRAME_SIZE_ERROR),
        ("PRIORITY of a wrong size", frame(PRIORITY, 0, 1, b"\0"), FRAME_SIZE_ERROR),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, b"\0\0\0\0\0"), PROTOCOL_ERROR),
        ("RST_STREAM on an idle stream", number(RST_STREAM, 3, 8), PROTOCOL_ERROR),
        ("RST_STREAM on stream 0", number(RST_STREAM, 0, 8), PROTOCOL_ERROR),
        ("RST_STREAM of a wrong size", frame(RST_STREAM, 0, 1, b"\0"), FRAME_SIZE_ERROR),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("SETTINGS of a wrong size", frame(SETTINGS, 0, 0, b"\0"), FRAME_SIZE_ERROR),
        ("SETTINGS acknowledged with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), FRAME_SIZE_ERROR),
        ("a window beyond the largest", setting(4, 0x8000_0000), FLOW_CONTROL_ERROR),
        ("a frame size below the least", setting(5, 16_383), PROTOCOL_ERROR),
        ("a push that is neither on nor off", setting(2, 2), PROTOCOL_ERROR),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4]), PROTOCOL_ERROR),
        ("PING of a wrong size", frame(PING, 0, 0, b"\0"), FRAME_SIZE_ERROR),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("GOAWAY of a wrong size", frame(GOAWAY, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("WINDOW_UPDATE of nothing", number(WINDOW_UPDATE, 0, 0), PROTOCOL_ERROR),
        ("WINDOW_UPDATE beyond the largest", number(WINDOW_UPDATE, 0, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        ("WINDOW_UPDATE of a wrong size", frame(WINDOW_UPDATE, 0, 0, b"\0"), FRAME_SIZE_ERROR),
        ("WINDOW_UPDATE on an idle stream", number(WINDOW_UPDATE, 3, 1), PROTOCOL_ERROR),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
        ("a frame within a header block", [frame(HEADERS, 0, 3, b""), number(PING, 0, 0)].concat(), PROTOCOL_ERROR),
        (
            "CONTINUATION of another stream",
            [frame(HEADERS, 0, 3, b""), frame(CONTINUATION, END_HEADERS, 5, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        ("a frame that is too large", frame(0xbe, 0, 0, &vec![0; 16_385]), FRAME_SIZE_ERROR),
        ("headers that are no HPACK", frame(HEADERS, END_HEADERS, 3, b"\x80"), COMPRESSION_ERROR),
        (
            "a header block without end",
            [frame(HEADERS, 0, 3, b""), frame(CONTINUATION, 0, 3, b"").repeat(40_000)].concat(),
            ENHANCE_YOUR_CALM,
        ),
        (
            "a window beyond the largest by a setting",
            [number(WINDOW_UPDATE, 1, 0x7fff_0000), setting(4, 0x7fff_ffff)].concat(),
            FLOW_CONTROL_ERROR,
        ),
    ];
    for (name, bytes, code) in cases {
        let mut bus = connection();
        bus.receive(&open);
        let answer = frames(&bus.receive(bytes));
        let [.., reset, goaway] = answer.as_slice() else { panic!("{name}: {answer:?}") };
        assert_eq!(*goaway, frames(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, *code]))[0], "{name}");
        assert_eq!(*reset, frames(&number(RST_STREAM, 1, CANCEL.into()))[0], "{name}");
        assert!(bus.receive(&frame(PING, 0, 0, &[0; 8])).is_empty(), "{name}: nothing more");
    }
}

#[test]
fn what_a_client_must_say_first() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()] {
        let answer = frames(&Connection::new(1).receive(bytes));
        assert_eq!(answer.last().map(|frame| (frame.kind, frame.payload[7])), Some((GOAWAY, PROTOCOL_ERROR)));
    }
}

#[test]
fn what_ends_a_stream() {
    let cases: &[(&str, Vec<u8>, u8)] = &[
        ("WINDOW_UPDATE of nothing", number(WINDOW_UPDATE, 3, 0), PROTOCOL_ERROR),
        ("WINDOW_UPDATE beyond the largest", number(WINDOW_UPDATE, 3, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        ("DATA after the end", frame(DATA, 0, 3, b"x"), STREAM_CLOSED),
        ("HEADERS after the end", request(3), STREAM_CLOSED),
    ];
    for (name, bytes, code) in cases {
        let mut bus = connection();
        bus.receive(&[publisher(1), app(3)].concat());
        let answer = frames(&bus.receive(bytes));
        assert_eq!(answer[0], frames(&number(RST_STREAM, 3, (*code).into()))[0], "{name}");
        assert_eq!(told(&answer, 1), [Told::Gone(3)], "{name}");
        assert_eq!(frames(&bus.receive(&frame(PING, 0, 0, &[7; 8])))[0].flags, ACK, "{name}: the connection is well");
        // What the client sent before it knew does no harm.
        assert!(bus.receive(&[bytes.clone(), number(RST_STREAM, 3, 8)].concat()).is_empty(), "{name}");
    }
    let mut bus = connection();
    bus.receive(&[publisher(1), request(3)].concat());
    let flood = vec![7; STREAM_WINDOW + 1];
    let answer =
        frames(&bus.receive(&flood.chunks(16_384).flat_map(|part| frame(DATA, 0, 3, part)).collect::<Vec<_>>()));
    assert!(answer.contains(&frames(&number(RST_STREAM, 3, FLOW_CONTROL_ERROR.into()))[0]), "more than was granted");
    let mut bus = connection();
    let trailers_without_end = frames(&bus.receive(&[request(1), request(1)].concat()));
    assert_eq!(trailers_without_end[0], frames(&number(RST_STREAM, 1, PROTOCOL_ERROR.into()))[0]);
}

#[test]
fn what_does_not_matter_is_passed_over() {
    let mut bus = connection();
    let padded = [&[3][..], &[0, 0, 0, 0, 9], b"\x83\x86", &[0; 3]].concat();
    let answer = bus.receive(
        &[
            publisher(1),
            frame(PRIORITY, 0, 1, &[0; 5]),
            frame(0xbe, 0xff, 77, b"whatever"),
            frame(HEADERS, PADDED | WITH_PRIORITY, 3, &padded),
            frame(CONTINUATION, 0, 3, b"\x84"),
            frame(CONTINUATION, END_HEADERS, 3, b""),
            frame(DATA, PADDED, 3, &[&[4][..], b"abc", &[0; 4]].concat()),
            frame(DATA, PADDED | END_STREAM, 3, b"\0de"),
            frame(PING, ACK, 0, &[0; 8]),
            setting(1, 0),
            setting(0xbeef, 1),
            frame(GOAWAY, 0, 0, &[0; 12]),
        ]
        .concat(),
    );
    let answer = frames(&answer);
    let said = [Told::Data(3, b"abc".to_vec()), Told::Data(3, b"de".to_vec()), Told::HalfClose(3)];
    assert_eq!(told(&answer, 1), said);
    assert!(answer.contains(&frames(&number(WINDOW_UPDATE, 3, 5))[0]), "padding is granted again: {answer:?}");
    // A client that goes away is served to the end of its streams.
    let answer = frames(&bus.receive(&event(1, 3, b"still")));
    assert_eq!((answer[0].kind, answer[0].flags, answer[0].stream), (HEADERS, END_HEADERS, 3));
    assert_eq!(data(&answer, 3), b"still");
}

#[test]
fn the_window_of_the_connection_is_shared_in_turn() {
    let mut bus = connection();
    bus.receive(&setting(4, 1 << 20));
    bus.receive(&[publisher(1), app(3), app(5), app(7), app(9)].concat());
    let mut first = Vec::new();
    for stream in [3, 5, 7, 9] {
        first.extend(frames(&bus.receive(&event(1, stream, &vec![7; 50_000]))));
    }
    assert_eq!(data(&first, 3).len(), 50_000, "there was room");
    let (mut turns, mut all) = (Vec::new(), first);
    for _ in 0..4 {
        let answer = frames(&bus.receive(&number(WINDOW_UPDATE, 0, 3 * 16_384)));
        turns.push(answer.iter().filter(|frame| frame.stream > 1).map(|frame| frame.stream).collect::<Vec<_>>());
        all.extend(answer);
    }
    assert_eq!(turns[0], [5, 7, 9]);
    assert_eq!(turns[1], [5, 7, 9]);
    assert!([3, 5, 7, 9].iter().all(|stream| data(&all, *stream).len() == 50_000), "all is sent");
}

#[test]
fn a_window_that_shrinks_below_zero_is_waited_out() {
    let mut bus = connection();
    bus.receive(&[setting(4, 100), number(WINDOW_UPDATE, 0, 1000), app(1)].concat());
    bus.receive(&[setting(4, 100_000), publisher(3), number(WINDOW_UPDATE, 3, 100_000)].concat());
    let answer = frames(&bus.receive(&event(3, 1, &vec![7; 60_000])));
    assert_eq!(data(&answer, 1).len(), 60_000);
    // 59,900 less than nothing.
    assert_eq!(frames(&bus.receive(&setting(4, 100))).len(), 1);
    assert!(frames(&bus.receive(&event(3, 1, &[7; 300]))).iter().all(|frame| frame.stream != 1));
    assert!(bus.receive(&number(WINDOW_UPDATE, 1, 59_900)).is_empty());
    assert_eq!(data(&frames(&bus.receive(&number(WINDOW_UPDATE, 1, 1))), 1).len(), 1);
    assert_eq!(data(&frames(&bus.receive(&setting(4, 110))), 1).len(), 10);
    assert_eq!(data(&frames(&bus.receive(&number(WINDOW_UPDATE, 1, 1000))), 1).len(), 289);
}

#[test]
fn what_a_publisher_sends_is_granted_again_in_batches() {
    let mut bus = connection();
    bus.receive(&[publisher(1), app(3)].concat());
    let mut answer = Vec::new();
    for _ in 0..100 {
        answer.extend(bus.receive(&event(1, 9, &vec![0; 100_000])));
    }
    let granted = |stream| -> (usize, u32) {
        let updates = frames(&answer).into_iter().filter(|frame| (frame.kind, frame.stream) == (WINDOW_UPDATE, stream));
        updates.fold((0, 0), |(count, sum), frame| {
            (count + 1, sum + u32::from_be_bytes(frame.payload.try_into().unwrap()))
        })
    };
    let (count, sum) = granted(1);
    assert!((18..=20).contains(&count) && sum > 9_400_000, "{count} updates grant {sum}");
    assert!(matches!(granted(0), (1, 8_000_000..)));
}

/// What apps send while nothing reads it is bounded by the window of the connection, however many they are.
#[test]
fn what_waits_for_a_publisher_is_not_granted_again() {
    let mut bus = connection();
    bus.receive(&publisher(1));
    let (mut received, mut granted, mut stream) = (0, 0, 3);
    while received < 15 * 1024 * 1024 {
        let bytes: Vec<u8> =
            [request(stream), frame(DATA, 0, stream, &[7; 16_384]), frame(DATA, 0, stream, &[7; 16_384])].concat();
        let answer = frames(&bus.receive(&bytes));
        granted += answer.iter().filter(|frame| (frame.kind, frame.stream) == (WINDOW_UPDATE, 0)).count();
        received += 2 * 16_384;
        stream += 2;
    }
    assert_eq!(granted, 0, "64 kB are with the publisher, the rest waits");
    let answer = frames(&bus.receive(&[number(WINDOW_UPDATE, 1, 1 << 24), number(WINDOW_UPDATE, 0, 1 << 24)].concat()));
    assert!(answer.iter().any(|frame| (frame.kind, frame.stream) == (WINDOW_UPDATE, 0)), "it has left");
}

#[test]
fn what_was_written_is_told_when_it_is_worth_it() {
    let mut bus = connection();
    bus.receive(&[publisher(1), app(3), app(5)].concat());
    assert_eq!(told(&frames(&bus.receive(&event(1, 3, &[7; 16_383]))), 1), []);
    assert_eq!(told(&frames(&bus.receive(&event(1, 3, &[7; 20]))), 1), [Told::Written(3, 16_403)]);
    assert_eq!(told(&frames(&bus.receive(&event(1, 5, b"small"))), 1), []);
}

/// Something that a client does, right or wrong.
fn act() -> impl Strategy<Value = Vec<u8>> {
    let stream = || (0..6_u32).prop_map(|index| index * 2 + 1);
    let size = || prop_oneof![0..40_usize, 0..70_000_usize];
    prop_oneof![
        4 => stream().prop_map(request),
        4 => stream().prop_map(app),
        3 => stream().prop_map(publisher),
        8 => (stream(), stream(), size()).prop_map(|(publisher, stream, size)| event(publisher, stream, &vec![7; size])),
        2 => (stream(), stream()).prop_map(|(publisher, stream)| end(publisher, stream)),
        2 => (stream(), stream(), 0..100_000_u32)
            .prop_map(|(publisher, stream, bytes)| message(publisher, ToBus::Grant { stream, bytes })),
        2 => (stream(), stream()).prop_map(|(publisher, stream)| message(publisher, ToBus::Begin { stream })),
        3 => (stream(), 0..16_000_usize).prop_map(|(stream, size)| frame(DATA, 0, stream, &vec![7; size])),
        3 => (stream(), 1..100_000_u32).prop_map(|(stream, more)| number(WINDOW_UPDATE, stream, more)),
        2 => (1..100_000_u32).prop_map(|more| number(WINDOW_UPDATE, 0, more)),
        2 => (0..100_000_u32).prop_map(|window| setting(4, window)),
        1 => stream().prop_map(|stream| number(RST_STREAM, stream, 8)),
        1 => stream().prop_map(|stream| frame(DATA, END_STREAM, stream, b"")),
        1 => (0..11_u8, any::<u8>(), 0..8_u32, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

proptest! {
    #[test]
    fn no_bytes_upset_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        frames(&connection().receive(&bytes));
        frames(&Connection::new(1).receive(&bytes));
    }

    #[test]
    fn however_they_are_cut_frames_have_the_same_answer(
        acts in prop::collection::vec(act(), 0..40),
        sizes in prop::collection::vec(1..5000_usize, 1..20),
    ) {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &acts.concat()].concat();
        let mut uncut = Connection::new(1);
        let whole = uncut.receive(&bytes);
        let (mut bus, mut pieces, mut rest) = (Connection::new(1), Vec::new(), bytes.as_slice());
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.extend(bus.receive(piece));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(pieces == whole);
        frames(&whole);
        for _ in 0..10 {
            bus.tick();
            uncut.tick();
        }
        prop_assert_eq!(bus.wants_publisher(), uncut.wants_publisher());
        prop_assert!(bus.receive(&frame(PING, 0, 0, &[0; 8])) == uncut.receive(&frame(PING, 0, 0, &[0; 8])));
    }
}
