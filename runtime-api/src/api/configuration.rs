//! The Configuration API: its rules once for both dialects.

use std::rc::Rc;

use crate::component::configuration::{Hub, Store};
use crate::config::{self, Config};
use crate::proxy::Proxy;

/// All stores of configuration.
#[derive(Debug)]
#[allow(dead_code)] // until its calls are served
pub(super) struct ConfigurationApi {
    stores: Vec<Named>,
    app_id: String,
}

#[derive(Debug)]
#[allow(dead_code)] // until its calls are served
struct Named {
    name: String,
    store: Rc<dyn Store>,
    hub: Hub,
}

impl ConfigurationApi {
    /// The stores among these components.
    pub(super) fn new(
        proxy: &Rc<dyn Proxy>,
        config: &Config,
        stores: Vec<(&config::Component, Rc<dyn Store>)>,
    ) -> Self {
        let named = |(component, store): (&config::Component, Rc<dyn Store>)| Named {
            name: component.name.clone(),
            hub: Hub::new(Rc::clone(proxy), &component.name, Rc::clone(&store)),
            store,
        };
        Self { stores: stores.into_iter().map(named).collect(), app_id: config.app_id.clone() }
    }
}
