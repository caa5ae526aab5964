//! How the runtime reaches Redis: address, login, database, TLS.

use integration_tests::redis::{Options, Redis};
use integration_tests::store::item;
use integration_tests::{Config, Dialect, Envoy, Store, wait};
use tonic::Code;

async fn store_with(redis: &Redis, metadata: &[(&str, &str)]) -> (Envoy, Store) {
    let address = redis.address();
    let mut metadata = metadata.to_vec();
    if !metadata.iter().any(|(name, _)| *name == "redisHost") {
        metadata.push(("redisHost", &address));
    }
    metadata.push(("keyPrefix", "none"));
    let envoy = Envoy::start(Config::new("orders").component("statestore", "state.redis", &metadata)).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    (envoy, store)
}

async fn expect_it_works(redis: &Redis, database: u32, metadata: &[(&str, &str)]) {
    let (_envoy, store) = store_with(redis, metadata).await;
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(store.value("k").await, "v");
    assert_eq!(redis.command_on::<String>(database, &["HGET", "k", "data"]).await, "v");
}

#[tokio::test]
async fn a_host_by_name() {
    let redis = Redis::start(Options::default()).await;
    expect_it_works(&redis, 0, &[("redisHost", &format!("localhost:{}", redis.port))]).await;
}

#[tokio::test]
async fn a_password() {
    let redis = Redis::start(Options { password: Some("open-sesame"), ..Options::default() }).await;
    expect_it_works(&redis, 0, &[("redisPassword", "open-sesame")]).await;
}

#[tokio::test]
async fn a_user_and_a_password() {
    let redis = Redis::start(Options { user: Some(("app", "secret")), ..Options::default() }).await;
    expect_it_works(&redis, 0, &[("redisUsername", "app"), ("redisPassword", "secret")]).await;
    let users: Vec<String> = redis.command(&["ACL", "USERS"]).await;
    assert!(users.contains(&"app".to_owned()));
}

#[tokio::test]
async fn a_wrong_password_is_told_to_the_app() {
    let redis = Redis::start(Options { password: Some("right"), ..Options::default() }).await;
    let (_envoy, store) = store_with(&redis, &[("redisPassword", "letmein")]).await;
    let status = store.get("k").await.unwrap_err();
    assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status}");
    assert!(status.message().contains("WRONGPASS"), "{status}");
    assert!(!status.message().contains("letmein"), "the password itself is not told: {status}");
}

#[tokio::test]
async fn a_missing_password_is_told_to_the_app() {
    let redis = Redis::start(Options { password: Some("right"), ..Options::default() }).await;
    let (_envoy, store) = store_with(&redis, &[]).await;
    let status = store.get("k").await.unwrap_err();
    assert!(status.message().contains("NOAUTH"), "{status}");
}

#[tokio::test]
async fn a_database() {
    let redis = Redis::start(Options::default()).await;
    expect_it_works(&redis, 3, &[("redisDB", "3")]).await;
    assert_eq!(redis.keys().await, Vec::<String>::new(), "nothing lies in database 0");
}

#[tokio::test]
async fn login_and_database_are_sent_again_on_a_new_connection() {
    let mut redis = Redis::start(Options { password: Some("secret"), ..Options::default() }).await;
    let (_envoy, store) = store_with(&redis, &[("redisPassword", "secret"), ("redisDB", "5")]).await;
    store.save(item("k", "v")).await.unwrap();
    redis.kill().await;
    redis.restart().await;
    let value = wait::eventually("the runtime is connected again", async || store.get("k").await).await.data;
    assert_eq!(value, "v");
}

#[tokio::test]
async fn tls() {
    let redis = Redis::start(Options { tls: true, ..Options::default() }).await;
    let address = format!("localhost:{}", redis.tls_port);
    let authority = redis.authority.to_str().unwrap();
    expect_it_works(&redis, 0, &[("redisHost", &address), ("enableTLS", "true"), ("caCert", authority)]).await;
}

#[tokio::test]
async fn tls_to_an_address() {
    let redis = Redis::start(Options { tls: true, ..Options::default() }).await;
    let address = format!("127.0.0.1:{}", redis.tls_port);
    let authority = redis.authority.to_str().unwrap();
    expect_it_works(&redis, 0, &[("redisHost", &address), ("enableTLS", "true"), ("caCert", authority)]).await;
}

#[tokio::test]
async fn a_certificate_by_a_stranger_is_refused() {
    let redis = Redis::start(Options { tls: true, ..Options::default() }).await;
    let address = format!("127.0.0.1:{}", redis.tls_port);
    let (_envoy, store) = store_with(&redis, &[("redisHost", &address), ("enableTLS", "true")]).await;
    let status = store.get("k").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("CERTIFICATE_VERIFY_FAILED"), "the text says why: {status}");
}

#[tokio::test]
async fn a_plain_connection_to_a_tls_port_is_unavailable() {
    let redis = Redis::start(Options { tls: true, ..Options::default() }).await;
    let (_envoy, store) = store_with(&redis, &[("redisHost", &format!("127.0.0.1:{}", redis.tls_port))]).await;
    assert_eq!(store.get("k").await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn all_calls_of_a_worker_share_one_connection() {
    let redis = Redis::start(Options::default()).await;
    let (envoy, store) = store_with(&redis, &[]).await;
    let before: usize = connections_received(&redis).await;
    futures::future::join_all((0..200).map(|n| {
        let store = store.clone();
        async move { store.save(item(&n.to_string(), "v")).await.unwrap() }
    }))
    .await;
    let others = 2; // what this test itself opened to look
    assert!(connections_received(&redis).await - before <= others, "one connection served 200 calls");
    assert_eq!(envoy.stat("wasmcustom.runtime.upstream.statestore.connects").await, 1);
}

async fn connections_received(redis: &Redis) -> usize {
    let stats: String = redis.command(&["INFO", "stats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn a_cluster_of_the_user_s_own() {
    let redis = Redis::start(Options::default()).await;
    let component = serde_json::json!({
        "name": "statestore", "type": "state.redis", "cluster": "my-redis",
        "metadata": {"redisHost": "unused:1", "keyPrefix": "none"},
    });
    let config = Config::new("orders").component_document(component).change_bootstrap(|bootstrap, _| {
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().expect("the bootstrap has clusters");
        // The bus is always there.
        let stores =
            clusters.iter().filter(|cluster| cluster["name"] != "runtime.bus" && cluster["name"] != "runtime.wake");
        assert_eq!(stores.count(), 1, "no cluster is rendered where there is one");
        // As the one that is rendered for another component, but by another name and address.
        let mut own = clusters[0].clone();
        own["name"] = "my-redis".into();
        own["load_assignment"]["cluster_name"] = "my-redis".into();
        clusters.push(own);
    });
    let config = config.component("template", "state.redis", &[("redisHost", &redis.address())]);
    let envoy = Envoy::start(config).await;
    let store = Store::new(envoy.client(Dialect::Dapr).await, "statestore");
    store.save(item("k", "v")).await.unwrap();
    assert_eq!(redis.command::<String>(&["HGET", "k", "data"]).await, "v");
}
