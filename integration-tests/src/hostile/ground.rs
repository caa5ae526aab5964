//! What all of it happens on: an Envoy with components of every block, the servers behind it, and what is known of
//! their state.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Options;
use super::garbage::Garbage;
use super::kind::Kind;
use super::record::Record;
use crate::listener_file::serve_listener_from_a_file;
use crate::middleman::Middleman;
use crate::redis::{self, Redis};
use crate::{Config, Dialect, Envoy, etcd, installed};

/// `limits.maxRequestBytes`. The reloads change it by one.
pub(super) const MOST_BYTES: usize = 1_234_000;
/// `limits.timeout`: how long a call may take that gave no deadline.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a listener drains that was replaced (`--drain-time-s` of the harness), and some more.
const DRAINED: Duration = Duration::from_secs(15);

/// The components whose answers are checked, by what they keep their data in.
pub(super) const PLACES: [Place; 3] = [Place::Memory, Place::Redis, Place::Etcd];
/// The components behind which there is a server that sends garbage.
pub(super) const GARBAGE: &str = "garbage";
/// What the store of secrets `environment` holds.
pub(super) const SECRET: (&str, &str) = ("HOSTILE_SECRET", "known");
/// Large items of the stores: `large`, and in memory `large0` and so on.
pub(super) const LARGE: &str = "large";
/// How many there are in memory.
pub(super) const MOST_LARGE: usize = 150;

/// Where components keep their data. A component is named after it, in every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Memory,
    Redis,
    Etcd,
}

impl Place {
    /// The name of its component in each block.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Etcd => "etcd",
        }
    }
}

/// A server, through a middleman.
pub(super) struct Behind<S> {
    pub(super) server: tokio::sync::Mutex<S>,
    pub(super) middleman: Middleman,
}

/// Whether a place is in order, and since when.
#[derive(Debug)]
struct Weather {
    troubles: u32,
    calm_since: Instant,
}

/// While it is held, a place is not in order.
pub(super) struct Trouble<'a> {
    ground: &'a Ground,
    place: Place,
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        let mut weather = self.ground.weather[self.place as usize].lock().unwrap();
        weather.troubles -= 1;
        weather.calm_since = Instant::now();
    }
}

/// All that takes part.
pub(super) struct Ground {
    pub(super) options: Options,
    pub(super) record: Record,
    pub(super) envoy: Envoy,
    pub(super) redis: Behind<Redis>,
    pub(super) etcd: Behind<etcd::Etcd>,
    pub(super) end: Instant,
    weather: [Mutex<Weather>; 3],
    reloaded: Mutex<Option<Instant>>,
    quiet: watch::Sender<bool>,
    /// How late timers were of late: (when, how late).
    lags: Mutex<VecDeque<(Instant, Duration)>>,
    _garbage: Garbage,
}

impl Ground {
    pub(super) async fn prepare(options: &Options) -> Self {
        let redis = Redis::start(redis::Options::default()).await;
        let etcd = etcd::Etcd::start(etcd::Options::default()).await;
        let redis = Behind { middleman: Middleman::before(redis.port).await, server: redis.into() };
        let etcd = Behind { middleman: Middleman::before(etcd.port).await, server: etcd.into() };
        let garbage = Garbage::start(options.seed).await;
        let (redis_port, etcd_port, garbage_port) = (redis.middleman.port, etcd.middleman.port, garbage.port);
        let mut config = Config::new("hostile")
            .set("limits", json!({"maxRequestBytes": MOST_BYTES, "timeout": format!("{}s", TIMEOUT.as_secs())}))
            .concurrency(options.workers)
            .log_level("warning")
            .variable(SECRET.0, SECRET.1)
            .change_bootstrap(serve_listener_from_a_file);
        if options.has(Kind::Trap) {
            config = config.trap();
        }
        if let Some(envoy) = &options.envoy {
            let path = std::path::Path::new(envoy);
            let of_version = installed::workspace().join(".tools/envoy").join(envoy).join("envoy");
            config = config.envoy(if path.components().count() > 1 { path.to_owned() } else { of_version });
        }
        for block in ["state", "lock", "sequencer", "configuration"] {
            let prefix = (block == "state").then_some(("keyPrefix", "name"));
            let mut add = |name: &str, driver: &str, field: Option<(&str, String)>| {
                let metadata: Vec<_> = prefix
                    .into_iter()
                    .chain(field.as_ref().map(|(name, value)| (*name, value.as_str())))
                    .filter(|(name, _)| !name.is_empty())
                    .collect();
                config = config.clone().component(name, &format!("{block}.{driver}"), &metadata);
            };
            add(Place::Memory.name(), "in-memory", None);
            add(Place::Redis.name(), "redis", Some(("redisHost", format!("127.0.0.1:{redis_port}"))));
            add(Place::Etcd.name(), "etcd", Some(("endpoints", format!("127.0.0.1:{etcd_port}"))));
            add(GARBAGE, "redis", Some(("redisHost", format!("127.0.0.1:{garbage_port}"))));
            add("garbage-etcd", "etcd", Some(("endpoints", format!("127.0.0.1:{garbage_port}"))));
            if block == "state" {
                add("garbage-memcached", "memcached", Some(("hosts", format!("127.0.0.1:{garbage_port}"))));
            }
        }
        let vault = format!("http://127.0.0.1:{garbage_port}");
        config = config.component("environment", "secretstores.local.env", &[]).component(
            GARBAGE,
            "secretstores.hashicorp.vault",
            &[("vaultAddr", &vault), ("vaultToken", "token")],
        );
        let envoy = Envoy::start(config).await;
        envoy.listener_of_the_file().await;
        let now = Instant::now();
        let weather = || Mutex::new(Weather { troubles: 0, calm_since: now });
        Self {
            options: options.clone(),
            record: Record::new(),
            envoy,
            redis,
            etcd,
            end: now + Duration::from_secs(options.seconds),
            weather: [weather(), weather(), weather()],
            reloaded: Mutex::new(None),
            quiet: watch::Sender::new(false),
            lags: Mutex::default(),
            _garbage: garbage,
        }
    }

    /// The names of components, in every block.
    pub(super) fn stores() -> Vec<&'static str> {
        let places = PLACES.map(Place::name);
        places.into_iter().chain([GARBAGE, "garbage-etcd", "garbage-memcached", "environment"]).collect()
    }

    /// A source of random numbers: always the same for a seed, a kind and a number.
    pub(super) fn random(&self, kind: Kind, number: usize) -> StdRng {
        let salt = (kind as u64 + 1) << 32 | number as u64;
        StdRng::seed_from_u64(self.options.seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The port of a dialect.
    pub(super) fn port(&self, dialect: Dialect) -> u16 {
        match dialect {
            Dialect::Dapr => self.envoy.dapr_grpc,
            Dialect::Layotto => self.envoy.layotto_grpc,
        }
    }

    /// Whether clients go on. While all are to be silent it waits.
    pub(super) async fn goes_on(&self) -> bool {
        let mut quiet = self.quiet.subscribe();
        let _ = quiet.wait_for(|quiet| !*quiet).await;
        Instant::now() < self.end
    }

    /// Makes all clients silent, or lets them go on.
    pub(super) fn hush(&self, quiet: bool) {
        self.quiet.send_replace(quiet);
    }

    /// Sleeps, but not past the end.
    pub(super) async fn pause(&self, time: Duration) {
        sleep(time.min(self.end.saturating_duration_since(Instant::now()))).await;
    }

    /// Says that a place is not in order while what is given is held.
    pub(super) fn trouble(&self, place: Place) -> Trouble<'_> {
        self.weather[place as usize].lock().unwrap().troubles += 1;
        Trouble { ground: self, place }
    }

    /// Since when a place has been in order; `None` when it is not.
    pub(super) fn calm_since(&self, place: Place) -> Option<Instant> {
        let weather = self.weather[place as usize].lock().unwrap();
        (weather.troubles == 0).then_some(weather.calm_since)
    }

    /// Notes that the listener was replaced.
    pub(super) fn has_reloaded(&self) {
        *self.reloaded.lock().unwrap() = Some(Instant::now());
    }

    /// How long ago the listener was replaced.
    pub(super) fn since_reload(&self) -> Option<Duration> {
        self.reloaded.lock().unwrap().map(|at| at.elapsed())
    }

    /// Whether a listener drains or has drained a short time ago: it closes its connections.
    pub(super) fn drains(&self) -> bool {
        self.since_reload().is_some_and(|since| since < DRAINED)
    }

    /// What is allowed beyond a limit: a second, more on a machine that has too much to do, and what timers here were
    /// late by.
    pub(super) fn margin(&self) -> Duration {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load: f64 = load.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(1.0);
        #[allow(clippy::cast_precision_loss, reason = "there are few processors")]
        let crowding = (load / processors as f64).max(1.0);
        Duration::from_secs_f64(crowding) + 3 * self.lag()
    }

    /// The most that a timer of this process was late in the last ten seconds.
    fn lag(&self) -> Duration {
        let lags = self.lags.lock().unwrap();
        lags.iter().map(|(_, lag)| *lag).max().unwrap_or_default()
    }

    /// Watches how late timers are.
    pub(super) async fn watch_lag(&self) {
        const EVERY: Duration = Duration::from_millis(50);
        loop {
            let due = Instant::now() + EVERY;
            tokio::time::sleep_until(due).await;
            let now = Instant::now();
            let mut lags = self.lags.lock().unwrap();
            lags.push_back((now, now - due));
            while lags.front().is_some_and(|(at, _)| now - *at > Duration::from_secs(10)) {
                lags.pop_front();
            }
        }
    }
}
