//! The State API: its rules once for both dialects. Names of stores, keys and texts are Dapr's and Layotto's.

mod failure;
mod http;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use envoy_runtime_proto::dapr::common::v1::{self as common, StateItem, state_options};
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use futures::future::LocalBoxFuture;
use futures::stream::{self, Stream, StreamExt};
use prost::Message;
use serde::de::IgnoredAny;

use super::dialect::{DAPR, Dialect, LAYOTTO};
use super::failure::Failure;
use super::prefix::{SEPARATOR, holds_separator};
use super::room::{Api, Method, Missing, Opening, Room, Stores, opens, unary};
use super::{Call, call, rfc3339};
use crate::component::state::{Concurrency, Delete, Error, Item, Operation, Store, TTL, Ttl, Write};
use crate::component::{Block, Build, property};
use crate::config::{self, Config};
use crate::pace::Pace;
use failure::StateFailure;

/// The State API.
pub(super) const ROOM: Room = Room {
    open: opens::<StateApi>(),
    methods: &[
        Method { names: &[(DAPR, "GetState"), (LAYOTTO, "GetState")], handler: unary!(StateApi, get) },
        Method { names: &[(DAPR, "SaveState"), (LAYOTTO, "SaveState")], handler: unary!(StateApi, save) },
        Method { names: &[(DAPR, "GetBulkState"), (LAYOTTO, "GetBulkState")], handler: unary!(StateApi, get_bulk) },
        Method { names: &[(DAPR, "DeleteState"), (LAYOTTO, "DeleteState")], handler: unary!(StateApi, delete) },
        Method {
            names: &[(DAPR, "DeleteBulkState"), (LAYOTTO, "DeleteBulkState")],
            handler: unary!(StateApi, delete_bulk),
        },
        Method {
            names: &[(DAPR, "ExecuteStateTransaction"), (LAYOTTO, "ExecuteStateTransaction")],
            handler: unary!(StateApi, transact),
        },
        Method { names: &[(DAPR, "QueryStateAlpha1")], handler: unary!(StateApi, query) },
    ],
    paths: http::PATHS,
};

/// Keys of one call that are read or written at the same time.
const BULK_WIDTH: usize = 128;

/// The value of `keyPrefix` that means different things in the two dialects.
const NAMESPACE: &str = "namespace";

/// All state stores of the app.
#[derive(Debug)]
pub(super) struct StateApi {
    stores: Stores<Named>,
    pace: Pace,
    /// The largest reply.
    most_bytes: usize,
}

#[derive(Debug)]
struct Named {
    name: String,
    prefix: Prefix,
    app_id: String,
    store: Rc<dyn Store>,
}

/// What a store adds to keys.
#[derive(Debug)]
enum Prefix {
    /// What is usual in the dialect of the call.
    Usual,
    /// Nothing.
    None,
    /// This text.
    Text(String),
    /// The namespace and the app, as this text has them, where the dialect knows namespaces.
    Namespace(String),
}

impl Prefix {
    /// Reads `keyPrefix`, which Dapr and Layotto take in lower case.
    fn new(config: &Config, component: &config::Component) -> Self {
        let text = component.settings.text("keyPrefix").map(str::to_ascii_lowercase);
        match text.as_deref() {
            None => Self::Usual,
            Some("none") => Self::None,
            Some("appid") => Self::Text(config.app_id.clone()),
            Some("name") => Self::Text(component.name.clone()),
            // As Dapr has it: without a namespace it is the app alone, and without an app nothing.
            Some(NAMESPACE) => Self::Namespace(match (config.namespace.as_str(), config.app_id.as_str()) {
                ("", app) | (_, app @ "") => app.to_owned(),
                (namespace, app) => format!("{namespace}.{app}"),
            }),
            Some(other) => Self::Text(other.to_owned()),
        }
    }
}

impl Named {
    /// The key in the store.
    fn key(&self, dialect: Dialect, key: &str) -> Result<String, Failure> {
        let prefix = match &self.prefix {
            Prefix::Usual if dialect == Dialect::Dapr => &self.app_id,
            Prefix::Usual | Prefix::None => "",
            Prefix::Text(text) => text.as_str(),
            Prefix::Namespace(text) if dialect == Dialect::Dapr => text.as_str(),
            Prefix::Namespace(_) => NAMESPACE,
        };
        if holds_separator(key) {
            return Err(StateFailure::IllegalKey(&self.name, key).told(dialect));
        }
        Ok(if prefix.is_empty() { key.to_owned() } else { [prefix, SEPARATOR, key].concat() })
    }
}

impl Api for StateApi {
    const BLOCK: Option<Block> = Some(Block::State);

    fn open(opening: &Opening<'_>) -> Self {
        let config = opening.config;
        let stores = opening.stores(Block::State, |build, environment| {
            let Build::State(build) = build else { return None };
            let component = &environment.component;
            let (name, prefix) = (component.name.clone(), Prefix::new(config, component));
            Some(Named { name, prefix, app_id: config.app_id.clone(), store: build(&environment) })
        });
        Self { stores, pace: opening.pace.clone(), most_bytes: config.limits.max_reply_bytes() }
    }

    fn none(dialect: Dialect, store: &str) -> Failure {
        StateFailure::NotConfigured(store).told(dialect)
    }
}

impl StateApi {
    fn store(&self, call: &Call, name: &str) -> Result<&Named, Failure> {
        self.stores.find(call, name).map_err(|missing| match missing {
            Missing::All => Self::none(call.dialect, name),
            Missing::Name => StateFailure::NotFound(name).told(call.dialect),
        })
    }

    /// `GetState`: a key that is not there is no error.
    async fn get(&self, call: &Call, request: dapr::GetStateRequest) -> Result<dapr::GetStateResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        let key = named.key(call.dialect, &request.key)?;
        let found = named.store.get(&key).await;
        let found = found.map_err(|cause| StateFailure::Get(&request.key, &named.name, cause).told(call.dialect))?;
        let Item { data, etag, expires } = found.unwrap_or_default();
        Ok(dapr::GetStateResponse { data, etag: etag.unwrap_or_default(), metadata: response_metadata(expires) })
    }

    /// `GetBulkState`: an item for each key, in the order of the keys, with the error of those that failed. It ends as
    /// soon as what was read is more than can be sent; reads under way end with it.
    async fn get_bulk(
        &self,
        call: &Call,
        request: dapr::GetBulkStateRequest,
    ) -> Result<dapr::GetBulkStateResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        let mut keys = Vec::with_capacity(request.keys.len());
        for key in &request.keys {
            keys.push((key, named.key(call.dialect, key)?));
        }
        let width = usize::try_from(request.parallelism).unwrap_or_default();
        let width = if width == 0 { BULK_WIDTH } else { width.min(BULK_WIDTH) };
        let (read, pace) = (&Cell::new(0), &self.pace);
        let reads = keys.into_iter().map(|(name, key)| async move {
            pace.step().await;
            let mut item = dapr::BulkStateItem { key: name.clone(), ..Default::default() };
            match named.store.get(&key).await {
                Ok(found) => {
                    let Item { data, etag, expires } = found.unwrap_or_default();
                    (item.data, item.etag) = (data, etag.unwrap_or_default());
                    item.metadata = response_metadata(expires);
                }
                Err(error) => item.error = error.to_string(),
            }
            read.set(read.get() + item.encoded_len());
            pace.spend(item.data.len());
            item
        });
        let mut reads = pin!(stream::iter(reads).buffered(width));
        let mut items = Vec::with_capacity(request.keys.len());
        loop {
            let next = poll_fn(|context| match reads.as_mut().poll_next(context) {
                _ if read.get() > self.most_bytes => {
                    Poll::Ready(Err(Failure::from(call::reply_too_large(read.get(), self.most_bytes))))
                }
                next => next.map(Ok),
            });
            match next.await? {
                Some(item) => items.push(item),
                None => return Ok(dapr::GetBulkStateResponse { items }),
            }
        }
    }

    /// `SaveState`: each item by itself; the call fails when one does, and the others are written all the same.
    async fn save(&self, call: &Call, request: dapr::SaveStateRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        let mut writes = Vec::with_capacity(request.states.len());
        for item in request.states {
            if item.key.is_empty() && call.dialect == Dialect::Dapr {
                return Err(StateFailure::EmptyKey.told(call.dialect));
            }
            let key = named.key(call.dialect, &item.key)?;
            writes.push((item.key.clone(), write(item, key, &BTreeMap::new())));
        }
        let writes = writes.into_iter().map(|(name, write)| -> (String, Attempt<'_>) {
            let attempt = async move {
                match write {
                    Ok(write) => named.store.set(write).await,
                    Err(error) => Err(error),
                }
            };
            (name, Box::pin(attempt))
        });
        match errors(&self.pace, writes.collect()).await {
            Some(cause) => Err(StateFailure::Save(&named.name, cause).told(call.dialect)),
            None => Ok(()),
        }
    }

    /// `DeleteState`: an item that is not there is no error, unless an etag says that it should be.
    async fn delete(&self, call: &Call, request: dapr::DeleteStateRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        let key = named.key(call.dialect, &request.key)?;
        let deleted = named.store.delete(delete(key, request.etag, request.options)).await;
        deleted.map_err(|cause| StateFailure::Delete(&request.key, cause).told(call.dialect))
    }

    /// `DeleteBulkState`: as [`StateApi::save`], of removals.
    async fn delete_bulk(&self, call: &Call, request: dapr::DeleteBulkStateRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        let mut deletes = Vec::with_capacity(request.states.len());
        for item in request.states {
            let key = named.key(call.dialect, &item.key)?;
            deletes.push((item.key, delete(key, item.etag, item.options)));
        }
        let deletes = deletes.into_iter().map(|(name, delete)| -> (String, Attempt<'_>) {
            (name, Box::pin(async move { named.store.delete(delete).await }))
        });
        match errors(&self.pace, deletes.collect()).await {
            Some(cause) => Err(StateFailure::DeleteBulk(&named.name, cause).told(call.dialect)),
            None => Ok(()),
        }
    }

    /// `ExecuteStateTransaction`: the operations in their order, as one.
    async fn transact(&self, call: &Call, request: dapr::ExecuteStateTransactionRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        let failed = |cause| match cause {
            Error::TransactionsNotSupported => StateFailure::TransactionsNotSupported(&named.name).told(call.dialect),
            cause => StateFailure::Transaction(&named.name, cause).told(call.dialect),
        };
        let mut operations = Vec::with_capacity(request.operations.len());
        for operation in request.operations {
            // As both incumbents do: an operation without a request is passed over.
            let Some(item) = operation.request else { continue };
            let key = named.key(call.dialect, &item.key)?;
            operations.push(match operation.operation_type.as_str() {
                "upsert" => Operation::Upsert(write(item, key, &request.metadata).map_err(&failed)?),
                "delete" => Operation::Delete(delete(key, item.etag, item.options)),
                other => return Err(StateFailure::UnknownOperation(other).told(call.dialect)),
            });
        }
        if operations.is_empty() {
            return Ok(());
        }
        named.store.transact(operations).await.map_err(failed)
    }
}

impl StateApi {
    /// `QueryStateAlpha1`: no store here can.
    async fn query(&self, call: &Call, request: dapr::QueryStateRequest) -> Result<dapr::QueryStateResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        Err(StateFailure::QueriesNotSupported(&named.name).told(call.dialect))
    }
}

/// When the item ends, where the store tells.
fn response_metadata(expires: Option<SystemTime>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    if let Some(time) = expires {
        metadata.insert("ttlExpireTime".to_owned(), rfc3339(time));
    }
    metadata
}

/// One of several writes or removals.
type Attempt<'a> = LocalBoxFuture<'a, Result<(), Error>>;

/// Makes all attempts, side by side as far as that goes but those of one key in their order, so that the last one
/// stands; gives their errors as one.
#[inline(never)]
async fn errors(pace: &Pace, attempts: Vec<(String, Attempt<'_>)>) -> Option<Error> {
    let mut chains: Vec<(String, Vec<Attempt<'_>>)> = Vec::with_capacity(attempts.len());
    let mut places = BTreeMap::new();
    for (key, attempt) in attempts {
        let place = *places.entry(key.clone()).or_insert(chains.len());
        match chains.get_mut(place) {
            Some((_, chain)) => chain.push(attempt),
            None => chains.push((key, vec![attempt])),
        }
    }
    let chains = chains.into_iter().map(|(key, chain)| async move {
        let mut failed = Vec::new();
        for attempt in chain {
            pace.step().await;
            failed.extend(attempt.await.err().map(|error| (key.clone(), error)));
        }
        failed
    });
    let failed: Vec<Vec<_>> = stream::iter(chains).buffered(BULK_WIDTH).collect().await;
    Error::join(failed.into_iter().flatten().collect())
}

/// The write that an item asks for. What its own metadata leave open, those of the request may say.
fn write(item: StateItem, key: String, request: &BTreeMap<String, String>) -> Result<Write, Error> {
    let metadata = |name: &str| property(&item.metadata, name).or_else(|| property(request, name));
    let ttl = metadata(TTL).map_or(Ok(Ttl::Unspecified), Ttl::parse)?;
    let data = if metadata("contentType").is_some_and(is_json) { json(&item.value)? } else { item.value };
    let (concurrency, strong) = options(item.options);
    Ok(Write { key, data, etag: given(item.etag), concurrency, strong, ttl })
}

fn delete(key: String, etag: Option<common::Etag>, requested: Option<common::StateOptions>) -> Delete {
    let (concurrency, strong) = options(requested);
    Delete { key, etag: given(etag), concurrency, strong }
}

/// An etag that is empty is none: Layotto's SDK sends one with every removal.
fn given(etag: Option<common::Etag>) -> Option<String> {
    etag.map(|etag| etag.value).filter(|value| !value.is_empty())
}

fn options(options: Option<common::StateOptions>) -> (Concurrency, bool) {
    let options = options.unwrap_or_default();
    let concurrency = match options.concurrency() {
        state_options::StateConcurrency::ConcurrencyFirstWrite => Concurrency::FirstWrite,
        state_options::StateConcurrency::ConcurrencyLastWrite => Concurrency::LastWrite,
        state_options::StateConcurrency::ConcurrencyUnspecified => Concurrency::Unspecified,
    };
    (concurrency, options.consistency() == state_options::StateConsistency::ConsistencyStrong)
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Such a value is checked, and kept in its shortest form, as Dapr does.
fn json(value: &Bytes) -> Result<Bytes, Error> {
    serde_json::from_slice::<IgnoredAny>(value).map_err(|error| Error::NotJson(error.to_string()))?;
    Ok(shortest(value))
}

/// JSON without what means nothing. Unlike Dapr's parsing and writing anew, this leaves the digits of numbers and the order of
/// fields alone.
fn shortest(value: &Bytes) -> Bytes {
    if !value.iter().any(u8::is_ascii_whitespace) {
        return value.clone();
    }
    let (mut text, mut escaped) = (false, false);
    let significant = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => text = !text,
            _ => {}
        }
        text || !byte.is_ascii_whitespace()
    };
    value.iter().copied().filter(significant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_its_shortest_form() {
        let long = r#" { "b" : [ 1.50 , "a \" b" ] , "a" : 12345678901234567890123 } "#.as_bytes();
        let short = r#"{"b":[1.50,"a \" b"],"a":12345678901234567890123}"#;
        assert_eq!(json(&Bytes::from_static(long)).unwrap(), short);
        assert!(matches!(json(&Bytes::from_static(b"{")), Err(Error::NotJson(_))));
    }
}
