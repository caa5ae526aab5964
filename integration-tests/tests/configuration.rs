//! Every driver of configuration against the conformance suite, in both dialects, and what is particular to Redis and
//! to many subscribers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1::SubscribeConfigurationRequest;
use envoy_runtime_proto::dapr::runtime::v1::dapr_client::DaprClient;
use integration_tests::configuration::{Configuration, Watch};
use integration_tests::redis::{Options, Redis};
use integration_tests::{Config, Dialect, Envoy, conformance, installed, wait};
use tonic::Code;
use tonic::transport::Channel;

conformance! { configuration:
    configuration_in_memory: [],
    configuration_redis: [],
    configuration_etcd: [],
    configuration_etcd_of_debian: [],
    configuration_apollo: [],
}

const STORE: &str = "config";

async fn redis_and_envoy(workers: u32) -> (Redis, Envoy) {
    let redis = Redis::start(Options::default()).await;
    let config = Config::new("orders").component(STORE, "configuration.redis", &[("redisHost", &redis.address())]);
    (redis, Envoy::start(config.concurrency(workers)).await)
}

async fn store(envoy: &Envoy, dialect: Dialect) -> Configuration {
    Configuration::new(envoy.client(dialect).await, STORE, "")
}

#[tokio::test]
async fn what_dapr_writes_into_redis_is_read_and_told() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let store = store(&envoy, Dialect::Dapr).await;
    let _: () = redis.command(&["MSET", "a", "1||v1", "b", "2", "config||g||default||a", "3||v3"]).await;
    let _: i64 = redis.command(&["HSET", "hash", "data", "x"]).await;
    let own = |items: &[(&str, &str)]| -> Vec<(String, String)> {
        items.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(store.get(&[]).await.unwrap(), own(&[("a", "1"), ("b", "2")]));
    assert_eq!(store.get(&["b", "hash", "none"]).await.unwrap(), own(&[("b", "2")]));

    let mut watch = store.watch(&[]).await;
    let _: () = redis.command(&["MSET", "a", "2||v2", "c", "9"]).await;
    let mut two = [watch.next().await, watch.next().await];
    two.sort();
    assert_eq!(two.to_vec(), own(&[("a", "2"), ("c", "9")]));
    let _: i64 = redis.command(&["DEL", "a"]).await;
    watch.expect(&[("a", "")]).await;
    let _: String = redis.command(&["SET", "short", "1||1", "PX", "50"]).await;
    watch.expect(&[("short", "1"), ("short", "")]).await;
    let _: i64 = redis.command(&["HSET", "hash", "data", "y"]).await;
    watch.expect_silence().await;
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn saved_items_have_versions_that_rise() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let store = store(&envoy, Dialect::Layotto).await;
    for (value, stored) in [("a", "a||1"), ("b", "b||2"), ("x||y", "x||y||3")] {
        store.save(&[("k", value)]).await.unwrap();
        assert_eq!(redis.command::<String>(&["GET", "k"]).await, stored);
        assert_eq!(store.get(&["k"]).await.unwrap(), [("k".to_owned(), value.to_owned())]);
    }
    let _: i64 = redis.command(&["HSET", "hash", "data", "x"]).await;
    let refused = store.save(&[("l", "v"), ("hash", "v")]).await.unwrap_err();
    assert!(refused.message().contains("WRONGTYPE"), "{refused}");
    assert!(store.get(&["l"]).await.unwrap().is_empty(), "nothing is written then");
}

#[tokio::test]
async fn a_thousand_changes_are_delivered_once_and_in_order() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let mut watches = Vec::new();
    for dialect in Dialect::ALL {
        watches.push(store(&envoy, dialect).await.watch(&[]).await);
    }
    for number in 0..1000 {
        let (key, value) = (format!("k{number}"), format!("v{number}"));
        let _: String = redis.command(&["SET", &key, &format!("{value}||1")]).await;
    }
    for watch in &mut watches {
        for number in 0..1000 {
            watch.expect(&[(&format!("k{number}"), &format!("v{number}"))]).await;
        }
        watch.expect_silence().await;
    }
}

/// Larger than a message on the way to the bus may be, and than what may be under way to an app.
#[tokio::test]
async fn a_large_item_is_told_whole_and_disturbs_no_other() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let mut other = store(&envoy, Dialect::Dapr).await.watch(&["small"]).await;
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{}", envoy.dapr_grpc)).unwrap();
    let mut client = DaprClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(64 << 20);
    let keys = vec!["large".to_owned()];
    let request = SubscribeConfigurationRequest { store_name: STORE.to_owned(), keys, ..Default::default() };
    let mut events = client.subscribe_configuration(request).await.unwrap().into_inner();
    assert!(!events.message().await.unwrap().unwrap().id.is_empty());
    for size in [70_000, 20 << 20, 1] {
        let value = "x".repeat(size);
        let _: String = redis.command(&["SET", "large", &value]).await;
        let event = events.message().await.unwrap().unwrap();
        assert!(event.items["large"].value == value, "{size} bytes");
        let _: String = redis.command(&["SET", "small", &size.to_string()]).await;
        other.expect(&[("small", &size.to_string())]).await;
    }
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_restart_of_redis_loses_no_last_value() {
    let (mut redis, envoy) = redis_and_envoy(1).await;
    let mut watch = store(&envoy, Dialect::Dapr).await.watch(&[]).await;
    let mut expected = BTreeMap::new();
    for number in 0..1000 {
        if number == 400 {
            redis.kill().await;
            redis.restart().await;
        }
        let (key, value) = (format!("k{}", number % 50), number.to_string());
        let _: String = redis.command(&["SET", &key, &format!("{value}||{number}")]).await;
        expected.insert(key, value);
    }
    let mut told = BTreeMap::new();
    while told != expected {
        let (key, value) = watch.next().await;
        told.insert(key, value);
    }
    let _: String = redis.command(&["SET", "after", "all"]).await;
    watch.expect(&[("after", "all")]).await;
    assert_eq!(envoy.stat("wasmcustom.runtime.upstream.config.disconnects").await, 1);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_thousand_subscriptions_are_one_watch_per_worker() {
    let (redis, envoy) = redis_and_envoy(2).await;
    let mut watches: Vec<Watch> = Vec::new();
    for _ in 0..20 {
        let store = store(&envoy, Dialect::Dapr).await;
        for _ in 0..50 {
            watches.push(store.watch(&["k"]).await);
        }
    }
    let subscribed: (String, u32) = redis.command(&["PUBSUB", "NUMSUB", "__keyspace@0__:k"]).await;
    assert_eq!(subscribed.1, 2, "one for each worker");
    let clients: String = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    assert_eq!(clients.lines().count(), 2, "{clients}");

    let _: String = redis.command(&["SET", "k", "v||1"]).await;
    for watch in &mut watches {
        watch.expect(&[("k", "v")]).await;
    }
    // A subscription may be ended from any connection, hence by any worker.
    for watch in watches.iter_mut().step_by(50) {
        let other = store(&envoy, Dialect::Dapr).await;
        assert!(other.unsubscribe(&watch.id).await.unwrap().ok);
        watch.expect_end().await;
    }
    drop(watches);
    wait::eventually("the watches end", async || {
        let clients: String = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        if clients.is_empty() { Ok(()) } else { Err(clients) }
    })
    .await;
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn ten_thousand_subscriptions_that_come_and_go_leave_nothing() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let mut store = self::store(&envoy, Dialect::Dapr).await;
    let mut before = 0;
    for round in 0..10_000 {
        // Envoy ends a connection on which a client resets several hundred streams soon after they began.
        if round % 200 == 0 {
            store = self::store(&envoy, Dialect::Dapr).await;
        }
        let mut stream = store.stream(&["k"]).await.unwrap();
        let first = stream.message().await.unwrap().unwrap();
        if round % 2 == 0 {
            assert!(store.unsubscribe(&first.id).await.unwrap().ok);
        }
        drop(stream);
        if round == 2_000 {
            before = envoy.stat("server.memory_allocated").await;
        }
    }
    let after = envoy.stat("server.memory_allocated").await;
    assert!(after < before + 8 * 1024 * 1024, "{before} bytes, then {after}");
    wait::eventually("no watch is left", async || {
        let clients: String = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        if clients.is_empty() { Ok(()) } else { Err(clients) }
    })
    .await;
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn an_app_that_stops_reading_does_not_delay_others() {
    let (redis, envoy) = redis_and_envoy(1).await;
    let store_of_slow = store(&envoy, Dialect::Dapr).await;
    let mut slow = store_of_slow.stream(&["k"]).await.unwrap();
    slow.message().await.unwrap().unwrap();
    let mut quick = store(&envoy, Dialect::Dapr).await.watch(&["k"]).await;
    // Twice what the windows, the buffers of Envoy and those of the sockets hold together.
    let filling = "x".repeat(50_000);
    for number in 0..800 {
        let value = format!("{number}{filling}");
        let _: String = redis.command(&["SET", "k", &format!("{value}||{number}")]).await;
        assert_eq!(quick.next().await.1, value);
    }
    let status = loop {
        match slow.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ends with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn redis_that_is_down_is_unavailable() {
    let (mut redis, envoy) = redis_and_envoy(1).await;
    redis.kill().await;
    for dialect in Dialect::ALL {
        let store = store(&envoy, dialect).await;
        let refused = store.get(&["k"]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert_eq!(store.save(&[("k", "v")]).await.unwrap_err().code(), Code::Unavailable);
    }
    let store = store(&envoy, Dialect::Dapr).await;
    let refused = match store.stream(&["k"]).await {
        Ok(mut stream) => stream.message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    redis.restart().await;
    wait::eventually("a subscription is taken", async || store.stream(&["k"]).await.map(|_| ())).await;
}

/// Runs an app with an SDK, while `live` is written with rising values.
async fn run_app(command: impl FnOnce(&Path) -> Command) {
    let (redis, envoy) = redis_and_envoy(1).await;
    let _: () = redis.command(&["MSET", "first", "1||7", "second", "2", "live", "0||0"]).await;
    let mut command = command(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk"));
    command.env("DAPR_GRPC_PORT", envoy.dapr_grpc.to_string()).env("DAPR_HTTP_PORT", envoy.dapr_http.to_string());
    // What a proxy of the machine would do with 127.0.0.1 is not the subject.
    command.env("NO_PROXY", "127.0.0.1,localhost").env_remove("DAPR_API_TOKEN");
    let app = tokio::task::spawn_blocking(move || command.output());
    let writes = async {
        for number in 1.. {
            let _: String = redis.command(&["SET", "live", &format!("{number}||{number}")]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let output = tokio::select! {
        output = app => output.unwrap().expect("the interpreter starts"),
        () = writes => unreachable!("it writes for ever"),
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    for step in ["get", "subscribe", "unsubscribe", "done"] {
        // Not line by line: a thread of the SDK prints too, and ends its lines where it happens to.
        assert!(printed.contains(step), "{step} is missing in:\n{printed}\n{errors}");
    }
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn an_app_with_the_python_sdk() {
    run_app(|scripts| {
        let mut command = Command::new(installed::python());
        command.arg(scripts.join("configuration.py"));
        command
    })
    .await;
}

#[tokio::test]
async fn an_app_with_the_javascript_sdk() {
    run_app(|scripts| {
        let mut command = Command::new(installed::system("node"));
        command.arg(scripts.join("configuration.cjs")).env("NODE_PATH", installed::node_modules());
        command
    })
    .await;
}
