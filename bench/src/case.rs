//! What is measured, and by how many callers.

use std::path::{Path, PathBuf};

use envoy_runtime_proto::dapr::common::v1::StateItem;
use envoy_runtime_proto::dapr::runtime::v1::{GetStateRequest, SaveStateRequest};
use integration_tests::redis::{Options, Redis};
use prost::Message;
use serde_json::json;
use tempfile::TempDir;

use crate::Result;
use crate::envoy::Envoy;
use crate::load::{self, Load};
use crate::report::{Sample, Usage};

/// The size of the value that is written and read.
pub(crate) const VALUE_BYTES: usize = 100;
/// The app, which is also the prefix of keys.
pub(crate) const APP: &str = "bench";
const KEY: &str = "key";
const SERVICE: &str = "dapr.proto.runtime.v1.Dapr";

/// So many calls at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) connections: u32,
    /// Calls on each connection.
    pub(crate) streams: u32,
    /// The part of the calls of a measurement that is made at this level.
    share: u64,
}

pub(crate) const FULL: Level = Level { connections: 8, streams: 16, share: 1 };
/// The most first.
pub(crate) const LEVELS: [Level; 4] = [
    Level { connections: 8, streams: 128, share: 1 },
    FULL,
    Level { connections: 1, streams: 16, share: 2 },
    Level { connections: 1, streams: 1, share: 10 },
];

impl Level {
    pub(crate) fn in_flight(self) -> u32 {
        self.connections * self.streams
    }
}

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// gRPC, over HTTP/2.
    Grpc,
    /// Dapr's HTTP API, over HTTP/1.1: a connection for each call in flight.
    Http,
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// Envoy answers the same request by itself: nothing in this process can be faster.
    Direct { wire: Wire, method: &'static str },
    /// A call to the runtime.
    Call { wire: Wire, method: &'static str, store: &'static str },
    /// The command of `GetState`, sent to Redis by its own benchmark.
    Redis,
}

const REDIS: &str = "redis";
const MEMORY: &str = "memory";

/// What must hold: `GetState` on Redis, under full load.
pub(crate) const PROMISED: Case = Case::Call { wire: Wire::Grpc, method: GET, store: REDIS };

const GET: &str = "GetState";
const SAVE: &str = "SaveState";

pub(crate) const CASES: [Case; 10] = [
    Case::Direct { wire: Wire::Grpc, method: GET },
    PROMISED,
    Case::Call { wire: Wire::Grpc, method: SAVE, store: REDIS },
    Case::Call { wire: Wire::Grpc, method: GET, store: MEMORY },
    Case::Call { wire: Wire::Grpc, method: SAVE, store: MEMORY },
    Case::Redis,
    Case::Direct { wire: Wire::Http, method: GET },
    Case::Call { wire: Wire::Http, method: GET, store: REDIS },
    Case::Direct { wire: Wire::Http, method: SAVE },
    Case::Call { wire: Wire::Http, method: SAVE, store: REDIS },
];

impl Case {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Direct { wire: Wire::Grpc, .. } => "Envoy's direct response".to_owned(),
            Self::Direct { wire: Wire::Http, method: GET } => "Direct, GET of HTTP/1.1".to_owned(),
            Self::Direct { wire: Wire::Http, .. } => "Direct, POST of HTTP/1.1".to_owned(),
            Self::Call { wire: Wire::Http, method, .. } => format!("{method}, HTTP/1.1"),
            Self::Call { method, store: REDIS, .. } => format!("{method} on Redis"),
            Self::Call { method, .. } => format!("{method} in memory"),
            Self::Redis => "Redis itself, HMGET".to_owned(),
        }
    }

    /// The direct response that it is held against.
    pub(crate) fn baseline(self) -> Self {
        match self {
            Self::Direct { wire: Wire::Http, method } | Self::Call { wire: Wire::Http, method, .. } => {
                Self::Direct { wire: Wire::Http, method }
            }
            _ => Self::Direct { wire: Wire::Grpc, method: GET },
        }
    }
}

/// All that takes part, running.
#[derive(Debug)]
pub(crate) struct Bench {
    redis: Redis,
    runtime: Envoy,
    bare: Envoy,
    requests: TempDir,
}

impl Bench {
    pub(crate) async fn start(envoy: &Path) -> Result<Self> {
        let redis = Redis::start(Options::default()).await;
        // It writes nothing to disk, so that no rewrite of its file falls into a measurement.
        let _: String = redis.command(&["CONFIG", "SET", "appendonly", "no"]).await;
        let components = json!([
            {"name": REDIS, "type": "state.redis", "metadata": {"redisHost": redis.address()}},
            {"name": MEMORY, "type": "state.in-memory"},
        ]);
        let bench = Self {
            runtime: Envoy::start(envoy, &components, |_| Ok(())).await?,
            bare: Envoy::start(envoy, &components, crate::envoy::strip).await?,
            redis,
            requests: tempfile::tempdir()?,
        };
        for store in [REDIS, MEMORY] {
            std::fs::write(bench.request(Wire::Grpc, GET, store), get(store))?;
            std::fs::write(bench.request(Wire::Grpc, SAVE, store), save(store))?;
            std::fs::write(bench.request(Wire::Http, SAVE, store), save_as_json())?;
            // The first call opens the connection to Redis; what is read later is there from now on.
            let case = Case::Call { wire: Wire::Grpc, method: SAVE, store };
            bench.measure(case, Level { connections: 1, streams: 1, share: 1 }, 10).await?;
        }
        Ok(bench)
    }

    fn request(&self, wire: Wire, method: &str, store: &str) -> PathBuf {
        self.requests.path().join(format!("{wire:?}-{method}-{store}"))
    }

    /// The memory of the Envoy with the runtime and of the bare one.
    pub(crate) fn memory(&self) -> Result<Usage> {
        Ok(Usage { runtime: self.runtime.process.memory()?, bare: self.bare.process.memory()? })
    }

    pub(crate) async fn measure(&self, case: Case, level: Level, requests: u64) -> Result<Sample> {
        // Whole batches, which redis-benchmark would make of them anyway.
        let calls = (requests / level.share).next_multiple_of(level.in_flight().into());
        match case {
            Case::Direct { wire, method } => self.call(&self.bare, (wire, method, REDIS), level, calls, None).await,
            Case::Call { wire, method, store } => {
                let counter = format!("wasmcustom.runtime.requests.state.{store}.{method}.OK");
                self.call(&self.runtime, (wire, method, store), level, calls, Some(&counter)).await
            }
            Case::Redis => self.hmget(level, calls).await,
        }
    }

    /// Calls an Envoy. `counter` says how many calls it took for successful: h2load does not see the status of gRPC.
    async fn call(
        &self,
        envoy: &Envoy,
        (wire, method, store): (Wire, &str, &str),
        level: Level,
        calls: u64,
        counter: Option<&str>,
    ) -> Result<Sample> {
        let path = match (wire, method) {
            (Wire::Grpc, _) => format!("{SERVICE}/{method}"),
            (Wire::Http, GET) => format!("v1.0/state/{store}/{KEY}"),
            (Wire::Http, _) => format!("v1.0/state/{store}"),
        };
        let url = format!("http://127.0.0.1:{}/{path}", envoy.port);
        let body = ((wire, method) != (Wire::Http, GET)).then(|| self.request(wire, method, store));
        let before = match counter {
            Some(counter) => envoy.counter(counter).await?,
            None => 0,
        };
        let cpu = envoy.process.cpu()?;
        let Load { calls_per_second, p50, p99, mut failures } =
            load::h2load(&url, wire, body.as_deref(), level, calls, self.requests.path()).await?;
        let cpu = envoy.process.cpu()?.saturating_sub(cpu);
        if let Some(counter) = counter {
            failures = failures.max((envoy.counter(counter).await? - before).abs_diff(calls));
        }
        let cpu = Some(cpu.as_secs_f64() * 1e6 / load::float(calls));
        Ok(Sample { calls_per_second, cpu, p50, p99, failures })
    }

    async fn hmget(&self, level: Level, calls: u64) -> Result<Sample> {
        let before = self.commands().await?;
        let key = format!("{APP}||{KEY}");
        let load = load::redis_benchmark(self.redis.port, &["HMGET", &key, "data", "version"], level, calls).await?;
        let failures = (self.commands().await? - before).abs_diff(calls);
        Ok(Sample { calls_per_second: load.calls_per_second, cpu: None, p50: load.p50, p99: load.p99, failures })
    }

    /// How many HMGET Redis has carried out.
    async fn commands(&self) -> Result<u64> {
        let text: String = self.redis.command(&["INFO", "commandstats"]).await;
        let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls="));
        Ok(line.and_then(|line| line.split(',').next()).unwrap_or("0").parse()?)
    }
}

fn get(store: &str) -> Vec<u8> {
    frame(&GetStateRequest { store_name: store.into(), key: KEY.into(), ..Default::default() })
}

fn save(store: &str) -> Vec<u8> {
    let item = StateItem { key: KEY.into(), value: vec![b'x'; VALUE_BYTES].into(), ..Default::default() };
    frame(&SaveStateRequest { store_name: store.into(), states: vec![item] })
}

fn save_as_json() -> Vec<u8> {
    let value = "x".repeat(VALUE_BYTES - 2); // with its quotes
    json!([{"key": KEY, "value": value}]).to_string().into()
}

/// A message as gRPC frames it.
fn frame(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message.encode_to_vec()].concat()
}
