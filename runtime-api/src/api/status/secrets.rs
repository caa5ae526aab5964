//! Failures of the Secrets API. Dapr's have no details.

use tonic::{Code, Status};

use super::fill;
use crate::api::dialect::Dialect;
use crate::component::secrets::Error;
use crate::text::name as short;

/// Why a call of the Secrets API failed.
#[derive(Debug)]
pub(in crate::api) enum SecretsFailure<'a> {
    /// There is no secret store at all.
    NotConfigured,
    /// There is none of that name.
    NotFound(&'a str),
    /// The scopes do not let the app read it: secret, store.
    Denied(&'a str, &'a str),
    /// A read failed: secret, store, cause.
    Get(&'a str, &'a str, Error),
    /// A read of all failed: store, cause.
    GetBulk(&'a str, Error),
}

/// How a dialect words these failures. `{name}`, `{store}` and `{cause}` stand for what the call was about.
#[derive(Debug)]
pub struct SecretTexts {
    /// There is no secret store at all.
    pub not_configured: &'static str,
    /// There is none of that name.
    pub not_found: &'static str,
    /// A read failed.
    pub get: &'static str,
    /// A read of all failed.
    pub get_bulk: &'static str,
}

impl SecretsFailure<'_> {
    /// The status for an app that called by this dialect.
    pub(in crate::api) fn status(self, dialect: &Dialect) -> Status {
        use SecretsFailure as F;
        let texts = &dialect.secrets;
        let code = |cause: &Error| match cause {
            // An outage is told as such, so that clients try again.
            Error::Unavailable(_) => Code::Unavailable,
            Error::InvalidName(_) => Code::InvalidArgument,
            Error::NotFound(_) | Error::Failed(_) => Code::Internal,
        };
        match self {
            F::NotConfigured => Status::failed_precondition(texts.not_configured),
            F::NotFound(store) => Status::invalid_argument(fill(texts.not_found, &[("store", &short(store))])),
            F::Denied(name, store) => {
                Status::permission_denied(format!("access denied by policy to get {:?} from {store:?}", short(name)))
            }
            F::Get(name, store, cause) => {
                let text = fill(texts.get, &[("name", &short(name)), ("store", store), ("cause", &cause.to_string())]);
                Status::new(code(&cause), text)
            }
            F::GetBulk(store, cause) => {
                let text = fill(texts.get_bulk, &[("store", store), ("cause", &cause.to_string())]);
                Status::new(code(&cause), text)
            }
        }
    }
}
