//! What one peer has been sent, and what is pending for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bgp_packet::{Announced, Family, Nlri, PathAttributes, Update};

use crate::table::{PrefixIndex, Slot};

/// What a peer can hold one path for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) prefix: PrefixIndex,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// The best path of the prefix, to a peer that takes one.
    Best,
    /// The path in this slot, to a peer that takes all (RFC 7911).
    Slot(Slot),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Pending {
    Key {
        key: Key,
        /// Sent even if the peer has it (RFC 2918).
        is_refresh: bool,
    },
    EndOfRib(Family),
}

#[derive(Debug, Default)]
pub(crate) struct AdjRibOut {
    /// In the order of the first change; each key at most once.
    queue: VecDeque<Queued>,
    /// The keys of the queue, each with whether it is to be sent in any case.
    refreshes: HashMap<Key, bool>,
    sent: HashMap<Key, Arc<PathAttributes>>,
}

#[derive(Debug)]
enum Queued {
    Key(Key),
    EndOfRib(Family),
}

impl AdjRibOut {
    /// Returns whether the key was not pending before.
    pub(crate) fn mark(&mut self, key: Key, is_refresh: bool) -> bool {
        let mut is_new = false;
        let pending = self.refreshes.entry(key).or_insert_with(|| {
            is_new = true;
            false
        });
        *pending |= is_refresh;
        if is_new {
            self.queue.push_back(Queued::Key(key));
        }
        is_new
    }

    pub(crate) fn mark_end_of_rib(&mut self, family: Family) {
        self.queue.push_back(Queued::EndOfRib(family));
    }

    pub(crate) fn pop(&mut self) -> Option<Pending> {
        Some(match self.queue.pop_front()? {
            Queued::EndOfRib(family) => Pending::EndOfRib(family),
            Queued::Key(key) => {
                let is_refresh = self.refreshes.remove(&key).unwrap_or(false);
                Pending::Key { key, is_refresh }
            }
        })
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn pending_count(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_pending(&self, key: Key) -> bool {
        self.refreshes.contains_key(&key)
    }

    pub(crate) fn sent(&self, key: Key) -> Option<&Arc<PathAttributes>> {
        self.sent.get(&key)
    }

    /// Returns whether the peer had nothing under the key before.
    pub(crate) fn record(&mut self, key: Key, attributes: Arc<PathAttributes>) -> bool {
        self.sent.insert(key, attributes).is_none()
    }

    /// Returns whether the peer had something under the key.
    pub(crate) fn forget(&mut self, key: Key) -> bool {
        self.sent.remove(&key).is_some()
    }

    pub(crate) fn sent_count(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn all_sent(&self) -> impl Iterator<Item = (Key, &Arc<PathAttributes>)> {
        self.sent.iter().map(|(&key, attributes)| (key, attributes))
    }

    /// Every reference to an entry of the table that this holds.
    pub(crate) fn references(&self) -> impl Iterator<Item = PrefixIndex> {
        self.refreshes
            .keys()
            .chain(self.sent.keys())
            .map(|key| key.prefix)
    }
}

/// Collects what is to be sent: one UPDATE of withdrawals, then one for each set of attributes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    withdrawn: Vec<Nlri>,
    announced: Vec<Announced>,
    positions: HashMap<*const PathAttributes, usize>,
}

impl Batch {
    pub(crate) fn withdraw(&mut self, nlri: Nlri) {
        self.withdrawn.push(nlri);
    }

    pub(crate) fn announce(&mut self, nlri: Nlri, attributes: Arc<PathAttributes>) {
        let pointer = Arc::as_ptr(&attributes);
        if let Some(last) = self.announced.last_mut()
            && Arc::ptr_eq(&last.attributes, &attributes)
        {
            last.nlri.push(nlri);
            return;
        }
        let position = *self
            .positions
            .entry(pointer)
            .or_insert(self.announced.len());
        match self.announced.get_mut(position) {
            Some(group) => group.nlri.push(nlri),
            None => self.announced.push(Announced {
                attributes,
                nlri: vec![nlri],
            }),
        }
    }

    pub(crate) fn into_updates(self, end_of_rib: Option<Family>) -> Vec<Update> {
        let withdrawn = (!self.withdrawn.is_empty()).then_some(Update {
            withdrawn: self.withdrawn,
            ..Update::default()
        });
        let announced = self.announced.into_iter().map(|group| Update {
            announced: vec![group],
            ..Update::default()
        });
        let end_of_rib = end_of_rib.map(|family| Update {
            end_of_rib: Some(family),
            ..Update::default()
        });
        withdrawn
            .into_iter()
            .chain(announced)
            .chain(end_of_rib)
            .collect()
    }
}
