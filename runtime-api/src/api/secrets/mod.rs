//! The Secrets API: its rules once for both dialects.

mod failure;
mod http;

use std::rc::Rc;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;

use super::Call;
use super::dialect::{DAPR, Dialect, LAYOTTO};
use super::failure::Failure;
use super::room::{Api, Method, Missing, Opening, Room, Stores, opens, unary};
use crate::component::secrets::Store;
use crate::component::{Block, Build};
use crate::config::SecretScope;
use failure::SecretsFailure;

/// The Secrets API.
pub(super) const ROOM: Room = Room {
    open: opens::<SecretsApi>(),
    methods: &[
        Method { names: &[(DAPR, "GetSecret"), (LAYOTTO, "GetSecret")], handler: unary!(SecretsApi, get) },
        Method { names: &[(DAPR, "GetBulkSecret"), (LAYOTTO, "GetBulkSecret")], handler: unary!(SecretsApi, get_bulk) },
    ],
    paths: http::PATHS,
};

/// All secret stores of the app.
#[derive(Debug)]
pub(super) struct SecretsApi {
    stores: Stores<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    scope: Option<SecretScope>,
    store: Rc<dyn Store>,
}

impl Named {
    fn allows(&self, secret: &str) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.allows(secret))
    }
}

impl Api for SecretsApi {
    const BLOCK: Option<Block> = Some(Block::Secrets);

    fn open(opening: &Opening<'_>) -> Self {
        let stores = opening.stores(Block::Secrets, |build, environment| {
            let Build::Secrets(build) = build else { return None };
            let name = environment.component.name.clone();
            let scope = opening.config.secret_scopes.iter().find(|scope| scope.store == name).cloned();
            Some(Named { name, scope, store: build(&environment) })
        });
        Self { stores }
    }

    fn none(dialect: Dialect, _store: &str) -> Failure {
        SecretsFailure::NotConfigured.told(dialect)
    }
}

impl SecretsApi {
    fn store(&self, call: &Call, name: &str) -> Result<&Named, Failure> {
        self.stores.find(call, name).map_err(|missing| match missing {
            Missing::All => Self::none(call.dialect, name),
            Missing::Name => SecretsFailure::NotFound(name).told(call.dialect),
        })
    }

    /// `GetSecret`: one secret that the app may read.
    async fn get(&self, call: &Call, request: dapr::GetSecretRequest) -> Result<dapr::GetSecretResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        if !named.allows(&request.key) {
            return Err(SecretsFailure::Denied(&request.key, &named.name).told(call.dialect));
        }
        let found = named.store.get(&request.key, &request.metadata).await;
        let found = found.map_err(|cause| SecretsFailure::Get(&request.key, &named.name, cause).told(call.dialect))?;
        Ok(dapr::GetSecretResponse { data: found.0 })
    }

    /// `GetBulkSecret`: all secrets that the app may read.
    async fn get_bulk(
        &self,
        call: &Call,
        request: dapr::GetBulkSecretRequest,
    ) -> Result<dapr::GetBulkSecretResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        let found = named.store.bulk(&request.metadata, &|name| named.allows(name)).await;
        let found = found.map_err(|cause| SecretsFailure::GetBulk(&named.name, cause).told(call.dialect))?;
        let data = found.into_iter().map(|(name, secret)| (name, dapr::SecretResponse { secrets: secret.0 }));
        Ok(dapr::GetBulkSecretResponse { data: data.collect() })
    }
}
