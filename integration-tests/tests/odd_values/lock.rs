//! Locks.

use futures::FutureExt;
use integration_tests::conformance::drivers;
use integration_tests::{Dialect, Lock};

use crate::{Difference, NAMES, Row, finish, row, said, try_all};

fn lock_rows() -> Vec<Row<Lock>> {
    let mut rows: Vec<Row<Lock>> = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(["k".repeat(10_000)]) {
        let shown: String = name.chars().take(20).collect();
        let (resource, owner) = (name.clone(), name);
        rows.push(row::<Lock>(format!("resource {shown:?}"), "true false Others Done Missing", move |lock, key| {
            let resource = format!("{key}{resource}");
            async move {
                let taken = said(lock.try_lock(&resource, "o", 60).await);
                let again = said(lock.try_lock(&resource, "o", 60).await);
                let others = said(lock.unlock(&resource, "p").await);
                let released = said(lock.unlock(&resource, "o").await);
                format!("{taken} {again} {others} {released} {}", said(lock.unlock(&resource, "o").await))
            }
            .boxed()
        }));
        rows.push(row::<Lock>(format!("owner {shown:?}"), "true Others Done Done", move |lock, key| {
            let owner = owner.clone();
            async move {
                let taken = said(lock.try_lock(key, &owner, 60).await);
                let others = said(lock.unlock(key, "").await).replace("InvalidArgument", "Others");
                let renewed = said(lock.keep_alive(key, &owner, 60).await);
                format!("{taken} {others} {renewed} {}", said(lock.unlock(key, &owner).await))
            }
            .boxed()
        }));
    }
    for (seconds, expected) in [
        (i32::MIN, "InvalidArgument"),
        (-1, "InvalidArgument"),
        (0, "InvalidArgument"),
        (1, "true"),
        (i32::MAX, "true"),
    ] {
        rows.push(row::<Lock>(format!("for {seconds} s"), expected, move |lock, key| {
            async move { said(lock.try_lock(key, "o", seconds).await) }.boxed()
        }));
        rows.push(row::<Lock>(
            format!("keep alive for {seconds} s"),
            if seconds > 0 { "Done" } else { "InvalidArgument" },
            move |lock, key| {
                async move {
                    lock.try_lock(key, "o", 60).await.unwrap();
                    said(lock.keep_alive(key, "o", seconds).await)
                }
                .boxed()
            },
        ));
    }
    rows.push(row::<Lock>("no resource", "InvalidArgument InvalidArgument", |lock, _| {
        async move { format!("{} {}", said(lock.try_lock("", "o", 1).await), said(lock.unlock("", "o").await)) }.boxed()
    }));
    rows.push(row::<Lock>("no owner", "InvalidArgument InvalidArgument", |lock, key| {
        async move { format!("{} {}", said(lock.try_lock(key, "", 1).await), said(lock.unlock(key, "").await)) }.boxed()
    }));
    rows.push(row::<Lock>("the separator in the resource", "Unknown Unknown", |lock, _| {
        async move { format!("{} {}", said(lock.try_lock("a||b", "o", 1).await), said(lock.unlock("a||b", "o").await)) }
            .boxed()
    }));
    rows
}

const LOCK_DIFFERENCES: &[Difference] = &[];

#[tokio::test]
async fn the_drivers_of_locks_agree() {
    let worlds = [
        drivers::lock_in_memory().await,
        drivers::lock_redis().await,
        drivers::lock_redis_cluster().await,
        drivers::lock_etcd().await,
    ];
    let mut locks = Vec::new();
    for (name, world) in ["in-memory", "redis", "several redis", "etcd"].into_iter().zip(&worlds) {
        locks.push((name, Lock::new(world.envoy.client(Dialect::Layotto).await, world.component)));
    }
    try_all(&locks, lock_rows(), LOCK_DIFFERENCES).await;
    finish(&worlds).await;
}
