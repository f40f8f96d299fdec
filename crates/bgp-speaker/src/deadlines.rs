//! Deadlines of all sessions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bgp_rib::PeerId;

/// One entry for each session with a deadline. The time of the entry is at or before the deadline.
/// If the deadline moves to a later time, the entry does not change: when the early entry is due,
/// the caller schedules the session again. Each received message moves the deadline of the hold
/// timer, so this saves an update of the entry for each received message.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    entries: BTreeSet<(Instant, PeerId)>,
    by_peer: BTreeMap<PeerId, Instant>,
}

impl Deadlines {
    /// Ensures that the entry of the peer is not later than `next`, the next deadline of its
    /// session. `None`: the session has no deadline, and an existing entry does not change.
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

    /// Removes the earliest entry if its time has come, and returns the peer of this entry.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<PeerId> {
        let &(deadline, id) = self.entries.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Returns the time of the earliest entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(deadline, _)| *deadline)
    }
}
