//! The owner of all tables: its peers, and the peers that a change concerns.

use std::collections::{HashMap, HashSet};

use bgp_packet::{Family, PathId};

use crate::{
    adj_rib_in::AdjRibIn,
    adj_rib_out::{AdjRibOut, Key, What},
    listing::PathKey,
    peer::{PeerId, PeerSettings, RibConfig, Source, SourceFacts},
    send::mark,
    table::{Change, Table},
};

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) settings: PeerSettings,
    pub(crate) adj_rib_in: AdjRibIn,
    pub(crate) adj_rib_out: AdjRibOut,
}

/// The peers that a change of a family's path concerns.
#[derive(Debug, Default)]
struct Receivers {
    of_all_paths: Vec<PeerId>,
    of_best_path: Vec<PeerId>,
}

/// All tables of a speaker.
#[derive(Debug)]
pub struct Rib {
    pub(crate) config: RibConfig,
    pub(crate) table: Table,
    pub(crate) own: AdjRibIn,
    pub(crate) peers: HashMap<PeerId, Peer>,
    receivers: HashMap<Family, Receivers>,
    /// `None` while nobody follows the changes.
    changes: Option<HashSet<PathKey>>,
}

impl Rib {
    /// Without a peer or a path.
    pub fn new(config: RibConfig) -> Self {
        Self {
            config,
            table: Table::default(),
            own: AdjRibIn::new(SourceFacts::Own {
                router_id: config.router_id,
            }),
            peers: HashMap::new(),
            receivers: HashMap::new(),
            changes: None,
        }
    }

    /// Adds a peer whose session has been established: all that it is to have becomes pending,
    /// closed by an end-of-RIB mark for each family (RFC 4724 section 2).
    ///
    /// A peer of the same id is removed first.
    pub fn add_peer(&mut self, id: PeerId, settings: PeerSettings) {
        self.remove_peer(id);
        let source = SourceFacts::Peer {
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
            Peer {
                id,
                settings,
                adj_rib_in,
                adj_rib_out,
            },
        );
        self.add_receiver(id);
        let peer = self.peers.get_mut(&id).expect("inserted above");
        for family in families {
            peer.adj_rib_out.mark_end_of_rib(family.family);
        }
    }

    /// Has the peer follow the changes of its families, and makes everything pending that it may
    /// have, if it may have anything.
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

    /// Removes a peer, and with it all paths that it announced.
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
            self.follow(change, Source::Peer(id), path_id);
        }
    }

    /// Starts or stops to collect the keys of changed paths.
    pub fn follow_changes(&mut self, is_followed: bool) {
        if is_followed {
            self.changes.get_or_insert_default();
        } else {
            self.changes = None;
        }
    }

    /// The paths of the Adj-RIBs-In that came, went, or got other attributes or another verdict
    /// since the last call; each once, in no order. [`Rib::path`] tells what became of each.
    pub fn take_changes(&mut self) -> Vec<PathKey> {
        self.changes
            .as_mut()
            .map(|keys| keys.drain().collect())
            .unwrap_or_default()
    }

    /// Marks the prefix as pending for each peer that a change concerns, and frees the entry if there is
    /// none.
    pub(crate) fn follow(&mut self, change: Change, source: Source, path_id: Option<PathId>) {
        let Change {
            prefix: index,
            slot,
            is_best_changed,
        } = change;
        let prefix = self.table.entry(index).prefix();
        if let Some(receivers) = self.receivers.get(&Family::of(prefix)) {
            // A peer has never been sent its own path.
            let others = receivers
                .of_all_paths
                .iter()
                .filter(|id| source != Source::Peer(**id));
            let best = receivers.of_best_path.iter().filter(|_| is_best_changed);
            let keys = others
                .map(|id| (id, What::Slot(slot)))
                .chain(best.map(|id| (id, What::Best)));
            for (id, what) in keys {
                let peer = self.peers.get_mut(id).expect("receivers are peers");
                mark(
                    &mut self.table,
                    &mut peer.adj_rib_out,
                    Key {
                        prefix: index,
                        what,
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
