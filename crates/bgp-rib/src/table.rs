//! Paths of each prefix, with the best path (Loc-RIB).

use std::{collections::HashMap, sync::Arc};

use bgp_packet::{IpNet, PathId};

use crate::{
    adj_rib_in::LearnedAttributes,
    decision::{self, DecisionCandidate, NotBestReason},
};

/// The index of a prefix in the table. Valid while the prefix has a path, or an Adj-RIB-Out holds a
/// reference to the entry of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PrefixIndex(u32);

/// The index of a path among the paths of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathSlot(u32);

impl PathSlot {
    /// Returns the path id with which this speaker sends the path. Path ids start at 1, because
    /// many listings show 0 for a missing path id.
    pub(crate) fn path_id(self) -> PathId {
        PathId(self.0 + 1)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct StoredPath {
    /// Path id that the source of the path sent (RFC 7911).
    pub(crate) path_id: Option<PathId>,
    pub(crate) learned: Arc<LearnedAttributes>,
}

impl StoredPath {
    fn candidate(&self) -> DecisionCandidate<'_> {
        DecisionCandidate {
            preference: self.learned.preference(),
            path_id: self.path_id,
        }
    }

    fn has_multi_exit_disc(&self) -> bool {
        self.learned.preference().has_multi_exit_disc()
    }
}

#[derive(Debug)]
pub(crate) struct PrefixEntry {
    prefix: IpNet,
    paths: Vec<Option<StoredPath>>,
    vacant: Vec<PathSlot>,
    best: Option<PathSlot>,
    /// Number of paths with a MULTI_EXIT_DISC above 0. If the number is not 0, the preference of
    /// paths is not a total order.
    multi_exit_discs: u32,
    /// Number of keys in Adj-RIBs-Out that refer to this entry.
    references: u32,
}

impl PrefixEntry {
    fn new(prefix: IpNet) -> Self {
        Self {
            prefix,
            paths: Vec::new(),
            vacant: Vec::new(),
            best: None,
            multi_exit_discs: 0,
            references: 0,
        }
    }

    pub(crate) fn prefix(&self) -> IpNet {
        self.prefix
    }

    pub(crate) fn path(&self, slot: PathSlot) -> Option<&StoredPath> {
        self.paths.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn best(&self) -> Option<(PathSlot, &StoredPath)> {
        let slot = self.best?;
        Some((slot, self.path(slot)?))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = (PathSlot, &StoredPath)> + Clone {
        let slots = (0..).map(PathSlot);
        slots
            .zip(&self.paths)
            .filter_map(|(slot, path)| Some((slot, path.as_ref()?)))
    }

    /// Returns every path with the reason why it is not the best path.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = (&StoredPath, Option<NotBestReason>)> {
        let candidates = self.paths().map(|(_, path)| path.candidate());
        let verdicts = self
            .best()
            .map(|(_, best)| decision::verdicts(candidates, best.candidate()));
        self.paths()
            .map(|(_, path)| path)
            .zip(verdicts.into_iter().flatten())
    }

    /// Returns the reason why the path in this slot is not the best path. `None`: the path is the
    /// best path, or the slot is empty.
    pub(crate) fn verdict(&self, slot: PathSlot) -> Option<NotBestReason> {
        let candidate = self.path(slot)?.candidate();
        let best = self.best()?.1.candidate();
        if self.has_multi_exit_discs() {
            let candidates = self.paths().map(|(_, path)| path.candidate());
            decision::verdict_among(candidates, candidate, best)
        } else {
            decision::verdict(candidate, best)
        }
    }

    /// Reports whether at least one path has a MULTI_EXIT_DISC above 0. Then all paths of the
    /// prefix are needed to find why a path is not the best path.
    pub(crate) fn has_multi_exit_discs(&self) -> bool {
        self.multi_exit_discs > 0
    }

    fn is_empty(&self) -> bool {
        self.paths.len() == self.vacant.len()
    }

    fn put(&mut self, slot: Option<PathSlot>, path: StoredPath) -> (PathSlot, bool) {
        let slot = slot.or_else(|| self.vacant.pop()).unwrap_or_else(|| {
            self.paths.push(None);
            PathSlot(
                u32::try_from(self.paths.len() - 1).expect("a prefix has fewer than 2^32 paths"),
            )
        });
        self.multi_exit_discs += u32::from(path.has_multi_exit_disc());
        let replaced = self.paths[slot.0 as usize].replace(path);
        self.multi_exit_discs -= u32::from(replaced.is_some_and(|old| old.has_multi_exit_disc()));
        let best_before = self.best;
        self.decide(slot);
        // New attributes of the best path count as a change of the best path.
        (slot, self.best != best_before || self.best == Some(slot))
    }

    fn remove(&mut self, slot: PathSlot) -> bool {
        let removed = self.paths.get_mut(slot.0 as usize).and_then(Option::take);
        let Some(path) = removed else { return false };
        self.multi_exit_discs -= u32::from(path.has_multi_exit_disc());
        self.vacant.push(slot);
        let best_before = self.best;
        self.decide(slot);
        self.best != best_before || best_before == Some(slot)
    }

    /// Runs the decision process after the path in the slot `changed` was added, replaced or
    /// removed.
    fn decide(&mut self, changed: PathSlot) {
        let is_one_comparison_enough = self.multi_exit_discs == 0 && self.best != Some(changed);
        if is_one_comparison_enough && let Some((_, best)) = self.best() {
            let challenger = self.path(changed);
            if challenger
                .is_some_and(|path| decision::is_better(path.candidate(), best.candidate()))
            {
                self.best = Some(changed);
            }
            return;
        }
        let position = decision::best(self.paths().map(|(_, path)| path.candidate()));
        self.best = position.and_then(|position| Some(self.paths().nth(position)?.0));
    }
}

/// The result of a change of one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathChange {
    pub(crate) prefix: PrefixIndex,
    pub(crate) slot: PathSlot,
    /// Whether the change gave the prefix another best path or its first path, removed its last
    /// path, or changed the attributes of its best path.
    pub(crate) is_best_changed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct PathTable {
    indices: HashMap<IpNet, PrefixIndex>,
    entries: Vec<Option<PrefixEntry>>,
    vacant: Vec<PrefixIndex>,
}

impl PathTable {
    pub(crate) fn index(&self, prefix: IpNet) -> Option<PrefixIndex> {
        self.indices.get(&prefix).copied()
    }

    pub(crate) fn index_or_insert(&mut self, prefix: IpNet) -> PrefixIndex {
        *self.indices.entry(prefix).or_insert_with(|| {
            let entry = Some(PrefixEntry::new(prefix));
            if let Some(index) = self.vacant.pop() {
                self.entries[index.0 as usize] = entry;
                index
            } else {
                self.entries.push(entry);
                PrefixIndex(
                    u32::try_from(self.entries.len() - 1)
                        .expect("the table has fewer than 2^32 prefixes"),
                )
            }
        })
    }

    pub(crate) fn entry(&self, index: PrefixIndex) -> &PrefixEntry {
        self.entries[index.0 as usize]
            .as_ref()
            .expect("the entry of a valid index exists")
    }

    fn entry_mut(&mut self, index: PrefixIndex) -> &mut PrefixEntry {
        self.entries[index.0 as usize]
            .as_mut()
            .expect("the entry of a valid index exists")
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (PrefixIndex, &PrefixEntry)> {
        let indices = (0..).map(PrefixIndex);
        indices
            .zip(&self.entries)
            .filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// Stores the path in `slot`, or in a vacant slot if `slot` is `None`.
    pub(crate) fn put(
        &mut self,
        prefix: PrefixIndex,
        slot: Option<PathSlot>,
        path: StoredPath,
    ) -> PathChange {
        let (slot, is_best_changed) = self.entry_mut(prefix).put(slot, path);
        PathChange {
            prefix,
            slot,
            is_best_changed,
        }
    }

    /// Removes the path, but not the entry of the prefix. The caller has to hold a reference to the
    /// entry, or to call [`PathTable::release`] after this call.
    pub(crate) fn remove(&mut self, prefix: PrefixIndex, slot: PathSlot) -> PathChange {
        let is_best_changed = self.entry_mut(prefix).remove(slot);
        PathChange {
            prefix,
            slot,
            is_best_changed,
        }
    }

    pub(crate) fn add_reference(&mut self, index: PrefixIndex) {
        self.entry_mut(index).references += 1;
    }

    pub(crate) fn drop_reference(&mut self, index: PrefixIndex) {
        self.entry_mut(index).references -= 1;
        self.release(index);
    }

    /// Frees the entry if it has no paths and no references.
    pub(crate) fn release(&mut self, index: PrefixIndex) {
        let entry = self.entry(index);
        if entry.is_empty() && entry.references == 0 {
            self.indices.remove(&entry.prefix());
            self.entries[index.0 as usize] = None;
            self.vacant.push(index);
        }
    }

    pub(crate) fn prefix_count(&self) -> usize {
        self.indices.len()
    }
}
