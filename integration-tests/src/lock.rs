//! A lock store as an app sees it: a client and the name of a component.

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use tonic::Status;

use crate::client::{Client, Dialect};

/// What became of a release or a renewal; the numbers are the same in both dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Nobody holds the lock.
    Missing,
    /// Another owner holds the lock.
    Others,
}

impl Outcome {
    fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Missing,
            2 => Self::Others,
            _ => panic!("a status that no reply has: {number}"),
        }
    }
}

/// One lock component, called in one dialect.
#[derive(Clone, Debug)]
pub struct Lock {
    client: Client,
    name: String,
}

impl Lock {
    /// The component `name`, called through `client`.
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// `TryLockAlpha1` or `TryLock`
    pub async fn try_lock(&self, resource: &str, owner: &str, seconds: i32) -> Result<bool, Status> {
        let (store_name, resource_id, lock_owner) = (self.name.clone(), resource.to_owned(), owner.to_owned());
        match self.client.dialect() {
            Dialect::Dapr => {
                let request = dapr::TryLockRequest { store_name, resource_id, lock_owner, expiry_in_seconds: seconds };
                Ok(self.client.dapr().try_lock_alpha1(self.client.request(request)).await?.into_inner().success)
            }
            Dialect::Layotto => {
                let request = layotto::TryLockRequest { store_name, resource_id, lock_owner, expire: seconds };
                Ok(self.client.layotto().try_lock(self.client.request(request)).await?.into_inner().success)
            }
        }
    }

    /// `UnlockAlpha1` or `Unlock`
    pub async fn unlock(&self, resource: &str, owner: &str) -> Result<Outcome, Status> {
        let (store_name, resource_id, lock_owner) = (self.name.clone(), resource.to_owned(), owner.to_owned());
        let number = match self.client.dialect() {
            Dialect::Dapr => {
                let request = dapr::UnlockRequest { store_name, resource_id, lock_owner };
                self.client.dapr().unlock_alpha1(self.client.request(request)).await?.into_inner().status
            }
            Dialect::Layotto => {
                let request = layotto::UnlockRequest { store_name, resource_id, lock_owner };
                self.client.layotto().unlock(self.client.request(request)).await?.into_inner().status
            }
        };
        Ok(Outcome::from_number(number))
    }

    /// `LockKeepAlive`, whatever the dialect: only Layotto has it.
    pub async fn keep_alive(&self, resource: &str, owner: &str, seconds: i32) -> Result<Outcome, Status> {
        let request = layotto::LockKeepAliveRequest {
            store_name: self.name.clone(),
            resource_id: resource.to_owned(),
            lock_owner: owner.to_owned(),
            expire: seconds,
        };
        let reply = self.client.layotto().lock_keep_alive(self.client.request(request)).await?;
        Ok(Outcome::from_number(reply.into_inner().status))
    }
}
