//! The area that all workers share: what is left in it when workers and configurations end, and what it costs to look.

#![allow(clippy::unwrap_used)] // a test may end by one

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::testing::{Talk, World, call, talk, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, item, message, save};

fn configuration() -> Value {
    json!({"appId": "a", "components": [{"name": "s", "type": "configuration.in-memory"}]})
}

fn subscribed(world: &World, worker: &Rc<Runtime>) -> Talk {
    let talk = talk(world, worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    talk.send(&dapr::SubscribeConfigurationRequest { store_name: "s".into(), ..Default::default() });
    talk
}

fn next(talk: &Talk) -> dapr::SubscribeConfigurationResponse {
    talk.next().unwrap()
}

fn configure(world: &World, worker: &Rc<Runtime>, content: &str) {
    let item = layotto::ConfigurationItem { key: "k".into(), content: content.into(), ..Default::default() };
    let request = layotto::SaveConfigurationRequest { store_name: "s".into(), items: vec![item], ..Default::default() };
    let () = message(&call(world, worker, &format!("{LAYOTTO}/SaveConfiguration"), &request));
}

#[test]
fn subscriptions_of_workers_that_have_ended_are_forgotten() {
    let world = World::default();
    let one = worker(&world, &configuration());
    let talks: Vec<Talk> = (0..100).map(|_| subscribed(&world, &one)).collect();
    let full = world.shared_bytes();
    // As after a trap: nothing of the worker is left, and nobody has taken its subscriptions out.
    let world = world.successor();
    let next_one = worker(&world, &configuration());
    let stays = subscribed(&world, &next_one);
    world.advance(Duration::from_secs(50 * 60));
    assert!(world.shared_bytes() >= full, "they may be of a worker that lives");
    world.advance(Duration::from_secs(25 * 60));
    assert!(world.shared_bytes() < full / 10, "{} bytes of {full} are left", world.shared_bytes());
    // What is renewed stays.
    let id = next(&stays).id;
    let request = dapr::UnsubscribeConfigurationRequest { store_name: "s".into(), id };
    let ended =
        call(&world, &worker(&world, &configuration()), &format!("{DAPR}/UnsubscribeConfigurationAlpha1"), &request);
    assert!(message::<dapr::UnsubscribeConfigurationResponse>(&ended).ok);
    world.advance(Duration::from_millis(100));
    assert!(stays.status().is_some());
    drop(talks);
}

#[test]
fn a_watch_of_configuration_in_memory_reads_it_when_it_has_changed() {
    let world = World::default();
    let (one, other) = (worker(&world, &configuration()), worker(&world, &configuration()));
    configure(&world, &other, &"x".repeat(1_000_000));
    let watch = subscribed(&world, &one);
    world.advance(Duration::from_millis(50));
    assert!(!next(&watch).id.is_empty());
    let before = world.shared_bytes_read();
    world.advance(Duration::from_secs(1));
    let read = world.shared_bytes_read() - before;
    assert!(read < 100_000, "{read} bytes were read to see that nothing changed");
    configure(&world, &other, "new");
    world.advance(Duration::from_millis(50));
    assert_eq!(next(&watch).items["k"].value, "new");
    configure(&world, &one, "newer");
    assert_eq!(next(&watch).items["k"].value, "newer", "its own writes it sees at once");
}

#[test]
fn names_do_not_pile_up_with_configurations() {
    let world = World::default();
    let with = |step: u32| {
        let metadata = json!({"redisHost": "redis:6379", "segmentCacheEnable": true, "segmentStep": step});
        let components = json!([
            {"name": "q", "type": "sequencer.redis", "metadata": metadata},
            {"name": "s", "type": "configuration.in-memory"},
            {"name": "m", "type": "state.in-memory", "metadata": {"maxBytes": 1_000_000 + step}},
        ]);
        worker(&world, &json!({"appId": "a", "components": components}))
    };
    let _first = with(1000);
    let names = world.shared_names();
    for step in 1001..1010 {
        let _next = with(step);
    }
    assert_eq!(world.shared_names(), names);
}

#[test]
fn names_in_memory_are_made_when_they_are_needed() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a", "components": [{"name": "s", "type": "state.in-memory"}]}));
    assert!(world.shared_names() < 10, "{} names", world.shared_names());
    let before = world.shared_names();
    let () = message(&save(&world, &worker, vec![item("a", "1"), item("b", "1"), item("a", "2")]));
    assert_eq!(world.shared_names(), before + 2);
}
