//! gRPC clients of both dialects behind one set of methods.
//!
//! The state messages of Dapr and Layotto are the same on the wire, so a test is written once with Dapr's types; each
//! call goes out through the generated client of its own dialect.

use std::path::PathBuf;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::dapr::runtime::v1::dapr_client::DaprClient;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use envoy_runtime_proto::spec::runtime::v1::runtime_client::RuntimeClient;
use prost::Message;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// Whose API a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `dapr.proto.runtime.v1.Dapr`
    Dapr,
    /// `spec.proto.runtime.v1.Runtime`
    Layotto,
}

impl Dialect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Dapr, Self::Layotto];

    /// The full name of the service.
    pub fn service(self) -> &'static str {
        match self {
            Self::Dapr => "dapr.proto.runtime.v1.Dapr",
            Self::Layotto => "spec.proto.runtime.v1.Runtime",
        }
    }
}

/// A connection that speaks one dialect.
#[derive(Clone, Debug)]
pub struct Client {
    dialect: Dialect,
    channel: Channel,
    api_token: Option<String>,
    deadline: Option<Duration>,
}

/// Far above any deadline of the runtime: a call that takes longer was forgotten by it.
const FORGOTTEN: Duration = Duration::from_mins(1);

impl Client {
    /// Connects to a port of 127.0.0.1.
    pub async fn connect(port: u16, dialect: Dialect) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().timeout(FORGOTTEN);
        Self::new(endpoint.connect().await.expect("the listener accepts connections"), dialect)
    }

    /// Connects to a Unix socket.
    pub async fn connect_to_socket(path: PathBuf, dialect: Dialect) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(FORGOTTEN);
        Self::new(endpoint.connect_with_connector(connect).await.expect("the socket accepts connections"), dialect)
    }

    fn new(channel: Channel, dialect: Dialect) -> Self {
        Self { dialect, channel, api_token: None, deadline: None }
    }

    /// The same connection with the header `dapr-api-token`.
    pub fn with_api_token(mut self, token: &str) -> Self {
        self.api_token = Some(token.to_owned());
        self
    }

    /// The same connection with the header `grpc-timeout`.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same connection with the other dialect.
    pub fn with_dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Whose API it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The connection itself, for other services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Dapr's whole API.
    pub fn dapr(&self) -> DaprClient<Channel> {
        DaprClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// Layotto's whole API.
    pub fn layotto(&self) -> RuntimeClient<Channel> {
        RuntimeClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// `message` with the headers of this client.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.api_token {
            request.metadata_mut().insert("dapr-api-token", token.parse().expect("a token is ASCII"));
        }
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }
}

/// A message of one dialect as the same message of the other.
fn same<A: Message, B: Message + Default>(message: &A) -> B {
    B::decode(message.encode_to_vec().as_slice()).expect("the dialects agree on this message")
}

macro_rules! calls {
    ($($method:ident($request:ident) -> $response:ty;)*) => {
        impl Client {
            $(
                #[doc = concat!("`", stringify!($method), "` in the dialect of this client.")]
                pub async fn $method(&self, message: dapr::$request) -> Result<$response, Status> {
                    match self.dialect {
                        Dialect::Dapr => Ok(self.dapr().$method(self.request(message)).await?.into_inner().into()),
                        Dialect::Layotto => {
                            let message: layotto::$request = same(&message);
                            Ok(same(&self.layotto().$method(self.request(message)).await?.into_inner()))
                        }
                    }
                }
            )*
        }
    };
}

calls! {
    get_state(GetStateRequest) -> dapr::GetStateResponse;
    get_bulk_state(GetBulkStateRequest) -> dapr::GetBulkStateResponse;
    save_state(SaveStateRequest) -> ();
    delete_state(DeleteStateRequest) -> ();
    delete_bulk_state(DeleteBulkStateRequest) -> ();
    get_secret(GetSecretRequest) -> dapr::GetSecretResponse;
    get_bulk_secret(GetBulkSecretRequest) -> dapr::GetBulkSecretResponse;
    execute_state_transaction(ExecuteStateTransactionRequest) -> ();
}
