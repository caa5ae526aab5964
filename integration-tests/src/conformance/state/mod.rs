//! The conformance suite of state stores: the cases of components-contrib's `tests/conformance/state`, replayed over
//! gRPC, and what only an API has beside.
//!
//! | feature | what the driver does |
//! |---|---|
//! | `any_key` | takes keys of any text |
//! | `large_values` | takes values of some megabytes |
//! | `etag` | compares etags |
//! | `absent_etag_mismatches` / `absent_etag_creates` | refuses / accepts an etag for a key that does not exist |
//! | `counting_etag` | has whole numbers as etags, from 1 |
//! | `first_write` | honours the concurrency option first-write |
//! | `first_write_mark` | remembers with an item that it was written with first-write, as Dapr's `state.redis` |
//! | `ttl` | lets items expire |
//! | `expire_time` | says when, as `ttlExpireTime` |
//! | `transactions` | has transactions, with etags |
//! | `atomic_transactions` | applies all of a transaction or nothing |

#![allow(missing_docs, clippy::missing_panics_doc, reason = "the name of a case says what it asserts")]

pub mod absent_etag_creates;
pub mod absent_etag_mismatches;
pub mod any_key;
pub mod atomic_transactions;
pub mod basic;
pub mod counting_etag;
pub mod etag;
pub mod expire_time;
pub mod first_write;
pub mod first_write_mark;
pub mod large_values;
pub mod transactions;
pub mod ttl;

/// The cases of each feature.
#[macro_export]
macro_rules! state_suite {
    (basic $dialect:ident) => {
        $crate::conformance! { @cases state basic $dialect:
            every_kind_of_value_is_read_as_it_was_saved
            an_empty_value_is_a_value
            a_protobuf_message_survives
            a_missing_key_is_an_empty_answer
            a_save_replaces_the_value
            a_deleted_key_is_gone
            deleting_a_missing_key_is_no_error
            many_items_are_saved_at_once
            saving_nothing_is_no_error
            bulk_get_answers_every_key
            bulk_get_of_nothing_is_empty
            many_items_are_deleted_at_once
            json_is_saved_as_json
            calls_on_one_connection_do_not_mix
            the_same_over_http
        }
    };
    (any_key $dialect:ident) => {
        $crate::conformance! { @cases state any_key $dialect:
            keys_may_hold_any_text
        }
    };
    (large_values $dialect:ident) => {
        $crate::conformance! { @cases state large_values $dialect:
            a_large_value_survives
        }
    };
    (etag $dialect:ident) => {
        $crate::conformance! { @cases state etag $dialect:
            every_item_has_an_etag
            an_empty_value_has_an_etag_and_a_missing_key_none
            a_save_with_the_etag_changes_it
            a_save_with_a_wrong_etag_is_refused
            a_stale_etag_is_refused
            an_empty_etag_is_no_etag
            a_bulk_save_applies_what_it_can
            a_delete_with_a_wrong_etag_is_refused
            a_delete_with_a_stale_etag_is_refused_whatever_the_concurrency
            a_delete_with_the_etag_deletes
            a_bulk_delete_applies_what_it_can
            etags_over_http
        }
    };
    (absent_etag_mismatches $dialect:ident) => {
        $crate::conformance! { @cases state absent_etag_mismatches $dialect:
            an_etag_for_a_missing_key_is_refused
            deleting_a_missing_key_with_an_etag_is_refused
            an_etag_counts_at_a_last_write_too
            an_etag_is_never_used_twice
        }
    };
    (absent_etag_creates $dialect:ident) => {
        $crate::conformance! { @cases state absent_etag_creates $dialect:
            an_etag_for_a_missing_key_is_accepted
            deleting_a_missing_key_with_an_etag_is_no_error
        }
    };
    (counting_etag $dialect:ident) => {
        $crate::conformance! { @cases state counting_etag $dialect:
            etags_count_the_writes
            an_etag_that_is_no_number_is_invalid
            last_write_overrules_the_etag
        }
    };
    (first_write $dialect:ident) => {
        $crate::conformance! { @cases state first_write $dialect:
            without_an_etag_only_the_first_write_counts
            with_an_empty_etag_only_the_first_write_counts
            with_an_etag_the_first_of_two_writers_wins
        }
    };
    (first_write_mark $dialect:ident) => {
        $crate::conformance! { @cases state first_write_mark $dialect:
            first_write_over_an_unmarked_item_succeeds
            a_marked_item_wants_its_etag_from_every_writer
            a_transaction_sets_no_mark
        }
    };
    (ttl $dialect:ident) => {
        $crate::conformance! { @cases state ttl $dialect:
            a_time_to_live_that_is_no_number_is_refused
            an_item_expires
            minus_one_takes_the_time_to_live_away
            items_of_one_save_expire_on_their_own
        }
    };
    (expire_time $dialect:ident) => {
        $crate::conformance! { @cases state expire_time $dialect:
            an_item_without_a_time_to_live_has_no_expiry_time
            the_expiry_time_is_told
            bulk_get_tells_the_expiry_time
            minus_one_takes_the_expiry_time_away
            a_write_that_does_not_say_takes_the_expiry_time_away
        }
    };
    (transactions $dialect:ident) => {
        $crate::conformance! { @cases state transactions $dialect:
            groups_of_operations_are_applied
            operations_are_applied_in_order
            deleting_a_missing_key_is_no_error
            an_empty_transaction_is_no_error
            a_time_to_live_counts
            an_etag_that_fits_is_accepted
            a_wrong_etag_fails_the_transaction
            a_stale_etag_of_a_removal_fails_the_transaction_whatever_the_concurrency
            an_unknown_operation_is_refused
            transactions_over_http
        }
    };
    (atomic_transactions $dialect:ident) => {
        $crate::conformance! { @cases state atomic_transactions $dialect:
            a_failed_transaction_changes_nothing
        }
    };
}
