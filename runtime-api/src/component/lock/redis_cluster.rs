//! Locks in several Redis servers that know nothing of each other (Redlock), as Layotto's type `redis_cluster`: a lock
//! is held by who holds it on the majority of them, so it survives the loss of a minority.
//!
//! All servers are asked at the same time, and the first that agree decide. A lock must be there within a tenth of its
//! time; else what was taken of it is given back. Only what this attempt has taken is: an owner that asks for a lock
//! which it holds already is refused and keeps it.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, FutureExt, LocalBoxFuture, join_all, select};
use futures::stream::{FuturesUnordered, StreamExt};

use super::redis::Server;
use super::{Error, Held, Outcome, Store};
use crate::component::{Block, Build, Driver, Environment, Upstream, V1, numbered, redis as connection};
use crate::config::{Field, Kind, Path, Report, Settings};
use crate::lasting::Lasting;
use crate::protocol::redis;
use crate::proxy::{Instant, Proxy};
use crate::tables;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "lock.redis.cluster",
    block: Block::Lock,
    meaning: "Several Redis servers apart from each other, of which the majority must agree (Redlock).",
    versions: V1,
    capabilities: &[],
    fields: FIELDS,
    check,
    upstreams,
    build: Build::Lock(|environment| Rc::new(RedisCluster(Rc::new(Servers::new(environment))))),
};

const FIELDS: &[Field] = tables![OWN, connection::CONNECTION, connection::LAYOTTO];

const OWN: &[Field] = &[
    Field::required("redisHosts", Kind::Addresses, "where the servers listen; best three or five"),
    Field::optional("concurrency", Kind::Ignored("all servers are asked at the same time"), "how many at a time"),
];

/// How long servers may take to release or renew a lock, once the majority has not agreed.
const PATIENCE: Duration = Duration::from_secs(1);

fn check(settings: &Settings, path: &Path, report: &mut Report) {
    connection::check(settings, path, report);
    let mut seen: Vec<&str> = Vec::new();
    for host in settings.addresses("redisHosts") {
        if seen.contains(&host) {
            report.error(path.field("redisHosts"), format!("{host} is there twice; it would count for two"));
        }
        seen.push(host);
    }
}

/// A cluster for each.
fn upstreams(settings: &Settings) -> Vec<Upstream> {
    let upstream = |(number, host)| connection::upstream(settings, host, numbered(number));
    settings.addresses("redisHosts").enumerate().filter_map(upstream).collect()
}

/// A lock store in several servers.
#[derive(Debug)]
pub struct RedisCluster(Rc<Servers>);

#[derive(Debug)]
struct Servers {
    proxy: Rc<dyn Proxy>,
    servers: Vec<Server>,
}

/// What a server answered, and which it was.
type Answer<T> = (usize, Result<T, redis::Error>);
/// Servers that were asked and have not answered.
type Asked<T> = FuturesUnordered<LocalBoxFuture<'static, Answer<T>>>;

/// How many servers said what.
#[derive(Debug, Default)]
struct Tally {
    done: usize,
    missing: usize,
    others: usize,
    unknown: usize,
}

impl Tally {
    /// What is to be said of a lock that the owner does not hold.
    fn not_held(&self) -> Outcome {
        if self.others > 0 && self.others >= self.missing { Outcome::Others } else { Outcome::Missing }
    }
}

impl Servers {
    fn new(environment: &Environment) -> Self {
        let component = &environment.component;
        let server = |upstream: Upstream| Server::new(environment, &component.upstream(&upstream));
        let servers = upstreams(&component.settings).into_iter().map(server);
        Self { proxy: Rc::clone(&environment.proxy), servers: servers.collect() }
    }

    fn majority(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    /// Asks all servers.
    fn ask<T>(&self, question: impl Fn(Server) -> LocalBoxFuture<'static, Result<T, redis::Error>>) -> Asked<T>
    where
        T: 'static,
    {
        let asked = self.servers.iter().enumerate();
        asked
            .map(|(number, server)| question(server.clone()).map(move |answer| (number, answer)).boxed_local())
            .collect()
    }

    /// Takes the lock on the majority in time, or gives back what was taken.
    async fn take(self: Rc<Self>, key: String, owner: String, expiry: Duration) -> Result<Option<Held>, Error> {
        let begun = self.proxy.now();
        let mut late = self.proxy.sleep(expiry / 10);
        let mut asked = self.ask(|server| {
            let (key, owner) = (key.clone(), owner.clone());
            async move { server.take(&key, &owner, expiry).await }.boxed_local()
        });
        let (mut taken, mut held, mut failures) = (Vec::new(), 0, Vec::new());
        let in_time = loop {
            match select(asked.next(), late).await {
                Either::Left((Some((number, answer)), rest)) => {
                    late = rest;
                    match answer {
                        Ok(true) => taken.push(number),
                        Ok(false) => held += 1,
                        Err(error) => failures.push((number, error)),
                    }
                }
                Either::Left((None, _)) => break true,
                Either::Right(((), _)) => break false,
            }
            let hopeless = taken.len() + asked.len() < self.majority();
            if taken.len() >= self.majority() {
                return Ok(Some(Held::default()));
            }
            if hopeless && taken.len() + held >= self.majority() {
                break true;
            }
        };
        let waiting = asked.len();
        self.give_back(&key, &owner, taken.clone(), asked, begun + expiry).await;
        if taken.len() + held >= self.majority() {
            return Ok(None);
        }
        Err(self.unavailable(&failures, if in_time { 0 } else { waiting }))
    }

    /// Releases the lock where this attempt has taken it, also on servers that tell so only later.
    async fn give_back(self: &Rc<Self>, key: &str, owner: &str, taken: Vec<usize>, asked: Asked<bool>, until: Instant) {
        if !asked.is_empty() {
            let (servers, key, owner) = (Rc::clone(self), key.to_owned(), owner.to_owned());
            self.proxy.spawn(Box::pin(async move {
                let release = async |(number, answer)| {
                    if answer == Ok(true) && servers.proxy.now() < until {
                        servers.release(number, &key, &owner).await;
                    }
                };
                asked.for_each_concurrent(None, release).await;
            }));
        }
        let released = join_all(taken.into_iter().map(|number| self.release(number, key, owner)));
        select(Box::pin(released), self.proxy.sleep(PATIENCE)).await;
    }

    async fn release(&self, number: usize, key: &str, owner: &str) {
        if let Some(server) = self.servers.get(number) {
            drop(server.release(key, owner).await);
        }
    }

    /// Does the same on all servers until the majority agrees or time is over.
    async fn poll(
        &self,
        patience: Duration,
        question: impl Fn(Server) -> LocalBoxFuture<'static, Result<Outcome, redis::Error>>,
    ) -> Result<Tally, Error> {
        let mut late = self.proxy.sleep(patience);
        let mut asked = self.ask(question);
        let (mut tally, mut failures) = (Tally::default(), Vec::new());
        while let Either::Left((Some((number, answer)), rest)) = select(asked.next(), late).await {
            late = rest;
            match answer {
                Ok(Outcome::Done) => tally.done += 1,
                Ok(Outcome::Missing) => tally.missing += 1,
                Ok(Outcome::Others) => tally.others += 1,
                Err(error) => failures.push((number, error)),
            }
            if [tally.done, tally.missing, tally.others].iter().any(|count| *count >= self.majority()) {
                return Ok(tally);
            }
        }
        tally.unknown = failures.len() + asked.len();
        if tally.done + tally.missing + tally.others < self.majority() {
            return Err(self.unavailable(&failures, asked.len()));
        }
        Ok(tally)
    }

    fn unavailable(&self, failures: &[(usize, redis::Error)], silent: usize) -> Error {
        let mut texts: Vec<String> =
            failures.iter().map(|(number, error)| format!("server {}: {error}", number + 1)).collect();
        if silent > 0 {
            texts.push(format!("{silent} did not answer in time"));
        }
        let (all, majority) = (self.servers.len(), self.majority());
        Error::Unavailable(format!(
            "{majority} of {all} redis servers must agree, and too few do: {}",
            texts.join("; ")
        ))
    }
}

#[async_trait(?Send)]
impl Store for RedisCluster {
    /// Goes on when the call is given up, so that nothing stays taken on a minority.
    async fn try_lock(&self, key: &str, owner: &str, expiry: Duration) -> Result<Option<Held>, Error> {
        let (servers, key, owner) = (Rc::clone(&self.0), key.to_owned(), owner.to_owned());
        Lasting::new(&self.0.proxy, |_| servers.take(key, owner, expiry)).await
    }

    /// Done where any server had it, since then no majority has it any more.
    async fn unlock(&self, key: &str, owner: &str) -> Result<Outcome, Error> {
        let question = |server: Server| {
            let (key, owner) = (key.to_owned(), owner.to_owned());
            async move { server.release(&key, &owner).await }.boxed_local()
        };
        let tally = self.0.poll(PATIENCE, question).await?;
        Ok(if tally.done > 0 { Outcome::Done } else { tally.not_held() })
    }

    async fn keep_alive(&self, key: &str, owner: &str, expiry: Duration) -> Result<Outcome, Error> {
        let question = |server: Server| {
            let (key, owner) = (key.to_owned(), owner.to_owned());
            async move { server.renew(&key, &owner, expiry).await }.boxed_local()
        };
        let tally = self.0.poll(expiry / 10, question).await?;
        if tally.done >= self.0.majority() {
            return Ok(Outcome::Done);
        }
        if tally.done + tally.unknown >= self.0.majority() {
            let (done, all) = (tally.done, self.0.servers.len());
            return Err(Error::Unavailable(format!("only {done} of {all} redis servers have lengthened the lock")));
        }
        Ok(tally.not_held())
    }
}
