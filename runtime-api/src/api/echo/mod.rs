//! A building block that is there in tests alone. It was added as docs/adding-a-building-block.md says, by this folder and a row of
//! `ROOMS`, and what the rows promise is tested here: routing, both dialects, streams, HTTP, reflection and metrics.

use ::http::StatusCode;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::grpc::health::v1 as health;
use tonic::Code;

use super::failure::Failure;
use super::http::{Asked, Response};
use super::room::{About, Api, Method, Opening, Path, Room, V1, opens, request, stream, unary};
use super::{Call, Conversation};

const SERVICE: &str = "test.Echo";

/// The block.
pub(super) const ROOM: Room = Room {
    open: opens::<EchoApi>(),
    methods: &[
        Method { names: &[(SERVICE, "Say"), (super::dialect::LAYOTTO, "SayAlpha1")], handler: unary!(EchoApi, say) },
        Method { names: &[(SERVICE, "Repeat")], handler: stream!(EchoApi, repeat, once: false) },
    ],
    paths: &[Path {
        methods: &["POST"],
        versions: &[V1],
        form: "echo/{who}",
        name: "Say",
        is_open: false,
        handler: request!(EchoApi, say_over_http),
        about: About { answers: &[(200, "The greeting", None)], ..About::new("Greets somebody") },
    }],
};

#[derive(Debug)]
struct EchoApi {
    app_id: String,
}

impl Api for EchoApi {
    fn open(opening: &Opening<'_>) -> Self {
        Self { app_id: opening.config.app_id.clone() }
    }
}

impl EchoApi {
    /// A key that is not empty is an event's data; the messages are borrowed.
    async fn say(&self, call: &Call, request: dapr::SetMetadataRequest) -> Result<dapr::SetMetadataRequest, Failure> {
        if request.key.is_empty() {
            let text = call.dialect.pick("nobody is greeted", "greet somebody");
            return Err(Failure::new(Code::InvalidArgument, text).reason("ERR_ECHO_NOBODY"));
        }
        Ok(dapr::SetMetadataRequest { value: format!("{} by {}", request.value, self.app_id), ..request })
    }

    async fn repeat(&self, _call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        while let Some(request) = conversation.request::<health::HealthCheckRequest>().await? {
            conversation.reply(&request)?;
        }
        Ok(())
    }

    async fn say_over_http(&self, call: &Call, asked: Asked<'_>) -> Result<Response, Failure> {
        let value = String::from_utf8_lossy(asked.body()).into_owned();
        let key = asked.part(0).trim_start_matches("nobody").to_owned();
        let said = self.say(call, dapr::SetMetadataRequest { key, value }).await?;
        Ok(Response::text(StatusCode::OK, &format!("{}: {}", said.key, said.value)))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use ::http::Method;
    use envoy_runtime_proto::grpc::reflection::v1 as reflection;
    use prost::Message;
    use serde_json::json;
    use tonic_types::StatusExt;

    use super::*;
    use crate::Runtime;
    use crate::api::call::Reply;
    use crate::api::{http, streaming_paths};
    use crate::testing::{World, call, talk, worker};

    fn start() -> (World, Rc<Runtime>) {
        let world = World::default();
        let worker = worker(&world, &json!({"appId": "a"}));
        (world, worker)
    }

    fn request(key: &str) -> dapr::SetMetadataRequest {
        dapr::SetMetadataRequest { key: key.into(), value: "hello".into() }
    }

    #[test]
    fn a_method_answers_by_each_of_its_names() {
        let (world, worker) = start();
        for path in ["/test.Echo/Say", "/spec.proto.runtime.v1.Runtime/SayAlpha1"] {
            let Some(Reply::Message(frame)) = call(&world, &worker, path, &request("k")).outcome() else { panic!() };
            assert_eq!(dapr::SetMetadataRequest::decode(frame.slice(5..)).unwrap().value, "hello by a");
        }
        assert_eq!(world.metric("runtime.requests.none.none.Say.OK"), Some(1));
        assert_eq!(world.metric("runtime.requests.none.none.SayAlpha1.OK"), Some(1));
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_the_api_and_with_its_details() {
        let (world, worker) = start();
        let refused = |path: &str| match call(&world, &worker, path, &request("")).outcome() {
            Some(Reply::Status(status)) => *status,
            other => panic!("{other:?}"),
        };
        let status = refused("/test.Echo/Say");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "nobody is greeted"));
        assert_eq!(status.get_details_error_info().unwrap().reason, "ERR_ECHO_NOBODY");
        let status = refused("/spec.proto.runtime.v1.Runtime/SayAlpha1");
        assert_eq!((status.message(), status.details().len()), ("greet somebody", 0));
    }

    #[test]
    fn the_same_over_http() {
        let (world, worker) = start();
        let post = |target: &str| {
            let request = http::Request {
                method: Method::POST,
                target: target.into(),
                body: "hello".into(),
                ..http::Request::default()
            };
            let worker = Rc::clone(&worker);
            let response = world.start(async move { worker.http(&request).await }).outcome().unwrap();
            (response.status.as_u16(), String::from_utf8(response.body.to_vec()).unwrap())
        };
        assert_eq!(post("/v1.0/echo/k"), (200, "k: hello by a\n".to_owned()));
        let (status, body) = post("/v1.0/echo/nobody");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let expected = json!({"errorCode": "ERR_ECHO_NOBODY", "message": "nobody is greeted"});
        assert_eq!((status, body), (400, expected));
    }

    #[test]
    fn a_stream_is_served_and_routed_to_the_bus() {
        let (world, worker) = start();
        assert!(streaming_paths().any(|path| path == "/test.Echo/Repeat"));
        let talk = talk(&world, &worker, "/test.Echo/Repeat").unwrap();
        talk.send(&health::HealthCheckRequest { service: "x".into() });
        assert_eq!(talk.next::<health::HealthCheckRequest>().unwrap().service, "x");
        talk.half_close();
        assert_eq!(talk.status().unwrap().code(), Code::Ok);
    }

    #[test]
    fn its_service_is_listed() {
        let (world, worker) = start();
        let talk = talk(&world, &worker, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo").unwrap();
        let list = reflection::server_reflection_request::MessageRequest::ListServices(String::new());
        talk.send(&reflection::ServerReflectionRequest { message_request: Some(list), ..Default::default() });
        let answer: reflection::ServerReflectionResponse = talk.next().unwrap();
        assert!(format!("{answer:?}").contains("test.Echo"), "{answer:?}");
    }
}
