//! The Sequencer API, which only Layotto has.

use std::rc::Rc;

use envoy_runtime_proto::spec::runtime::v1::{self as layotto, sequencer_options::AutoIncrement};
use tonic::Status;

use super::Call;
use super::prefix::{Prefix, SEPARATOR};
use super::status::SequencerFailure;
use crate::component::sequencer::segments::Segments;
use crate::component::sequencer::{BIGGER_THAN, Store};
use crate::component::{Block, Environment};
use crate::config::Config;

/// What the names of sequences begin with.
const BEGINNING: &str = "sequencer|||";

/// All sequencers of the app.
#[derive(Debug)]
pub(super) struct SequencerApi {
    stores: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    prefix: Prefix,
    /// By complete name what its ids are bigger than.
    above: Vec<(String, i64)>,
    store: Rc<dyn Store>,
    /// For ids that need not rise strictly.
    segments: Option<Segments>,
}

impl SequencerApi {
    /// The sequencers among these components.
    pub(super) fn new(config: &Config, stores: Vec<(Environment, Rc<dyn Store>)>) -> Self {
        let named = |(environment, store): (Environment, Rc<dyn Store>)| {
            let component = &environment.component;
            let prefix = Prefix::new(config, component);
            let complete = |(key, above): (String, i64)| {
                // What no app can call a sequence is its whole name already, as Layotto takes all of them.
                let name = if key.contains(SEPARATOR) { Some(key) } else { prefix.name(BEGINNING, &key) };
                Some((name?, above))
            };
            let above = component.settings.numbers(BIGGER_THAN).into_iter().filter_map(complete).collect();
            let segments = Segments::new(&environment, Rc::clone(&store));
            Named { name: component.name.clone(), prefix, above, store, segments }
        };
        Self { stores: stores.into_iter().map(named).collect() }
    }

    /// `GetNextId`: no id is given twice. STRONG ones rise over all callers, WEAK ones within an Envoy.
    pub(super) async fn next_id(
        &self,
        call: &Call,
        request: layotto::GetNextIdRequest,
    ) -> Result<layotto::GetNextIdResponse, Status> {
        let layotto::GetNextIdRequest { store_name, key, options, .. } = &request;
        if self.stores.is_empty() {
            return Err(SequencerFailure::NotConfigured.status());
        }
        if key.is_empty() {
            return Err(SequencerFailure::KeyEmpty(store_name).status());
        }
        let Some(named) = self.stores.iter().find(|named| named.name == *store_name) else {
            return Err(SequencerFailure::NotFound(store_name).status());
        };
        call.concerns(Block::Sequencer, store_name);
        let Some(name) = named.prefix.name(BEGINNING, key) else {
            return Err(SequencerFailure::IllegalKey(key).status());
        };
        let increment = options.as_ref().map_or(0, |options| options.increment);
        let Ok(increment) = AutoIncrement::try_from(increment) else {
            return Err(SequencerFailure::UnknownIncrement(increment).status());
        };
        let above =
            named.above.iter().filter(|(known, _)| *known == name).map(|(_, above)| *above).max().unwrap_or_default();
        let id = match &named.segments {
            Some(segments) if increment == AutoIncrement::Weak => segments.next_id(&name, above).await,
            _ => named.store.next_id(&name, above).await,
        };
        let next_id = id.map_err(|cause| SequencerFailure::NextId(store_name, cause).status())?;
        Ok(layotto::GetNextIdResponse { next_id })
    }
}
