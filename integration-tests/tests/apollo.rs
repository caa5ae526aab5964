//! `configuration.apollo` over a real Envoy, with what stands in for Apollo (`tests/servers_apollo.rs` holds that
//! against Apollo's own client). The conformance suite is in `tests/configuration.rs`.

use std::collections::BTreeMap;

use envoy_runtime_proto::spec::runtime::v1 as layotto;
use integration_tests::apollo::{Apollo, OPERATOR, Options, READ_ONLY_TOKEN, TOKEN};
use integration_tests::configuration::Configuration;
use integration_tests::{Config, Dialect, Envoy, wait};
use tonic::Code;

const STORE: &str = "config";
const SECRET: &str = "df23df3f59884980844ff3dada30fa97";

async fn envoy(apollo: &Apollo, workers: u32, token: &str, secret: &str) -> Envoy {
    let (config, portal) = (apollo.config.url(), apollo.portal.url());
    let mut metadata = vec![
        ("address", config.as_str()),
        ("app_id", "shop"),
        ("namespace_name", "application,other"),
        ("open_api_address", &portal),
        ("open_api_token", token),
        ("open_api_user", OPERATOR),
    ];
    if !secret.is_empty() {
        metadata.push(("secret", secret));
    }
    let config = Config::new("orders").component(STORE, "configuration.apollo", &metadata);
    Envoy::start(config.concurrency(workers)).await
}

async fn start(options: Options) -> (Apollo, Envoy) {
    let secret = options.secret.unwrap_or_default();
    let apollo = Apollo::start(options).await;
    let envoy = envoy(&apollo, 1, TOKEN, secret).await;
    (apollo, envoy)
}

async fn store(envoy: &Envoy, dialect: Dialect) -> Configuration {
    Configuration::new(envoy.client(dialect).await, STORE, "")
}

fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn items_are_where_layotto_has_them() {
    let (apollo, envoy) = start(Options::default()).await;
    let client = envoy.client(Dialect::Layotto).await;
    let tags = BTreeMap::from([("who".to_owned(), "me".to_owned())]);
    let item = |key: &str, label: &str, tags: &BTreeMap<String, String>| layotto::ConfigurationItem {
        key: key.into(),
        content: "v".into(),
        label: label.into(),
        tags: tags.clone(),
        ..Default::default()
    };
    let request = layotto::SaveConfigurationRequest {
        store_name: STORE.into(),
        app_id: "shop".into(),
        items: vec![item("a", "", &BTreeMap::new()), item("b", "l", &tags)],
        ..Default::default()
    };
    client.layotto().save_configuration(client.request(request)).await.unwrap();
    let owned = |items: &[(&str, &str)]| Some(pairs(items).into_iter().collect::<BTreeMap<_, _>>());
    assert_eq!(apollo.released("shop", "default", "application"), owned(&[("a", "v"), ("b@$l", "v")]));
    let of_b = [("application@$b@$l", r#"{"who":"me"}"#)];
    assert_eq!(apollo.released("shop", "default", "sidecar_config_tags"), owned(&of_b));

    let read = |label: &str, keys: &[&str]| layotto::GetConfigurationRequest {
        store_name: STORE.into(),
        label: label.into(),
        keys: keys.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let found = client.layotto().get_configuration(client.request(read("l", &[]))).await.unwrap().into_inner();
    let expected = layotto::ConfigurationItem { group: "application".into(), ..item("b", "l", &tags) };
    assert_eq!(found.items, [expected]);

    let request = layotto::DeleteConfigurationRequest {
        store_name: STORE.into(),
        label: "l".into(),
        keys: vec!["b".into()],
        ..Default::default()
    };
    client.layotto().delete_configuration(client.request(request)).await.unwrap();
    assert_eq!(apollo.released("shop", "default", "application"), owned(&[("a", "v")]));
    assert_eq!(apollo.released("shop", "default", "sidecar_config_tags"), owned(&[]));
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn what_others_release_is_told_and_what_they_only_edit_is_not() {
    let (apollo, envoy) = start(Options::default()).await;
    apollo.publish("shop", "default", "application", &[("a", "1"), ("b", "1")]);
    for dialect in Dialect::ALL {
        let store = store(&envoy, dialect).await;
        assert_eq!(store.get(&[]).await.unwrap(), pairs(&[("a", "1"), ("b", "1")]));
        let mut watch = store.watch(&["a", "b", "c"]).await;
        apollo.publish("shop", "default", "application", &[("a", "2"), ("c", "1"), ("d", "1")]);
        let mut told = [watch.next().await, watch.next().await, watch.next().await];
        told.sort();
        assert_eq!(told.to_vec(), pairs(&[("a", "2"), ("b", ""), ("c", "1")]));
        // The time of a poll is over, and the next one tells as well.
        apollo.end_polls();
        apollo.publish("shop", "default", "other", &[("a", "9")]);
        apollo.publish("shop", "default", "application", &[("a", "1"), ("b", "1")]);
        let mut told = [watch.next().await, watch.next().await, watch.next().await];
        told.sort();
        assert_eq!(told.to_vec(), pairs(&[("a", "1"), ("b", "1"), ("c", "")]));
        watch.expect_silence().await;
    }
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_change_while_the_config_service_is_away_is_told() {
    let (mut apollo, envoy) = start(Options::default()).await;
    apollo.publish("shop", "default", "application", &[("a", "1"), ("b", "1")]);
    let mut watches = Vec::new();
    for dialect in Dialect::ALL {
        watches.push(store(&envoy, dialect).await.watch(&["a", "b"]).await);
    }
    wait::eventually("a poll waits", async || match apollo.waiting_polls() {
        0 => Err("none"),
        _ => Ok(()),
    })
    .await;
    apollo.config.stop().await;
    apollo.publish("shop", "default", "application", &[("a", "2")]);
    let unavailable = store(&envoy, Dialect::Dapr).await.get(&["a"]).await.unwrap_err();
    assert_eq!(unavailable.code(), Code::Unavailable, "{unavailable}");
    assert!(unavailable.message().contains("Apollo's config service cannot answer now"), "{unavailable}");
    let refused = match store(&envoy, Dialect::Dapr).await.stream(&["c"]).await {
        Ok(mut stream) => stream.message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    apollo.config.restart().await;
    for watch in &mut watches {
        let mut told = [watch.next().await, watch.next().await];
        told.sort();
        assert_eq!(told.to_vec(), pairs(&[("a", "2"), ("b", "")]));
    }
    // A connection that breaks while the server stays is no different.
    apollo.config.cut_connections();
    apollo.publish("shop", "default", "application", &[("a", "3")]);
    for watch in &mut watches {
        watch.expect(&[("a", "3")]).await;
        watch.expect_silence().await;
    }
    envoy.assert_no_filter_crashed().await;
}

#[tokio::test]
async fn a_portal_that_is_down_is_unavailable_and_reading_goes_on() {
    let (mut apollo, envoy) = start(Options::default()).await;
    apollo.publish("shop", "default", "application", &[("a", "1")]);
    apollo.portal.stop().await;
    let store = store(&envoy, Dialect::Layotto).await;
    for refused in [store.save(&[("a", "2")]).await.unwrap_err(), store.delete(&["a"]).await.unwrap_err()] {
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("Apollo's Portal cannot answer now"), "{refused}");
    }
    assert_eq!(store.get(&["a"]).await.unwrap(), pairs(&[("a", "1")]));
    apollo.portal.restart().await;
    store.save(&[("a", "2")]).await.unwrap();
    assert_eq!(store.get(&["a"]).await.unwrap(), pairs(&[("a", "2")]));
}

#[tokio::test]
async fn a_wrong_token_is_named_and_not_shown() {
    let apollo = Apollo::start(Options::default()).await;
    for (token, status) in [("wr0ng", "status 401"), (READ_ONLY_TOKEN, "status 403")] {
        let envoy = envoy(&apollo, 1, token, "").await;
        let refused = store(&envoy, Dialect::Layotto).await.save(&[("a", "1")]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unknown, "{refused}");
        assert!(refused.message().contains(status) && refused.message().contains("open_api_token"), "{refused}");
        assert!(!refused.message().contains(token), "{refused}");
    }
    assert_eq!(apollo.released("shop", "default", "application"), None);
}

#[tokio::test]
async fn requests_are_signed_and_a_wrong_secret_is_refused() {
    let (apollo, right) = start(Options { secret: Some(SECRET), ..Options::default() }).await;
    apollo.publish("shop", "default", "application", &[("a", "1")]);
    let store_of_right = store(&right, Dialect::Dapr).await;
    assert_eq!(store_of_right.get(&["a"]).await.unwrap(), pairs(&[("a", "1")]));
    let mut watch = store_of_right.watch(&["a"]).await;
    apollo.publish("shop", "default", "application", &[("a", "2")]);
    watch.expect(&[("a", "2")]).await;

    for secret in ["", "wr0ng"] {
        let wrong = envoy(&apollo, 1, TOKEN, secret).await;
        for (dialect, code) in [(Dialect::Layotto, Code::Unknown), (Dialect::Dapr, Code::Internal)] {
            let refused = store(&wrong, dialect).await.get(&["a"]).await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains("status 401") && refused.message().contains("secret"), "{refused}");
            assert!(!refused.message().contains("wr0ng"), "{refused}");
        }
    }
}

#[tokio::test]
async fn there_is_one_poll_per_worker_whoever_comes_and_goes() {
    let apollo = Apollo::start(Options::default()).await;
    apollo.publish("shop", "default", "application", &[("a", "1")]);
    let envoy = envoy(&apollo, 2, TOKEN, "").await;
    for round in 0..20 {
        let mut watches = Vec::new();
        for _ in 0..4 {
            let store = store(&envoy, Dialect::Dapr).await;
            for _ in 0..5 {
                watches.push(store.watch(&["a"]).await);
            }
        }
        assert!(apollo.waiting_polls() <= 2, "{} polls", apollo.waiting_polls());
        if round % 5 == 4 {
            let value = format!("v{round}");
            apollo.publish("shop", "default", "application", &[("a", &value)]);
            for watch in &mut watches {
                watch.expect(&[("a", &value)]).await;
            }
        }
    }
    envoy.assert_no_filter_crashed().await;
}
