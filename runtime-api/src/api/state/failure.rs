//! Failures of the State API. Reasons are Dapr's: those of its older errors begin with `ERR_`.

use http::StatusCode;
use tonic::Code;

use crate::api::dialect::Dialect;
use crate::api::failure::{Failure, fill};
use crate::component::{Block, state};
use crate::text::name;

/// Why a call of the State API failed.
#[derive(Debug)]
pub(super) enum StateFailure<'a> {
    /// There is no state store at all.
    NotConfigured(&'a str),
    /// There is none of that name.
    NotFound(&'a str),
    /// The key, or the prefix that the store adds, holds the separator `||`.
    IllegalKey(&'a str, &'a str),
    /// An item to be saved has no key.
    EmptyKey,
    /// A read failed: key, store, cause.
    Get(&'a str, &'a str, state::Error),
    /// A write failed: store, cause.
    Save(&'a str, state::Error),
    /// A removal failed: key, cause.
    Delete(&'a str, state::Error),
    /// A removal of many keys failed: store, cause.
    DeleteBulk(&'a str, state::Error),
    /// The store knows no transactions.
    TransactionsNotSupported(&'a str),
    /// An operation of a transaction is neither `upsert` nor `delete`.
    UnknownOperation(&'a str),
    /// A transaction failed: store, cause.
    Transaction(&'a str, state::Error),
    /// The store knows no queries.
    QueriesNotSupported(&'a str),
}

impl StateFailure<'_> {
    /// In the words of the API that was called.
    pub(super) fn told(self, dialect: Dialect) -> Failure {
        let (tag, http) = self.over_http();
        self.over_grpc(dialect).tag(tag).http(http)
    }

    /// The `errorCode` over HTTP where it is not the reason, and the status where the code does not stand for it: what is wrong in
    /// the request is no fault of the server's there.
    fn over_http(&self) -> (Option<&'static str>, Option<StatusCode>) {
        use StateFailure as F;
        let tag = match self {
            F::NotConfigured(_) => Some("ERR_STATE_STORE_NOT_CONFIGURED"),
            F::NotFound(_) => Some("ERR_STATE_STORE_NOT_FOUND"),
            F::IllegalKey(..) => Some("ERR_MALFORMED_REQUEST"),
            F::TransactionsNotSupported(_) | F::QueriesNotSupported(_) => Some("ERR_STATE_STORE_NOT_SUPPORTED"),
            F::Transaction(_, state::Error::TooManyOperations(..)) => Some("ERR_STATE_STORE_TOO_MANY_TRANSACTIONS"),
            _ => None,
        };
        let status = match self {
            F::Transaction(_, state::Error::EtagMismatch(_)) => Some(StatusCode::CONFLICT),
            F::UnknownOperation(_) => Some(StatusCode::BAD_REQUEST),
            F::QueriesNotSupported(_) => Some(StatusCode::NOT_IMPLEMENTED),
            F::Save(_, cause) | F::Delete(_, cause) | F::Transaction(_, cause) => {
                use state::Error as E;
                matches!(cause, E::TtlInvalid(_) | E::NotJson(_) | E::EtagInvalid(_)).then_some(StatusCode::BAD_REQUEST)
            }
            _ => None,
        };
        (tag, status)
    }

    fn over_grpc(self, dialect: Dialect) -> Failure {
        use StateFailure as F;
        let (code, reason, text) = match self {
            F::NotConfigured(store) => (
                Code::FailedPrecondition,
                "DAPR_STATE_NOT_CONFIGURED",
                fill(dialect.pick(NONE.0, NONE.1), &[("store", &name(store))]),
            ),
            F::NotFound(store) => {
                (Code::InvalidArgument, "DAPR_STATE_NOT_FOUND", format!("state store {} is not found", name(store)))
            }
            F::IllegalKey(store, key) => {
                let text = format!("input key/keyPrefix '{}' can't contain '||'", name(key));
                return Failure::new(dialect.pick(Code::InvalidArgument, Code::Unknown), text)
                    .reason("DAPR_STATE_ILLEGAL_KEY")
                    .resource(Block::State, store)
                    .wrong(key);
            }
            F::EmptyKey => (Code::InvalidArgument, "ERR_STATE_SAVE", "state key cannot be empty".to_owned()),
            F::Get(key, store, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                "ERR_STATE_GET",
                format!("fail to get {} from state store {store}: {cause}", name(key)),
            ),
            F::Save(store, cause) => {
                (write_code(&cause), "ERR_STATE_SAVE", format!("failed saving state in state store {store}: {cause}"))
            }
            F::Delete(key, cause) => (
                write_code(&cause),
                "ERR_STATE_DELETE",
                format!("failed deleting state with key {}: {cause}", name(key)),
            ),
            F::DeleteBulk(store, cause) => (
                match dialect {
                    // Whatever the cause, unless trying again may help.
                    Dialect::Layotto if passing(&cause).is_none() => Code::Unknown,
                    _ => write_code(&cause),
                },
                "ERR_STATE_BULK_DELETE",
                format!("failed deleting state in state store {store}: {cause}"),
            ),
            F::TransactionsNotSupported(store) => {
                let text =
                    format!("state store {store} doesn't support {}", dialect.pick("transactions", "transaction"));
                return Failure::new(Code::Unimplemented, text)
                    .reason("DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED")
                    .resource(Block::State, store)
                    .help(STORES);
            }
            F::UnknownOperation(operation) => (
                Code::Unimplemented,
                "ERR_NOT_SUPPORTED_STATE_OPERATION",
                format!("operation type {} not supported", name(operation)),
            ),
            F::Transaction(store, cause @ state::Error::TooManyOperations(have, most)) => {
                return Failure::new(Code::InvalidArgument, cause.to_string())
                    .reason("DAPR_STATE_TOO_MANY_TRANSACTIONS")
                    .resource(Block::State, store)
                    .metadata("currentOpsTransaction", have.to_string())
                    .metadata("maxOpsPerTransaction", most.to_string());
            }
            F::QueriesNotSupported(store) => {
                return Failure::new(Code::Internal, "state store does not support querying")
                    .reason("DAPR_STATE_QUERYING_NOT_SUPPORTED")
                    .resource(Block::State, store);
            }
            F::Transaction(_, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                "ERR_STATE_TRANSACTION",
                format!("error while executing state transaction: {cause}"),
            ),
        };
        Failure::new(code, text).reason(reason)
    }
}

/// What is said where there is no state store at all, by Dapr and by Layotto; `{store}` is the one that was asked for.
const NONE: (&str, &str) = ("state store {store} is not configured", "state store is not configured");

/// Where Dapr sends those whose store has no transactions.
const STORES: (&str, &str) = (
    "Check the list of state stores and the features they support",
    "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
);

/// An outage and a want of room are told as such, whatever the call was about, so that clients try again, or less; and so is
/// a key that the store cannot have, since it is the app's to change.
fn passing(cause: &state::Error) -> Option<Code> {
    use state::Error as E;
    match cause {
        E::Unavailable(_) => Some(Code::Unavailable),
        E::Exhausted(_) => Some(Code::ResourceExhausted),
        E::KeyInvalid(_) => Some(Code::InvalidArgument),
        E::EtagMismatch(_)
        | E::EtagInvalid(_)
        | E::TtlInvalid(_)
        | E::NotJson(_)
        | E::TransactionsNotSupported
        | E::TooManyOperations(_, _)
        | E::Failed(_) => None,
    }
}

fn write_code(cause: &state::Error) -> Code {
    use state::Error as E;
    match cause {
        E::EtagMismatch(_) => Code::Aborted,
        E::EtagInvalid(_) | E::KeyInvalid(_) => Code::InvalidArgument,
        E::Unavailable(_) => Code::Unavailable,
        E::Exhausted(_) => Code::ResourceExhausted,
        E::NotJson(_) => Code::Unknown,
        E::TtlInvalid(_) | E::TransactionsNotSupported | E::TooManyOperations(_, _) | E::Failed(_) => Code::Internal,
    }
}
