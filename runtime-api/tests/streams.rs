//! Streaming calls, as the filter makes them.

#![allow(clippy::unwrap_used)] // a test may end by one

use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1::SubscribeConfigurationRequest;
use envoy_runtime_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use envoy_runtime_proto::grpc::reflection::v1::server_reflection_request::MessageRequest;
use envoy_runtime_proto::grpc::reflection::v1::server_reflection_response::MessageResponse;
use envoy_runtime_proto::grpc::reflection::v1::{ServerReflectionRequest, ServerReflectionResponse};
use runtime_api::api::call::Head;
use runtime_api::testing::{self, World};
use serde_json::json;
use tonic::Code;

const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn watched(service: &str) -> HealthCheckResponse {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    let talk = testing::talk(&world, &worker, WATCH).unwrap();
    talk.send(&HealthCheckRequest { service: service.to_owned() });
    talk.half_close();
    let response = talk.next().unwrap();
    assert!(talk.next::<HealthCheckResponse>().is_none() && talk.status().is_none(), "the stream stays open");
    response
}

#[test]
fn health_is_watched() {
    assert_eq!(watched("").status, 1);
    assert_eq!(watched("dapr.proto.runtime.v1.Dapr").status, 1);
    assert_eq!(watched("no.such.Service").status, 3);
}

#[test]
fn a_stream_without_a_message_is_an_error() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    let talk = testing::talk(&world, &worker, WATCH).unwrap();
    talk.half_close();
    assert_eq!(talk.status().unwrap().code(), Code::Internal);
}

#[test]
fn a_stream_is_counted_and_its_length_is_no_latency() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    let talk = testing::talk(&world, &worker, WATCH).unwrap();
    world.advance(Duration::from_secs(3600));
    talk.half_close();
    assert!(talk.status().is_some());
    assert_eq!(world.metric("runtime.requests.none.none.Watch.INTERNAL"), Some(1));
    assert_eq!(world.metric("runtime.duration_us.none.none.Watch"), None);
}

#[test]
fn a_message_may_come_in_pieces_and_a_broken_one_ends_the_stream() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    let head = Head { target: WATCH.into(), ..Head::default() };
    for (pieces, code) in [(&[&[0, 0][..], &[0, 0], &[0]][..], None), (&[&[7, 0, 0, 0, 0][..]], Some(Code::Internal))] {
        let conversation = worker.conversation(&head).unwrap();
        let (worker, head, own) = (worker.clone(), head.clone(), conversation.clone());
        let ended = world.start(async move { worker.converse(&head, &own).await });
        for piece in pieces {
            conversation.receive(piece);
            world.run();
        }
        assert_eq!(ended.outcome().map(|status| status.code()), code);
        assert_eq!(conversation.take_frame().is_some(), code.is_none());
    }
}

#[test]
fn a_method_that_takes_one_message_ends_at_the_second() {
    let world = World::default();
    let worker = testing::worker(
        &world,
        &json!({"appId": "a", "components": [{"name": "c", "type": "configuration.in-memory", "version": "v1"}]}),
    );
    let subscribe = SubscribeConfigurationRequest { store_name: "c".into(), ..Default::default() };
    for path in [WATCH, "/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration"] {
        let talk = testing::talk(&world, &worker, path).unwrap();
        let send = || if path == WATCH { talk.send(&HealthCheckRequest::default()) } else { talk.send(&subscribe) };
        send();
        assert_eq!(talk.status().map(|status| status.code()), None, "{path} goes on");
        for _ in 0..600 {
            send();
        }
        let status = talk.status().unwrap();
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "the method takes one message, and more came");
    }
}

#[test]
fn the_beginning_of_a_second_message_is_enough() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    let head = Head { target: WATCH.into(), ..Head::default() };
    for pieces in [&[&[0, 0, 0, 0, 0, 0][..]][..], &[&[0, 0, 0, 0, 0], &[0]]] {
        let conversation = worker.conversation(&head).unwrap();
        let (worker, head, own) = (worker.clone(), head.clone(), conversation.clone());
        let ended = world.start(async move { worker.converse(&head, &own).await });
        for piece in pieces {
            conversation.receive(piece);
        }
        world.run();
        assert_eq!(ended.outcome().map(|status| status.code()), Some(Code::Internal), "{pieces:?}");
    }
}

#[test]
fn unary_methods_are_no_streams() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    assert!(testing::talk(&world, &worker, "/grpc.health.v1.Health/Check").is_none());
}

#[test]
fn reflection_answers_each_request_in_both_versions() {
    let world = World::default();
    let worker = testing::worker(&world, &json!({"appId": "a"}));
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let talk = testing::talk(&world, &worker, &path).unwrap();
        let ask = |request: MessageRequest| {
            talk.send(&ServerReflectionRequest { host: String::new(), message_request: Some(request) });
            talk.next::<ServerReflectionResponse>().unwrap().message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(services) = ask(MessageRequest::ListServices(String::new())) else {
            panic!("no list");
        };
        assert!(services.service.iter().any(|service| service.name == "spec.proto.runtime.v1.Runtime"));
        for service in services.service {
            let found = ask(MessageRequest::FileContainingSymbol(service.name));
            assert!(
                matches!(found, MessageResponse::FileDescriptorResponse(file) if file.file_descriptor_proto.len() == 1)
            );
        }
        let MessageResponse::ErrorResponse(error) = ask(MessageRequest::FileByFilename("no.proto".into())) else {
            panic!("no error");
        };
        assert_eq!(error.error_code, 5);
        talk.half_close();
        assert_eq!(talk.status().unwrap().code(), Code::Ok);
    }
}
