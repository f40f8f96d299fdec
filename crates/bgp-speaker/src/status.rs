//! Status of peers and their sessions.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bgp_packet::Asn;
use bgp_rib::{PeerCounts, PeerId, Rib};
use bgp_session::{SessionState, SessionStatus};

use crate::{connections::ConnectionTasks, peer::Peers};

/// A snapshot of a peer and its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Unique among all peers.
    pub name: String,
    /// `None`: the peer belongs to no peer group.
    pub group: Option<String>,
    /// Address of the peer with the port on which it listens. A dynamic peer has the source port of
    /// its connection instead.
    pub address: SocketAddr,
    /// AS that the peer must have. `None`: any AS.
    pub configured_asn: Option<Asn>,
    /// Whether the peer was added because it connected from a prefix of a group.
    pub is_dynamic: bool,
    pub session: SessionStatus,
    /// Local address of the established connection. `None`: the session is not established.
    pub local_address: Option<SocketAddr>,
    /// Time since the last change of the session state.
    pub in_state: Duration,
    /// Time until the hold timer expires. `None`: the timer does not run.
    pub hold_timer_remaining: Option<Duration>,
    /// Numbers of paths in the Adj-RIB-In and the Adj-RIB-Out of the peer.
    pub counts: PeerCounts,
}

impl PeerStatus {
    pub fn is_established(&self) -> bool {
        self.session.state == SessionState::Established
    }
}

/// References to the state of the speaker, for lists of peers and paths.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) connections: &'a ConnectionTasks,
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
            local_address: addresses.map(|addresses| addresses.local),
            in_state: now.saturating_duration_since(session.since),
            hold_timer_remaining: session
                .hold_deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            counts: self.rib.counts(id),
            session,
        })
    }
}
