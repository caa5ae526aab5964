//! Requests with mistakes in them, by the hundred thousand: each is answered, no filter crashes, and the service is
//! right afterwards.
//!
//! The mistakes come from a seeded generator over a corpus of good requests: the same seed gives the same requests.
//! `RUNTIME_TEST_FUZZ_FRAMES` and `RUNTIME_TEST_FUZZ_SEED` change how many and which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use integration_tests::redis::{Options, Redis};
use integration_tests::store::{ItemOptions, delete, item, key, upsert};
use integration_tests::wire::{Connection, flagged_frame, frame, gzip_frame};
use integration_tests::{Config, Dialect, Envoy, Store};
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};

const FRAMES: usize = 200_000;
const CONNECTIONS: usize = 4;
const STREAMS_PER_CONNECTION: usize = 32;

/// A good request: where it goes and its message.
#[derive(Clone, Debug)]
struct Good {
    method: &'static str,
    message: Vec<u8>,
}

fn corpus() -> Vec<Good> {
    let mut corpus = vec![];
    let mut add = |method, message: Vec<u8>| corpus.push(Good { method, message });
    for store in ["memory", "redis", "nowhere"] {
        let store_name = store.to_owned();
        let full = item("k", "{\"a\":1}").if_etag("1").first_write().strong().ttl(60).json();
        add(
            "GetState",
            dapr::GetStateRequest { store_name: store_name.clone(), key: "k".into(), ..Default::default() }
                .encode_to_vec(),
        );
        let keys = vec!["k".into(), "l".into(), "missing".into()];
        add(
            "GetBulkState",
            dapr::GetBulkStateRequest { store_name: store_name.clone(), keys, parallelism: 3, ..Default::default() }
                .encode_to_vec(),
        );
        let states = vec![full.clone(), item("l", vec![0xff; 300]), item("m", "")];
        add("SaveState", dapr::SaveStateRequest { store_name: store_name.clone(), states }.encode_to_vec());
        let states = vec![key("k").if_etag("2"), key("l")];
        add("DeleteBulkState", dapr::DeleteBulkStateRequest { store_name: store_name.clone(), states }.encode_to_vec());
        let etag = full.etag.clone();
        add(
            "DeleteState",
            dapr::DeleteStateRequest { store_name: store_name.clone(), key: "k".into(), etag, ..Default::default() }
                .encode_to_vec(),
        );
        let operations = vec![upsert(full), delete(key("l")), upsert(item("m", "x"))];
        add(
            "ExecuteStateTransaction",
            dapr::ExecuteStateTransactionRequest { store_name, operations, ..Default::default() }.encode_to_vec(),
        );
    }
    add("GetMetadata", vec![]);
    add("SetMetadata", dapr::SetMetadataRequest { key: "a".into(), value: "b".into() }.encode_to_vec());
    add("PublishEvent", dapr::PublishEventRequest { topic: "t".into(), ..Default::default() }.encode_to_vec());
    corpus
}

/// One to four mistakes in some bytes.
fn spoil(random: &mut StdRng, bytes: &mut Vec<u8>, corpus: &[Good]) {
    const EXTREMES: [&[u8]; 8] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",     // the largest varint
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // too long a varint
        b"\x80\x80\x80\x80\x10",
        b"\xff\xff\xff\xff\x07", // i32::MAX
        b"\x00",
        b"||",
        b"\xc3\x28", // not UTF-8
        b"\r\n$-1\r\n",
    ];
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.random()),
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..at, EXTREMES.choose(random).unwrap().iter().copied())),
            6 => {
                // What one message ends with, put into another.
                let other = &corpus.choose(random).unwrap().message;
                let from = random.random_range(0..=other.len());
                bytes.splice(at..at, other[from..].iter().copied());
            }
            7 => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy);
            }
            _ => {
                let mut noise = vec![0; random.random_range(0..20)];
                random.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
}

/// A request as it goes out: its path, headers, and DATA frames.
struct Spoiled {
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    pieces: Vec<Bytes>,
    reset: bool,
}

fn next_request(random: &mut StdRng, corpus: &[Good]) -> Spoiled {
    let good = corpus.choose(random).unwrap();
    let dialect = *Dialect::ALL.choose(random).unwrap();
    let mut headers = vec![];
    let mut message = good.message.clone();
    let mut body = match random.random_range(0..10) {
        // A broken message in a good frame.
        0..6 => {
            spoil(random, &mut message, corpus);
            if random.random_range(0..8) == 0 {
                headers.push(("grpc-encoding", "gzip"));
                gzip_frame(&message)
            } else {
                frame(&message)
            }
        }
        // A good message in a broken frame.
        6..8 => {
            let mut bytes = frame(&message).to_vec();
            spoil(random, &mut bytes, corpus);
            Bytes::from(bytes)
        }
        // A broken gzip stream.
        8 => {
            headers.push(("grpc-encoding", "gzip"));
            let mut packed = gzip_frame(&message)[5..].to_vec();
            spoil(random, &mut packed, corpus);
            flagged_frame(1, &packed)
        }
        // Any flag, any number of messages.
        _ => {
            let mut bytes = BytesMut::new();
            for _ in 0..random.random_range(0..4) {
                bytes.extend_from_slice(&flagged_frame(random.random_range(0..4), &message));
            }
            bytes.freeze()
        }
    };
    if random.random_range(0..20) == 0 {
        let timeouts = ["0m", "1n", "1m", "99999999H", "x", ""];
        headers.push(("grpc-timeout", timeouts.choose(random).unwrap()));
    }
    if random.random_range(0..50) == 0 {
        headers.push(("grpc-encoding", "snappy"));
    }
    let method = if random.random_range(0..50) == 0 { "Nonsense" } else { good.method };
    let mut pieces = vec![];
    while !body.is_empty() && random.random_range(0..3) == 0 {
        pieces.push(body.split_to(random.random_range(0..=body.len())));
    }
    pieces.push(body);
    Spoiled {
        path: format!("/{}/{method}", dialect.service()),
        headers,
        pieces,
        reset: random.random_range(0..40) == 0,
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoiled_requests_are_answered_and_do_no_harm() {
    let (frames, seed) = (number("RUNTIME_TEST_FUZZ_FRAMES", FRAMES), number("RUNTIME_TEST_FUZZ_SEED", 1));
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders")
        .component("memory", "state.in-memory", &[])
        .component("redis", "state.redis", &[("redisHost", &redis.address())])
        .concurrency(2);
    let envoy = Envoy::start(config).await;
    for name in ["memory", "redis"] {
        Store::new(envoy.client(Dialect::Dapr).await, name).save(item("untouched", name)).await.unwrap();
    }

    let answers = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let corpus = Arc::new(corpus());
    let port = envoy.dapr_grpc;
    let streams = CONNECTIONS * STREAMS_PER_CONNECTION;
    let mut tasks = vec![];
    for connection in 0..CONNECTIONS {
        let connection_number = connection;
        let connection = Connection::open(port).await;
        for stream in 0..STREAMS_PER_CONNECTION {
            let number = connection_number * STREAMS_PER_CONNECTION + stream;
            let share = frames / streams + usize::from(number < frames % streams);
            let (mut connection, answers, corpus) = (connection.clone(), answers.clone(), corpus.clone());
            tasks.push(tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64((seed * 1_000_000 + number) as u64);
                for count in 0..share {
                    let request = next_request(&mut random, &corpus);
                    let what = || {
                        format!(
                            "seed {seed}, stream {number}, request {count}: {} {:?} {:?}",
                            request.path, request.headers, request.pieces
                        )
                    };
                    let Ok(mut call) = connection.try_call(&request.path, &request.headers).await else {
                        // Envoy may end a connection on which many streams were reset.
                        connection =
                            Connection::try_open(port).await.unwrap_or_else(|error| panic!("{}: {error}", what()));
                        continue;
                    };
                    let (last, before) = request.pieces.split_last().expect("a request has a body");
                    for piece in before {
                        call.send(piece.clone());
                    }
                    let outcome = if request.reset {
                        call.reset();
                        "reset by us".to_owned()
                    } else {
                        call.finish(last.clone());
                        let answer = tokio::time::timeout(integration_tests::wait::PATIENCE, call.try_answer())
                            .await
                            .unwrap_or_else(|_| panic!("no answer: {}", what()));
                        match answer {
                            Ok(answer) => {
                                assert_eq!(answer.http_status, 200, "{}: {answer:?}", what());
                                format!("{:?}", answer.code())
                            }
                            Err(error) if error.is_go_away() || error.is_io() => "connection lost".to_owned(),
                            Err(error) => panic!("{}: {error}", what()),
                        }
                    };
                    *answers.lock().unwrap().entry(outcome).or_default() += 1;
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("every request is answered");
    }

    let answers = answers.lock().unwrap().clone();
    println!("{frames} requests, seed {seed}: {answers:?}");
    assert!(answers.get("connection lost").copied().unwrap_or(0) < frames / 100, "{answers:?}");
    for code in ["Ok", "InvalidArgument", "Unimplemented"] {
        assert!(answers.contains_key(code), "the mistakes are of all kinds: {answers:?}");
    }
    envoy.assert_no_filter_crashed().await;
    for name in ["memory", "redis"] {
        let store = Store::new(envoy.client(Dialect::Dapr).await, name);
        assert_eq!(store.value("untouched").await, name);
        store.save(item("after", "v")).await.unwrap();
        assert_eq!(store.value("after").await, "v");
    }
}
