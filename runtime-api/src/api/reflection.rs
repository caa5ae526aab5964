//! gRPC server reflection, v1 and v1alpha, which are the same on the wire: what `grpcurl` asks before it calls.

use envoy_runtime_proto::grpc::reflection::v1 as proto;
use envoy_runtime_proto::{File, file, file_of};
use proto::server_reflection_request::MessageRequest;
use proto::server_reflection_response::MessageResponse;
use tonic::Code;

use super::failure::Failure;
use super::room::{Api, Method, Opening, Room, opens, services, stream};
use super::{Call, Conversation};

/// Reflection.
pub(super) const ROOM: Room = Room {
    open: opens::<ReflectionApi>(),
    methods: &[Method {
        names: &[
            ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
            ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
        ],
        handler: stream!(ReflectionApi, serve, once: false),
    }],
    paths: &[],
};

/// What is served is known without any configuration.
#[derive(Debug)]
pub(super) struct ReflectionApi;

impl Api for ReflectionApi {
    fn open(_opening: &Opening<'_>) -> Self {
        Self
    }
}

impl ReflectionApi {
    /// Answers requests until the app sends no more.
    async fn serve(&self, _call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        while let Some(request) = conversation.request::<proto::ServerReflectionRequest>().await? {
            let response = answer(&request);
            conversation.reply(&proto::ServerReflectionResponse {
                valid_host: request.host.clone(),
                original_request: Some(request),
                message_response: Some(response),
            })?;
        }
        Ok(())
    }
}

#[inline(never)] // see `Handler::Unary`
fn answer(request: &proto::ServerReflectionRequest) -> MessageResponse {
    match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let service = services().map(|name| proto::ServiceResponse { name: name.to_owned() }).collect();
            MessageResponse::ListServicesResponse(proto::ListServiceResponse { service })
        }
        Some(MessageRequest::FileByFilename(name)) => descriptor(file(name), "file", name),
        Some(MessageRequest::FileContainingSymbol(name)) => descriptor(file_of(name), "symbol", name),
        Some(MessageRequest::FileContainingExtension(extension)) => {
            failed(Code::NotFound, format!("{} has no extensions: it is proto3", extension.containing_type))
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => match file_of(name) {
            Some(_) => MessageResponse::AllExtensionNumbersResponse(proto::ExtensionNumberResponse {
                base_type_name: name.clone(),
                extension_number: Vec::new(),
            }),
            None => descriptor(None, "type", name),
        },
        None => failed(Code::InvalidArgument, "the request asks for nothing that is known here".to_owned()),
    }
}

fn descriptor(found: Option<&'static File>, what: &str, name: &str) -> MessageResponse {
    let Some(file) = found else { return failed(Code::NotFound, format!("there is no {what} {name:?} here")) };
    match file.descriptor() {
        Ok(descriptor) => MessageResponse::FileDescriptorResponse(proto::FileDescriptorResponse {
            file_descriptor_proto: vec![descriptor.into()],
        }),
        Err(error) => failed(Code::Internal, format!("the descriptor of {name:?} cannot be read: {error}")),
    }
}

fn failed(code: Code, text: String) -> MessageResponse {
    MessageResponse::ErrorResponse(proto::ErrorResponse { error_code: code.into(), error_message: text })
}
