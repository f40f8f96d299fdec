//! The paths of each prefix, and the best one of them (Loc-RIB).

use std::{collections::HashMap, sync::Arc};

use bgp_packet::{IpNet, PathId};

use crate::{
    adj_rib_in::Learned,
    decision::{self, Candidate, NotBestReason},
};

/// A prefix of the table. Valid while a path, or somebody who counted a reference, needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PrefixIndex(u32);

/// The place of a path among those of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Path ids of our own start at 1, since 0 reads like "none" in many a listing.
    pub(crate) fn path_id(self) -> PathId {
        PathId(self.0 + 1)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// As its source sent it.
    pub(crate) path_id: Option<PathId>,
    pub(crate) learned: Arc<Learned>,
}

impl Path {
    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            preference: self.learned.preference(),
            path_id: self.path_id,
        }
    }

    fn has_multi_exit_disc(&self) -> bool {
        self.learned.preference().has_multi_exit_disc()
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    prefix: IpNet,
    paths: Vec<Option<Path>>,
    vacant: Vec<Slot>,
    best: Option<Slot>,
    /// How many paths make the preference something else than a total order.
    multi_exit_discs: u32,
    /// Keys of Adj-RIBs-Out that name this entry.
    references: u32,
}

impl Entry {
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

    pub(crate) fn path(&self, slot: Slot) -> Option<&Path> {
        self.paths.get(slot.0 as usize)?.as_ref()
    }

    pub(crate) fn best(&self) -> Option<(Slot, &Path)> {
        let slot = self.best?;
        Some((slot, self.path(slot)?))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = (Slot, &Path)> + Clone {
        let slots = (0..).map(Slot);
        slots
            .zip(&self.paths)
            .filter_map(|(slot, path)| Some((slot, path.as_ref()?)))
    }

    /// Every path with the reason why it is not the best one.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = (&Path, Option<NotBestReason>)> {
        let candidates = self.paths().map(|(_, path)| path.candidate());
        let verdicts = self
            .best()
            .map(|(_, best)| decision::verdicts(candidates, best.candidate()));
        self.paths()
            .map(|(_, path)| path)
            .zip(verdicts.into_iter().flatten())
    }

    /// Why the path in this slot is not the best one.
    pub(crate) fn verdict(&self, slot: Slot) -> Option<NotBestReason> {
        let candidate = self.path(slot)?.candidate();
        let best = self.best()?.1.candidate();
        if self.has_multi_exit_discs() {
            let candidates = self.paths().map(|(_, path)| path.candidate());
            decision::verdict_among(candidates, candidate, best)
        } else {
            decision::verdict(candidate, best)
        }
    }

    /// Whether any of the paths' verdicts depends on more than the path itself and the best one.
    pub(crate) fn has_multi_exit_discs(&self) -> bool {
        self.multi_exit_discs > 0
    }

    fn is_empty(&self) -> bool {
        self.paths.len() == self.vacant.len()
    }

    fn put(&mut self, slot: Option<Slot>, path: Path) -> (Slot, bool) {
        let slot = slot.or_else(|| self.vacant.pop()).unwrap_or_else(|| {
            self.paths.push(None);
            Slot(u32::try_from(self.paths.len() - 1).expect("fewer paths than a path id can name"))
        });
        self.multi_exit_discs += u32::from(path.has_multi_exit_disc());
        let replaced = self.paths[slot.0 as usize].replace(path);
        self.multi_exit_discs -= u32::from(replaced.is_some_and(|old| old.has_multi_exit_disc()));
        let best_before = self.best;
        self.decide(slot);
        // A best path with other attributes is another best path.
        (slot, self.best != best_before || self.best == Some(slot))
    }

    fn remove(&mut self, slot: Slot) -> bool {
        let removed = self.paths.get_mut(slot.0 as usize).and_then(Option::take);
        let Some(path) = removed else { return false };
        self.multi_exit_discs -= u32::from(path.has_multi_exit_disc());
        self.vacant.push(slot);
        let best_before = self.best;
        self.decide(slot);
        self.best != best_before || best_before == Some(slot)
    }

    /// Runs the decision process after `changed` got a path, another path or none.
    fn decide(&mut self, changed: Slot) {
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

/// What a change of one path did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) prefix: PrefixIndex,
    pub(crate) slot: Slot,
    /// Whether the best path is another one, or has other attributes.
    pub(crate) is_best_changed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    indices: HashMap<IpNet, PrefixIndex>,
    entries: Vec<Option<Entry>>,
    vacant: Vec<PrefixIndex>,
}

impl Table {
    pub(crate) fn index(&self, prefix: IpNet) -> Option<PrefixIndex> {
        self.indices.get(&prefix).copied()
    }

    pub(crate) fn index_or_insert(&mut self, prefix: IpNet) -> PrefixIndex {
        *self.indices.entry(prefix).or_insert_with(|| {
            let entry = Some(Entry::new(prefix));
            if let Some(index) = self.vacant.pop() {
                self.entries[index.0 as usize] = entry;
                index
            } else {
                self.entries.push(entry);
                PrefixIndex(
                    u32::try_from(self.entries.len() - 1).expect("fewer prefixes than 2^32"),
                )
            }
        })
    }

    pub(crate) fn entry(&self, index: PrefixIndex) -> &Entry {
        self.entries[index.0 as usize]
            .as_ref()
            .expect("an index lives as long as its entry")
    }

    fn entry_mut(&mut self, index: PrefixIndex) -> &mut Entry {
        self.entries[index.0 as usize]
            .as_mut()
            .expect("an index lives as long as its entry")
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (PrefixIndex, &Entry)> {
        let indices = (0..).map(PrefixIndex);
        indices
            .zip(&self.entries)
            .filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// Puts the path into its slot, or into a vacant one where it has none yet.
    pub(crate) fn put(&mut self, prefix: PrefixIndex, slot: Option<Slot>, path: Path) -> Change {
        let (slot, is_best_changed) = self.entry_mut(prefix).put(slot, path);
        Change {
            prefix,
            slot,
            is_best_changed,
        }
    }

    /// Takes the path out. The caller holds a reference to the entry, or lets it go with
    /// [`Table::release`].
    pub(crate) fn remove(&mut self, prefix: PrefixIndex, slot: Slot) -> Change {
        let is_best_changed = self.entry_mut(prefix).remove(slot);
        Change {
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

    /// Frees the entry unless something needs it.
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
