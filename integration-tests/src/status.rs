//! Saying what a failed call must look like.

use std::fmt::Debug;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Panics unless the call failed with `code` and a text that contains `text`; returns the status.
#[track_caller]
pub fn expect_status<T: Debug>(result: Result<T, Status>, code: Code, text: &str) -> Status {
    let status = result.expect_err("the call is refused");
    assert!(
        status.code() == code && status.message().contains(text),
        "expected {code:?} with {text:?}, got {:?} with {:?}",
        status.code(),
        status.message()
    );
    status
}

/// Panics unless the status carries `google.rpc.ErrorInfo` with this reason in Dapr's domain.
#[track_caller]
pub fn expect_reason(status: &Status, reason: &str) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("dapr.io", reason));
}
