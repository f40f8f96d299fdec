//! Difference between the current peers and a new configuration.

use std::collections::HashMap;

use bgp_rib::PeerId;
use bgp_session::Cease;

use crate::{
    config::{Configuration, GroupConfig, PeerConfig, SessionConfig},
    peer::{Peer, Peers},
};

/// The steps from the current peers to a new configuration. A session restarts only if a changed
/// setting affects the OPEN messages, the connection or the dials, or if a dynamic peer becomes a
/// configured peer. Other changes are applied to the existing session.
pub(crate) struct Reconfiguration {
    /// Changes of the existing peers.
    pub(crate) changes: Vec<(PeerId, PeerChange)>,
    /// Peers to add, sorted by name. Includes each configured peer that `changes` removes because
    /// its session must restart.
    pub(crate) added: Vec<PeerConfig>,
}

impl Reconfiguration {
    pub(crate) fn new(peers: &Peers, configuration: &Configuration) -> Self {
        let desired = configuration.peers.iter();
        let mut desired: HashMap<String, PeerConfig> = desired
            .map(|peer| (peer.name.clone(), peer.clone()))
            .collect();
        let changes: Vec<_> = peers
            .iter()
            .map(|(id, peer)| (id, peer_change(peer, &desired, &configuration.groups)))
            .collect();
        for (id, change) in &changes {
            if let PeerChange::ApplyInPlace(config) = change
                && peers.get(*id).is_some_and(|peer| !peer.is_dynamic)
            {
                desired.remove(&config.name);
            }
        }
        let mut added: Vec<_> = desired.into_values().collect();
        added.sort_by(|a, b| a.name.cmp(&b.name));
        Self { changes, added }
    }
}

/// The change of an existing peer.
pub(crate) enum PeerChange {
    /// Apply this configuration to the peer and keep its session.
    ApplyInPlace(Box<PeerConfig>),
    /// End the session with this reason and remove the peer.
    Remove(Cease),
}

fn peer_change(
    peer: &Peer,
    desired: &HashMap<String, PeerConfig>,
    groups: &[GroupConfig],
) -> PeerChange {
    let config = if peer.is_dynamic {
        let address = peer.config.address.ip();
        let is_static = desired
            .values()
            .any(|peer| peer.passive && peer.address.ip() == address);
        if is_static {
            return PeerChange::Remove(Cease::OtherConfigurationChange);
        }
        let group = groups.iter().find(|group| group.contains(address));
        group.map(|group| PeerConfig {
            name: peer.config.name.clone(),
            ..group.peer(peer.config.address)
        })
    } else {
        desired.get(&peer.config.name).cloned()
    };
    match config {
        None => PeerChange::Remove(Cease::PeerDeconfigured),
        Some(config) if needs_new_session(&peer.config, &config) => {
            PeerChange::Remove(Cease::OtherConfigurationChange)
        }
        Some(config) => PeerChange::ApplyInPlace(Box::new(config)),
    }
}

/// Reports whether a setting differs that cannot change during a session: the content of the OPEN
/// message, the AS that the peer must have, the TCP MD5 key, an address, a timer of dials, or which
/// of the two sides can open the connection.
fn needs_new_session(before: &PeerConfig, after: &PeerConfig) -> bool {
    let SessionConfig {
        is_client,
        import,
        export,
        maximum_paths_pause,
        minimum_hold_time_seconds,
        ..
    } = before.session.clone();
    let comparable = PeerConfig {
        group: before.group.clone(),
        session: SessionConfig {
            is_client,
            import,
            export,
            maximum_paths_pause,
            minimum_hold_time_seconds,
            ..after.session.clone()
        },
        ..after.clone()
    };
    comparable != *before
}
