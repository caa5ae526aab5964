//! Failures of the State API. Reasons are Dapr's: those of its older errors begin with `ERR_`.

use tonic::{Code, Status};

use super::{Details, fill, with_details};
use crate::api::dialect::Dialect;
use crate::component::{Block, state};
use crate::text::name;

/// Why a call of the State API failed.
#[derive(Debug)]
pub(in crate::api) enum StateFailure<'a> {
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
}

impl StateFailure<'_> {
    /// The status for an app that called by this dialect.
    pub(in crate::api) fn status(self, dialect: &Dialect) -> Status {
        use StateFailure as F;
        let (code, details, text) = match self {
            F::NotConfigured(store) => (
                Code::FailedPrecondition,
                Details::reason("DAPR_STATE_NOT_CONFIGURED"),
                fill(dialect.no_state_store, &[("store", &name(store))]),
            ),
            F::NotFound(store) => (
                Code::InvalidArgument,
                Details::reason("DAPR_STATE_NOT_FOUND"),
                format!("state store {} is not found", name(store)),
            ),
            F::IllegalKey(store, key) => {
                let resource = Some((Block::State, store));
                let details =
                    Details { resource, wrong: Some(key), reason: "DAPR_STATE_ILLEGAL_KEY", ..Details::default() };
                let text = format!("input key/keyPrefix '{}' can't contain '||'", name(key));
                (dialect.illegal_key, details, text)
            }
            F::EmptyKey => {
                (Code::InvalidArgument, Details::reason("ERR_STATE_SAVE"), "state key cannot be empty".to_owned())
            }
            F::Get(key, store, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                Details::reason("ERR_STATE_GET"),
                format!("fail to get {} from state store {store}: {cause}", name(key)),
            ),
            F::Save(store, cause) => (
                write_code(&cause),
                Details::reason("ERR_STATE_SAVE"),
                format!("failed saving state in state store {store}: {cause}"),
            ),
            F::Delete(key, cause) => (
                write_code(&cause),
                Details::reason("ERR_STATE_DELETE"),
                format!("failed deleting state with key {}: {cause}", name(key)),
            ),
            F::DeleteBulk(store, cause) => (
                dialect.bulk_failed.filter(|_| passing(&cause).is_none()).unwrap_or_else(|| write_code(&cause)),
                Details::reason("ERR_STATE_BULK_DELETE"),
                format!("failed deleting state in state store {store}: {cause}"),
            ),
            F::TransactionsNotSupported(store) => {
                let details = Details {
                    help: Some(STORES),
                    resource: Some((Block::State, store)),
                    reason: "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
                    ..Details::default()
                };
                let text = format!("state store {store} doesn't support {}", dialect.transactions);
                (Code::Unimplemented, details, text)
            }
            F::UnknownOperation(operation) => (
                Code::Unimplemented,
                Details::reason("ERR_NOT_SUPPORTED_STATE_OPERATION"),
                format!("operation type {} not supported", name(operation)),
            ),
            F::Transaction(store, cause @ state::Error::TooManyOperations(have, most)) => {
                let (have, most) = (have.to_string(), most.to_string());
                let details = Details {
                    resource: Some((Block::State, store)),
                    reason: "DAPR_STATE_TOO_MANY_TRANSACTIONS",
                    metadata: &[("currentOpsTransaction", &have), ("maxOpsPerTransaction", &most)],
                    ..Details::default()
                };
                return with_details(dialect, Code::InvalidArgument, cause.to_string(), details);
            }
            F::Transaction(_, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                Details::reason("ERR_STATE_TRANSACTION"),
                format!("error while executing state transaction: {cause}"),
            ),
        };
        with_details(dialect, code, text, details)
    }
}

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
