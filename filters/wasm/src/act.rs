//! What the filter has Envoy do with the stream of an app.

use runtime_api::api::call::{ACCEPTED_ENCODINGS, trailers};
use runtime_api::api::http::Response;
use tonic::{Code, Status};

use crate::abi;

/// Something that Envoy does at the end of a callback, in the course of which it calls the filter again. Each goes
/// through [`crate::host::Host::put`], which bounds them.
pub(crate) enum Act {
    /// Begins the reply to a gRPC call whose message follows in the response callbacks.
    Message,
    /// Answers a gRPC call with a status alone.
    Status(Box<Status>),
    /// Answers an HTTP request.
    Response(Box<Response>),
}

const OK: i32 = 0;

impl Act {
    /// Does it to the stream of the effective context. Envoy refuses when the stream has just ended: then nobody wants it.
    pub(crate) fn carry_out(self) {
        match self {
            // The status is what tells the Lua filter to give the reply a body.
            Self::Message => drop(abi::send_local_response(200, &[], &[], Some(OK))),
            Self::Status(status) => respond_with_status(&status),
            Self::Response(response) => respond(&response),
        }
    }
}

/// A status is complete as it is; it is never OK.
fn respond_with_status(status: &Status) {
    let trailers = trailers(status);
    // Envoy makes the others from the arguments.
    let details = trailers.iter().filter(|(name, _)| *name == "grpc-status-details-bin");
    let mut headers: Vec<(&str, &[u8])> = details.map(|(name, value)| (*name, value.as_bytes())).collect();
    if status.code() == Code::Unimplemented {
        headers.push(("grpc-accept-encoding", ACCEPTED_ENCODINGS.as_bytes()));
    }
    let _ = abi::send_local_response(200, &headers, status.message().as_bytes(), Some(status.code() as i32));
}

fn respond(response: &Response) {
    let headers: Vec<(&str, &[u8])> =
        response.headers.iter().map(|(name, value)| (&**name, value.as_bytes())).collect();
    let _ = abi::send_local_response(response.status.as_u16().into(), &headers, &response.body, None);
}
