//! Clients that misbehave, on the gRPC ports: random calls, bursts, streams by the thousand, those that read nothing,
//! those that go away, those that want too much.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::{METHODS, Method};
use futures::future::join_all;
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::client::{Call, Caller, Connection, End, Terms, WINDOW, connect, finish, grpc_timeout, judge};
use super::ground::{Ground, LARGE, MOST_BYTES, MOST_LARGE, PLACES, Place};
use super::kind::Kind;
use super::messages::Messages;
use super::record::Column;
use crate::client::Dialect;
use crate::store::{delete, item, key as key_of, upsert};
use crate::wire::{flagged_frame, frame, gzip_frame};

/// Both listeners, at random.
fn a_port(ground: &Ground, random: &mut StdRng) -> u16 {
    ground.port(if random.random() { Dialect::Dapr } else { Dialect::Layotto })
}

/// From a millisecond to a minute, the short ones as often as the long; or none.
pub(super) fn a_deadline(random: &mut StdRng) -> Option<Duration> {
    random.random_bool(0.6).then(|| Duration::from_secs_f64(0.001 * 60_000_f64.powf(random.random::<f64>())))
}

/// The methods that are served, found out by calling each.
pub(super) async fn served(ground: &Ground) -> Vec<&'static Method> {
    let connection = Connection::open(ground.envoy.dapr_grpc, WINDOW).await.expect("the listener speaks HTTP/2");
    let mut served = Vec::new();
    for method in METHODS {
        let path = format!("/{}/{}", method.service, method.name);
        let mut call = connection.begin(&path, &[("grpc-timeout", "2000m")]).await.expect("a call can be made");
        call.send(frame(b""), true);
        let answer = timeout(Duration::from_secs(5), call.incoming.all()).await;
        if !matches!(answer, Ok(End::Status { code: Code::Unimplemented, .. })) {
            served.push(method);
        }
    }
    served
}

/// Any call, one after the other.
pub(super) async fn random(
    ground: Arc<Ground>,
    messages: Arc<Messages>,
    served: Arc<Vec<&'static Method>>,
    number: usize,
) {
    let mut random = ground.random(Kind::Random, number);
    let mut connection = None;
    while ground.goes_on().await {
        let connection = match &connection {
            Some(open) if Connection::is_open(open) && random.random_bool(0.995) => open,
            _ => {
                let port = a_port(&ground, &mut random);
                connection = connect(&ground, Kind::Random, port, WINDOW).await;
                let Some(open) = &connection else { continue };
                open
            }
        };
        let method = if random.random_bool(0.95) { served.choose(&mut random) } else { None };
        let method = method.copied().or_else(|| METHODS.choose(&mut random)).expect("there are methods");
        if method.name == "Shutdown" {
            continue;
        }
        one_call(&ground, connection, &messages, method, &mut random).await;
        let pause = Duration::from_millis(random.random_range(0..20));
        ground.pause(pause).await;
    }
}

/// A request as it goes out.
struct Spoiled {
    headers: Vec<(&'static str, String)>,
    pieces: Vec<Bytes>,
    /// Whether the end of the request is never sent.
    cut_off: bool,
    /// Whether it is gRPC at all.
    grpc: bool,
}

fn spoil(message: Vec<u8>, random: &mut StdRng) -> Spoiled {
    let mut headers = Vec::new();
    let mut grpc = true;
    let mut body = match random.random_range(0..100) {
        0..70 => frame(&message),
        70..80 => {
            headers.push(("grpc-encoding", "gzip".to_owned()));
            gzip_frame(&message)
        }
        // More than is taken, compressed to almost nothing or not at all.
        80 => {
            headers.push(("grpc-encoding", "gzip".to_owned()));
            gzip_frame(&vec![0; MOST_BYTES * random.random_range(1..20)])
        }
        81 => frame(&vec![b'x'; MOST_BYTES + random.random_range(0..2)]),
        82..86 => flagged_frame(random.random(), &message),
        86..90 => {
            let mut noise = vec![0; random.random_range(0..200)];
            random.fill_bytes(&mut noise);
            noise.into()
        }
        // The length that is announced is not the length that comes.
        90..94 => {
            let mut body = BytesMut::from(&frame(&message)[..]);
            random.fill_bytes(&mut body[1..5]);
            body.freeze()
        }
        94..96 => Bytes::new(),
        96..98 => [frame(&message), frame(&message)].concat().into(),
        _ => {
            let mut message = message;
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..=message.len());
                if at < message.len() {
                    message[at] = random.random();
                } else {
                    message.push(random.random());
                }
            }
            frame(&message)
        }
    };
    if random.random_range(0..50) == 0 {
        let types = [
            "application/grpc+proto",
            "application/grpc+json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpc;charset=utf-8",
            "application/grpcfoo",
            "application/json",
            "text/plain",
        ];
        let chosen = *types.choose(random).expect("there are some");
        grpc = chosen.starts_with("application/grpc+");
        headers.push(("content-type", chosen.to_owned()));
    }
    if random.random_range(0..100) == 0 {
        headers.push(("grpc-encoding", "snappy".to_owned()));
    }
    let mut pieces = Vec::new();
    match random.random_range(0..30) {
        0 => {
            // A byte at a time, for as long as that is not too much of our own time.
            while !body.is_empty() && pieces.len() < 300 {
                pieces.push(body.split_to(1));
            }
        }
        1..10 => {
            while !body.is_empty() && random.random_range(0..3) > 0 {
                pieces.push(body.split_to(random.random_range(0..=body.len())));
            }
        }
        _ => {}
    }
    pieces.push(body);
    Spoiled { headers, pieces, cut_off: random.random_range(0..40) == 0, grpc }
}

async fn one_call(ground: &Ground, connection: &Connection, messages: &Messages, method: &Method, random: &mut StdRng) {
    let request = spoil(messages.request(method, random), random);
    let deadline = a_deadline(random);
    let mut headers = request.headers;
    if let Some(deadline) = deadline {
        headers.push(("grpc-timeout", grpc_timeout(deadline)));
    } else if random.random_range(0..100) == 0 {
        let odd = ["0m", "1n", "99999999H", "x", "", "-1S", "123456789m"];
        headers.push(("grpc-timeout", (*odd.choose(random).expect("there are some")).to_owned()));
    }
    let odd_deadline = deadline.is_none() && headers.iter().any(|(name, _)| *name == "grpc-timeout");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = format!("/{}/{}", method.service, method.name);
    let Ok(mut call) = connection.begin(&path, &headers).await else { return };
    let start = Instant::now();
    let (last, before) = request.pieces.split_last().expect("there is a piece");
    for piece in before {
        call.send(piece.clone(), false);
        if random.random_range(0..20) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    call.send(last.clone(), !request.cut_off);
    let streams = method.client_streaming || method.server_streaming;
    let leaves = streams || request.cut_off || odd_deadline || random.random_range(0..15) == 0;
    let terms = Terms { deadline, may_be_lost: true, may_be_http: !request.grpc };
    if !leaves {
        let end = finish(ground, &mut call.incoming, terms, start).await;
        let what = format!("{path} {headers:?} of {} bytes", request.pieces.iter().map(Bytes::len).sum::<usize>());
        judge(ground, Kind::Random, &what, terms, start.elapsed(), &end);
        return;
    }
    // It is left at a random time, if it has not ended by then.
    let patience = Duration::from_secs_f64(3.0 * random.random::<f64>().powi(4));
    let Ok(end) = timeout(patience, call.incoming.all()).await else {
        call.reset();
        ground.record.count(Kind::Random, Column::Left, start.elapsed());
        return;
    };
    // A stream may end with any number of messages.
    let end = match end {
        End::Status { code: Code::Ok, text, .. } => End::Status { code: Code::Ok, text, messages: vec![Bytes::new()] },
        other => other,
    };
    // The deadline of a request that is not whole begins when it pleases.
    let terms = Terms { deadline: Some(deadline.filter(|_| !odd_deadline).unwrap_or_default()), ..terms };
    judge(ground, Kind::Random, &path, terms, start.elapsed(), &end);
}

fn get_state(place: Place, key: &str) -> Bytes {
    let request = dapr::GetStateRequest { store_name: place.name().into(), key: key.into(), ..Default::default() };
    frame(&request.encode_to_vec())
}

/// Calls at once, by the thousand: also while Redis stands still.
pub(super) async fn burst(ground: Arc<Ground>, number: usize) {
    const PATH: &str = "/dapr.proto.runtime.v1.Dapr/GetState";
    const ON_A_CONNECTION: usize = 3000;
    let mut random = ground.random(Kind::Burst, number);
    while ground.goes_on().await {
        let size = *[100, 400, 1000, 2000, 4000, 8000].choose(&mut random).expect("there are some");
        let place =
            *[Place::Redis, Place::Redis, Place::Etcd, Place::Memory].choose(&mut random).expect("there are some");
        let size = if place == Place::Etcd { size / 4 } else { size };
        let stands_still = place == Place::Redis && ground.options.has(Kind::Pause) && random.random_bool(0.5);
        let deadline = random.random_bool(0.3).then(|| Duration::from_millis(random.random_range(1..2000)));
        let leaves = random.random_bool(0.1);
        let mut connections = Vec::new();
        for _ in 0..=size / ON_A_CONNECTION {
            let port = ground.envoy.dapr_grpc;
            connections.extend(connect(&ground, Kind::Burst, port, WINDOW).await);
        }
        if connections.is_empty() {
            continue;
        }
        let body = get_state(place, "burst");
        let header = deadline.map(grpc_timeout);
        let headers: Vec<_> = header.as_ref().map(|header| ("grpc-timeout", header.as_str())).into_iter().collect();
        let server = if stands_still { Some(ground.redis.server.lock().await) } else { None };
        let trouble = stands_still.then(|| ground.trouble(place));
        if let Some(server) = &server {
            server.pause().await;
        }
        let mut calls = Vec::new();
        for index in 0..size {
            let Ok(mut call) = connections[index % connections.len()].begin(PATH, &headers).await else { break };
            call.send(body.clone(), true);
            calls.push((call, Instant::now()));
        }
        let terms = Terms { deadline, may_be_lost: leaves, ..Terms::default() };
        let what = format!("one of {size} GetState of {} at once, Redis stopped: {stands_still}", place.name());
        let (ground, what) = (&*ground, what.as_str());
        let answers = calls.into_iter().map(async |(mut call, start): (Call, Instant)| {
            let end = finish(ground, &mut call.incoming, terms, start).await;
            judge(ground, Kind::Burst, what, terms, start.elapsed(), &end);
        });
        let answers = join_all(answers);
        let pause = Duration::from_millis(random.random_range(100..1000));
        let go_on = async {
            if let Some(server) = &server {
                sleep(pause).await;
                server.resume().await;
            } else if leaves {
                sleep(pause / 20).await;
                connections.clear();
            }
        };
        tokio::join!(answers, go_on);
        drop((trouble, server));
        let rest = Duration::from_millis(random.random_range(500..4000));
        ground.pause(rest).await;
    }
}

/// Streams that are opened, left and flooded.
pub(super) async fn streams(ground: Arc<Ground>, number: usize) {
    const PATHS: [&str; 4] = [
        "/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration",
        "/spec.proto.runtime.v1.Runtime/SubscribeConfiguration",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ];
    let mut random = ground.random(Kind::Streams, number);
    while ground.goes_on().await {
        let port = a_port(&ground, &mut random);
        let Some(connection) = connect(&ground, Kind::Streams, port, WINDOW).await else { continue };
        let count = *[1, 10, 100, 500].choose(&mut random).expect("there are some");
        let floods = random.random_range(0..4) == 0;
        let mut calls = Vec::new();
        for _ in 0..count {
            let path = *PATHS.choose(&mut random).expect("there are some");
            let Ok(mut call) = connection.begin(path, &[]).await else { break };
            let place = *PLACES.choose(&mut random).expect("there are some");
            let request = dapr::SubscribeConfigurationRequest { store_name: place.name().into(), ..Default::default() };
            let body = if path.contains("Configuration") { frame(&request.encode_to_vec()) } else { frame(b"") };
            call.send(body, random.random_range(0..3) == 0);
            calls.push((call, Instant::now()));
        }
        if floods {
            flood(&mut calls, &mut random).await;
        }
        ground.pause(Duration::from_secs_f64(4.0 * random.random::<f64>().powi(3))).await;
        if random.random() {
            drop(connection);
            sleep(Duration::from_millis(5)).await;
        }
        for (call, start) in calls {
            call.reset();
            ground.record.count(Kind::Streams, Column::Left, start.elapsed());
        }
        ground.pause(Duration::from_millis(random.random_range(50..1000))).await;
    }
}

/// Sends messages, small or as large as they may be, on streams that take one.
async fn flood(calls: &mut [(Call, Instant)], random: &mut StdRng) {
    let size = if random.random() { 64 << 10 } else { MOST_BYTES - 100 };
    let only_one = random.random();
    let mut field = BytesMut::from(&[0x0a][..]);
    prost::encoding::encode_varint(size as u64, &mut field);
    field.resize(field.len() + size, b'x');
    let piece = frame(&field);
    for _ in 0..*[10, 100, 1500].choose(random).expect("there are some") {
        let index = if only_one { 0 } else { random.random_range(0..calls.len().max(1)) };
        let Some((call, _)) = calls.get_mut(index) else { return };
        call.send(piece.clone(), false);
        if random.random_range(0..20) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Calls of every method to the components behind which there is garbage.
pub(super) async fn garbage(
    ground: Arc<Ground>,
    messages: Arc<Messages>,
    served: Arc<Vec<&'static Method>>,
    number: usize,
) {
    let mut random = ground.random(Kind::Garbage, number);
    let mut connection = None;
    while ground.goes_on().await {
        if connection.as_ref().is_none_or(|open| !Connection::is_open(open)) {
            let port = a_port(&ground, &mut random);
            connection = connect(&ground, Kind::Garbage, port, WINDOW).await;
        }
        let Some(open) = &connection else { continue };
        let method = *served.choose(&mut random).expect("there are methods");
        let name = *["garbage", "garbage-etcd"].choose(&mut random).expect("there are two");
        let deadline = a_deadline(&mut random);
        let header = deadline.map(grpc_timeout);
        let headers: Vec<_> = header.as_ref().map(|header| ("grpc-timeout", header.as_str())).into_iter().collect();
        let path = format!("/{}/{}", method.service, method.name);
        let Ok(mut call) = open.begin(&path, &headers).await else { continue };
        let start = Instant::now();
        call.send(frame(&messages.request_of(method, name, &mut random)), true);
        if method.server_streaming {
            let patience = Duration::from_secs_f64(3.0 * random.random::<f64>());
            let _ = timeout(patience, call.incoming.all()).await;
            call.reset();
            ground.record.count(Kind::Garbage, Column::Left, start.elapsed());
        } else {
            let terms = Terms { deadline, ..Terms::default() };
            let end = finish(&ground, &mut call.incoming, terms, start).await;
            judge(&ground, Kind::Garbage, &format!("{path} of {name}"), terms, start.elapsed(), &end);
        }
        let pause = Duration::from_millis(random.random_range(0..100));
        ground.pause(pause).await;
    }
}

/// Clients that read nothing of large replies and of streams on which much comes.
pub(super) async fn mute(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::Mute, number);
    let mut writer = Caller::new(&ground, Kind::Mute, Dialect::Layotto);
    while ground.goes_on().await {
        let port = ground.envoy.dapr_grpc;
        let Some(connection) = connect(&ground, Kind::Mute, port, 1).await else { continue };
        let mut calls = Vec::new();
        for _ in 0..random.random_range(1..20) {
            let place = *PLACES.choose(&mut random).expect("there are some");
            let large = get_state(place, "large");
            let subscription =
                dapr::SubscribeConfigurationRequest { store_name: place.name().into(), ..Default::default() };
            let (path, body) = match random.random_range(0..3) {
                0 => ("/dapr.proto.runtime.v1.Dapr/GetState", large),
                1 => ("/dapr.proto.runtime.v1.Dapr/GetMetadata", frame(b"")),
                _ => ("/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration", frame(&subscription.encode_to_vec())),
            };
            let Ok(mut call) = connection.begin(path, &[]).await else { break };
            call.send(body, true);
            calls.push((call, Instant::now()));
        }
        // Much to tell to those that do not listen.
        for _ in 0..random.random_range(0..60) {
            let place = *PLACES.choose(&mut random).expect("there are some");
            let content = "x".repeat(random.random_range(0..100_000));
            let _ = super::subscribers::write(&mut writer, place, "loud", content).await;
            sleep(Duration::from_millis(10)).await;
        }
        ground.pause(Duration::from_secs_f64(10.0 * random.random::<f64>().powi(2))).await;
        for (_, start) in &calls {
            ground.record.count(Kind::Mute, Column::Left, start.elapsed());
        }
    }
}

/// Connections that end while calls are under way on them, in all their states.
pub(super) async fn drop_connections(
    ground: Arc<Ground>,
    messages: Arc<Messages>,
    served: Arc<Vec<&'static Method>>,
    number: usize,
) {
    let mut random = ground.random(Kind::Drop, number);
    while ground.goes_on().await {
        let port = a_port(&ground, &mut random);
        let Some(connection) = connect(&ground, Kind::Drop, port, WINDOW).await else { continue };
        let mut calls = Vec::new();
        for _ in 0..random.random_range(1..600) {
            let method = *served.choose(&mut random).expect("there are methods");
            let body = frame(&messages.request(method, &mut random));
            let path = format!("/{}/{}", method.service, method.name);
            let Ok(mut call) = connection.begin(&path, &[]).await else { break };
            let cut = random.random_range(0..=body.len());
            let whole = random.random_range(0..4) > 0;
            call.send(if whole { body } else { body.slice(..cut) }, whole);
            calls.push((call, Instant::now()));
        }
        sleep(Duration::from_secs_f64(0.3 * random.random::<f64>().powi(2))).await;
        drop(connection);
        for (_, start) in &calls {
            ground.record.count(Kind::Drop, Column::Left, start.elapsed());
        }
        ground.pause(Duration::from_millis(random.random_range(100..1500))).await;
    }
}

/// Calls of which each asks for very much.
pub(super) async fn greedy(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::Greedy, number);
    while ground.goes_on().await {
        let dialect = if random.random() { Dialect::Dapr } else { Dialect::Layotto };
        let mut caller = Caller::new(&ground, Kind::Greedy, dialect);
        let place = *PLACES.choose(&mut random).expect("there are some");
        let deadline = a_deadline(&mut random);
        greed(&mut caller, place, deadline, &mut random).await;
        ground.pause(Duration::from_millis(random.random_range(0..500))).await;
    }
}

async fn greed(caller: &mut Caller, place: Place, deadline: Option<Duration>, random: &mut StdRng) {
    let store_name = place.name().to_owned();
    match random.random_range(0..8) {
        // One large item, again and again.
        0..2 => {
            let keys = vec![LARGE.to_owned(); random.random_range(1..1200)];
            let request = dapr::GetBulkStateRequest { store_name, keys, parallelism: 100, ..Default::default() };
            let _ = caller.unary::<dapr::GetBulkStateResponse>("GetBulkState", &request, deadline).await;
        }
        2 => {
            let keys = (0..random.random_range(1..100_000)).map(|key: u32| format!("{key:x}")).collect();
            let request = dapr::GetBulkStateRequest { store_name, keys, parallelism: 0, ..Default::default() };
            let _ = caller.unary::<dapr::GetBulkStateResponse>("GetBulkState", &request, deadline).await;
        }
        3 => {
            let states = (0..random.random_range(1..5000)).map(|key: u32| key_of(&format!("greedy{key}"))).collect();
            let request = dapr::DeleteBulkStateRequest { store_name, states };
            let _ = caller.unary::<()>("DeleteBulkState", &request, deadline).await;
        }
        4..6 => {
            let operation = |key: u32| {
                let item = item(&format!("greedy{}", key % 500), "x");
                if key.is_multiple_of(2) { upsert(item) } else { delete(item) }
            };
            let operations = (0..random.random_range(1..6000)).map(operation).collect();
            let request = dapr::ExecuteStateTransactionRequest { store_name, operations, ..Default::default() };
            let _ = caller.unary::<()>("ExecuteStateTransaction", &request, deadline).await;
        }
        // As much as one call may bring, and in memory many of them.
        _ => {
            for _ in 0..random.random_range(1..40) {
                if !caller.ground.goes_on().await {
                    return;
                }
                let value = vec![b'x'; MOST_BYTES - random.random_range(40..2000)];
                let number = (place == Place::Memory).then(|| random.random_range(0..MOST_LARGE).to_string());
                let key = format!("{LARGE}{}", number.filter(|_| random.random()).unwrap_or_default());
                let request =
                    dapr::SaveStateRequest { store_name: store_name.clone(), states: vec![item(&key, value)] };
                let _ = caller.unary::<()>("SaveState", &request, None).await;
            }
        }
    }
}
