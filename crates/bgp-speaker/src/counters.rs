//! What the speaker has done since it started, for the daemons' metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use bgp_session::FailureReason;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// A counter for each reason.
#[derive(Debug)]
pub struct ReasonCounters([Counter; FailureReason::ALL.len()]);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl ReasonCounters {
    /// The value for this reason.
    pub fn get(&self, reason: FailureReason) -> u64 {
        self.0[reason as usize].get()
    }

    pub(crate) fn add(&self, reason: FailureReason) {
        self.0[reason as usize].add(1);
    }
}

/// All counters of a speaker.
#[derive(Debug, Default)]
pub struct SpeakerCounters {
    /// Connections that a peer opened.
    pub connections_accepted: Counter,
    /// Connections that belonged to no peer and were closed at once.
    pub strangers_refused: Counter,
    /// Connections that were refused because their peer has an established session: the peer has
    /// the same address, and, if it belongs to a group, the same BGP identifier.
    pub duplicates_refused: Counter,
    /// Connections that were refused because the peers of their address have reached
    /// [`maximum_peers_per_address`](crate::GroupConfig::maximum_peers_per_address).
    pub connections_over_address_maximum: Counter,
    /// Failed attempts to accept a connection, such as without free file descriptors.
    pub accept_failures: Counter,
    /// Attempts to connect.
    pub dials: Counter,
    /// Attempts to connect that failed.
    pub dials_failed: Counter,
    /// Sessions that came up.
    pub sessions_established: Counter,
    /// Attempts to connect, and connections, that did not become an established session.
    pub sessions_refused: ReasonCounters,
    /// Established sessions that ended.
    pub sessions_lost: Counter,
    /// UPDATE messages of peers.
    pub updates_received: Counter,
    /// UPDATE messages to peers.
    pub updates_sent: Counter,
    /// UPDATE messages with a malformed attribute that did not end the session (RFC 7606).
    pub updates_malformed: Counter,
    /// Announcements that policy or loop detection did not accept.
    pub paths_rejected: Counter,
    /// Announcements beyond a peer's maximum of paths that were refused.
    pub paths_over_maximum: Counter,
    /// Attributes of unknown types that import policy discarded.
    pub attributes_discarded: Counter,
    /// Sets of path attributes that import policy changed: LOCAL_PREF, MED, communities, attributes of
    /// reflection.
    pub attributes_clamped: Counter,
    /// Announcements whose attributes fit into no message.
    pub paths_unsendable: Counter,
}
