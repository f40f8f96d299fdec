//! Assignment of accepted connections to peers.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bgp_rib::PeerId;
use tokio::sync::watch;

use crate::{
    admission::AdmissionRules,
    config::{Configuration, GroupConfig, PeerConfig},
    journal::Journal,
    peer::{Peer, Peers},
};

/// The groups of dynamic peers, and the admission rules for the listeners.
pub(crate) struct Groups {
    groups: Vec<GroupConfig>,
    admission: watch::Sender<Arc<AdmissionRules>>,
}

/// The decision about a connection that a listener accepted.
pub(crate) enum Admitted {
    ToPeer(PeerId),
    /// The connection belongs to a new dynamic peer with the configuration `config`. The caller
    /// removes the peer `replaces` before it adds the new peer.
    Dynamic {
        config: Box<PeerConfig>,
        replaces: Option<PeerId>,
    },
    Refused,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self {
            groups: Vec::new(),
            admission: watch::Sender::new(Arc::default()),
        }
    }

    pub(crate) fn admission(&self) -> watch::Receiver<Arc<AdmissionRules>> {
        self.admission.subscribe()
    }

    /// Reports whether the TCP MD5 keys in `admission`, with which a listener accepted a
    /// connection, are equal to the keys of the current configuration.
    pub(crate) fn has_keys_of(&self, admission: &AdmissionRules) -> bool {
        admission.keys == self.admission.borrow().keys
    }

    /// Replaces the groups, and sends the new admission rules to the listeners.
    pub(crate) fn replace(&mut self, configuration: &Configuration) {
        let admission = AdmissionRules::new(configuration);
        self.admission.send_replace(Arc::new(admission));
        self.groups.clone_from(&configuration.groups);
    }

    /// Finds the peer to which an accepted connection from `remote` belongs, or creates the
    /// configuration of a new dynamic peer if the prefix of a group contains the address.
    pub(crate) fn admit(
        &self,
        remote: SocketAddr,
        peers: &mut Peers,
        journal: &mut Journal,
        now: Instant,
    ) -> Admitted {
        let address = remote.ip();
        if let Some(id) = peers.find(|peer| peer.owns(address)) {
            if let Some(peer) = peers.get_mut(id) {
                journal.accepted(peer, now);
            }
            return Admitted::ToPeer(id);
        }
        let Some(group) = self.groups.iter().find(|group| group.contains(address)) else {
            journal.counters.connections_without_peer.add(1);
            tracing::debug!(
                %remote,
                "connection refused: no peer and no peer group has this address"
            );
            return Admitted::Refused;
        };
        let is_dynamic = |peer: &Peer| peer.is_dynamic;
        let of_address =
            peers.find_all(|peer| is_dynamic(peer) && peer.config.address.ip() == address);
        let of_group = peers
            .find_all(|peer| is_dynamic(peer) && peer.config.group.as_deref() == Some(&group.name));
        let is_full = of_address.len() >= group.maximum_peers_per_address;
        let has_room = of_group.len() < group.maximum_peers;
        let mut replaces = None;
        if is_full || !has_room {
            // Replace the oldest peer of this address that has sent no OPEN message. Otherwise
            // silent connections could block all further connections from this address.
            replaces = of_address
                .iter()
                .copied()
                .find(|id| peers.get(*id).is_some_and(Peer::waits_for_open));
            if replaces.is_none() && is_full {
                journal.address_is_full(remote, group, of_address.len(), now);
                return Admitted::Refused;
            }
            if replaces.is_none() {
                journal.group_is_full(remote, group, now);
                return Admitted::Refused;
            }
        }
        if has_room {
            journal.group_has_room(&group.name);
        }
        journal.counters.connections_accepted.add(1);
        Admitted::Dynamic {
            config: Box::new(group.peer(remote)),
            replaces,
        }
    }
}
