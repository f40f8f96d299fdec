//! Counters of a speaker for the metrics of the daemons.

use std::sync::atomic::{AtomicU64, Ordering};

use bgp_session::FailureReason;

/// A number that only increases.
#[derive(Debug, Default)]
pub struct SpeakerCounter(AtomicU64);

impl SpeakerCounter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// One counter for each reason for which a session was not established.
#[derive(Debug)]
pub struct ReasonCounters([SpeakerCounter; FailureReason::ALL.len()]);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| SpeakerCounter::default()))
    }
}

impl ReasonCounters {
    pub fn get(&self, reason: FailureReason) -> u64 {
        self.0[reason as usize].get()
    }

    pub(crate) fn add(&self, reason: FailureReason) {
        self.0[reason as usize].add(1);
    }
}

/// The counters of a speaker since its start.
#[derive(Debug, Default)]
pub struct SpeakerCounters {
    /// Accepted connections that belong to a peer.
    pub connections_accepted: SpeakerCounter,
    /// Connections that were refused because no peer and no group has their address, because the
    /// TCP MD5 key of their address could not be set, or because their group has reached
    /// [`maximum_peers`](crate::GroupConfig::maximum_peers).
    pub connections_without_peer: SpeakerCounter,
    /// Connections that were refused because their peer has an established session. A dynamic peer
    /// is identified by its address and BGP identifier, a configured peer by its address.
    pub duplicates_refused: SpeakerCounter,
    /// Connections that were refused because their address has reached
    /// [`maximum_peers_per_address`](crate::GroupConfig::maximum_peers_per_address).
    pub connections_over_address_maximum: SpeakerCounter,
    /// Failed attempts to accept a connection, for example without free file descriptors.
    pub accept_failures: SpeakerCounter,
    /// Attempts of this speaker to connect to a peer.
    pub dials: SpeakerCounter,
    /// Failed attempts of this speaker to connect to a peer.
    pub dials_failed: SpeakerCounter,
    /// Sessions that were established.
    pub sessions_established: SpeakerCounter,
    /// Failed dials, and connections that were refused or ended before their session was
    /// established, by reason.
    pub sessions_refused: ReasonCounters,
    /// Established sessions that ended.
    pub sessions_lost: SpeakerCounter,
    /// UPDATE messages received from peers.
    pub updates_received: SpeakerCounter,
    /// UPDATE messages sent to peers.
    pub updates_sent: SpeakerCounter,
    /// UPDATE messages with a malformed attribute after which the session stayed established (RFC
    /// 7606).
    pub updates_malformed: SpeakerCounter,
    /// Announced paths that import policy or loop detection rejected.
    pub paths_rejected: SpeakerCounter,
    /// Announced paths that were refused because the peer had reached its maximum of paths.
    pub paths_over_maximum: SpeakerCounter,
    /// Attributes of unknown types that import policy discarded.
    pub attributes_discarded: SpeakerCounter,
    /// Sets of path attributes that import policy changed: LOCAL_PREF, MED, communities, or
    /// attributes of route reflection.
    pub attributes_clamped: SpeakerCounter,
    /// Paths that were withdrawn because their attributes do not fit into one UPDATE message.
    pub paths_unsendable: SpeakerCounter,
}
