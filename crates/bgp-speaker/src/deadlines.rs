//! The deadlines of all sessions.

use std::time::{Duration, Instant};

use bgp_rib::PeerId;
use bgp_session::Input;

use crate::owner::Owner;

impl Owner {
    /// Keeps the entry of a session among the deadlines at or before its next one. An entry that
    /// proves too early is renewed when it comes up, which spares a change with every message.
    pub(crate) fn schedule(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(next) = peer.session.next_deadline() else {
            return;
        };
        if peer.scheduled.is_some_and(|scheduled| scheduled <= next) {
            return;
        }
        if let Some(scheduled) = peer.scheduled.replace(next) {
            self.deadlines.remove(&(scheduled, id));
        }
        self.deadlines.insert((next, id));
    }

    /// Handles the deadlines that have come.
    pub(crate) fn run_deadlines(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            peer.scheduled = None;
            match peer.session.next_deadline() {
                Some(next) if next <= now => self.drive(id, Input::DeadlineReached, now),
                Some(_) | None => self.schedule(id),
            }
        }
    }

    /// Time until the next deadline.
    pub(crate) fn until_deadline(&self, now: Instant) -> Option<Duration> {
        self.deadlines
            .first()
            .map(|(deadline, _)| deadline.saturating_duration_since(now))
    }
}
