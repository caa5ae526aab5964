//! Failures of the Configuration API.

use tonic::Code;

use crate::api::dialect::Dialect;
use crate::api::failure::{Failure, fill};
use crate::component::configuration;
use crate::text::{name, names};

/// Why a call of the Configuration API failed.
#[derive(Debug)]
pub(super) enum ConfigurationFailure<'a> {
    /// There is no store of configuration at all.
    NotConfigured(&'a str),
    /// There is none of that name.
    NotFound(&'a str),
    /// A key is empty.
    EmptyKey(&'a str),
    /// A read failed: keys, store, cause.
    Get(&'a [String], &'a str, configuration::Error),
    /// A write or a removal failed: store, cause.
    Write(&'a str, configuration::Error),
    /// A subscription could not begin: keys, store, cause.
    Subscribe(&'a [String], &'a str, configuration::Error),
}

/// Codes and texts; in them stand for themselves `{store}`, `{keys}` and `{cause}`.
struct Words {
    /// There is no store at all.
    none: (Code, &'static str),
    /// There is none of that name.
    unknown: (Code, &'static str),
    /// A read failed.
    get: (Code, &'static str),
    /// A subscription could not begin.
    subscribe: (Code, &'static str),
}

const DAPR: Words = Words {
    none: (Code::FailedPrecondition, "configuration stores not configured"),
    unknown: (Code::InvalidArgument, "configuration store {store} not found"),
    get: (Code::Internal, "failed to get [{keys}] from Configuration store {store}: {cause}"),
    subscribe: (Code::InvalidArgument, "failed to subscribe [{keys}] from Configuration store {store}: {cause}"),
};

const LAYOTTO: Words = Words {
    none: (Code::Unknown, "configure store [{store}] don't support now"),
    unknown: (Code::Unknown, "configure store [{store}] don't support now"),
    get: (Code::Unknown, "get configuration failed with error: {cause}"),
    subscribe: (Code::Unknown, "subscribe configuration of store {store} failed with error: {cause}"),
};

impl ConfigurationFailure<'_> {
    /// In the words of the API that was called.
    pub(super) fn told(self, dialect: Dialect) -> Failure {
        use ConfigurationFailure as F;
        let told = dialect.pick(&DAPR, &LAYOTTO);
        let text = |told: &str, keys: &[String], store: &str, cause: Option<&configuration::Error>| {
            let cause = cause.map(ToString::to_string).unwrap_or_default();
            let keys = names(keys, " ");
            fill(told, &[("store", &name(store)), ("keys", &keys), ("cause", &cause)])
        };
        let (code, reason, text) = match self {
            F::NotConfigured(store) => {
                let (code, told) = told.none;
                (code, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", text(told, &[], store, None))
            }
            F::NotFound(store) => {
                let (code, told) = told.unknown;
                (code, "ERR_CONFIGURATION_STORE_NOT_FOUND", text(told, &[], store, None))
            }
            F::EmptyKey(store) => {
                let text = format!("a key for configuration store {store} is empty");
                (Code::InvalidArgument, "ERR_MALFORMED_REQUEST", text)
            }
            F::Get(keys, store, cause) => {
                let (code, told) = told.get;
                (code_of(&cause, code), "ERR_CONFIGURATION_GET", text(told, keys, store, Some(&cause)))
            }
            F::Write(store, cause) => {
                let text = format!("configuration store {store}: {cause}");
                (code_of(&cause, Code::Unknown), "ERR_CONFIGURATION_WRITE", text)
            }
            F::Subscribe(keys, store, cause) => {
                let (code, told) = told.subscribe;
                (code_of(&cause, code), "ERR_CONFIGURATION_SUBSCRIBE", text(told, keys, store, Some(&cause)))
            }
        };
        Failure::new(code, text).reason(reason)
    }
}

/// An outage is told as such, whatever the call was about, so that clients try again.
fn code_of(cause: &configuration::Error, otherwise: Code) -> Code {
    match cause {
        configuration::Error::Invalid(_) => Code::InvalidArgument,
        configuration::Error::Unsupported(_) => Code::Unimplemented,
        configuration::Error::Unavailable(_) => Code::Unavailable,
        configuration::Error::Exhausted(_) => Code::ResourceExhausted,
        configuration::Error::Failed(_) => otherwise,
    }
}
