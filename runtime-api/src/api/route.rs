//! Which methods are served, and where a path leads: a table, looked into once for each call.

use super::dialect::{DAPR, Dialect, LAYOTTO};
use super::reflection;
use crate::component::Block;

/// What a method does. Two methods that do the same are one, whatever their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rpc {
    Check,
    Watch,
    Reflect,
    GetMetadata,
    SetMetadata,
    GetState,
    GetBulkState,
    SaveState,
    DeleteState,
    DeleteBulkState,
    ExecuteStateTransaction,
    GetSecret,
    GetBulkSecret,
    TryLock,
    Unlock,
    LockKeepAlive,
    GetNextId,
    GetConfiguration,
    GetConfigurationDapr,
    SaveConfiguration,
    DeleteConfiguration,
    SubscribeConfiguration,
    SubscribeConfigurationDapr,
    UnsubscribeConfiguration,
}

impl Rpc {
    /// The building block that it belongs to, if it needs a component of one.
    pub(super) fn block(self) -> Option<Block> {
        match self {
            Self::Check | Self::Watch | Self::Reflect | Self::GetMetadata | Self::SetMetadata => None,
            Self::GetState
            | Self::GetBulkState
            | Self::SaveState
            | Self::DeleteState
            | Self::DeleteBulkState
            | Self::ExecuteStateTransaction => Some(Block::State),
            Self::GetSecret | Self::GetBulkSecret => Some(Block::Secrets),
            Self::TryLock | Self::Unlock | Self::LockKeepAlive => Some(Block::Lock),
            Self::GetNextId => Some(Block::Sequencer),
            Self::GetConfiguration
            | Self::GetConfigurationDapr
            | Self::SaveConfiguration
            | Self::DeleteConfiguration
            | Self::SubscribeConfiguration
            | Self::SubscribeConfigurationDapr
            | Self::UnsubscribeConfiguration => Some(Block::Configuration),
        }
    }

    /// Whether it goes on for as long as the app likes. The others take one message and give one.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Watch | Self::Reflect | Self::SubscribeConfiguration | Self::SubscribeConfigurationDapr)
    }

    /// Whether it takes one message, though it may give many.
    pub(super) fn takes_one(self) -> bool {
        !matches!(self, Self::Reflect | Self::SubscribeConfiguration)
    }
}

type Methods = &'static [(&'static str, Rpc)];

/// The methods that have the same names in both APIs, the most called first.
const COMMON: Methods = &[
    ("GetState", Rpc::GetState),
    ("SaveState", Rpc::SaveState),
    ("GetBulkState", Rpc::GetBulkState),
    ("DeleteState", Rpc::DeleteState),
    ("DeleteBulkState", Rpc::DeleteBulkState),
    ("ExecuteStateTransaction", Rpc::ExecuteStateTransaction),
    ("GetSecret", Rpc::GetSecret),
    ("GetBulkSecret", Rpc::GetBulkSecret),
];

/// A service and those of its methods that are served.
#[derive(Debug)]
struct Service {
    name: &'static str,
    dialect: &'static Dialect,
    /// In tables, looked into one after the other.
    methods: &'static [Methods],
}

/// Dapr's first, then Layotto's.
const SERVICES: [Service; 5] = [
    Service {
        name: DAPR.service,
        dialect: &DAPR,
        methods: &[
            COMMON,
            &[
                ("TryLockAlpha1", Rpc::TryLock),
                ("UnlockAlpha1", Rpc::Unlock),
                ("GetConfiguration", Rpc::GetConfigurationDapr),
                ("GetConfigurationAlpha1", Rpc::GetConfigurationDapr),
                ("SubscribeConfiguration", Rpc::SubscribeConfigurationDapr),
                ("SubscribeConfigurationAlpha1", Rpc::SubscribeConfigurationDapr),
                ("UnsubscribeConfiguration", Rpc::UnsubscribeConfiguration),
                ("UnsubscribeConfigurationAlpha1", Rpc::UnsubscribeConfiguration),
                ("GetMetadata", Rpc::GetMetadata),
                ("SetMetadata", Rpc::SetMetadata),
            ],
        ],
    },
    Service {
        name: LAYOTTO.service,
        dialect: &LAYOTTO,
        methods: &[
            COMMON,
            &[
                ("TryLock", Rpc::TryLock),
                ("Unlock", Rpc::Unlock),
                ("LockKeepAlive", Rpc::LockKeepAlive),
                ("GetNextId", Rpc::GetNextId),
                ("GetConfiguration", Rpc::GetConfiguration),
                ("SaveConfiguration", Rpc::SaveConfiguration),
                ("DeleteConfiguration", Rpc::DeleteConfiguration),
                ("SubscribeConfiguration", Rpc::SubscribeConfiguration),
            ],
        ],
    },
    Service {
        name: "grpc.health.v1.Health",
        dialect: &DAPR,
        methods: &[&[("Check", Rpc::Check), ("Watch", Rpc::Watch)]],
    },
    Service { name: reflection::V1, dialect: &DAPR, methods: &[&[(reflection::METHOD, Rpc::Reflect)]] },
    Service { name: reflection::V1ALPHA, dialect: &DAPR, methods: &[&[(reflection::METHOD, Rpc::Reflect)]] },
];

/// The names of the services of which methods are served.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|service| service.name)
}

/// The paths of the streaming calls that are served.
pub fn streaming_paths() -> impl Iterator<Item = String> {
    SERVICES.iter().flat_map(|service| {
        let streams = service.methods.iter().copied().flatten().filter(|(_, rpc)| rpc.is_stream());
        streams.map(|(method, _)| format!("/{}/{method}", service.name))
    })
}

/// A method that is served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// The dialect that its service speaks.
    pub(super) dialect: &'static Dialect,
    /// Its name.
    pub(super) method: &'static str,
    pub(super) rpc: Rpc,
}

impl Route {
    /// The method that a path `/service/method` names, if it is served.
    pub(super) fn of((service, method): (&str, &str)) -> Option<Self> {
        let service = SERVICES.iter().find(|known| known.name == service)?;
        let (method, rpc) = *service.methods.iter().copied().flatten().find(|(name, _)| *name == method)?;
        Some(Self { dialect: service.dialect, method, rpc })
    }
}

#[cfg(test)]
mod tests {
    use envoy_runtime_proto as proto;

    use super::*;

    #[test]
    fn what_is_served_is_declared_and_streams_as_declared() {
        for service in SERVICES {
            for (name, rpc) in service.methods.iter().copied().flatten() {
                let declared = proto::method(service.name, name).unwrap();
                assert_eq!(declared.client_streaming || declared.server_streaming, rpc.is_stream(), "{name}");
                assert_eq!(!declared.client_streaming, rpc.takes_one(), "{name}");
                assert_eq!(Route::of((service.name, name)).unwrap().method, *name);
            }
        }
        assert!(Route::of((DAPR.service, "LockKeepAlive")).is_none());
        let paths: Vec<_> = streaming_paths().collect();
        assert_eq!(paths.len(), 6);
        assert!(paths.contains(&"/spec.proto.runtime.v1.Runtime/SubscribeConfiguration".to_owned()), "{paths:?}");
        assert!(Route::of(("unknown", "GetState")).is_none());
    }
}
