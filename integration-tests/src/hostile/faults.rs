//! What is done to the servers and to Envoy's configuration.

use std::sync::Arc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use prost::Message;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::client::{Call, Connection, End, WINDOW, connect, grpc_timeout};
use super::ground::{Behind, Ground, MOST_BYTES, Place};
use super::kind::Kind;
use crate::TRAP;
use crate::middleman::Replies;
use crate::wire::frame;

/// From some milliseconds to some seconds.
fn a_while(random: &mut StdRng, most: f64) -> Duration {
    Duration::from_secs_f64(0.05 + most * random.random::<f64>().powi(2))
}

/// A server that can be killed, stopped, and brought back.
trait Victim {
    async fn kill(&mut self);
    async fn restart(&mut self);
    async fn pause(&self);
    async fn resume(&self);
}

macro_rules! victim {
    ($type:ty) => {
        impl Victim for $type {
            async fn kill(&mut self) {
                <$type>::kill(self).await;
            }
            async fn restart(&mut self) {
                <$type>::restart(self).await;
            }
            async fn pause(&self) {
                <$type>::pause(self).await;
            }
            async fn resume(&self) {
                <$type>::resume(self).await;
            }
        }
    };
}

victim!(crate::Redis);
victim!(crate::Etcd);

/// One fault after the other, with time between in which all is in order.
pub(super) async fn redis(ground: &Ground) {
    to(ground, &ground.redis, Place::Redis).await;
}

/// The same for etcd.
pub(super) async fn etcd(ground: &Ground) {
    to(ground, &ground.etcd, Place::Etcd).await;
}

async fn to<S: Victim>(ground: &Ground, behind: &Behind<S>, place: Place) {
    let mut random = ground.random(Kind::Kill, place as usize);
    let kinds: Vec<_> =
        [Kind::Kill, Kind::Pause, Kind::Slow, Kind::Cut].into_iter().filter(|kind| ground.options.has(*kind)).collect();
    if kinds.is_empty() {
        return;
    }
    loop {
        // Every third time long enough that streams must have heard something.
        let calm = if random.random_range(0..3) == 0 { 20.0 } else { 4.0 };
        let calm = Duration::from_secs_f64(1.0 + calm * random.random::<f64>());
        ground.pause(calm).await;
        if !ground.goes_on().await {
            return;
        }
        let kind = kinds[random.random_range(0..kinds.len())];
        let trouble = ground.trouble(place);
        match kind {
            Kind::Kill => {
                let mut server = behind.server.lock().await;
                server.kill().await;
                ground.pause(a_while(&mut random, 4.0)).await;
                server.restart().await;
            }
            Kind::Pause => {
                let server = behind.server.lock().await;
                server.pause().await;
                ground.pause(a_while(&mut random, 9.0)).await;
                server.resume().await;
            }
            Kind::Slow => {
                let milliseconds = random.random_range(1..400);
                behind.middleman.replies(match random.random_range(0..3) {
                    0 => Replies::Pieces(random.random_range(1..20), Duration::from_millis(1)),
                    1 => Replies::Swallow,
                    _ => Replies::Late(Duration::from_millis(milliseconds)),
                });
                ground.pause(a_while(&mut random, 8.0)).await;
                // What was swallowed never comes. No network goes on after a gap.
                behind.middleman.cut_connections();
                behind.middleman.replies(Replies::Pass);
            }
            _ => {
                behind.middleman.replies(Replies::CloseAfter(random.random_range(0..20_000)));
                ground.pause(a_while(&mut random, 1.0)).await;
                behind.middleman.replies(Replies::Pass);
            }
        }
        drop(trouble);
    }
}

/// Replaces the configuration of a listener.
pub(super) async fn reload(ground: &Ground) {
    let mut random = ground.random(Kind::Reload, 0);
    let first = ground.envoy.listener_of_the_file().await.to_string();
    for version in 1.. {
        ground.pause(Duration::from_secs_f64(6.0 + 14.0 * random.random::<f64>())).await;
        if !ground.goes_on().await {
            return;
        }
        let changed = first.replace(&MOST_BYTES.to_string(), &(MOST_BYTES + version as usize % 2).to_string());
        ground.has_reloaded();
        let listener = serde_json::from_str(&changed).expect("it was JSON");
        ground.envoy.replace_listener_of_the_file(listener, version).await;
        ground.has_reloaded();
    }
}

/// Has a worker's VM trap now and then.
pub(super) async fn trap(ground: Arc<Ground>, number: usize) {
    let mut random = ground.random(Kind::Trap, number);
    while ground.goes_on().await {
        if let Some(connection) = connect(&ground, Kind::Trap, ground.envoy.dapr_grpc, WINDOW).await
            && let Ok(mut call) = connection.begin(TRAP, &[]).await
        {
            call.send(frame(b""), true);
            // How it ends is not to be known.
            let _ = end_of(&mut call, Duration::from_secs(1)).await;
        }
        ground.pause(Duration::from_secs(random.random_range(3..15))).await;
    }
}

/// All are silent for more than a minute; then calls with deadlines are made, which must count from now.
pub(super) async fn silence(ground: Arc<Ground>) {
    const QUIET: Duration = Duration::from_secs(70);
    let times = if ground.options.only == [Kind::Silence] { 1 } else { 2 };
    let part = Duration::from_secs(ground.options.seconds) / (times + 1);
    for _ in 0..times {
        ground.pause(part.saturating_sub(QUIET)).await;
        if ground.end.saturating_duration_since(Instant::now()) < QUIET + Duration::from_secs(30) {
            return;
        }
        ground.hush(true);
        sleep(QUIET).await;
        after_silence(&ground).await;
        ground.hush(false);
    }
}

async fn after_silence(ground: &Ground) {
    let deadline = Duration::from_secs(10);
    let Ok(connection) = Connection::open(ground.envoy.dapr_grpc, WINDOW).await else {
        ground.record.find(Kind::Silence, "a listener takes no connections after silence", "");
        return;
    };
    let server = ground.redis.server.lock().await;
    let trouble = ground.trouble(Place::Redis);
    server.pause().await;
    let subscribe = dapr::SubscribeConfigurationRequest { store_name: "memory".into(), ..Default::default() };
    let get = |deadline: Duration| {
        let request = dapr::GetStateRequest { store_name: "redis".into(), key: "k0".into(), ..Default::default() };
        (deadline, "GetState", request.encode_to_vec())
    };
    let calls = [
        (deadline, "SubscribeConfiguration", subscribe.encode_to_vec()),
        get(Duration::from_secs(1)),
        get(Duration::from_secs(3)),
        (Duration::from_secs(4), "SubscribeConfiguration", subscribe.encode_to_vec()),
    ];
    let calls = calls.into_iter().map(async |(deadline, method, request)| {
        let header = grpc_timeout(deadline);
        let path = format!("/dapr.proto.runtime.v1.Dapr/{method}");
        let Ok(mut call) = connection.begin(&path, &[("grpc-timeout", header.as_str())]).await else { return };
        let start = Instant::now();
        call.send(frame(&request), true);
        let end = end_of(&mut call, deadline + ground.margin()).await;
        let took = start.elapsed();
        let in_time = took + Duration::from_millis(10) > deadline;
        let right = match &end {
            Some(End::Status { code: Code::DeadlineExceeded, .. }) => in_time,
            // A connection that owes a reply may be given up first.
            Some(End::Status { code: Code::Unavailable, .. }) => method == "GetState",
            _ => false,
        };
        if !right {
            let example = format!("{method} with a deadline of {deadline:?}: {end:.100?} after {took:.1?}");
            ground.record.find(Kind::Silence, "a deadline does not hold after silence", example);
        }
    });
    futures::future::join_all(calls).await;
    server.resume().await;
    drop((trouble, server));
}

async fn end_of(call: &mut Call, patience: Duration) -> Option<End> {
    timeout(patience, call.incoming.all()).await.ok()
}
