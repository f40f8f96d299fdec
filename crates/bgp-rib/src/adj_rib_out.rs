//! Adj-RIB-Out of one peer: the sent paths, and the keys of changes that are not sent yet.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bgp_packet::{Announced, Family, Nlri, PathAttributes, Update};

use crate::table::{PathSlot, PrefixIndex};

/// The key of a sent path. A peer has at most one path for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SentPathKey {
    pub(crate) prefix: PrefixIndex,
    pub(crate) choice: PathChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PathChoice {
    /// The best path of the prefix, for a peer that receives only the best path.
    Best,
    /// The path in this slot of the prefix, for a peer that receives all paths (RFC 7911).
    Slot(PathSlot),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum PendingItem {
    Key {
        key: SentPathKey,
        /// `true`: a ROUTE-REFRESH (RFC 2918) requested the path, so the path is sent even if it is
        /// equal to the path that was sent before.
        is_refresh: bool,
    },
    EndOfRib(Family),
}

#[derive(Debug, Default)]
pub(crate) struct AdjRibOut {
    /// Pending keys and end-of-RIB marks, in the order in which they were added. Each key occurs at
    /// most once.
    queue: VecDeque<Queued>,
    /// The pending keys. The value is `true` if a ROUTE-REFRESH requested the path of the key.
    refreshes: HashMap<SentPathKey, bool>,
    sent: HashMap<SentPathKey, Arc<PathAttributes>>,
}

#[derive(Debug)]
enum Queued {
    Key(SentPathKey),
    EndOfRib(Family),
}

impl AdjRibOut {
    /// Marks the key as pending. Returns `true` if the key was not pending before this call.
    pub(crate) fn mark_pending(&mut self, key: SentPathKey, is_refresh: bool) -> bool {
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

    pub(crate) fn pop(&mut self) -> Option<PendingItem> {
        Some(match self.queue.pop_front()? {
            Queued::EndOfRib(family) => PendingItem::EndOfRib(family),
            Queued::Key(key) => {
                let is_refresh = self.refreshes.remove(&key).unwrap_or(false);
                PendingItem::Key { key, is_refresh }
            }
        })
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn pending_count(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_pending(&self, key: SentPathKey) -> bool {
        self.refreshes.contains_key(&key)
    }

    pub(crate) fn sent(&self, key: SentPathKey) -> Option<&Arc<PathAttributes>> {
        self.sent.get(&key)
    }

    /// Records a sent path. Returns `true` if no sent path was recorded for the key before this
    /// call.
    pub(crate) fn record(&mut self, key: SentPathKey, attributes: Arc<PathAttributes>) -> bool {
        self.sent.insert(key, attributes).is_none()
    }

    /// Removes the record of the path that was sent for the key. Returns `true` if there was a
    /// record.
    pub(crate) fn forget(&mut self, key: SentPathKey) -> bool {
        self.sent.remove(&key).is_some()
    }

    pub(crate) fn sent_count(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn all_sent(&self) -> impl Iterator<Item = (SentPathKey, &Arc<PathAttributes>)> {
        self.sent.iter().map(|(&key, attributes)| (key, attributes))
    }

    /// Returns the prefix of each pending key and of each sent path. Each pending key and each sent
    /// path holds one reference to the table entry of its prefix, so a prefix can occur several
    /// times.
    pub(crate) fn references(&self) -> impl Iterator<Item = PrefixIndex> {
        self.refreshes
            .keys()
            .chain(self.sent.keys())
            .map(|key| key.prefix)
    }
}

/// Collects withdrawals and announcements and makes UPDATE messages from them: one UPDATE with all
/// withdrawals if there are any, then one UPDATE for each set of attributes, then the end-of-RIB
/// mark if there is one.
#[derive(Debug, Default)]
pub(crate) struct UpdateBatch {
    withdrawn: Vec<Nlri>,
    announced: Vec<Announced>,
    positions: HashMap<*const PathAttributes, usize>,
}

impl UpdateBatch {
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
