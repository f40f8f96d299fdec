//! From the peers that there are to the peers that there shall be.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bgp_rib::PeerId;
use bgp_session::Cease;

use crate::{
    admission::Admission,
    config::{Configuration, GroupConfig, PeerConfig},
    owner::Owner,
    peer::Peer,
};

impl Owner {
    /// Ends, changes and starts what differs; a session whose settings did not change is not
    /// touched.
    pub(crate) fn reconfigure(&mut self, configuration: Configuration, now: Instant) {
        self.admission
            .send_replace(Arc::new(Admission::new(&configuration)));
        let Configuration { peers, groups } = configuration;
        let mut wanted: HashMap<String, PeerConfig> = peers
            .into_iter()
            .map(|peer| (peer.name.clone(), peer))
            .collect();
        let verdicts: Vec<(PeerId, Option<Cease>)> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, verdict(peer, &wanted, &groups)))
            .collect();
        for (id, cease) in verdicts {
            let Some(peer) = self.peers.get(&id) else {
                continue;
            };
            let (name, is_dynamic) = (peer.config.name.clone(), peer.is_dynamic);
            match cease {
                Some(cease) => self.remove_peer(id, cease, now),
                None if is_dynamic => {}
                None => {
                    wanted.remove(&name);
                }
            }
        }
        self.groups = groups;
        self.full_groups.clear();
        let mut new: Vec<_> = wanted.into_values().collect();
        new.sort_by(|a, b| a.name.cmp(&b.name));
        for config in new {
            self.add_peer(config, false, now);
        }
    }
}

/// Why a peer has to go; `None`: it stays as it is.
fn verdict(
    peer: &Peer,
    wanted: &HashMap<String, PeerConfig>,
    groups: &[GroupConfig],
) -> Option<Cease> {
    if peer.is_dynamic {
        let address = peer.config.address.ip();
        let is_static = wanted
            .values()
            .any(|peer| peer.passive && peer.address.ip() == address);
        let group = groups.iter().find(|group| group.contains(address));
        return match group {
            None => Some(Cease::PeerDeconfigured),
            Some(group) => {
                let is_same = group.peer(peer.config.address) == peer.config;
                (is_static || !is_same).then_some(Cease::OtherConfigurationChange)
            }
        };
    }
    match wanted.get(&peer.config.name) {
        None => Some(Cease::PeerDeconfigured),
        Some(config) => (*config != peer.config).then_some(Cease::OtherConfigurationChange),
    }
}
