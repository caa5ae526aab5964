//! The conformance suite of lock stores: the cases of components-contrib's `tests/conformance/lock` and of Layotto's
//! integration test, replayed over gRPC.

#![allow(missing_docs, clippy::missing_panics_doc, reason = "the name of a case says what it asserts")]

pub mod basic;

/// The cases of each feature.
#[macro_export]
macro_rules! lock_suite {
    (basic $dialect:ident) => {
        $crate::conformance! { @cases lock basic $dialect:
            a_lock_has_one_holder
            a_lock_is_not_reentrant
            a_lock_that_nobody_holds_cannot_be_released
            a_lock_is_released_by_its_owner_alone
            a_lock_ends_by_itself
            locks_do_not_touch_each_other
            names_may_hold_any_text
            what_is_missing_is_named
            a_lock_over_http
        }
    };
}
