//! What differs between the two APIs, as data.

use tonic::Code;

use super::status::SecretTexts;

/// One of the two APIs.
#[derive(Debug)]
pub struct Dialect {
    /// The full name of its service.
    pub service: &'static str,
    /// Whose key prefix a state store without `keyPrefix` has.
    pub state_prefix: StatePrefix,
    /// Whether `keyPrefix: namespace` stands for the namespace and the app; else it is a text like any other.
    pub namespaces: bool,
    /// The status of a key with `||` in it.
    pub illegal_key: Code,
    /// The status of a bulk removal that failed, if it is the same whatever the cause.
    pub bulk_failed: Option<Code>,
    /// The text when there is no state store at all; `{store}` is the name that was asked for.
    pub no_state_store: &'static str,
    /// How the refusal of a transaction calls them.
    pub transactions: &'static str,
    /// Whether an empty key may be saved.
    pub empty_key: bool,
    /// What is said when a call about configuration fails.
    pub configuration: ConfigurationTold,
    /// The domain of ErrorInfo in the details of an error, if errors have details.
    pub error_domain: Option<&'static str>,
    /// The texts of failures of the Secrets API.
    pub secrets: SecretTexts,
    /// What is different about locks.
    pub lock: Lock,
}

/// What differs in the Lock API.
#[derive(Debug)]
pub struct Lock {
    /// What the names of locks in a store begin with.
    pub prefix: &'static str,
    /// Whether a time that is not positive is refused before all else.
    pub expiry_first: bool,
    /// How that refusal calls the time.
    pub expiry: &'static str,
    /// The status when a store failed.
    pub failed: Code,
    /// What stands before the words of a store that could not take a lock; `{store}` is its name.
    pub try_failed: &'static str,
    /// What stands before the words of a store that could not release one.
    pub unlock_failed: &'static str,
    /// Whether a resource with `||` in it is refused in the words of a store that failed.
    pub illegal_key_fails: bool,
}

/// Codes and texts of failures of the Configuration API; in them stand for themselves `{store}`, `{keys}` and `{cause}`.
#[derive(Debug)]
pub struct ConfigurationTold {
    /// There is no store at all.
    pub none: (Code, &'static str),
    /// There is none of that name.
    pub unknown: (Code, &'static str),
    /// A read failed.
    pub get: (Code, &'static str),
    /// A subscription could not begin.
    pub subscribe: (Code, &'static str),
}

/// What stands in front of keys in a state store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePrefix {
    /// Nothing.
    None,
    /// The id of the app.
    AppId,
}

/// `dapr.proto.runtime.v1.Dapr`, as daprd 1.17 answers it.
pub const DAPR: Dialect = Dialect {
    service: "dapr.proto.runtime.v1.Dapr",
    state_prefix: StatePrefix::AppId,
    namespaces: true,
    illegal_key: Code::InvalidArgument,
    bulk_failed: None,
    no_state_store: "state store {store} is not configured",
    transactions: "transactions",
    empty_key: false,
    configuration: ConfigurationTold {
        none: (Code::FailedPrecondition, "configuration stores not configured"),
        unknown: (Code::InvalidArgument, "configuration store {store} not found"),
        get: (Code::Internal, "failed to get [{keys}] from Configuration store {store}: {cause}"),
        subscribe: (Code::InvalidArgument, "failed to subscribe [{keys}] from Configuration store {store}: {cause}"),
    },
    error_domain: Some("dapr.io"),
    secrets: SecretTexts {
        not_configured: "secret store is not configured",
        not_found: "failed finding secret store with key {store}",
        get: "failed getting secret with key {name} from secret store {store}: {cause}",
        get_bulk: "failed getting secrets from secret store {store}: {cause}",
    },
    lock: Lock {
        prefix: "lock||",
        expiry_first: true,
        expiry: "ExpiryInSeconds",
        failed: Code::Internal,
        try_failed: "failed to try acquiring lock: ",
        unlock_failed: "failed to release lock: ",
        illegal_key_fails: true,
    },
};

/// `spec.proto.runtime.v1.Runtime`, as Layotto answers it.
pub const LAYOTTO: Dialect = Dialect {
    service: "spec.proto.runtime.v1.Runtime",
    state_prefix: StatePrefix::None,
    namespaces: false,
    illegal_key: Code::Unknown,
    bulk_failed: Some(Code::Unknown),
    no_state_store: "state store is not configured",
    transactions: "transaction",
    empty_key: true,
    configuration: ConfigurationTold {
        none: (Code::Unknown, "configure store [{store}] don't support now"),
        unknown: (Code::Unknown, "configure store [{store}] don't support now"),
        get: (Code::Unknown, "get configuration failed with error: {cause}"),
        subscribe: (Code::Unknown, "subscribe configuration of store {store} failed with error: {cause}"),
    },
    error_domain: None,
    secrets: SecretTexts {
        not_configured: "error when get secret but not find configured",
        not_found: "error when get secret but not find : {store}",
        get: "error when get secret : secret name => {name},store name =>{store},error => {cause}",
        get_bulk: "error when bulk get secret {store}: {cause}",
    },
    lock: Lock {
        prefix: "lock|||",
        expiry_first: false,
        expiry: "Expire",
        failed: Code::Unknown,
        try_failed: "lock store {store}: ",
        unlock_failed: "lock store {store}: ",
        illegal_key_fails: false,
    },
};

/// Both, in the order in which a service is looked for.
pub const DIALECTS: [&Dialect; 2] = [&DAPR, &LAYOTTO];
