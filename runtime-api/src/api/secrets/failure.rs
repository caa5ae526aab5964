//! Failures of the Secrets API. Dapr's have no details.

use http::StatusCode;
use tonic::Code;

use crate::api::dialect::Dialect;
use crate::api::failure::{Failure, fill};
use crate::component::secrets::Error;
use crate::text::name as short;

/// Why a call of the Secrets API failed.
#[derive(Debug)]
pub(super) enum SecretsFailure<'a> {
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
struct Words {
    /// There is no secret store at all.
    not_configured: &'static str,
    /// There is none of that name.
    not_found: &'static str,
    /// A read failed.
    get: &'static str,
    /// A read of all failed.
    get_bulk: &'static str,
}

const DAPR: Words = Words {
    not_configured: "secret store is not configured",
    not_found: "failed finding secret store with key {store}",
    get: "failed getting secret with key {name} from secret store {store}: {cause}",
    get_bulk: "failed getting secrets from secret store {store}: {cause}",
};

const LAYOTTO: Words = Words {
    not_configured: "error when get secret but not find configured",
    not_found: "error when get secret but not find : {store}",
    get: "error when get secret : secret name => {name},store name =>{store},error => {cause}",
    get_bulk: "error when bulk get secret {store}: {cause}",
};

impl SecretsFailure<'_> {
    /// In the words of the API that was called.
    pub(super) fn told(self, dialect: Dialect) -> Failure {
        use SecretsFailure as F;
        let texts = dialect.pick(&DAPR, &LAYOTTO);
        let code = |cause: &Error| match cause {
            // An outage is told as such, so that clients try again.
            Error::Unavailable(_) => Code::Unavailable,
            Error::InvalidName(_) => Code::InvalidArgument,
            Error::NotFound(_) | Error::Failed(_) => Code::Internal,
        };
        let (tag, http) = match &self {
            F::NotConfigured => ("ERR_SECRET_STORES_NOT_CONFIGURED", None),
            // As Dapr has it.
            F::NotFound(_) => ("ERR_SECRET_STORE_NOT_FOUND", Some(StatusCode::UNAUTHORIZED)),
            F::Denied(..) => ("ERR_PERMISSION_DENIED", None),
            F::Get(_, _, Error::NotFound(_)) => ("ERR_SECRET_GET", Some(StatusCode::NOT_FOUND)),
            F::Get(..) | F::GetBulk(..) => ("ERR_SECRET_GET", None),
        };
        let failure = match self {
            F::NotConfigured => Failure::new(Code::FailedPrecondition, texts.not_configured),
            F::NotFound(store) => {
                Failure::new(Code::InvalidArgument, fill(texts.not_found, &[("store", &short(store))]))
            }
            F::Denied(name, store) => Failure::new(
                Code::PermissionDenied,
                format!("access denied by policy to get {:?} from {store:?}", short(name)),
            ),
            F::Get(name, store, cause) => {
                let text = fill(texts.get, &[("name", &short(name)), ("store", store), ("cause", &cause.to_string())]);
                Failure::new(code(&cause), text)
            }
            F::GetBulk(store, cause) => {
                let text = fill(texts.get_bulk, &[("store", store), ("cause", &cause.to_string())]);
                Failure::new(code(&cause), text)
            }
        };
        failure.tag(tag).http(http)
    }
}
