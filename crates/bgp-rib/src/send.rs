//! Sending of changed paths. A change of a path makes its key pending for each peer that receives
//! the path. When the connection of a peer has room, the caller takes the UPDATE messages for the
//! pending keys of this peer.

use std::sync::Arc;

use bgp_packet::{Family, IpNet, Nlri, PathAttributes, Update};

use crate::{
    adj_rib_out::{AdjRibOut, PathChoice, PendingItem, SentPathKey, UpdateBatch},
    export,
    peer::{PeerId, RibConfig, RibFamily},
    rib::{Rib, RibPeer},
    table::PathTable,
};

impl Rib {
    /// Handles a ROUTE-REFRESH of a peer (RFC 2918): makes all paths of the family pending, so that
    /// they are sent even if they have not changed.
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let settings = peer
            .settings
            .families
            .iter()
            .find(|existing| existing.family == family)
            .copied();
        if let Some(settings) = settings
            && !peer.settings.export.prefixes.is_none()
        {
            self.mark_all(id, settings, true);
        }
    }

    /// Reports whether the peer has keys or end-of-RIB marks that are pending for
    /// [`Rib::take_pending`].
    pub fn has_pending(&self, id: PeerId) -> bool {
        self.peers
            .get(&id)
            .is_some_and(|peer| peer.adj_rib_out.has_pending())
    }

    /// Takes up to `limit` pending keys and returns the UPDATE messages for these keys in the order
    /// to send. Takes at most one end-of-RIB mark, and no key after this mark. The returned paths
    /// count as sent. The result can be empty, because a pending key needs no message if the path
    /// that was sent for the key is still correct. More keys can be pending after this call.
    ///
    /// Withdrawals come first, and an end-of-RIB mark comes last. Prefixes with equal attributes
    /// from one source share an UPDATE message.
    pub fn take_pending(&mut self, id: PeerId, limit: usize) -> Vec<Update> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Vec::new();
        };
        let mut batch = UpdateBatch::default();
        for _ in 0..limit {
            match peer.adj_rib_out.pop() {
                None => break,
                Some(PendingItem::EndOfRib(family)) => return batch.into_updates(Some(family)),
                Some(PendingItem::Key { key, is_refresh }) => {
                    resolve_pending(
                        &self.config,
                        &mut self.table,
                        peer,
                        key,
                        is_refresh,
                        &mut batch,
                    );
                }
            }
        }
        batch.into_updates(None)
    }

    /// Makes all paths of the family pending for the peer. Paths of one source with equal
    /// attributes become adjacent in the queue, so that they share UPDATE messages.
    pub(crate) fn mark_all(&mut self, id: PeerId, family: RibFamily, is_refresh: bool) {
        let mut keys = Vec::new();
        for (prefix, entry) in self.table.entries() {
            if Family::of(entry.prefix()) != family.family {
                continue;
            }
            if family.add_path_send {
                keys.extend(entry.paths().map(|(slot, path)| {
                    (
                        Arc::as_ptr(&path.learned),
                        SentPathKey {
                            prefix,
                            choice: PathChoice::Slot(slot),
                        },
                    )
                }));
            } else if let Some((_, path)) = entry.best() {
                keys.push((
                    Arc::as_ptr(&path.learned),
                    SentPathKey {
                        prefix,
                        choice: PathChoice::Best,
                    },
                ));
            }
        }
        keys.sort_unstable();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        for (_, key) in keys {
            mark_pending(&mut self.table, &mut peer.adj_rib_out, key, is_refresh);
        }
    }
}

pub(crate) fn mark_pending(
    table: &mut PathTable,
    adj_rib_out: &mut AdjRibOut,
    key: SentPathKey,
    is_refresh: bool,
) {
    if adj_rib_out.mark_pending(key, is_refresh) {
        table.add_reference(key.prefix);
    }
}

/// Compares the sent path of a pending key with the path that the peer should have. If they differ,
/// adds to `batch` the announcement or withdrawal that makes them equal. If `is_refresh` is `true`,
/// adds the announcement even if they are equal.
fn resolve_pending(
    config: &RibConfig,
    table: &mut PathTable,
    peer: &mut RibPeer,
    key: SentPathKey,
    is_refresh: bool,
    batch: &mut UpdateBatch,
) {
    let (prefix, desired) = desired(config, table, peer, key);
    let path_id = match key.choice {
        PathChoice::Best => None,
        PathChoice::Slot(slot) => Some(slot.path_id()),
    };
    let nlri = Nlri { prefix, path_id };
    let adj_rib_out = &mut peer.adj_rib_out;
    match desired {
        Some(attributes) => {
            let is_known = adj_rib_out
                .sent(key)
                .is_some_and(|sent| *sent == attributes);
            if !is_known && adj_rib_out.record(key, attributes.clone()) {
                table.add_reference(key.prefix);
            }
            if !is_known || is_refresh {
                batch.announce(nlri, attributes);
            }
        }
        None => {
            if adj_rib_out.forget(key) {
                table.drop_reference(key.prefix);
                batch.withdraw(nlri);
            }
        }
    }
    // The key is no longer pending, so the reference of the pending key to the entry is dropped.
    table.drop_reference(key.prefix);
}

/// Returns the prefix of the key and the attributes that the peer should have for the key. `None`:
/// the peer should have no path.
fn desired(
    config: &RibConfig,
    table: &PathTable,
    peer: &RibPeer,
    key: SentPathKey,
) -> (IpNet, Option<Arc<PathAttributes>>) {
    let entry = table.entry(key.prefix);
    let prefix = entry.prefix();
    let path = match key.choice {
        PathChoice::Best => entry.best().map(|(_, path)| path),
        PathChoice::Slot(slot) => entry.path(slot),
    };
    let exported =
        path.and_then(|path| export::exported(config, peer.id, &peer.settings, path, &prefix));
    (prefix, exported)
}
