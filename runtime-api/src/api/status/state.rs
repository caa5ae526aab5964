//! Failures of the State API.

use tonic::{Code, Status};

use super::{fill, with_details};
use crate::api::dialect::Dialect;
use crate::component::{Block, state};

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
    EmptyKey(&'a str),
    /// A read failed: key, store, cause.
    Get(&'a str, &'a str, state::Error),
    /// A write failed: store, cause.
    Save(&'a str, state::Error),
    /// A removal failed: store, key, cause.
    Delete(&'a str, &'a str, state::Error),
    /// A removal of many keys failed: store, cause.
    DeleteBulk(&'a str, state::Error),
    /// The store knows no transactions.
    TransactionsNotSupported(&'a str),
    /// An operation of a transaction is neither `upsert` nor `delete`: store, operation.
    UnknownOperation(&'a str, &'a str),
    /// A transaction failed: store, cause.
    Transaction(&'a str, state::Error),
}

impl StateFailure<'_> {
    /// The status for an app that called by this dialect.
    pub(in crate::api) fn status(self, dialect: &Dialect) -> Status {
        use StateFailure as F;
        let (code, reason, store, text) = match self {
            F::NotConfigured(store) => (
                Code::FailedPrecondition,
                "DAPR_STATE_NOT_CONFIGURED",
                store,
                fill(dialect.no_state_store, &[("store", store)]),
            ),
            F::NotFound(store) => {
                (Code::InvalidArgument, "DAPR_STATE_NOT_FOUND", store, format!("state store {store} is not found"))
            }
            F::IllegalKey(store, key) => (
                dialect.illegal_key,
                "DAPR_STATE_ILLEGAL_KEY",
                store,
                format!("input key/keyPrefix '{key}' can't contain '||'"),
            ),
            F::EmptyKey(store) => {
                (Code::InvalidArgument, "DAPR_STATE_ILLEGAL_KEY", store, "state key cannot be empty".to_owned())
            }
            F::Get(key, store, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                reason(&cause, "DAPR_STATE_GET_FAILED"),
                store,
                format!("fail to get {key} from state store {store}: {cause}"),
            ),
            F::Save(store, cause) => (
                write_code(&cause),
                reason(&cause, "DAPR_STATE_SAVE_FAILED"),
                store,
                format!("failed saving state in state store {store}: {cause}"),
            ),
            F::Delete(store, key, cause) => (
                write_code(&cause),
                reason(&cause, "DAPR_STATE_DELETE_FAILED"),
                store,
                format!("failed deleting state with key {key}: {cause}"),
            ),
            F::DeleteBulk(store, cause) => (
                dialect.bulk_failed.filter(|_| passing(&cause).is_none()).unwrap_or_else(|| write_code(&cause)),
                reason(&cause, "DAPR_STATE_DELETE_FAILED"),
                store,
                format!("failed deleting states in state store {store}: {cause}"),
            ),
            F::TransactionsNotSupported(store) => (
                Code::Unimplemented,
                "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
                store,
                format!("state store {store} doesn't support {}", dialect.transactions),
            ),
            F::UnknownOperation(store, operation) => (
                Code::Unimplemented,
                "DAPR_STATE_OPERATION_NOT_SUPPORTED",
                store,
                format!("operation type {operation} not supported"),
            ),
            F::Transaction(store, cause @ state::Error::TooManyOperations(..)) => {
                (Code::InvalidArgument, "DAPR_STATE_TOO_MANY_TRANSACTIONS", store, cause.to_string())
            }
            F::Transaction(store, cause) => (
                passing(&cause).unwrap_or(Code::Internal),
                reason(&cause, "DAPR_STATE_TRANSACTION_FAILED"),
                store,
                format!("error while executing state transaction: {cause}"),
            ),
        };
        with_details(dialect, code, text, reason, (Block::State, store))
    }
}

/// An outage and a want of room are told as such, whatever the call was about, so that clients try again, or less.
fn passing(cause: &state::Error) -> Option<Code> {
    match cause {
        state::Error::Unavailable(_) => Some(Code::Unavailable),
        state::Error::Exhausted(_) => Some(Code::ResourceExhausted),
        _ => None,
    }
}

fn write_code(cause: &state::Error) -> Code {
    match cause {
        state::Error::EtagMismatch(_) => Code::Aborted,
        state::Error::EtagInvalid(_) => Code::InvalidArgument,
        state::Error::Unavailable(_) => Code::Unavailable,
        state::Error::Exhausted(_) => Code::ResourceExhausted,
        state::Error::NotJson(_) => Code::Unknown,
        _ => Code::Internal,
    }
}

fn reason(cause: &state::Error, otherwise: &'static str) -> &'static str {
    match cause {
        state::Error::EtagMismatch(_) => "DAPR_STATE_ETAG_MISMATCH",
        state::Error::EtagInvalid(_) => "DAPR_STATE_ETAG_INVALID",
        state::Error::Unavailable(_) => "DAPR_STATE_UNAVAILABLE",
        _ => otherwise,
    }
}
