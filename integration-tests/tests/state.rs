//! Every state driver against the conformance suite, in both dialects.

use integration_tests::conformance;

conformance! { state:
    in_memory: [large_values, etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions, atomic_transactions],
    redis:     [large_values, etag, absent_etag_creates, counting_etag, first_write, first_write_mark, ttl, transactions],
    etcd_v1:   [etag, absent_etag_mismatches, first_write, ttl, transactions, atomic_transactions],
    etcd_v2:   [etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions, atomic_transactions],
    etcd_of_debian:
               [etag, absent_etag_mismatches, first_write, ttl, expire_time, transactions, atomic_transactions],
}
