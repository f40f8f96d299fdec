//! Peers and sessions at a moment.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bgp_packet::Asn;
use bgp_rib::{PeerCounts, PeerId, Rib};
use bgp_session::{SessionState, Status};

use crate::{connections::Connections, peer::Peers};

/// A peer and its session at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Unique.
    pub name: String,
    /// Group that it belongs to.
    pub group: Option<String>,
    /// Address, and the port that it listens on; of a dynamic peer the port that it came from.
    pub address: SocketAddr,
    /// AS that it must have.
    pub configured_asn: Option<Asn>,
    /// Whether it came up by the prefix of a group.
    pub is_dynamic: bool,
    /// Its session.
    pub session: Status,
    /// This side's address of the established connection.
    pub local_address: Option<SocketAddr>,
    /// Time in the state.
    pub in_state: Duration,
    /// Until the hold timer expires; `None`: it does not run.
    pub hold_timer_remaining: Option<Duration>,
    /// Sizes of its tables.
    pub counts: PeerCounts,
}

impl PeerStatus {
    /// Whether routes flow.
    pub fn is_established(&self) -> bool {
        self.session.state == SessionState::Established
    }
}

/// The state that lists are read from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) connections: &'a Connections,
    pub(crate) rib: &'a Rib,
}

impl View<'_> {
    pub(crate) fn peers(self, now: Instant) -> Vec<PeerStatus> {
        let ids = self.peers.ids().into_iter();
        ids.filter_map(|id| self.peer(id, now)).collect()
    }

    pub(crate) fn peer(self, id: PeerId, now: Instant) -> Option<PeerStatus> {
        let peer = self.peers.get(id)?;
        let session = peer.session.status();
        let addresses = peer
            .established
            .and_then(|connection| self.connections.addresses(connection));
        Some(PeerStatus {
            name: peer.config.name.clone(),
            group: peer.config.group.clone(),
            address: peer.config.address,
            configured_asn: peer.config.session.peer_asn,
            is_dynamic: peer.is_dynamic,
            local_address: addresses.map(|it| it.local),
            in_state: now.saturating_duration_since(session.since),
            hold_timer_remaining: session
                .hold_deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            counts: self.rib.counts(id),
            session,
        })
    }
}
