//! Changes of the configuration while the speaker runs.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bgp_rib::PeerId;
use bgp_session::{Cease, Input};

use crate::{
    admission::Admission,
    config::{Configuration, GroupConfig, PeerConfig, SessionConfig},
    owner::Owner,
    peer::{self, Peer},
    refused::LoggedOnce,
};

impl Owner {
    /// Ends, changes and starts what differs. A session ends only if what changed stands in an OPEN,
    /// or belongs to its connections; other changes are applied to it in place.
    pub(crate) fn reconfigure(&mut self, configuration: Configuration, now: Instant) {
        self.admission
            .send_replace(Arc::new(Admission::new(&configuration)));
        let Configuration { peers, groups } = configuration;
        let mut wanted: HashMap<String, PeerConfig> = peers
            .into_iter()
            .map(|peer| (peer.name.clone(), peer))
            .collect();
        let verdicts: Vec<(PeerId, Verdict)> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, verdict(peer, &wanted, &groups)))
            .collect();
        for (id, verdict) in verdicts {
            match verdict {
                Verdict::Remove(cease) => self.remove_peer(id, cease, now),
                Verdict::Keep(config) => {
                    let is_dynamic = self.peers.get(&id).is_some_and(|peer| peer.is_dynamic);
                    if !is_dynamic {
                        wanted.remove(&config.name);
                    }
                    self.apply_in_place(id, *config, now);
                }
            }
        }
        self.groups = groups;
        self.full_groups.clear();
        self.full_addresses.clear();
        let mut new: Vec<_> = wanted.into_values().collect();
        new.sort_by(|a, b| a.name.cmp(&b.name));
        for config in new {
            self.add_peer(config, false, now);
        }
    }

    /// Gives a peer a configuration that needs no new session.
    fn apply_in_place(&mut self, id: PeerId, config: PeerConfig, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.config == config {
            return;
        }
        peer.config = config;
        self.observers.session_changed(id);
        if peer.may_return() {
            tracing::info!(
                peer = peer.config.name,
                "maximum of paths raised; the peer may connect before its pause is over"
            );
            self.drive(id, Input::EndPause, now);
            return;
        }
        if peer.established.is_none() {
            return;
        }
        let Some(negotiated) = peer.session.status().negotiated else {
            return;
        };
        // What is refused or nearly full now is worth a line of its own.
        peer.logged = LoggedOnce::default();
        let session = peer.config.session.clone();
        let kind = peer::kind(&negotiated, &session);
        tracing::info!(
            peer = peer.config.name,
            "configuration of the peer changed; its session stays"
        );
        let families = self
            .rib
            .set_policies(id, kind, session.import, session.export);
        self.is_pump_due = true;
        self.request_refreshes(id, &families);
        let peer = self.peers.get_mut(&id);
        let refreshes = peer.map(|peer| std::mem::take(&mut peer.refreshes));
        for family in refreshes.into_iter().flatten() {
            self.drive(id, Input::RequestRefresh(family), now);
        }
    }
}

/// What becomes of a peer.
enum Verdict {
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

/// Whether more differs than what can be applied to an established session: what stands in our
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
