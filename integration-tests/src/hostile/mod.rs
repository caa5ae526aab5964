//! `make hostile`: one Envoy, and clients and servers that are as hostile and as ordinary as they come, at random from
//! a seed. It is checked all the time that nothing of it crashes, stalls or loses: see [`Kind`] for who takes part and
//! what is checked.
//!
//! The same seed gives the same clients, each with the same plan; how they meet is up to the machine.

mod client;
mod faults;
mod garbage;
mod ground;
mod http;
mod kind;
mod messages;
mod ordinary;
mod record;
mod rest;
mod subscribers;
mod vandals;

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use ground::{Ground, PLACES};
pub use kind::Kind;
pub use record::Finding;
use rest::Holdings;

/// What to do, and for how long.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "runtime-hostile",
    about = "Hostile and ordinary clients and servers for one Envoy, at random; exits with 1 on findings"
)]
pub struct Options {
    /// How long clients and faults go on, in seconds.
    #[arg(long, default_value_t = 600)]
    pub seconds: u64,
    /// The seed of all that is random.
    #[arg(long, default_value_t = rand::random_range(1..1_000_000))]
    pub seed: u64,
    /// Worker threads of Envoy.
    #[arg(long, default_value_t = 2)]
    pub workers: u32,
    /// A version of Envoy that `make tools` has fetched, or the path of an Envoy [default: $ENVOY, as for the tests]
    #[arg(long)]
    pub envoy: Option<String>,
    /// How long Envoy has afterwards to give back memory, in seconds; 0: that is not looked at.
    #[arg(long, default_value_t = 300)]
    pub rest: u64,
    /// These kinds alone.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// All kinds but these.
    #[arg(long, value_delimiter = ',')]
    pub without: Vec<Kind>,
    /// Say at the end with which texts calls failed, and how often.
    #[arg(long)]
    pub texts: bool,
}

impl Options {
    /// Whether a kind takes part.
    pub fn has(&self, kind: Kind) -> bool {
        let named = self.only.contains(&kind);
        (named || self.only.is_empty() && kind != Kind::Trap) && !self.without.contains(&kind)
    }

    /// The command that does the same again.
    fn command(&self) -> String {
        let mut text =
            format!("runtime-hostile --seed {} --seconds {} --workers {}", self.seed, self.seconds, self.workers);
        for (option, kinds) in [("only", &self.only), ("without", &self.without)] {
            if !kinds.is_empty() {
                let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
                let _ = write!(text, " --{option} {}", kinds.join(","));
            }
        }
        if let Some(envoy) = &self.envoy {
            let _ = write!(text, " --envoy {envoy}");
        }
        text
    }
}

/// Does all of it, tells of it on stdout, and returns what must not be.
pub async fn run(options: &Options) -> Vec<Finding> {
    println!("{}", options.command());
    let ground = Arc::new(Ground::prepare(options).await);
    let served = Arc::new(vandals::served(&ground).await);
    let counters = Arc::new(ordinary::Counters::default());
    counters.prepare(&ground).await;
    let before = Holdings::of(&ground).unwrap_or_default();
    println!("{} methods are served; Envoy holds {} MiB and {} files", served.len(), before.resident_mib, before.files);

    let mut parts = Parts { ground: ground.clone(), tasks: JoinSet::new() };
    add_clients(&mut parts, &served, &counters);
    parts.add(Kind::Trap, 1, |n| faults::trap(ground.clone(), n));
    parts.add(Kind::Silence, 1, |_| faults::silence(ground.clone()));
    let lag = tokio::spawn({
        let ground = ground.clone();
        async move { ground.watch_lag().await }
    });
    let reloads = async {
        if options.has(Kind::Reload) {
            faults::reload(&ground).await;
        }
    };
    tokio::join!(watch(&ground), faults::redis(&ground), faults::etcd(&ground), reloads);
    parts.finish().await;
    if options.has(Kind::Etags) {
        counters.check(&ground).await;
    }
    if options.rest > 0 && options.has(Kind::Rest) {
        rest::clean(&ground).await;
        rest::rest(&ground, before).await;
    }
    lag.abort();
    traps(&ground).await;
    tell(&ground);
    ground.record.findings()
}

/// The tasks.
struct Parts {
    ground: Arc<Ground>,
    tasks: JoinSet<()>,
}

impl Parts {
    /// Adds `count` of a kind, if it takes part.
    fn add<F: Future<Output = ()> + Send + 'static>(&mut self, kind: Kind, count: usize, part: impl Fn(usize) -> F) {
        if self.ground.options.has(kind) {
            for number in 0..count {
                self.tasks.spawn(part(number));
            }
        }
    }

    /// Waits until all have ended: each ends when its last call has.
    async fn finish(&mut self) {
        let patience = Instant::now() + Duration::from_secs(90);
        while let Ok(Some(ended)) = tokio::time::timeout_at(patience, self.tasks.join_next()).await {
            if let Err(error) = ended {
                self.ground.record.find(Kind::Rest, "a part of this program has failed", error.to_string());
            }
        }
        if !self.tasks.is_empty() {
            let example = format!("{} of its parts", self.tasks.len());
            self.ground.record.find(Kind::Rest, "this program does not come to an end", example);
            self.tasks.shutdown().await;
        }
    }
}

fn add_clients(
    parts: &mut Parts,
    served: &Arc<Vec<&'static envoy_runtime_proto::Method>>,
    counters: &Arc<ordinary::Counters>,
) {
    let ground = parts.ground.clone();
    let messages = Arc::new(messages::Messages::new());
    let (locks, ids, markers) = <(Arc<_>, Arc<_>, Arc<_>)>::default();
    parts.add(Kind::Random, 24, |n| vandals::random(ground.clone(), messages.clone(), served.clone(), n));
    parts.add(Kind::Http, 4, |n| http::http(ground.clone(), n));
    parts.add(Kind::Burst, 1, |n| vandals::burst(ground.clone(), n));
    parts.add(Kind::Streams, 2, |n| vandals::streams(ground.clone(), n));
    parts.add(Kind::Mute, 2, |n| vandals::mute(ground.clone(), n));
    parts.add(Kind::Drop, 1, |n| vandals::drop_connections(ground.clone(), messages.clone(), served.clone(), n));
    parts.add(Kind::Greedy, 2, |n| vandals::greedy(ground.clone(), n));
    parts.add(Kind::Garbage, 4, |n| vandals::garbage(ground.clone(), messages.clone(), served.clone(), n));
    parts.add(Kind::Pulse, 1, |n| ordinary::pulse(ground.clone(), n));
    parts.add(Kind::State, 6, |n| ordinary::state(ground.clone(), n));
    parts.add(Kind::Etags, 4, |n| ordinary::etags(ground.clone(), counters.clone(), n));
    parts.add(Kind::Locks, 6, |n| ordinary::locks(ground.clone(), Arc::clone(&locks), n));
    parts.add(Kind::Sequences, 4, |n| ordinary::sequences(ground.clone(), Arc::clone(&ids), n));
    parts.add(Kind::Subscriptions, PLACES.len(), |n| {
        subscribers::writer(ground.clone(), Arc::clone(&markers), PLACES[n])
    });
    parts.add(Kind::Subscriptions, 12, |n| subscribers::subscriber(ground.clone(), Arc::clone(&markers), n));
}

/// Looks after the VMs until the end, and tells now and then how it goes.
async fn watch(ground: &Ground) {
    let mut known = 0;
    let mut told = Instant::now();
    while Instant::now() < ground.end {
        ground.pause(Duration::from_secs(3)).await;
        let Some(holdings) = Holdings::of(ground) else {
            ground.record.find(Kind::Rest, "Envoy has ended", "");
            return;
        };
        match rest::reloads_of_vms(ground).await {
            Some(reloads) => {
                for _ in known..reloads {
                    let example = format!("Envoy holds {} MiB", holdings.resident_mib);
                    ground.record.find(Kind::Rest, "a VM was made anew", example);
                }
                known = reloads;
            }
            None => ground.record.find(Kind::Rest, "Envoy's admin interface does not answer", ""),
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            let Holdings { resident_mib, files } = holdings;
            println!(
                "\nafter {:.0} s: Envoy holds {resident_mib} MiB and {files} files",
                ground.record.elapsed().as_secs_f64()
            );
            println!("{}", ground.record.table());
        }
    }
}

/// What Envoy's log and counters say of VMs that have crashed.
async fn traps(ground: &Ground) {
    let Ok(crashes) = timeout(Duration::from_mins(1), ground.envoy.crashes()).await else {
        ground.record.find(Kind::Rest, "Envoy's admin interface does not answer", "when all was over");
        return;
    };
    for crash in crashes {
        if let Some((_, trap)) = crash.split_once("Function: ") {
            ground.record.find(Kind::Rest, trap.trim(), "in Envoy's log");
        } else if crash.starts_with("wasm.") {
            ground.record.find(Kind::Rest, "Envoy counts what it should not", crash);
        } else if !crash.contains(" is unreachable") {
            // Which the runtime says of servers.
            ground.record.find(
                Kind::Rest,
                "a sign of a trap in Envoy's log",
                crash.chars().take(600).collect::<String>(),
            );
        }
    }
}

/// The table, the texts if they are wanted, and a line for each finding.
fn tell(ground: &Ground) {
    println!("\n{} calls in {:.0} s", ground.record.calls(), ground.record.elapsed().as_secs_f64());
    println!("{}", ground.record.table());
    if ground.options.texts {
        for (text, count) in ground.record.texts() {
            println!("{count:8} {text}");
        }
        println!("log: {}", ground.envoy.scratch().display());
    }
    let findings = ground.record.findings();
    if findings.is_empty() {
        println!("no findings");
        return;
    }
    let mut again = ground.options.clone();
    let faults = || Kind::value_variants().iter().copied().filter(|kind| kind.is_fault() && ground.options.has(*kind));
    println!("{} findings with {}", findings.len(), again.command());
    for Finding { kind, what, example, at, times } in findings {
        let at = at.as_secs_f64();
        print!("FINDING {kind}: {what} ({times} times, the first after {at:.1} s): {example}");
        if kind == Kind::Rest {
            println!();
        } else {
            // Less may do as well.
            (again.only, again.without) = (std::iter::once(kind).chain(faults()).collect(), Vec::new());
            println!(" | {}", again.command());
        }
    }
}
