//! The Secrets API: its rules once for both dialects.

use std::rc::Rc;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use tonic::Status;

use super::Call;
use super::status::SecretsFailure;
use crate::component::Block;
use crate::component::secrets::Store;
use crate::config::{self, SecretScope};

/// All secret stores of the app.
#[derive(Debug)]
pub(super) struct SecretsApi {
    stores: Vec<Named>,
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

impl SecretsApi {
    /// The stores among these components, with what the app may read of them.
    pub(super) fn new(scopes: &[SecretScope], stores: Vec<(&config::Component, Rc<dyn Store>)>) -> Self {
        let named = |(component, store): (&config::Component, _)| Named {
            name: component.name.clone(),
            scope: scopes.iter().find(|scope| scope.store == component.name).cloned(),
            store,
        };
        Self { stores: stores.into_iter().map(named).collect() }
    }

    fn store(&self, call: &Call, name: &str) -> Result<&Named, Status> {
        let Some(store) = self.stores.iter().find(|store| store.name == name) else {
            let failure =
                if self.stores.is_empty() { SecretsFailure::NotConfigured } else { SecretsFailure::NotFound(name) };
            return Err(failure.status(call.dialect));
        };
        call.concerns(Block::Secrets, name);
        Ok(store)
    }

    /// `GetSecret`: one secret that the app may read.
    pub(super) async fn get(
        &self,
        call: &Call,
        request: dapr::GetSecretRequest,
    ) -> Result<dapr::GetSecretResponse, Status> {
        let named = self.store(call, &request.store_name)?;
        if !named.allows(&request.key) {
            return Err(SecretsFailure::Denied(&request.key, &named.name).status(call.dialect));
        }
        let found = named.store.get(&request.key, &request.metadata).await;
        let found =
            found.map_err(|cause| SecretsFailure::Get(&request.key, &named.name, cause).status(call.dialect))?;
        Ok(dapr::GetSecretResponse { data: found.0 })
    }

    /// `GetBulkSecret`: all secrets that the app may read.
    pub(super) async fn get_bulk(
        &self,
        call: &Call,
        request: dapr::GetBulkSecretRequest,
    ) -> Result<dapr::GetBulkSecretResponse, Status> {
        let named = self.store(call, &request.store_name)?;
        let found = named.store.bulk(&request.metadata, &|name| named.allows(name)).await;
        let found = found.map_err(|cause| SecretsFailure::GetBulk(&named.name, cause).status(call.dialect))?;
        let data = found.into_iter().map(|(name, secret)| (name, dapr::SecretResponse { secrets: secret.0 }));
        Ok(dapr::GetBulkSecretResponse { data: data.collect() })
    }
}
