//! The harness's Redis does what tests of the runtime rely on.

use integration_tests::redis::{Options, Redis};

#[tokio::test]
async fn a_kill_loses_nothing() {
    let mut redis = Redis::start(Options::default()).await;
    redis.command::<String>(&["SET", "k", "v"]).await;
    redis.kill().await;
    redis.restart().await;
    assert_eq!(redis.command::<String>(&["GET", "k"]).await, "v");
}

/// How many replicas have confirmed what was written, within so many milliseconds.
async fn confirmed(redis: &Redis, patience: &str) -> usize {
    redis.command::<String>(&["SET", "k", patience]).await;
    redis.command(&["WAIT", "1", patience]).await
}

#[tokio::test]
async fn a_replica_confirms_what_is_written() {
    let redis = Redis::start(Options { password: Some("open-sesame"), ..Options::default() }).await;
    assert_eq!(confirmed(&redis, "50").await, 0);
    let mut replica = redis.replica().await;
    assert_eq!(confirmed(&redis, "30000").await, 1);
    assert_eq!(replica.command::<String>(&["GET", "k"]).await, "30000");

    replica.pause().await;
    assert_eq!(confirmed(&redis, "100").await, 0);
    replica.resume().await;
    assert_eq!(confirmed(&redis, "30001").await, 1);

    replica.kill().await;
    assert_eq!(confirmed(&redis, "101").await, 0);
    replica.restart().await;
    replica.is_in_sync().await;
    assert_eq!(confirmed(&redis, "30002").await, 1);
}
