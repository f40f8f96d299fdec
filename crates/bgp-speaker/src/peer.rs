//! Peers and their sessions.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use bgp_packet::{Family, RouterId};
use bgp_rib::{
    LocalAddresses, MaximumPathsAction, PathSource, PeerId, PeerKind, PeerSettings, RibFamily,
};
use bgp_session::{ConnectionId, Negotiated, Session, SessionState};

use crate::{
    config::{PeerConfig, SessionConfig},
    connections::{ConnectionAddresses, Dial},
    journal::LoggedOnce,
};

/// A configured or dynamic peer with its session.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    pub(crate) is_dynamic: bool,
    pub(crate) session: Session,
    /// BGP identifier in the OPEN message of a dynamic peer: two speakers behind one masqueraded
    /// address have different identifiers. `None`: no OPEN message has arrived, or the peer is not
    /// dynamic.
    pub(crate) router_id: Option<RouterId>,
    /// The maximum of paths that the peer exceeded. `None`: the peer has exceeded no maximum since
    /// its last session was established.
    pub(crate) exceeded: Option<u32>,
    pub(crate) dial: Option<Dial>,
    pub(crate) connections: Vec<ConnectionId>,
    pub(crate) established: Option<ConnectionId>,
    /// Revision of the speaker's own paths up to which all changes have been written to the socket
    /// of the peer's established session.
    pub(crate) flushed: u64,
    /// The log lines that the session has logged and logs only once. Reset when the session is
    /// established and when the configuration of the peer changes.
    pub(crate) logged: LoggedOnce,
    /// Families whose routes the speaker is about to request from the peer again (RFC 2918).
    pub(crate) refreshes: BTreeSet<Family>,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, is_dynamic: bool, session: Session) -> Self {
        Self {
            config,
            is_dynamic,
            session,
            router_id: None,
            exceeded: None,
            dial: None,
            connections: Vec::new(),
            established: None,
            flushed: 0,
            logged: LoggedOnce::default(),
            refreshes: BTreeSet::new(),
        }
    }

    /// Reports whether every connection from the address belongs to this peer. A dynamic peer can
    /// share its address with other speakers, except during the pause after it exceeded its maximum
    /// of paths.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.config.passive
            && self.config.address.ip() == address
            && (!self.is_dynamic || self.session.state() == SessionState::Idle)
    }

    /// Reports whether the peer is dynamic and has sent no OPEN message, so that its BGP identifier
    /// is unknown.
    pub(crate) fn waits_for_open(&self) -> bool {
        self.is_dynamic && self.router_id.is_none()
    }

    /// Reports whether a peer that pauses because it exceeded a maximum of paths can connect again:
    /// the configuration of the peer has a higher maximum, no maximum, or the action `Block`.
    pub(crate) fn can_reconnect(&self) -> bool {
        let import = &self.config.session.import;
        self.session.state() == SessionState::Idle
            && self.exceeded.is_some_and(|exceeded| {
                import.at_maximum == MaximumPathsAction::Block
                    || import
                        .maximum_paths
                        .is_none_or(|maximum| maximum > exceeded)
            })
    }

    /// Reports whether the peer is dynamic, has no connection, and does not pause because it
    /// exceeded its maximum of paths.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_dynamic
            && self.connections.is_empty()
            && self.session.state() == SessionState::Active
    }

    pub(crate) fn cancel_dial(&mut self) {
        if let Some(dial) = self.dial.take() {
            dial.cancel();
        }
    }

    /// Records that the session is established. Returns the settings of the peer for the RIB.
    pub(crate) fn established(
        &mut self,
        connection: ConnectionId,
        addresses: ConnectionAddresses,
        negotiated: &Negotiated,
    ) -> PeerSettings {
        self.exceeded = None;
        self.established = Some(connection);
        self.flushed = 0;
        self.logged = LoggedOnce::default();
        self.refreshes.clear();
        let families = negotiated.families.iter().map(|family| RibFamily {
            family: family.family,
            add_path_send: family.add_path_send,
        });
        PeerSettings {
            kind: peer_kind(negotiated, &self.config.session),
            peer_asn: negotiated.peer_asn,
            peer_router_id: negotiated.peer_router_id,
            peer_address: addresses.remote.ip(),
            local_addresses: LocalAddresses::from(addresses.local.ip()),
            families: families.collect(),
            import: self.config.session.import.clone(),
            export: self.config.session.export.clone(),
        }
    }
}

pub(crate) fn peer_kind(negotiated: &Negotiated, session: &SessionConfig) -> PeerKind {
    match (negotiated.internal, session.is_client) {
        (false, _) => PeerKind::External,
        (true, true) => PeerKind::Client,
        (true, false) => PeerKind::NonClient,
    }
}

/// All peers, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Peers {
    peers: BTreeMap<PeerId, Peer>,
    next: u32,
}

impl Peers {
    pub(crate) fn add(&mut self, peer: Peer) -> PeerId {
        let id = PeerId(self.next);
        self.next += 1;
        self.peers.insert(id, peer);
        id
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.peers.remove(&id)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    pub(crate) fn named(&self, name: &str) -> Option<PeerId> {
        self.find(|peer| peer.config.name == name)
    }

    pub(crate) fn find(&self, predicate: impl Fn(&Peer) -> bool) -> Option<PeerId> {
        let mut matching = self.iter().filter(|(_, peer)| predicate(peer));
        matching.next().map(|(id, _)| id)
    }

    pub(crate) fn find_all(&self, predicate: impl Fn(&Peer) -> bool) -> Vec<PeerId> {
        let matching = self.iter().filter(|(_, peer)| predicate(peer));
        matching.map(|(id, _)| id).collect()
    }

    /// Returns the name of the peer that announced a path. `None`: the path is the speaker's own,
    /// or its peer has been removed.
    pub(crate) fn name_of(&self, source: PathSource) -> Option<&str> {
        match source {
            PathSource::Own => None,
            PathSource::Peer(id) => self.get(id).map(|peer| peer.config.name.as_str()),
        }
    }

    /// Returns `name`, or, if another peer has this name, `name` with an appended number:
    /// `10.0.0.1#2`.
    pub(crate) fn free_name(&self, name: String) -> String {
        let names = self.peers.values().map(|peer| peer.config.name.as_str());
        let names: HashSet<&str> = names.collect();
        if !names.contains(name.as_str()) {
            return name;
        }
        let numbered = (2..).map(|number: u64| format!("{name}#{number}"));
        let mut free = numbered.filter(|name| !names.contains(name.as_str()));
        free.next().expect("there are more numbers than peers")
    }
}
