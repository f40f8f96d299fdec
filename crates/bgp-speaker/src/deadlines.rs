//! The deadlines of all sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bgp_rib::PeerId;

/// One entry for each session, at or before its next deadline. An entry that proves too early is
/// renewed when it comes up, which spares a change with every message.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    entries: BTreeSet<(Instant, PeerId)>,
    by_peer: BTreeMap<PeerId, Instant>,
}

impl Deadlines {
    /// Makes sure that the session of the peer comes up at `next`, if it has a deadline.
    pub(crate) fn schedule(&mut self, id: PeerId, next: Option<Instant>) {
        let Some(next) = next else {
            return;
        };
        if self
            .by_peer
            .get(&id)
            .is_some_and(|earlier| *earlier <= next)
        {
            return;
        }
        self.remove(id);
        self.by_peer.insert(id, next);
        self.entries.insert((next, id));
    }

    pub(crate) fn remove(&mut self, id: PeerId) {
        if let Some(deadline) = self.by_peer.remove(&id) {
            self.entries.remove(&(deadline, id));
        }
    }

    /// Takes the first entry that has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<PeerId> {
        let &(deadline, id) = self.entries.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Returns the time of the next entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(deadline, _)| *deadline)
    }
}
