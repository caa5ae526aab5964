//! What a subscription to configuration costs: the way of a change from the store to the app, the memory of a
//! subscription that waits, and the CPU that Envoy takes for an event.

use std::path::Path;
use std::time::{Duration, Instant};

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::dapr::runtime::v1::dapr_client::DaprClient;
use integration_tests::etcd::{self, Etcd};
use integration_tests::redis::{self, Redis};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Result;
use crate::case::APP;
use crate::envoy::Envoy;
use crate::load::float;

const STORE: &str = "config";
const KEY: &str = "key";

/// Changes of which the way is timed, one after the other.
const CHANGES: u32 = 1000;
/// Subscriptions that are open at the same time, and connections that they are on.
const SUBSCRIPTIONS: u32 = 1000;
const CONNECTIONS: u32 = 10;
/// Changes that each of them is told.
const BROADCASTS: u32 = 20;
/// An event that has not come by then is lost.
const PATIENCE: Duration = Duration::from_secs(10);

type Events = Streaming<dapr::SubscribeConfigurationResponse>;

/// The figures of one store.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) store: &'static str,
    /// From before the write to the store until the app has the event, in microseconds.
    pub(crate) delay_p50_us: f64,
    pub(crate) delay_p99_us: f64,
    /// What Envoy grows by for each subscription, resident, in KiB.
    pub(crate) kib_per_subscription: f64,
    /// What Envoy takes for each event that it delivers, in microseconds.
    pub(crate) cpu_us_per_event: f64,
}

/// A store that is written to from outside.
enum Written {
    Redis(Redis),
    Etcd(Etcd),
}

impl Written {
    fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "Redis",
            Self::Etcd(_) => "etcd",
        }
    }

    fn component(&self) -> Value {
        match self {
            Self::Redis(redis) => json!({
                "name": STORE, "type": "configuration.redis", "metadata": {"redisHost": redis.address()},
            }),
            Self::Etcd(etcd) => json!({
                "name": STORE, "type": "configuration.etcd", "metadata": {"endpoints": etcd.address()},
            }),
        }
    }

    async fn write(&self, number: u32) {
        match self {
            Self::Redis(redis) => redis.command(&["SET", KEY, &format!("{number}||{number}")]).await,
            Self::Etcd(etcd) => {
                etcd.put(&format!("/{APP}/default/default/{KEY}"), &number.to_string()).await;
            }
        }
    }
}

/// Measures all stores.
pub(crate) async fn measure(envoy: &Path) -> Result<Vec<Figures>> {
    let stores = [
        Written::Redis(Redis::start(redis::Options::default()).await),
        Written::Etcd(Etcd::start(etcd::Options::default()).await),
    ];
    let mut figures = Vec::new();
    for store in stores {
        figures.push(measure_store(envoy, &store).await?);
    }
    Ok(figures)
}

async fn measure_store(envoy: &Path, store: &Written) -> Result<Figures> {
    let envoy = Envoy::start(envoy, &json!([store.component()]), |_| Ok(())).await?;
    let client = client(&envoy).await?;
    let mut events = subscribe(client).await?;
    let mut delays = Vec::new();
    for number in 1..=CHANGES {
        let start = Instant::now();
        store.write(number).await;
        expect(&mut events, number).await?;
        delays.push(start.elapsed().as_secs_f64() * 1e6);
    }
    drop(events);
    delays.sort_by(f64::total_cmp);
    let at = |part: usize| delays.get(delays.len() * part / 100).copied().unwrap_or_default();

    let before = envoy.process.memory()?.rss;
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = self::client(&envoy).await?;
        for _ in 0..SUBSCRIPTIONS / CONNECTIONS {
            all.push(subscribe(client.clone()).await?);
        }
    }
    let grown = envoy.process.memory()?.rss.saturating_sub(before);

    let cpu = envoy.process.cpu()?;
    for number in 1..=BROADCASTS {
        store.write(CHANGES + number).await;
        for events in &mut all {
            expect(events, CHANGES + number).await?;
        }
    }
    let cpu = envoy.process.cpu()?.saturating_sub(cpu);
    Ok(Figures {
        store: store.name(),
        delay_p50_us: at(50),
        delay_p99_us: at(99),
        kib_per_subscription: float(grown) / f64::from(SUBSCRIPTIONS),
        cpu_us_per_event: cpu.as_secs_f64() * 1e6 / f64::from(BROADCASTS * SUBSCRIPTIONS),
    })
}

async fn client(envoy: &Envoy) -> Result<DaprClient<Channel>> {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.port))?;
    Ok(DaprClient::new(endpoint.connect().await?))
}

async fn subscribe(mut client: DaprClient<Channel>) -> Result<Events> {
    let request = dapr::SubscribeConfigurationRequest {
        store_name: STORE.to_owned(),
        keys: vec![KEY.to_owned()],
        ..Default::default()
    };
    let mut events = client.subscribe_configuration(request).await?.into_inner();
    let first = timeout(PATIENCE, events.message()).await??;
    if first.is_none_or(|first| first.id.is_empty()) {
        return Err("a subscription did not begin with its id".into());
    }
    Ok(events)
}

/// The next event, which must be of this change.
async fn expect(events: &mut Events, number: u32) -> Result<()> {
    let event = timeout(PATIENCE, events.message()).await??.ok_or("a subscription has ended")?;
    match event.items.get(KEY) {
        Some(item) if item.value == number.to_string() => Ok(()),
        other => Err(format!("change {number} was expected, not {other:?}").into()),
    }
}
