//! gRPC over HTTP/2, byte by byte: what a correct client may send, and what a broken one does.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use envoy_runtime_proto::dapr::runtime::v1::{GetStateRequest, GetStateResponse, SaveStateRequest};
use integration_tests::middleman::{Middleman, Replies};
use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::wire::{Answer, Connection, flagged_frame, frame, gzip_frame};
use integration_tests::{Config, Dialect, Envoy, Store};
use prost::Message;
use tokio::sync::OnceCell;
use tonic::Code;

const GET: &str = "/dapr.proto.runtime.v1.Dapr/GetState";
const SAVE: &str = "/dapr.proto.runtime.v1.Dapr/SaveState";

/// One Envoy for all tests of this file, with `v` under `k`.
async fn connection() -> Connection {
    static ENVOY: OnceCell<Envoy> = OnceCell::const_new();
    let envoy = ENVOY
        .get_or_init(async || {
            let envoy = Envoy::start(Config::new("orders").component("statestore", "state.in-memory", &[])).await;
            Store::new(envoy.client(Dialect::Dapr).await, "statestore").save(item("k", "v")).await.unwrap();
            envoy
        })
        .await;
    Connection::open(envoy.dapr_grpc).await
}

fn get(key: &str) -> Vec<u8> {
    GetStateRequest { store_name: "statestore".into(), key: key.into(), ..Default::default() }.encode_to_vec()
}

fn save(key: &str, value: impl Into<Bytes>) -> Vec<u8> {
    SaveStateRequest { store_name: "statestore".into(), states: vec![item(key, value)] }.encode_to_vec()
}

#[track_caller]
fn expect_value(answer: &Answer) {
    assert_eq!(answer.decode::<GetStateResponse>().data, "v");
}

#[track_caller]
fn expect_code(answer: &Answer, code: Code, text: &str) {
    assert_eq!(answer.http_status, 200);
    assert!(answer.metadata("content-type").is_some_and(|kind| kind.starts_with("application/grpc")), "{answer:?}");
    assert!(
        answer.code() == code && answer.status().message().contains(text),
        "expected {code:?} with {text:?}: {answer:?}"
    );
    assert!(answer.body.is_empty(), "an error has no message: {answer:?}");
}

#[tokio::test]
async fn an_answer_is_headers_one_message_and_trailers() {
    let answer = connection().await.unary(GET, &[], frame(&get("k"))).await;
    assert_eq!(answer.http_status, 200);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(!answer.headers.contains_key("content-length"), "{answer:?}");
    assert!(!answer.headers.contains_key("grpc-status"), "the status stands at the end: {answer:?}");
    assert_eq!(answer.trailers.as_ref().expect("trailers")["grpc-status"], "0");
    expect_value(&answer);
}

#[tokio::test]
async fn no_header_of_the_machinery_reaches_the_app() {
    let connection = connection().await;
    for answer in [connection.unary(GET, &[], frame(&get("k"))).await, connection.unary(GET, &[], frame(b"\xff")).await]
    {
        for name in answer.headers.keys().chain(answer.trailers.iter().flat_map(http::HeaderMap::keys)) {
            let known = ["content-type", "grpc-", "date", "server", "trailer"];
            assert!(known.iter().any(|known| name.as_str().starts_with(known)), "{name} in {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_empty_answer_is_a_message_of_no_bytes() {
    let answer = connection().await.unary(SAVE, &[], frame(&save("other", "v"))).await;
    assert_eq!((answer.code(), answer.body.as_ref()), (Code::Ok, &[0, 0, 0, 0, 0][..]));
}

#[tokio::test]
async fn every_content_type_of_grpc_is_taken() {
    let connection = connection().await;
    for kind in ["application/grpc", "application/grpc+proto"] {
        expect_value(&connection.unary(GET, &[("content-type", kind)], frame(&get("k"))).await);
    }
}

#[tokio::test]
async fn a_message_may_come_in_any_number_of_pieces() {
    let connection = connection().await;
    let bytes = frame(&get("k"));
    for size in 1..bytes.len() {
        let mut call = connection.call(GET, &[]).await;
        for chunk in bytes.chunks(size) {
            call.send(Bytes::copy_from_slice(chunk));
        }
        call.finish(Bytes::new());
        expect_value(&call.answer().await);
    }
}

#[tokio::test]
async fn pieces_may_come_one_by_one() {
    let mut call = connection().await.call(GET, &[]).await;
    for byte in frame(&get("k")) {
        call.send(Bytes::copy_from_slice(&[byte]));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    call.finish(Bytes::new());
    expect_value(&call.answer().await);
}

#[tokio::test]
async fn gzip_is_inflated() {
    let connection = connection().await;
    let gzip = [("grpc-encoding", "gzip")];
    expect_value(&connection.unary(GET, &gzip, gzip_frame(&get("k"))).await);
    let long = "abc".repeat(300_000);
    assert_eq!(connection.unary(SAVE, &gzip, gzip_frame(&save("long", long.clone()))).await.code(), Code::Ok);
    assert_eq!(connection.unary(GET, &[], frame(&get("long"))).await.decode::<GetStateResponse>().data, long);
}

#[tokio::test]
async fn a_client_that_may_compress_need_not() {
    expect_value(&connection().await.unary(GET, &[("grpc-encoding", "gzip")], frame(&get("k"))).await);
}

#[tokio::test]
async fn an_encoding_that_is_not_known_is_refused_with_those_that_are() {
    let connection = connection().await;
    for encoding in ["snappy", "br"] {
        let answer = connection.unary(GET, &[("grpc-encoding", encoding)], flagged_frame(1, &get("k"))).await;
        expect_code(&answer, Code::Unimplemented, encoding);
        let accepted = answer.metadata("grpc-accept-encoding").unwrap_or_default();
        assert!(accepted.contains("gzip"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_compressed_message_without_an_encoding_is_an_error() {
    let connection = connection().await;
    for headers in [&[][..], &[("grpc-encoding", "identity")]] {
        expect_code(&connection.unary(GET, headers, gzip_frame(&get("k"))).await, Code::Internal, "");
    }
}

#[tokio::test]
async fn what_only_claims_to_be_gzip_is_an_error() {
    let connection = connection().await;
    let gzip = [("grpc-encoding", "gzip")];
    let good = gzip_frame(&get("k"));
    let mut spoiled = good.to_vec();
    let last = spoiled.len() - 9;
    spoiled[last] ^= 0xff;
    let cut = flagged_frame(1, &good[5..good.len() - 6]);
    for body in [flagged_frame(1, &get("k")), flagged_frame(1, b""), Bytes::from(spoiled), cut] {
        let answer = connection.unary(GET, &gzip, body).await;
        assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument), "{answer:?}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let connection = connection().await;
    let envelope = save("k2", "").len() + 8;
    let fits = save("k2", vec![b'x'; (4 << 20) - envelope]);
    assert!(fits.len() <= 4 << 20);
    assert_eq!(connection.unary(SAVE, &[], frame(&fits)).await.code(), Code::Ok);
    let too_large = save("k3", vec![b'x'; 4 << 20]);
    expect_code(&connection.unary(SAVE, &[], frame(&too_large)).await, Code::ResourceExhausted, "4194304");
    assert_eq!(connection.unary(GET, &[], frame(&get("k3"))).await.decode::<GetStateResponse>().data, "");
}

#[tokio::test]
async fn the_length_alone_is_enough_to_refuse() {
    let mut call = connection().await.call(SAVE, &[]).await;
    // Only the header of a message of almost 4 GiB; the request does not end.
    call.send(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    expect_code(&call.answer().await, Code::ResourceExhausted, "");
}

#[tokio::test]
async fn what_unpacks_to_more_than_the_limit_is_refused() {
    let bomb = gzip_frame(&save("k4", vec![0; 64 << 20]));
    assert!(bomb.len() < 1 << 20);
    let answer = connection().await.unary(SAVE, &[("grpc-encoding", "gzip")], bomb).await;
    expect_code(&answer, Code::ResourceExhausted, "");
}

#[tokio::test]
async fn the_limit_is_what_the_configuration_says() {
    let limits = serde_json::json!({"maxRequestBytes": 10_000});
    let config = Config::new("orders").set("limits", limits).component("statestore", "state.in-memory", &[]);
    let envoy = Envoy::start(config).await;
    let connection = Connection::open(envoy.dapr_grpc).await;
    assert_eq!(connection.unary(SAVE, &[], frame(&save("k", vec![b'x'; 9_000]))).await.code(), Code::Ok);
    let answer = connection.unary(SAVE, &[], frame(&save("k", vec![b'x'; 10_000]))).await;
    expect_code(&answer, Code::ResourceExhausted, "10000");
}

#[tokio::test]
async fn a_truncated_message_is_an_error() {
    let connection = connection().await;
    let bytes = frame(&get("k"));
    for length in 1..bytes.len() {
        let answer = connection.unary(GET, &[], bytes.slice(..length)).await;
        assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument), "{length} bytes: {answer:?}");
        assert_ne!(answer.message(), "", "{length} bytes");
    }
}

#[tokio::test]
async fn a_call_without_a_message_is_an_error() {
    let answer = connection().await.unary(GET, &[], Bytes::new()).await;
    assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument | Code::Unimplemented), "{answer:?}");
}

#[tokio::test]
async fn a_call_that_ends_with_its_headers_is_an_error() {
    // What grpcurl and others send for a cancelled call: HEADERS with END_STREAM.
    let connection = connection().await;
    let mut call = connection.call(GET, &[]).await;
    call.finish(Bytes::new());
    assert_ne!(call.answer().await.code(), Code::Ok);
}

#[tokio::test]
async fn a_second_message_in_a_unary_call_is_an_error() {
    let connection = connection().await;
    let two: BytesMut = [frame(&get("k")), frame(&get("k"))].iter().flatten().copied().collect();
    let answer = connection.unary(GET, &[], two.freeze()).await;
    assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument | Code::Unimplemented), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_flag_is_an_error() {
    let connection = connection().await;
    for flag in [2, 0x80, 0xff] {
        let answer = connection.unary(GET, &[], flagged_frame(flag, &get("k"))).await;
        assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument | Code::Unimplemented), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_protobuf_is_an_error_with_a_text() {
    let connection = connection().await;
    // A cut varint, a field that ends too late, a wrong wire type, text that is not UTF-8.
    for message in [&b"\xff"[..], b"\x0a\x7fabc", b"\x0d\x01\x02\x03\x04", b"\x12\x02\xff\xfe", b"\x0b"] {
        let answer = connection.unary(GET, &[], frame(message)).await;
        assert!(matches!(answer.code(), Code::Internal | Code::InvalidArgument), "{message:?}: {answer:?}");
        assert_ne!(answer.message(), "");
    }
}

#[tokio::test]
async fn a_field_of_a_newer_api_is_ignored() {
    let mut message = get("k");
    message.extend_from_slice(b"\xa2\x06\x03new"); // field 100
    expect_value(&connection().await.unary(GET, &[], frame(&message)).await);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_names_itself() {
    let connection = connection().await;
    for path in [
        "/dapr.proto.runtime.v1.Dapr/Nonsense",
        "/spec.proto.runtime.v1.Runtime/Nonsense",
        "/dapr.proto.runtime.v1.Dapr/getState",
    ] {
        let method = path.rsplit('/').next().unwrap();
        expect_code(&connection.unary(path, &[], frame(b"")).await, Code::Unimplemented, method);
    }
}

#[tokio::test]
async fn an_unknown_service_is_unimplemented_and_names_itself() {
    let connection = connection().await;
    for path in ["/my.Service/Method", "/dapr.proto.runtime.v2.Dapr/GetState"] {
        let service = path.split('/').nth(1).unwrap();
        expect_code(&connection.unary(path, &[], frame(b"")).await, Code::Unimplemented, service);
    }
}

#[tokio::test]
async fn a_path_that_is_no_method_is_unimplemented() {
    let connection = connection().await;
    for path in ["/", "/nothing", "/a/b/c", "/dapr.proto.runtime.v1.Dapr/", "/dapr.proto.runtime.v1.Dapr"] {
        expect_code(&connection.unary(path, &[], frame(b"")).await, Code::Unimplemented, "");
    }
}

#[tokio::test]
async fn a_call_outlives_the_reset_of_another() {
    let connection = connection().await;
    let mut calls = vec![];
    for n in 0..100 {
        let mut call = connection.call(GET, &[]).await;
        if n % 2 == 0 {
            if n % 4 == 0 {
                call.send(frame(&get("k")).slice(..9));
            }
            call.reset();
        } else {
            call.finish(frame(&get("k")));
            calls.push(call);
        }
    }
    for call in calls {
        expect_value(&call.answer().await);
    }
}

/// An Envoy whose Redis takes requests and answers nothing.
async fn silent_world() -> (Redis, Middleman, Envoy, Connection) {
    let redis = Redis::start(Options::default()).await;
    let middleman = Middleman::before(redis.port).await;
    let address = format!("127.0.0.1:{}", middleman.port);
    let config = Config::new("orders").component("statestore", "state.redis", &[("redisHost", &address)]);
    let envoy = Envoy::start(config.set("limits", serde_json::json!({"timeout": "2s"}))).await;
    Store::new(envoy.client(Dialect::Dapr).await, "statestore").save(item("k", "v")).await.unwrap();
    middleman.replies(Replies::Swallow);
    let connection = Connection::open(envoy.dapr_grpc).await;
    (redis, middleman, envoy, connection)
}

#[tokio::test]
async fn the_deadline_of_the_client_ends_a_call() {
    let (_redis, _middleman, envoy, connection) = silent_world().await;
    for (text, deadline) in [("300m", 300), ("700000u", 700), ("1S", 1000)] {
        let start = Instant::now();
        let answer = connection.unary(GET, &[("grpc-timeout", text)], frame(&get("k"))).await;
        // Whoever notices first, the store or the call, says so in its own way.
        assert!(matches!(answer.code(), Code::DeadlineExceeded | Code::Unavailable), "{answer:?}");
        let deadline = Duration::from_millis(deadline);
        assert!(start.elapsed() + Duration::from_millis(20) >= deadline, "not before its time: {:?}", start.elapsed());
        assert!(start.elapsed() < deadline + Duration::from_secs(20), "{:?}", start.elapsed());
    }
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn without_one_the_configured_deadline_does() {
    let (_redis, _middleman, _envoy, connection) = silent_world().await;
    let start = Instant::now();
    let answer = connection.unary(GET, &[], frame(&get("k"))).await;
    assert!(matches!(answer.code(), Code::DeadlineExceeded | Code::Unavailable), "{answer:?}");
    assert!(start.elapsed() + Duration::from_millis(20) >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_deadline_that_cannot_be_read_is_an_error_or_none() {
    let connection = connection().await;
    for text in ["", "S", "12", "1x", "-1S", "123456789S"] {
        let answer = connection.unary(GET, &[("grpc-timeout", text)], frame(&get("k"))).await;
        assert!(matches!(answer.code(), Code::Ok | Code::Internal | Code::InvalidArgument), "{text:?}: {answer:?}");
    }
}

#[tokio::test]
async fn an_app_that_cancels_is_forgotten() {
    let (redis, middleman, envoy, connection) = silent_world().await;
    for _ in 0..50 {
        let mut call = connection.call(GET, &[]).await;
        call.finish(frame(&get("k")));
        call.reset();
    }
    middleman.replies(Replies::Pass);
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    integration_tests::wait::eventually("the store answers again", async || store.get("k").await).await;
    // Replies to calls that nobody waits for any more must not be given to others.
    for n in 0..50 {
        let key = format!("key {n}");
        store.save(item(&key, key.clone())).await.unwrap();
        assert_eq!(store.value(&key).await, key);
    }
    drop(redis);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn what_is_not_grpc_by_its_content_type_is_refused_before_anything_is_done() {
    let connection = connection().await;
    for other in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc;charset=utf-8",
    ] {
        let answer = connection.unary(SAVE, &[("content-type", other)], frame(&save("refused", "v"))).await;
        assert_eq!(answer.http_status, 415, "{other}: {answer:?}");
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.contains(other) && text.contains("application/grpc,"), "{text}");
    }
    let answer = connection.unary(GET, &[], frame(&get("refused"))).await;
    assert_eq!(answer.decode::<GetStateResponse>().data, "", "nothing was written");
    expect_value(&connection.unary(GET, &[("content-type", "application/grpc+proto")], frame(&get("k"))).await);
}

#[tokio::test]
async fn a_flood_of_messages_to_a_method_that_takes_one_ends_the_stream() {
    let connection = connection().await;
    let mut call = connection.call("/grpc.health.v1.Health/Watch", &[]).await;
    call.send(frame(b""));
    for _ in 0..600 {
        call.send(frame(&[0x0a, 0]));
    }
    let answer = call.answer().await;
    assert_eq!(answer.code(), Code::Internal, "{answer:?}");
    assert!(answer.status().message().contains("takes one message"), "{answer:?}");
    expect_value(&connection.unary(GET, &[], frame(&get("k"))).await);
}
