//! Which worker thread of Envoy has which connection.

use crate::{Envoy, wait};

/// Opens connections to the listener for Dapr's gRPC API until each of two workers has one: the last that it took.
/// Envoy's counters tell which worker took which.
pub async fn one_each<C>(envoy: &Envoy, open: impl AsyncFn() -> C) -> [C; 2] {
    let accepted = async || {
        let stats = envoy.stats().await;
        [0, 1].map(|worker| {
            let name = format!("listener.127.0.0.1_{}.worker_{worker}.downstream_cx_total", envoy.dapr_grpc);
            stats.get(&name).copied().unwrap_or_else(|| panic!("Envoy has no counter {name}"))
        })
    };
    let mut connections = [None, None];
    for _ in 0..500 {
        let before = accepted().await;
        let connection = open().await;
        // A busy worker counts a connection a moment after it serves it.
        let worker = wait::eventually("one worker has accepted the connection", async || {
            let after = accepted().await;
            (0..2).find(|worker| after[*worker] > before[*worker]).ok_or(after)
        })
        .await;
        connections[worker] = Some(connection);
        if connections.iter().all(Option::is_some) {
            return connections.map(Option::unwrap);
        }
    }
    panic!("500 connections and all on one worker");
}
