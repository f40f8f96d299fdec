//! What goes out: keys are marked as pending, and settled when the peer has room.

use std::sync::Arc;

use bgp_packet::{Family, IpNet, Nlri, PathAttributes, Update};

use crate::{
    adj_rib_out::{AdjRibOut, Batch, Key, Pending, What},
    export,
    peer::{FamilySettings, PeerId, RibConfig},
    rib::{Peer, Rib},
    table::Table,
};

impl Rib {
    /// The peer asks for everything again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let settings = peer
            .settings
            .families
            .iter()
            .find(|known| known.family == family)
            .copied();
        if let Some(settings) = settings
            && !peer.settings.export.prefixes.is_none()
        {
            self.mark_all(id, settings, true);
        }
    }

    /// Whether [`Rib::take_pending`] has something to look at.
    pub fn has_pending(&self, id: PeerId) -> bool {
        self.peers
            .get(&id)
            .is_some_and(|peer| peer.adj_rib_out.has_pending())
    }

    /// What the peer is to be sent next, in this order, at most `limit` prefixes. What is returned
    /// counts as sent. May be empty although something was pending, and then more may be pending.
    ///
    /// Withdrawals come first; prefixes with common attributes share an UPDATE.
    pub fn take_pending(&mut self, id: PeerId, limit: usize) -> Vec<Update> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Vec::new();
        };
        let mut batch = Batch::default();
        for _ in 0..limit {
            match peer.adj_rib_out.pop() {
                None => break,
                Some(Pending::EndOfRib(family)) => return batch.into_updates(Some(family)),
                Some(Pending::Key { key, is_refresh }) => {
                    settle(
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

    /// Makes everything pending that the peer may have of the family, ordered such that common
    /// attributes come together.
    pub(crate) fn mark_all(&mut self, id: PeerId, family: FamilySettings, is_refresh: bool) {
        let mut keys = Vec::new();
        for (prefix, entry) in self.table.entries() {
            if Family::of(entry.prefix()) != family.family {
                continue;
            }
            if family.add_path_send {
                keys.extend(entry.paths().map(|(slot, path)| {
                    (
                        Arc::as_ptr(&path.learned),
                        Key {
                            prefix,
                            what: What::Slot(slot),
                        },
                    )
                }));
            } else if let Some((_, path)) = entry.best() {
                keys.push((
                    Arc::as_ptr(&path.learned),
                    Key {
                        prefix,
                        what: What::Best,
                    },
                ));
            }
        }
        keys.sort_unstable();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        for (_, key) in keys {
            mark(&mut self.table, &mut peer.adj_rib_out, key, is_refresh);
        }
    }
}

pub(crate) fn mark(table: &mut Table, adj_rib_out: &mut AdjRibOut, key: Key, is_refresh: bool) {
    if adj_rib_out.mark(key, is_refresh) {
        table.add_reference(key.prefix);
    }
}

/// Brings what the peer has under the key to what it is to have.
fn settle(
    config: &RibConfig,
    table: &mut Table,
    peer: &mut Peer,
    key: Key,
    is_refresh: bool,
    batch: &mut Batch,
) {
    let (prefix, desired) = desired(config, table, peer, key);
    let path_id = match key.what {
        What::Best => None,
        What::Slot(slot) => Some(slot.path_id()),
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
    // The reference of the mark itself.
    table.drop_reference(key.prefix);
}

/// What the peer is to have under the key.
fn desired(
    config: &RibConfig,
    table: &Table,
    peer: &Peer,
    key: Key,
) -> (IpNet, Option<Arc<PathAttributes>>) {
    let entry = table.entry(key.prefix);
    let prefix = entry.prefix();
    let path = match key.what {
        What::Best => entry.best().map(|(_, path)| path),
        What::Slot(slot) => entry.path(slot),
    };
    let exported =
        path.and_then(|path| export::exported(config, peer.id, &peer.settings, path, &prefix));
    (prefix, exported)
}
