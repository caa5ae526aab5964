//! The Sequencer API, which only Layotto has.

mod failure;
mod http;

use std::rc::Rc;

use envoy_runtime_proto::spec::runtime::v1::{self as layotto, sequencer_options::AutoIncrement};

use super::Call;
use super::dialect::{Dialect, LAYOTTO};
use super::failure::Failure;
use super::prefix::{Prefix, SEPARATOR};
use super::room::{Api, Method, Missing, Opening, Room, Stores, opens, unary};
use crate::component::sequencer::segments::Segments;
use crate::component::sequencer::{BIGGER_THAN, Store};
use crate::component::{Block, Build};
use failure::SequencerFailure;

/// The Sequencer API.
pub(super) const ROOM: Room = Room {
    open: opens::<SequencerApi>(),
    methods: &[Method { names: &[(LAYOTTO, "GetNextId")], handler: unary!(SequencerApi, next_id) }],
    paths: http::PATHS,
};

/// What the names of sequences begin with.
const BEGINNING: &str = "sequencer|||";

/// All sequencers of the app.
#[derive(Debug)]
pub(super) struct SequencerApi {
    stores: Stores<Named>,
}

#[derive(Debug)]
struct Named {
    prefix: Prefix,
    /// By complete name what its ids are bigger than.
    above: Vec<(String, i64)>,
    store: Rc<dyn Store>,
    /// For ids that need not rise strictly.
    segments: Option<Segments>,
}

impl Api for SequencerApi {
    const BLOCK: Option<Block> = Some(Block::Sequencer);

    fn open(opening: &Opening<'_>) -> Self {
        let stores = opening.stores(Block::Sequencer, |build, environment| {
            let Build::Sequencer(build) = build else { return None };
            let (component, store) = (&environment.component, build(&environment));
            let prefix = Prefix::new(opening.config, component);
            let complete = |(key, above): (String, i64)| {
                // What no app can call a sequence is its whole name already, as Layotto takes all of them.
                let name = if key.contains(SEPARATOR) { Some(key) } else { prefix.name(BEGINNING, &key) };
                Some((name?, above))
            };
            let above = component.settings.numbers(BIGGER_THAN).into_iter().filter_map(complete).collect();
            let segments = Segments::new(&environment, Rc::clone(&store));
            Some(Named { prefix, above, store, segments })
        });
        Self { stores }
    }

    fn none(_dialect: Dialect, _store: &str) -> Failure {
        SequencerFailure::NotConfigured.told()
    }
}

impl SequencerApi {
    /// `GetNextId`: no id is given twice. STRONG ones rise over all callers, WEAK ones within an Envoy.
    async fn next_id(
        &self,
        call: &Call,
        request: layotto::GetNextIdRequest,
    ) -> Result<layotto::GetNextIdResponse, Failure> {
        let layotto::GetNextIdRequest { store_name, key, options, .. } = &request;
        if self.stores.is_empty() {
            return Err(SequencerFailure::NotConfigured.told());
        }
        if key.is_empty() {
            return Err(SequencerFailure::KeyEmpty(store_name).told());
        }
        let named = self.stores.find(call, store_name).map_err(|missing| match missing {
            Missing::All => SequencerFailure::NotConfigured.told(),
            Missing::Name => SequencerFailure::NotFound(store_name).told(),
        })?;
        let Some(name) = named.prefix.name(BEGINNING, key) else {
            return Err(SequencerFailure::IllegalKey(key).told());
        };
        let increment = options.as_ref().map_or(0, |options| options.increment);
        let Ok(increment) = AutoIncrement::try_from(increment) else {
            return Err(SequencerFailure::UnknownIncrement(increment).told());
        };
        let above =
            named.above.iter().filter(|(known, _)| *known == name).map(|(_, above)| *above).max().unwrap_or_default();
        let id = match &named.segments {
            Some(segments) if increment == AutoIncrement::Weak => segments.next_id(&name, above).await,
            _ => named.store.next_id(&name, above).await,
        };
        let next_id = id.map_err(|cause| SequencerFailure::NextId(store_name, cause).told())?;
        Ok(layotto::GetNextIdResponse { next_id })
    }
}
