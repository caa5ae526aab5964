//! Every state driver against the conformance suite, in both dialects.

use integration_tests::conformance;

conformance! { state:
    in_memory: [
        any_key, large_values, etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions,
        atomic_transactions,
    ],
    redis: [
        any_key, large_values, etag, absent_etag_creates, counting_etag, first_write, first_write_mark, ttl, transactions,
    ],
    memcached: [ttl],
    etcd_v1: [any_key, etag, absent_etag_mismatches, first_write, ttl, transactions, atomic_transactions],
    etcd_v2: [any_key, etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions, atomic_transactions],
    etcd_of_debian: [
        any_key, etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions, atomic_transactions,
    ],
}
