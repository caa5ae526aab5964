//! Stores of configuration: what a driver offers, and what all of them share.

pub mod apollo;
pub mod etcd;
pub mod in_memory;
mod knowledge;
pub mod redis;
mod watch;

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use crate::protocol::Failure;
pub use watch::{Feed, Hub, News, Subscriber, Topic, Wanted};

/// The group and the label of most stores where a call names none.
const DEFAULT: &str = "default";

/// A place for items of configuration, which tells what changes in it. An item is found by app, group, label and key
/// together; a store without one of these says in its documentation where it puts it.
#[async_trait(?Send)]
pub trait Store {
    /// The group of a call that names none.
    fn default_group(&self) -> &str {
        DEFAULT
    }

    /// The label of a call that names none.
    fn default_label(&self) -> &str {
        DEFAULT
    }

    /// The items that are there: of the keys in their order, or all of the group and label where no keys are given.
    async fn get(&self, wanted: &Selection) -> Result<Vec<Item>, Error>;

    /// Writes items of an app. Groups and labels are filled in, keys are not empty, and there is at least one item.
    async fn save(&self, app: &str, items: Vec<Item>, metadata: &Metadata) -> Result<(), Error>;

    /// Removes items; one that is not there is no error. There is at least one key.
    async fn delete(&self, gone: &Selection) -> Result<(), Error>;

    /// Whether these items can be watched at all: what cannot is refused before it comes to [`Store::watch`].
    fn accepts(&self, wanted: &Selection) -> Result<(), Error> {
        let _ = wanted;
        Ok(())
    }

    /// One attempt at watching the store for all subscriptions of this worker: it gives changes to the feed until the
    /// server is lost, and says why it was. Then it is called again, after a pause, with the same feed; the apps notice
    /// nothing, so what changed meanwhile is told then ([`Feed::read`]). When nobody is subscribed any longer the
    /// future is dropped.
    ///
    /// A server that owes an answer for longer than the limit of a call counts as lost.
    async fn watch(&self, feed: &Feed) -> Error;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

/// What a request says besides, for the driver.
pub type Metadata = BTreeMap<String, String>;

/// The items that a call or a subscription is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The app that they belong to: of Dapr's calls the app of this runtime.
    pub app: String,
    /// Their group, never blank.
    pub group: String,
    /// Their label; blank only where that is the store's default.
    pub label: String,
    /// Their keys, each once; none: all of the group and label.
    pub keys: Vec<String>,
    /// What the request says besides.
    pub metadata: Metadata,
}

/// An item of configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The value. As the APIs have texts, what is no UTF-8 in the store is replaced by U+FFFD.
    pub content: String,
    /// The group.
    pub group: String,
    /// The label.
    pub label: String,
    /// Words for humans.
    pub tags: BTreeMap<String, String>,
    /// The version, where the store has one; told by Dapr's API alone.
    pub version: String,
    /// What the store says besides.
    pub metadata: Metadata,
}

/// An item that changed, and of which app. One that was removed has an empty content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The app that the item belongs to.
    pub app: String,
    /// The item as it is now.
    pub item: Item,
}

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be one of this store.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot do this, or not as it is configured.
    #[error("{0}")]
    Unsupported(String),
    /// The store cannot be reached, or not just now.
    #[error("{0}")]
    Unavailable(String),
    /// There is no room for it.
    #[error("{0}")]
    Exhausted(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

/// What a server says, as a failure of the store.
impl<F: Failure> From<F> for Error {
    fn from(failure: F) -> Self {
        if failure.is_passing() { Self::Unavailable(failure.to_string()) } else { Self::Failed(failure.to_string()) }
    }
}
