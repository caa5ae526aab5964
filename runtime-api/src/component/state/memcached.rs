//! State in memcached: the value as it is under the key, as Dapr's `state.memcached` writes it, so that either reads
//! what the other wrote. As there, items have no etags, and what a write or removal says of etags and concurrency
//! counts for nothing; there are no transactions.

use std::rc::Rc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::{Delete, Error, Item, Store, Ttl, Write};
use crate::component::{Block, Build, Driver, Environment, Protocol, Upstream, V1, numbered};
use crate::config::{Field, Kind, Settings, parse_address};
use crate::protocol::memcached::{Client, expiry, key_problem};
use crate::proxy::Proxy;

/// The row of the registry.
pub const DRIVER: Driver = Driver {
    kind: "state.memcached",
    block: Block::State,
    meaning: "memcached, one server or several; data is interchangeable with Dapr's.",
    versions: V1,
    capabilities: &["TTL"],
    fields: FIELDS,
    check: |_, _, _| {},
    upstreams,
    build: Build::State(|environment| Rc::new(Memcached::new(environment))),
};

const FIELDS: &[Field] = &[
    Field::required("hosts", Kind::Addresses, "where the servers listen; the order is part of where a key is"),
    Field::optional(
        "maxIdleConnections",
        Kind::Ignored("Envoy keeps one pipelined connection per worker and server"),
        "how many idle connections",
    ),
    Field::optional("timeout", Kind::Ignored("the deadline of the call holds"), "how long to wait, in milliseconds"),
];

/// A cluster for each server.
fn upstreams(settings: &Settings) -> Vec<Upstream> {
    let upstream = |(number, (host, port)): (usize, (&str, u16))| Upstream {
        suffix: numbered(number),
        protocol: Protocol::Tcp,
        endpoints: vec![(host.to_owned(), port)],
        tls: None,
    };
    settings.addresses("hosts").filter_map(parse_address).enumerate().map(upstream).collect()
}

/// A state store in memcached.
#[derive(Debug)]
pub struct Memcached {
    proxy: Rc<dyn Proxy>,
    servers: Vec<Client>,
}

impl Memcached {
    fn new(environment: &Environment) -> Self {
        let Environment { proxy, component, limits, .. } = environment;
        let server = |upstream: &Upstream| {
            Client::new(Rc::clone(proxy), &component.name, &component.upstream(upstream), limits.timeout)
        };
        let servers = upstreams(&component.settings).iter().map(server).collect();
        Self { proxy: Rc::clone(proxy), servers }
    }

    /// The server that has a key, if memcached can have it: by CRC-32 (IEEE) modulo the number of servers, as
    /// gomemcache, the client of Dapr's driver. Unlike there a server that is down keeps its keys: they are not looked
    /// for on others, where values of before would come to light when it goes down again.
    fn server(&self, key: &str) -> Result<&Client, Error> {
        if let Some(problem) = key_problem(key) {
            return Err(Error::KeyInvalid(problem));
        }
        let hash = usize::try_from(crc32(key.as_bytes())).unwrap_or_default();
        let number = hash.checked_rem(self.servers.len()).unwrap_or_default();
        self.servers.get(number).ok_or_else(|| Error::Failed("it has no servers".to_owned()))
    }

    /// What a command says of the life time: 0 is without end. What an item had before cannot be kept.
    fn expiry(&self, ttl: Ttl) -> u64 {
        match ttl {
            Ttl::Unspecified | Ttl::Endless => 0,
            Ttl::Lasts(life) => {
                let now = self.proxy.wall_clock().duration_since(SystemTime::UNIX_EPOCH);
                expiry(life, now.unwrap_or_default())
            }
        }
    }
}

#[async_trait(?Send)]
impl Store for Memcached {
    async fn get(&self, key: &str) -> Result<Option<Item>, Error> {
        Ok(self.server(key)?.get(key).await?.map(|data| Item { data, ..Item::default() }))
    }

    async fn set(&self, write: Write) -> Result<(), Error> {
        Ok(self.server(&write.key)?.set(&write.key, self.expiry(write.ttl), &write.data).await?)
    }

    async fn delete(&self, delete: Delete) -> Result<(), Error> {
        self.server(&delete.key)?.delete(&delete.key).await?;
        Ok(())
    }
}

/// CRC-32 (IEEE), bit by bit: keys are short.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let shift = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_ieee() {
        assert_eq!([&b""[..], b"123456789", b"a||k"].map(crc32), [0, 0xcbf4_3926, 0xa6df_5064]);
    }
}
