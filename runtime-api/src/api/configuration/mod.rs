//! The Configuration API: its rules once for both dialects. Texts are Dapr's and Layotto's.
//!
//! What Dapr's messages have no place for is filled in: the app is that of this runtime, group and label are the
//! store's defaults, unless the metadata of the request name others.

mod failure;
mod http;
mod register;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use envoy_runtime_proto::dapr::common::v1 as common;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use futures::future::{Either, select};
use prost::Message;
use tonic::Code;

use super::dialect::{DAPR, Dialect, LAYOTTO};
use super::failure::Failure;
use super::room::{Api, Handler, Method, Missing, Opening, Room, Stores, answer, is_served, opens, stream, unary};
use super::{Call, Conversation};
use crate::component::configuration::{Change, Hub, Item, Metadata, News, Selection, Store, Subscriber};
use crate::component::{Block, Build, property};
use crate::text;
use failure::ConfigurationFailure;
use register::Register;

/// The Configuration API.
pub(super) const ROOM: Room = Room {
    open: opens::<ConfigurationApi>(),
    methods: &[
        Method {
            names: &[(DAPR, "GetConfiguration"), (DAPR, "GetConfigurationAlpha1")],
            handler: unary!(ConfigurationApi, get_dapr),
        },
        Method { names: &[(LAYOTTO, "GetConfiguration")], handler: unary!(ConfigurationApi, get) },
        Method { names: &[(LAYOTTO, "SaveConfiguration")], handler: unary!(ConfigurationApi, save) },
        Method { names: &[(LAYOTTO, "DeleteConfiguration")], handler: unary!(ConfigurationApi, delete) },
        Method {
            names: &[(DAPR, "SubscribeConfiguration"), (DAPR, "SubscribeConfigurationAlpha1")],
            handler: stream!(ConfigurationApi, subscribe_dapr, once: true),
        },
        Method {
            names: &[(LAYOTTO, "SubscribeConfiguration")],
            handler: stream!(ConfigurationApi, subscribe, once: false),
        },
        Method {
            names: &[(DAPR, "UnsubscribeConfiguration"), (DAPR, "UnsubscribeConfigurationAlpha1")],
            handler: UNSUBSCRIBE,
        },
    ],
    paths: http::PATHS,
};

/// As with Dapr the id alone counts, and that there is none is no error, whether there are stores or not.
const UNSUBSCRIBE: Handler = if is_served::<ConfigurationApi>() {
    unary!(ConfigurationApi, unsubscribe)
} else {
    Handler::Unary(|_, _, message| Box::pin(answer(message, async |request| Ok(unsubscribed(&request, false)))))
};

/// What changed at one time goes to an app in messages of about this size, far below what gRPC clients take.
const MESSAGE_BYTES: usize = 256 * 1024;

/// All stores of configuration.
#[derive(Debug)]
pub(super) struct ConfigurationApi {
    stores: Stores<Named>,
    app_id: String,
}

#[derive(Debug)]
struct Named {
    name: String,
    store: Rc<dyn Store>,
    hub: Hub,
    register: Rc<Register>,
}

impl Named {
    /// What a call is about. Blank are a group and a label of nothing but spaces, as with Layotto.
    fn selection(
        &self,
        call: &Call,
        (app, group, label): (&str, &str, &str),
        keys: Vec<String>,
        metadata: Metadata,
    ) -> Result<Selection, Failure> {
        let mut seen = BTreeSet::new();
        let keys: Vec<String> = keys.into_iter().filter(|key| seen.insert(key.clone())).collect();
        if seen.contains("") {
            return Err(ConfigurationFailure::EmptyKey(&self.name).told(call.dialect));
        }
        let group = filled(group, self.store.default_group());
        let label = filled(label, self.store.default_label());
        Ok(Selection { app: app.to_owned(), group, label, keys, metadata })
    }

    /// Refuses a subscription that the store cannot have.
    fn accept(&self, call: &Call, wanted: &Selection) -> Result<(), Failure> {
        let accepted = self.store.accepts(wanted);
        accepted.map_err(|cause| ConfigurationFailure::Subscribe(&wanted.keys, &self.name, cause).told(call.dialect))
    }
}

/// The text, or the other one if it is blank.
fn filled(text: &str, otherwise: &str) -> String {
    if text.trim().is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

impl Api for ConfigurationApi {
    const BLOCK: Option<Block> = Some(Block::Configuration);

    fn open(opening: &Opening<'_>) -> Self {
        let proxy = opening.proxy;
        let stores = opening.stores(Block::Configuration, |build, environment| {
            let Build::Configuration(build) = build else { return None };
            let (name, store) = (environment.component.name.clone(), build(&environment));
            let hub = Hub::new(Rc::clone(proxy), &name, Rc::clone(&store));
            let register = Rc::new(Register::new(Rc::clone(proxy), &name));
            Some(Named { name, store, hub, register })
        });
        Self { stores, app_id: opening.config.app_id.clone() }
    }

    fn none(dialect: Dialect, store: &str) -> Failure {
        ConfigurationFailure::NotConfigured(store).told(dialect)
    }
}

impl ConfigurationApi {
    fn store(&self, call: &Call, name: &str) -> Result<&Named, Failure> {
        self.stores.find(call, name).map_err(|missing| match missing {
            Missing::All => Self::none(call.dialect, name),
            Missing::Name => ConfigurationFailure::NotFound(name).told(call.dialect),
        })
    }

    /// The app that a call of Layotto's API names, or ours.
    fn app<'a>(&'a self, named: &'a str) -> &'a str {
        if named.trim().is_empty() { &self.app_id } else { named }
    }

    /// What a call of Dapr's API is about.
    fn dapr_selection(
        &self,
        call: &Call,
        named: &Named,
        keys: Vec<String>,
        metadata: Metadata,
    ) -> Result<Selection, Failure> {
        let text = |name| property(&metadata, name).unwrap_or_default().to_owned();
        let (app, group, label) = (text("appId"), text("group"), text("label"));
        named.selection(call, (self.app(&app), &group, &label), keys, metadata)
    }

    /// Layotto's `GetConfiguration`: keys that are not there are left out.
    async fn get(
        &self,
        call: &Call,
        request: layotto::GetConfigurationRequest,
    ) -> Result<layotto::GetConfigurationResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        let place = (self.app(&request.app_id), &*request.group, &*request.label);
        let wanted = named.selection(call, place, request.keys, request.metadata)?;
        let items = named.store.get(&wanted).await;
        let items =
            items.map_err(|cause| ConfigurationFailure::Get(&wanted.keys, &named.name, cause).told(call.dialect))?;
        Ok(layotto::GetConfigurationResponse { items: items.iter().map(layotto_item).collect() })
    }

    /// Dapr's `GetConfiguration`, which leaves out items with an empty value, too.
    async fn get_dapr(
        &self,
        call: &Call,
        request: dapr::GetConfigurationRequest,
    ) -> Result<dapr::GetConfigurationResponse, Failure> {
        let named = self.store(call, &request.store_name)?;
        let wanted = self.dapr_selection(call, named, request.keys, request.metadata)?;
        let items = named.store.get(&wanted).await;
        let items =
            items.map_err(|cause| ConfigurationFailure::Get(&wanted.keys, &named.name, cause).told(call.dialect))?;
        let items = items.iter().filter(|item| !item.content.is_empty()).map(dapr_item);
        Ok(dapr::GetConfigurationResponse { items: items.collect() })
    }

    /// `SaveConfiguration`.
    async fn save(&self, call: &Call, request: layotto::SaveConfigurationRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        if request.items.iter().any(|item| item.key.is_empty()) {
            return Err(ConfigurationFailure::EmptyKey(&named.name).told(call.dialect));
        }
        if request.items.is_empty() {
            return Ok(());
        }
        let item = |item: layotto::ConfigurationItem| Item {
            group: filled(&item.group, named.store.default_group()),
            label: filled(&item.label, named.store.default_label()),
            key: item.key,
            content: item.content,
            tags: item.tags,
            version: String::new(),
            metadata: item.metadata,
        };
        let items = request.items.into_iter().map(item).collect();
        let saved = named.store.save(self.app(&request.app_id), items, &request.metadata).await;
        saved.map_err(|cause| ConfigurationFailure::Write(&named.name, cause).told(call.dialect))
    }

    /// `DeleteConfiguration`: of no keys, nothing.
    async fn delete(&self, call: &Call, request: layotto::DeleteConfigurationRequest) -> Result<(), Failure> {
        let named = self.store(call, &request.store_name)?;
        let place = (self.app(&request.app_id), &*request.group, &*request.label);
        let gone = named.selection(call, place, request.keys, request.metadata)?;
        if gone.keys.is_empty() {
            return Ok(());
        }
        let deleted = named.store.delete(&gone).await;
        deleted.map_err(|cause| ConfigurationFailure::Write(&named.name, cause).told(call.dialect))
    }

    /// Layotto's `SubscribeConfiguration`: each message of the app adds a subscription; the changes of all come back
    /// on the one stream. Its subscriptions end with it, and those of other streams do not.
    async fn subscribe(&self, call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        let mut subscribers: Vec<(&Named, Subscriber)> = Vec::new();
        loop {
            let request = conversation.request::<layotto::SubscribeConfigurationRequest>();
            let news = poll_fn(|context| {
                let ready = |(named, subscriber): &(&Named, Subscriber)| match subscriber.poll_next(context) {
                    Poll::Ready(news) => Some((named.name.clone(), news)),
                    Poll::Pending => None,
                };
                subscribers.iter().find_map(ready).map_or(Poll::Pending, Poll::Ready)
            });
            let next = match select(std::pin::pin!(request), std::pin::pin!(news)).await {
                Either::Left((request, _)) => Either::Left(request?),
                Either::Right((news, _)) => Either::Right(news),
            };
            match next {
                Either::Left(None) => return Ok(()),
                Either::Left(Some(request)) => {
                    let named = self.store(call, &request.store_name)?;
                    let place = (self.app(&request.app_id), &*request.group, &*request.label);
                    let wanted = named.selection(call, place, request.keys, request.metadata)?;
                    named.accept(call, &wanted)?;
                    match subscribers.iter().find(|(known, _)| known.name == named.name) {
                        Some((_, subscriber)) => subscriber.subscribe(&wanted),
                        None => {
                            let subscriber = named.hub.subscriber();
                            subscriber.subscribe(&wanted);
                            subscribers.push((named, subscriber));
                        }
                    }
                }
                Either::Right((_, News::InForce)) => {}
                Either::Right((store, News::Changes(changes))) => push(conversation, &store, &changes)?,
                Either::Right((store, News::Failed(cause))) => {
                    return Err(ConfigurationFailure::Subscribe(&[], &store, cause).told(call.dialect));
                }
            }
        }
    }

    /// Dapr's `SubscribeConfiguration`: the first message has the id of the subscription, and what changes from then
    /// on follows. The stream ends when the app ends it or unsubscribes.
    async fn subscribe_dapr(&self, call: &Call, conversation: &Conversation) -> Result<(), Failure> {
        let request: Option<dapr::SubscribeConfigurationRequest> = conversation.request().await?;
        let request = request.ok_or_else(|| Failure::new(Code::Internal, "the call ended without a message"))?;
        let named = self.store(call, &request.store_name)?;
        let wanted = self.dapr_selection(call, named, request.keys, request.metadata)?;
        named.accept(call, &wanted)?;
        let subscriber = named.hub.subscriber();
        subscriber.subscribe(&wanted);
        let entry = named.register.enter();
        let (mut in_force, mut early) = (false, Vec::new());
        loop {
            match select(std::pin::pin!(subscriber.next()), std::pin::pin!(entry.ended())).await {
                Either::Right(((), _)) => return Ok(()),
                Either::Left((News::Failed(cause), _)) => {
                    return Err(ConfigurationFailure::Subscribe(&wanted.keys, &named.name, cause).told(call.dialect));
                }
                Either::Left((News::InForce, _)) if in_force => {}
                Either::Left((News::InForce, _)) => {
                    in_force = true;
                    let first = dapr::SubscribeConfigurationResponse { id: entry.id(), ..Default::default() };
                    conversation.reply(&first)?;
                    for changes in early.drain(..) {
                        push_dapr(conversation, &entry.id(), changes)?;
                    }
                }
                Either::Left((News::Changes(changes), _)) if in_force => {
                    push_dapr(conversation, &entry.id(), changes)?;
                }
                Either::Left((News::Changes(changes), _)) => early.push(changes),
            }
        }
    }

    /// `UnsubscribeConfiguration`, whichever worker has the stream.
    async fn unsubscribe(
        &self,
        call: &Call,
        request: dapr::UnsubscribeConfigurationRequest,
    ) -> Result<dapr::UnsubscribeConfigurationResponse, Failure> {
        let _ = self.store(call, &request.store_name); // noted where it is known
        Ok(unsubscribed(&request, self.stores.iter().any(|named| named.register.end(&request.id))))
    }
}

fn unsubscribed(request: &dapr::UnsubscribeConfigurationRequest, ok: bool) -> dapr::UnsubscribeConfigurationResponse {
    let id = text::name(&request.id);
    let unknown = || format!("failed to unsubscribe to configuration request {id}: subscription does not exist");
    dapr::UnsubscribeConfigurationResponse { ok, message: if ok { String::new() } else { unknown() } }
}

/// Sends what changed to an app of Layotto's: a message has items of one app.
fn push(conversation: &Conversation, store: &str, changes: &[Rc<Change>]) -> Result<(), Failure> {
    let mut message = layotto::SubscribeConfigurationResponse { store_name: store.to_owned(), ..Default::default() };
    let mut bytes = 0;
    for change in changes {
        let item = layotto_item(&change.item);
        let full = bytes + item.encoded_len() > MESSAGE_BYTES;
        if !message.items.is_empty() && (full || message.app_id != change.app) {
            conversation.reply(&message)?;
            message.items.clear();
            bytes = 0;
        }
        bytes += item.encoded_len();
        message.app_id.clone_from(&change.app);
        message.items.push(item);
    }
    if message.items.is_empty() { Ok(()) } else { Ok(conversation.reply(&message)?) }
}

/// Sends what changed to an app of Dapr's. A message has an item for a key, so a key that changed twice needs two.
fn push_dapr(conversation: &Conversation, id: &str, changes: Vec<Rc<Change>>) -> Result<(), Failure> {
    let mut message = dapr::SubscribeConfigurationResponse { id: id.to_owned(), ..Default::default() };
    let mut bytes = 0;
    for change in changes {
        let (key, item) = dapr_item(&change.item);
        if !message.items.is_empty() && (bytes + item.encoded_len() > MESSAGE_BYTES || message.items.contains_key(&key))
        {
            conversation.reply(&message)?;
            message.items.clear();
            bytes = 0;
        }
        bytes += item.encoded_len();
        message.items.insert(key, item);
    }
    if message.items.is_empty() { Ok(()) } else { Ok(conversation.reply(&message)?) }
}

fn layotto_item(item: &Item) -> layotto::ConfigurationItem {
    let Item { key, content, group, label, tags, version: _, metadata } = item.clone();
    layotto::ConfigurationItem { key, content, group, label, tags, metadata }
}

/// Dapr's item has no tags: they stand among its metadata, behind what has the same name there.
fn dapr_item(item: &Item) -> (String, common::ConfigurationItem) {
    let Item { key, content, group: _, label: _, tags: mut metadata, version, metadata: own } = item.clone();
    metadata.extend(own);
    (key, common::ConfigurationItem { value: content, version, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::call::{FRAME_HEADER, Intake};
    use crate::budget::Budget;

    fn conversation() -> Conversation {
        let budget = Budget::default();
        budget.set_limit(64 << 20);
        Conversation::new(None, Intake { bytes: 4 << 20, items: 1000, budget }, false)
    }

    fn change(app: &str, key: &str, content: usize) -> Rc<Change> {
        let item = Item { key: key.to_owned(), content: "x".repeat(content), ..Item::default() };
        Rc::new(Change { app: app.to_owned(), item })
    }

    /// A change whose item weighs so much in a message.
    fn weighing(key: &str, bytes: usize, weight: impl Fn(&Item) -> usize) -> Rc<Change> {
        let about = change("a", key, bytes);
        let more = weight(&about.item) - bytes;
        let exact = change("a", key, bytes - more);
        assert_eq!(weight(&exact.item), bytes);
        exact
    }

    fn told<M: Message + Default>(conversation: &Conversation) -> Vec<M> {
        let next = || conversation.take_frame();
        std::iter::from_fn(next).map(|frame| M::decode(frame.slice(FRAME_HEADER..)).unwrap()).collect()
    }

    fn keys(changes: &[Rc<Change>]) -> Vec<(String, Vec<String>)> {
        let conversation = conversation();
        push(&conversation, "s", changes).unwrap();
        let messages: Vec<layotto::SubscribeConfigurationResponse> = told(&conversation);
        assert!(messages.iter().all(|message| message.store_name == "s"));
        let keys = |items: Vec<layotto::ConfigurationItem>| items.into_iter().map(|item| item.key).collect();
        messages.into_iter().map(|message| (message.app_id, keys(message.items))).collect()
    }

    fn keys_dapr(changes: Vec<Rc<Change>>) -> Vec<Vec<String>> {
        let conversation = conversation();
        push_dapr(&conversation, "id", changes).unwrap();
        let messages: Vec<dapr::SubscribeConfigurationResponse> = told(&conversation);
        assert!(messages.iter().all(|message| message.id == "id"));
        messages.into_iter().map(|message| message.items.into_keys().collect()).collect()
    }

    fn owned(keys: &[&str]) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_message_of_layottos_has_items_of_one_app_and_about_so_many_bytes() {
        assert_eq!(keys(&[]), []);
        let small = [change("a", "1", 1), change("a", "2", 1), change("b", "3", 1), change("a", "4", 1)];
        let expected = [("a", &["1", "2"][..]), ("b", &["3"]), ("a", &["4"])];
        assert_eq!(keys(&small), expected.map(|(app, keys)| (app.to_owned(), owned(keys))));
        let weight = |item: &Item| layotto_item(item).encoded_len();
        let half = MESSAGE_BYTES / 2;
        let [one, two] = [weighing("1", half, weight), weighing("2", half, weight)];
        let fits = [Rc::clone(&one), Rc::clone(&two)];
        assert_eq!(keys(&fits), [("a".to_owned(), owned(&["1", "2"]))]);
        let more = weighing("2", half + 1, weight);
        let over = [Rc::clone(&one), more, Rc::clone(&one), Rc::clone(&two)];
        let expected = [&["1"][..], &["2"], &["1", "2"]];
        assert_eq!(keys(&over), expected.map(|keys| ("a".to_owned(), owned(keys))), "counted anew for each message");
        assert_eq!(keys(&[change("a", "large", MESSAGE_BYTES * 2)]).len(), 1, "an item alone may be larger");
    }

    #[test]
    fn a_message_of_daprs_has_a_key_once_and_about_so_many_bytes() {
        assert_eq!(keys_dapr(Vec::new()), Vec::<Vec<String>>::new());
        let twice = vec![change("a", "1", 1), change("a", "2", 1), change("a", "1", 2), change("a", "3", 1)];
        assert_eq!(keys_dapr(twice), [owned(&["1", "2"]), owned(&["1", "3"])]);
        let weight = |item: &Item| dapr_item(item).1.encoded_len();
        let half = MESSAGE_BYTES / 2;
        let [one, two] = [weighing("1", half, weight), weighing("2", half, weight)];
        assert_eq!(keys_dapr(vec![Rc::clone(&one), Rc::clone(&two)]), [owned(&["1", "2"])]);
        let (more, third) = (weighing("2", half + 1, weight), weighing("3", half, weight));
        let over = vec![one, more, third, change("a", "4", half / 2)];
        assert_eq!(keys_dapr(over), [owned(&["1"]), owned(&["2"]), owned(&["3", "4"])]);
    }
}
