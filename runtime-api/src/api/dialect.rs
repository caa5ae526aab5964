//! The two APIs that apps call. What a building block says differently in one of them stands in its own module.

/// The full name of Dapr's service.
pub const DAPR: &str = "dapr.proto.runtime.v1.Dapr";
/// The full name of Layotto's service.
pub const LAYOTTO: &str = "spec.proto.runtime.v1.Runtime";

/// The domain of Dapr's `ErrorInfo`.
pub(super) const DOMAIN: &str = "dapr.io";

/// One of the two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As daprd 1.17 answers. It is also that of what is no building block's: health and reflection.
    Dapr,
    /// As Layotto answers.
    Layotto,
}

impl Dialect {
    /// That of a service.
    pub(super) fn of(service: &str) -> Self {
        if service == LAYOTTO { Self::Layotto } else { Self::Dapr }
    }

    /// What differs between the two.
    pub(super) fn pick<T>(self, dapr: T, layotto: T) -> T {
        match self {
            Self::Dapr => dapr,
            Self::Layotto => layotto,
        }
    }

    /// The domain of `ErrorInfo` in the details of a status, if statuses have details.
    pub(super) fn error_domain(self) -> Option<&'static str> {
        self.pick(Some(DOMAIN), None)
    }
}
