//! What all workers keep in common in the shared area, in buckets by the hash of a key: each a protobuf message that is
//! changed by compare-and-swap.

use std::rc::Rc;

use prost::Message;

use super::bucket_of;
use crate::proxy::{MISSING, Proxy, shared_init};

/// So few that they are soon made, and so many that keys seldom share one.
pub(super) const BUCKETS: u32 = 256;

/// The buckets of a component.
#[derive(Debug)]
pub(super) struct Buckets {
    proxy: Rc<dyn Proxy>,
    /// What the names of their values in the shared area begin with.
    prefix: String,
}

impl Buckets {
    /// Makes those that are missing. To be called while the configuration is loaded.
    pub(super) fn open(proxy: &Rc<dyn Proxy>, prefix: String) -> Self {
        (0..BUCKETS).for_each(|number| shared_init(&**proxy, &format!("{prefix}{number}")));
        Self { proxy: Rc::clone(proxy), prefix }
    }

    /// Looks at the bucket of a key, and writes it if `change` says so; again when another worker was faster. What cannot
    /// be read is taken for empty: only this code writes it.
    pub(super) fn change<B: Message + Default, T, E>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut B) -> Result<(T, bool), E>,
    ) -> Result<T, E> {
        let name = format!("{}{}", self.prefix, bucket_of(key, BUCKETS));
        loop {
            let (bytes, version) = self.proxy.shared_get(&name).unwrap_or(MISSING);
            let mut bucket = B::decode(bytes).unwrap_or_default();
            let (outcome, changed) = change(&mut bucket)?;
            if !changed || self.proxy.shared_set(&name, &bucket.encode_to_vec(), Some(version)).is_ok() {
                return Ok(outcome);
            }
        }
    }
}
