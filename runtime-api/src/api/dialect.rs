//! What differs between the two APIs, as data.

use tonic::Code;

/// One of the two APIs.
#[derive(Debug)]
pub struct Dialect {
    /// The full name of its service.
    pub service: &'static str,
    /// Whose key prefix a state store without `keyPrefix` has.
    pub state_prefix: StatePrefix,
    /// The status of a key with `||` in it.
    pub illegal_key: Code,
    /// The status of a bulk operation that the store failed as a whole.
    pub bulk_failed: Code,
    /// The text when there is no state store at all; `{}` is the name that was asked for.
    pub no_state_store: &'static str,
    /// How the refusal of a transaction calls them.
    pub transactions: &'static str,
    /// Whether an empty key may be saved.
    pub empty_key: bool,
    /// The domain of ErrorInfo in the details of an error, if errors have details.
    pub error_domain: Option<&'static str>,
}

/// What stands in front of keys in a state store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePrefix {
    /// Nothing.
    None,
    /// The id of the app.
    AppId,
}

/// `dapr.proto.runtime.v1.Dapr`, as daprd 1.18 answers it.
pub const DAPR: Dialect = Dialect {
    service: "dapr.proto.runtime.v1.Dapr",
    state_prefix: StatePrefix::AppId,
    illegal_key: Code::InvalidArgument,
    bulk_failed: Code::Internal,
    no_state_store: "state store {} is not configured",
    transactions: "transactions",
    empty_key: false,
    error_domain: Some("dapr.io"),
};

/// `spec.proto.runtime.v1.Runtime`, as Layotto answers it.
pub const LAYOTTO: Dialect = Dialect {
    service: "spec.proto.runtime.v1.Runtime",
    state_prefix: StatePrefix::None,
    illegal_key: Code::Unknown,
    bulk_failed: Code::Unknown,
    no_state_store: "state store is not configured",
    transactions: "transaction",
    empty_key: true,
    error_domain: None,
};

/// Both, in the order in which a service is looked for.
pub const DIALECTS: [&Dialect; 2] = [&DAPR, &LAYOTTO];
