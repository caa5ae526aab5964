//! Values of some megabytes. A store may have a bound of its own.

use bytes::Bytes;

use crate::conformance::Case;
use crate::store::item;

pub async fn a_large_value_survives(case: &Case) {
    let key = case.key("k");
    // Several HTTP/2 windows and TCP buffers, and not the same in any two places.
    let value: Bytes = (0..700_000u32).flat_map(u32::to_be_bytes).collect();
    case.store.save(item(&key, value.clone())).await.unwrap();
    assert!(case.store.value(&key).await == value);
}
