//! What the subscribers of a store know, for drivers that tell changes by reading again.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::watch::Topic;
use super::{Change, Item};

/// The topics that were read, and the items in them as the subscribers were told of them.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    read: BTreeSet<Rc<Topic>>,
    known: BTreeMap<Topic, u64>,
}

impl Knowledge {
    /// Takes what the store holds of a topic. The first time it is known from then on; after that it gives what may
    /// have changed, with an empty content for what is gone.
    pub(super) fn read(&mut self, topic: &Rc<Topic>, items: Vec<Item>) -> Vec<Change> {
        let mut changes: Vec<Change> = items.into_iter().map(|item| Change { app: topic.app.clone(), item }).collect();
        if !self.read.contains(topic) {
            for change in changes {
                let item = Topic::of(&change);
                // What others have subscribed already they are told of by what comes later.
                if !change.item.content.is_empty() && !self.is_read(&item) {
                    self.known.insert(item, fingerprint(&change.item));
                }
            }
            self.read.insert(Rc::clone(topic));
            return Vec::new();
        }
        let mut gone: BTreeSet<Topic> = self.known_of(topic).into_iter().collect();
        for change in &changes {
            gone.remove(&Topic::of(change));
        }
        for Topic { app, group, label, key } in gone {
            let item = Item { key: key.unwrap_or_default(), group, label, ..Item::default() };
            changes.push(Change { app, item });
        }
        changes
    }

    /// Remembers an item, and says whether that is news.
    pub(super) fn note(&mut self, change: &Change) -> bool {
        let topic = Topic::of(change);
        if !self.is_read(&topic) {
            return true; // nobody knows anything about it yet
        }
        if change.item.content.is_empty() {
            return self.known.remove(&topic).is_some();
        }
        let now = fingerprint(&change.item);
        self.known.insert(topic, now) != Some(now)
    }

    /// Forgets what was known of a topic, but for what another topic covers.
    pub(super) fn forget(&mut self, topic: &Rc<Topic>) {
        if !self.read.remove(topic) {
            return;
        }
        for item in self.known_of(topic) {
            if !self.is_read(&item) {
                self.known.remove(&item);
            }
        }
    }

    /// Whether an item is among what was read.
    fn is_read(&self, item: &Topic) -> bool {
        self.read.contains(item) || self.read.contains(&item.whole())
    }

    /// The items of a topic that subscribers know.
    fn known_of(&self, topic: &Topic) -> Vec<Topic> {
        if topic.key.is_some() {
            return self.known.get_key_value(topic).map(|(topic, _)| topic.clone()).into_iter().collect();
        }
        let alike = |item: &&Topic| item.app == topic.app && item.group == topic.group && item.label == topic.label;
        self.known.range(topic..).map(|(item, _)| item).take_while(alike).cloned().collect()
    }
}

/// Whether an item is the same as before is told by this.
fn fingerprint(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    item.hash(&mut hasher);
    hasher.finish()
}
