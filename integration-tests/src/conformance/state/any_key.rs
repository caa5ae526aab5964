//! Keys of any text.

use crate::conformance::Case;
use crate::store::item;

pub async fn keys_may_hold_any_text(case: &Case) {
    let names = ["with space", "ключ", "a|b", "*", "{slot}", "line\nbreak", "per%20cent", "quote\"'", "a/b/../c"];
    for name in names {
        case.store.save(item(&case.key(name), name)).await.unwrap();
    }
    for name in names {
        assert_eq!(case.store.value(&case.key(name)).await, name);
    }
}
