//! Failures of the Sequencer API, which only Layotto has.

use http::StatusCode;
use tonic::Code;

use crate::api::failure::Failure;
use crate::component::sequencer;
use crate::text::name;

/// Why a call of the Sequencer API failed.
#[derive(Debug)]
pub(super) enum SequencerFailure<'a> {
    /// There is no sequencer at all.
    NotConfigured,
    /// There is none of that name.
    NotFound(&'a str),
    /// The call names no key.
    KeyEmpty(&'a str),
    /// The key holds the separator `||`.
    IllegalKey(&'a str),
    /// The options ask for what is neither WEAK nor STRONG.
    UnknownIncrement(i32),
    /// There is no id: store, cause.
    NextId(&'a str, sequencer::Error),
}

impl SequencerFailure<'_> {
    /// In the words of the API.
    pub(super) fn told(self) -> Failure {
        use SequencerFailure as F;
        let (tag, http) = match &self {
            F::NotConfigured => ("ERR_SEQUENCER_NOT_CONFIGURED", None),
            F::NotFound(_) => ("ERR_SEQUENCER_NOT_FOUND", None),
            F::KeyEmpty(_) => ("ERR_MALFORMED_REQUEST", None),
            F::IllegalKey(_) | F::UnknownIncrement(_) => ("ERR_MALFORMED_REQUEST", Some(StatusCode::BAD_REQUEST)),
            F::NextId(..) => ("ERR_SEQUENCER_NEXT_ID", None),
        };
        let (code, text) = match self {
            F::NotConfigured => (Code::FailedPrecondition, "Sequencer store is not configured".to_owned()),
            F::NotFound(store) => (Code::InvalidArgument, format!("Sequencer store {} not found", name(store))),
            F::KeyEmpty(store) => (Code::InvalidArgument, format!("Key is empty in sequencer store {}", name(store))),
            F::IllegalKey(key) => (Code::Unknown, format!("input key/keyPrefix '{}' can't contain '||'", name(key))),
            F::UnknownIncrement(number) => {
                (Code::Unknown, format!("unknown increment {number} in the options; 0 is WEAK and 1 is STRONG"))
            }
            F::NextId(store, sequencer::Error::Unavailable(cause)) => {
                (Code::Unavailable, format!("no next id from sequencer store {store}: {cause}"))
            }
            F::NextId(store, sequencer::Error::Failed(cause)) => {
                (Code::Unknown, format!("no next id from sequencer store {store}: {cause}"))
            }
        };
        Failure::new(code, text).tag(tag).http(http)
    }
}
