//! Writes whose items end by themselves, each under a lease of its own, and what becomes of leases that nothing is
//! under any more: they are given back, or they would lie in etcd until their time is over.
//!
//! That is so of a lease whose write was refused, of one whose item was replaced or removed, and of one whose write was
//! lost on its way. A write goes on when whoever asked for it has gone, since its leases could not be told from those
//! that are needed without its outcome; it is not begun any more if it was not yet.

use std::time::Duration;

use envoy_runtime_proto::etcd::etcdserverpb as etcd;
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use envoy_runtime_proto::etcd::etcdserverpb::response_op::Response;
use futures::future::join_all;

use super::{Client, Error, LEASE, one, reads};
use crate::lasting::{Lasting, Waiting};
use crate::protocol::Failure;
use crate::proxy::{Level, Method};

const LEASE_GRANT: Method = (LEASE, "LeaseGrant");
const LEASE_REVOKE: Method = (LEASE, "LeaseRevoke");
const LEASE_TIME_TO_LIVE: Method = (LEASE, "LeaseTimeToLive");

/// When it is tried to give back a lease that may be needed, or while etcd cannot be reached: after these times, one
/// after the other. A member may lag behind what another has answered.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(120)];
/// The first of them after which no write can be on its way any more: etcd gives up what it has not done in some seven
/// seconds.
const ARRIVED: usize = 2;

/// Leases that may wait to be given back. Beyond that they end by themselves, as during a long outage.
const MOST_RETURNS: usize = 1024;

/// A transaction that writes.
#[derive(Debug)]
pub struct Write {
    /// The conditions.
    pub compare: Vec<etcd::Compare>,
    /// What is done if they hold.
    pub steps: Vec<Step>,
    /// What is done if one does not.
    pub otherwise: Vec<etcd::RequestOp>,
    /// How many steps the server takes in a transaction.
    pub most: usize,
}

/// A step that writes or removes a key.
#[derive(Debug)]
pub struct Step {
    /// What it does.
    pub operation: etcd::RequestOp,
    /// How many seconds the item is to live, if it is to end.
    pub seconds: Option<i64>,
}

/// What is known of a lease that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing was put under it.
    Unused,
    /// What was under it has gone. It may be one that others have made, and have put more under.
    Replaced,
    /// Whether it was granted, or whether something was put under it.
    Nothing,
}

impl Client {
    /// Carries out a write, and gives the answer to its transaction without that to looks of its own.
    pub async fn write(&self, write: Write) -> Result<etcd::TxnResponse, Error> {
        let client = self.clone();
        Lasting::new(&self.0.proxy, |waiting| async move { client.write_and_give_back(write, &waiting).await }).await
    }

    async fn write_and_give_back(&self, write: Write, waiting: &Waiting) -> Result<etcd::TxnResponse, Error> {
        let Write { compare, mut steps, otherwise, most } = write;
        let leases = self.grant_all(&mut steps).await?;
        let give_back = |known| leases.iter().for_each(|lease| self.give_back(*lease, known));
        if waiting.is_over() {
            give_back(Known::Unused);
            return Err(Error::Unavailable("the call was given up".to_owned()));
        }
        let looks = looks(&mut steps, most);
        let count = looks.len();
        let success = looks.into_iter().chain(steps.into_iter().map(|step| step.operation)).collect();
        let mut answer = match self.transact(etcd::TxnRequest { compare, success, failure: otherwise }).await {
            Ok(answer) => answer,
            Err(error) => {
                give_back(if error.is_passing() { Known::Nothing } else { Known::Unused });
                return Err(error);
            }
        };
        if answer.succeeded {
            for lease in replaced(&answer) {
                self.give_back(lease, Known::Replaced);
            }
            answer.responses.drain(..count.min(answer.responses.len()));
        } else {
            give_back(Known::Unused);
        }
        Ok(answer)
    }

    /// Puts those steps under leases whose items are to end. All leases or none.
    async fn grant_all(&self, steps: &mut [Step]) -> Result<Vec<i64>, Error> {
        let ending = steps.iter_mut().filter_map(|Step { operation, seconds }| match &mut operation.request {
            Some(Request::RequestPut(put)) => Some((put, (*seconds)?)),
            _ => None,
        });
        let granted = join_all(ending.map(|(put, seconds)| async move {
            put.lease = self.grant(seconds).await?;
            Ok(put.lease)
        }));
        let (mut leases, mut failed) = (Vec::new(), None);
        for lease in granted.await {
            match lease {
                Ok(lease) => leases.push(lease),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(leases),
            Some(error) => {
                for lease in leases {
                    self.give_back(lease, Known::Unused);
                }
                Err(error)
            }
        }
    }

    /// Takes a lease of at least so many seconds, and gives its number. Never less than the server's least, which is
    /// two by default.
    async fn grant(&self, seconds: i64) -> Result<i64, Error> {
        // A number of our own choice, to be able to give the lease back whose grant we have not heard of.
        let mut random = [0; 8];
        self.0.proxy.random(&mut random);
        let id = (i64::from_be_bytes(random) & i64::MAX).max(1);
        let granted: Result<etcd::LeaseGrantResponse, Error> =
            self.call(LEASE_GRANT, &etcd::LeaseGrantRequest { ttl: seconds, id }).await;
        match granted {
            Ok(granted) if granted.error.is_empty() => Ok(granted.id),
            Ok(granted) => Err(Error::Refused(granted.error)),
            Err(error) => {
                if error.is_passing() {
                    self.give_back(id, Known::Nothing);
                }
                Err(error)
            }
        }
    }

    /// Gives a lease back, apart from the call at hand, unless something is under it.
    fn give_back(&self, lease: i64, known: Known) {
        let returning = &self.0.returning;
        if returning.get() >= MOST_RETURNS {
            return;
        }
        returning.set(returning.get() + 1);
        let client = self.clone();
        self.0.proxy.spawn(Box::pin(async move {
            let pauses = PAUSES.iter().skip(if known == Known::Nothing { ARRIVED } else { 0 });
            for pause in pauses {
                if !pause.is_zero() {
                    client.0.proxy.sleep(*pause).await;
                }
                match client.try_to_give_back(lease, known).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if error.is_passing() => {}
                    Err(error) => {
                        let line = format!(
                            "component={} event=lease_left lease={lease:x} reason={:?}",
                            client.0.component,
                            error.to_string()
                        );
                        client.0.proxy.log(Level::Warn, &line);
                        break;
                    }
                }
            }
            client.0.returning.set(client.0.returning.get().saturating_sub(1));
        }));
    }

    /// Whether nothing is left to do. To end a lease is to end what is under it, so it is looked at first.
    async fn try_to_give_back(&self, lease: i64, known: Known) -> Result<bool, Error> {
        if known != Known::Unused {
            let asked = etcd::LeaseTimeToLiveRequest { id: lease, keys: true };
            let found: etcd::LeaseTimeToLiveResponse = self.call(LEASE_TIME_TO_LIVE, &asked).await?;
            if found.ttl < 0 || !found.keys.is_empty() {
                return Ok(found.ttl < 0);
            }
        }
        match self.call::<etcd::LeaseRevokeResponse>(LEASE_REVOKE, &etcd::LeaseRevokeRequest { id: lease }).await {
            Err(Error::Refused(text)) if text.contains("lease not found") => Ok(true), // it has just ended
            revoked => revoked.map(|_| true),
        }
    }
}

/// The steps that look first what leases the keys are under. Where there is no room for them, the steps themselves are
/// to say what they have replaced, which costs sending it.
fn looks(steps: &mut [Step], most: usize) -> Vec<etcd::RequestOp> {
    let roomy = steps.len().saturating_mul(2) <= most;
    let mut looks = Vec::new();
    for step in steps {
        let (key, prev_kv) = match &mut step.operation.request {
            Some(Request::RequestPut(put)) => (&put.key, &mut put.prev_kv),
            Some(Request::RequestDeleteRange(delete)) => (&delete.key, &mut delete.prev_kv),
            _ => continue,
        };
        if roomy {
            looks.push(reads(one(key))); // whole: of keys alone etcd does not tell the lease
        }
        *prev_kv = !roomy;
    }
    looks
}

/// The leases of what a write has replaced or removed.
fn replaced(answer: &etcd::TxnResponse) -> Vec<i64> {
    let found = answer.responses.iter().flat_map(|step| match &step.response {
        Some(Response::ResponseRange(range)) => range.kvs.as_slice(),
        Some(Response::ResponsePut(put)) => put.prev_kv.as_slice(),
        Some(Response::ResponseDeleteRange(deleted)) => deleted.prev_kvs.as_slice(),
        _ => &[],
    });
    let mut leases: Vec<i64> = found.map(|kv| kv.lease).filter(|lease| *lease != 0).collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}
