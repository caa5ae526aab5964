//! The conformance suites: what every driver of a building block must do, written against the gRPC API alone.
//!
//! A driver joins a suite with one row of [`conformance!`](crate::conformance) in `tests/`, and the row says what it
//! can. How its store is started and configured stands in [`drivers`].

pub mod configuration;
pub mod drivers;
pub mod lock;
pub mod state;

use bytes::Bytes;
use http::{Method, Response};

use crate::client::Dialect;
use crate::http1;
use crate::store::Store;
use drivers::Deployment;

/// What a case gets: the store under test, and keys that no other case uses.
#[derive(Debug)]
pub struct Case {
    /// The store, called in the dialect of this case.
    pub store: Store,
    name: &'static str,
    http: u16,
}

impl Case {
    /// A case with a connection of its own.
    pub async fn new(deployment: &Deployment, dialect: Dialect, name: &'static str) -> Self {
        let client = deployment.envoy.client(dialect).await;
        Self { store: Store::new(client, deployment.component), name, http: deployment.envoy.dapr_http }
    }

    /// A request of Dapr's HTTP API.
    pub async fn http(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        http1::request(self.http, method, path, headers, body).await.unwrap()
    }

    /// A key of this case.
    pub fn key(&self, name: &str) -> String {
        format!("{:?}/{}/{name}", self.store.dialect(), self.name)
    }

    /// Several keys of this case.
    pub fn keys<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        names.map(|name| self.key(name))
    }
}

/// One row for each driver: its name in [`drivers`] and what it can. Each case of the suite becomes a test for each
/// driver and dialect, such as `redis::layotto::etag::a_stale_etag_is_refused`.
#[macro_export]
macro_rules! conformance {
    ($block:ident: $($driver:ident: [$($feature:ident),* $(,)?]),* $(,)?) => {
        $(
            mod $driver {
                static DEPLOYMENT: tokio::sync::OnceCell<$crate::conformance::drivers::Deployment> =
                    tokio::sync::OnceCell::const_new();

                async fn case(dialect: $crate::Dialect, name: &'static str) -> $crate::conformance::Case {
                    let deployment = DEPLOYMENT.get_or_init($crate::conformance::drivers::$driver).await;
                    $crate::conformance::Case::new(deployment, dialect, name).await
                }

                mod dapr {
                    $crate::conformance!(@suite $block basic Dapr);
                    $($crate::conformance!(@suite $block $feature Dapr);)*
                }

                mod layotto {
                    $crate::conformance!(@suite $block basic Layotto);
                    $($crate::conformance!(@suite $block $feature Layotto);)*
                }
            }
        )*
    };
    (@suite lock $feature:ident $dialect:ident) => { $crate::lock_suite!($feature $dialect); };
    (@suite configuration $feature:ident $dialect:ident) => { $crate::configuration_suite!($feature $dialect); };
    (@suite state $feature:ident $dialect:ident) => { $crate::state_suite!($feature $dialect); };
    (@cases $block:ident $feature:ident $dialect:ident: $($case:ident)*) => {
        mod $feature {
            $(
                #[tokio::test]
                async fn $case() {
                    let case = super::super::case($crate::Dialect::$dialect, stringify!($case)).await;
                    $crate::conformance::$block::$feature::$case(&case).await;
                }
            )*
        }
    };
}
