//! Owner of all tables and of the peers.

use std::collections::{HashMap, HashSet};

use bgp_packet::{Family, PathId};

use crate::{
    adj_rib_in::AdjRibIn,
    adj_rib_out::{AdjRibOut, PathChoice, SentPathKey},
    listing::PathKey,
    peer::{PathSource, PeerId, PeerSettings, RibConfig, SourceProperties},
    send::mark_pending,
    table::{PathChange, PathTable},
};

#[derive(Debug)]
pub(crate) struct RibPeer {
    pub(crate) id: PeerId,
    pub(crate) settings: PeerSettings,
    pub(crate) adj_rib_in: AdjRibIn,
    pub(crate) adj_rib_out: AdjRibOut,
}

/// The peers that receive changes of the paths of one address family.
#[derive(Debug, Default)]
struct Receivers {
    of_all_paths: Vec<PeerId>,
    of_best_path: Vec<PeerId>,
}

/// All routing tables of a BGP speaker.
#[derive(Debug)]
pub struct Rib {
    pub(crate) config: RibConfig,
    pub(crate) table: PathTable,
    pub(crate) own: AdjRibIn,
    pub(crate) peers: HashMap<PeerId, RibPeer>,
    receivers: HashMap<Family, Receivers>,
    /// Keys of the paths that have changed since the last [`Rib::take_changes`]. `None`: changes
    /// are not collected.
    changes: Option<HashSet<PathKey>>,
}

impl Rib {
    /// Creates tables without peers and paths.
    pub fn new(config: RibConfig) -> Self {
        Self {
            config,
            table: PathTable::default(),
            own: AdjRibIn::new(SourceProperties::Own {
                router_id: config.router_id,
            }),
            peers: HashMap::new(),
            receivers: HashMap::new(),
            changes: None,
        }
    }

    /// Adds a peer whose session has been established. All paths for this peer become pending,
    /// followed by an end-of-RIB mark for each family (RFC 4724 section 2).
    ///
    /// If a peer with the id `id` exists, it is removed first.
    pub fn add_peer(&mut self, id: PeerId, settings: PeerSettings) {
        self.remove_peer(id);
        let source = SourceProperties::Peer {
            id,
            kind: settings.kind,
            router_id: settings.peer_router_id,
            address: settings.peer_address,
        };
        let families = settings.families.clone();
        let adj_rib_in = AdjRibIn::new(source);
        let adj_rib_out = AdjRibOut::default();
        self.peers.insert(
            id,
            RibPeer {
                id,
                settings,
                adj_rib_in,
                adj_rib_out,
            },
        );
        self.add_receiver(id);
        let peer = self
            .peers
            .get_mut(&id)
            .expect("the peer was inserted above");
        for family in families {
            peer.adj_rib_out.mark_end_of_rib(family.family);
        }
    }

    /// Subscribes the peer to the changes of its families, and makes all paths for this peer
    /// pending. Does nothing if the export policy of the peer allows no prefix.
    pub(crate) fn add_receiver(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if peer.settings.export.prefixes.is_none() {
            return;
        }
        for family in peer.settings.families.clone() {
            let receivers = self.receivers.entry(family.family).or_default();
            let list = if family.add_path_send {
                &mut receivers.of_all_paths
            } else {
                &mut receivers.of_best_path
            };
            list.push(id);
            self.mark_all(id, family, false);
        }
    }

    pub(crate) fn remove_receiver(&mut self, id: PeerId) {
        for receivers in self.receivers.values_mut() {
            receivers.of_all_paths.retain(|receiver| *receiver != id);
            receivers.of_best_path.retain(|receiver| *receiver != id);
        }
    }

    /// Removes a peer and all paths that it announced.
    pub fn remove_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        self.remove_receiver(id);
        for index in peer.adj_rib_out.references() {
            self.table.drop_reference(index);
        }
        for (index, path_id, slot) in peer.adj_rib_in.slots() {
            let change = self.table.remove(index, slot);
            self.propagate(change, PathSource::Peer(id), path_id);
        }
    }

    /// Starts or stops the collection of the keys of changed paths.
    pub fn follow_changes(&mut self, is_followed: bool) {
        if is_followed {
            self.changes.get_or_insert_default();
        } else {
            self.changes = None;
        }
    }

    /// Returns the key of each path of the Adj-RIBs-In that was added or removed, or whose
    /// attributes or `not_best` reason changed, since the last call. The order is not defined.
    /// [`Rib::path`] returns the current state of each path.
    pub fn take_changes(&mut self) -> Vec<PathKey> {
        self.changes
            .as_mut()
            .map(|keys| keys.drain().collect())
            .unwrap_or_default()
    }

    /// Marks a changed path as pending for each peer that receives the change. Frees the entry of
    /// the prefix if the entry has no path and no reference.
    pub(crate) fn propagate(
        &mut self,
        change: PathChange,
        source: PathSource,
        path_id: Option<PathId>,
    ) {
        let PathChange {
            prefix: index,
            slot,
            is_best_changed,
        } = change;
        let prefix = self.table.entry(index).prefix();
        if let Some(receivers) = self.receivers.get(&Family::of(prefix)) {
            // A path is never sent to the peer that announced it, so a change of the path is not
            // marked as pending for this peer.
            let others = receivers
                .of_all_paths
                .iter()
                .filter(|id| source != PathSource::Peer(**id));
            let best = receivers.of_best_path.iter().filter(|_| is_best_changed);
            let keys = others
                .map(|id| (id, PathChoice::Slot(slot)))
                .chain(best.map(|id| (id, PathChoice::Best)));
            for (id, choice) in keys {
                let peer = self.peers.get_mut(id).expect("every receiver is a peer");
                mark_pending(
                    &mut self.table,
                    &mut peer.adj_rib_out,
                    SentPathKey {
                        prefix: index,
                        choice,
                    },
                    false,
                );
            }
        }
        if let Some(changes) = &mut self.changes {
            changes.insert(PathKey {
                prefix,
                source,
                path_id,
            });
            let entry = self.table.entry(index);
            if is_best_changed || entry.has_multi_exit_discs() {
                changes.extend(entry.paths().map(|(_, path)| path.key(prefix)));
            }
        }
        self.table.release(index);
    }
}

#[cfg(test)]
mod tests;
