//! The difference between two configurations, while the speaker runs.

use std::collections::HashMap;

use bgp_rib::PeerId;
use bgp_session::Cease;

use crate::{
    config::{Configuration, GroupConfig, PeerConfig, SessionConfig},
    peer::{Peer, Peers},
};

/// What ends, changes and starts. A session ends only if what changed stands in an OPEN, or belongs to
/// its connections; other changes are applied to it in place.
pub(crate) struct Reconfiguration {
    pub(crate) verdicts: Vec<(PeerId, Verdict)>,
    /// In the order of their names.
    pub(crate) new: Vec<PeerConfig>,
}

impl Reconfiguration {
    pub(crate) fn of(peers: &Peers, configuration: &Configuration) -> Self {
        let wanted = configuration.peers.iter();
        let mut wanted: HashMap<String, PeerConfig> = wanted
            .map(|peer| (peer.name.clone(), peer.clone()))
            .collect();
        let verdicts: Vec<_> = peers
            .iter()
            .map(|(id, peer)| (id, verdict(peer, &wanted, &configuration.groups)))
            .collect();
        for (id, verdict) in &verdicts {
            if let Verdict::Keep(config) = verdict
                && peers.get(*id).is_some_and(|peer| !peer.is_dynamic)
            {
                wanted.remove(&config.name);
            }
        }
        let mut new: Vec<_> = wanted.into_values().collect();
        new.sort_by(|a, b| a.name.cmp(&b.name));
        Self { verdicts, new }
    }
}

/// What becomes of a peer.
pub(crate) enum Verdict {
    /// Its session stays, with this configuration.
    Keep(Box<PeerConfig>),
    /// Its session ends.
    Remove(Cease),
}

fn verdict(peer: &Peer, wanted: &HashMap<String, PeerConfig>, groups: &[GroupConfig]) -> Verdict {
    let config = if peer.is_dynamic {
        let address = peer.config.address.ip();
        let is_static = wanted
            .values()
            .any(|peer| peer.passive && peer.address.ip() == address);
        if is_static {
            return Verdict::Remove(Cease::OtherConfigurationChange);
        }
        let group = groups.iter().find(|group| group.contains(address));
        group.map(|group| PeerConfig {
            name: peer.config.name.clone(),
            ..group.peer(peer.config.address)
        })
    } else {
        wanted.get(&peer.config.name).cloned()
    };
    match config {
        None => Verdict::Remove(Cease::PeerDeconfigured),
        Some(config) if needs_new_session(&peer.config, &config) => {
            Verdict::Remove(Cease::OtherConfigurationChange)
        }
        Some(config) => Verdict::Keep(Box::new(config)),
    }
}

/// Reports whether more differs than what can be applied to an established session: what stands in our
/// OPEN, the key, addresses, and which side connects.
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
