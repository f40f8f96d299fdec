//! Changes of a peer's policies during an established session.

use std::sync::Arc;

use bgp_packet::{Family, Nlri};

use crate::{
    adj_rib_out::SentPathKey,
    peer::{PathSource, PeerId, PeerKind},
    policy::{ExportPolicy, ImportPolicy},
    receive::store_path,
    rib::Rib,
    send::mark_pending,
};

impl Rib {
    /// Changes the kind and the policies of a peer while its session continues. Ignores unknown
    /// peers. Received paths that the new import policy does not accept are withdrawn. If the kind
    /// or the export policy has changed, every path becomes pending that the peer has or should
    /// have; a pending path that is equal to the sent path is not sent again.
    ///
    /// Returns the families for which the caller should send the peer a ROUTE-REFRESH (RFC 2918):
    /// the new import policy could accept paths that were rejected before, and rejected paths are
    /// not stored.
    pub fn set_policies(
        &mut self,
        id: PeerId,
        kind: PeerKind,
        import: ImportPolicy,
        export: ExportPolicy,
    ) -> Vec<Family> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Vec::new();
        };
        let settings = &mut peer.settings;
        let is_other_kind = settings.kind != kind;
        let is_import_changed = !settings.import.has_filters_of(&import);
        let is_export_changed = settings.export != export || is_other_kind;
        settings.kind = kind;
        settings.import = import;
        settings.export = export;
        let limit = settings.import.maximum_paths;
        if is_other_kind {
            peer.adj_rib_in.set_kind(kind);
        }
        let families = settings.families.iter().map(|family| family.family);
        let families: Vec<_> = families.collect();
        if is_other_kind || is_import_changed {
            self.import_again(id, is_other_kind);
        }
        if is_export_changed {
            self.export_again(id);
        }
        if is_import_changed {
            return families;
        }
        let peer = self.peers.get_mut(&id).expect("the peer was found above");
        peer.adj_rib_in.take_unblocked(limit)
    }

    /// Applies the new import policy and the new kind of the peer to the stored paths of the peer.
    fn import_again(&mut self, id: PeerId, is_other_kind: bool) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let held: Vec<_> = peer.adj_rib_in.slots().collect();
        for (index, path_id, slot) in held {
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            let entry = self.table.entry(index);
            let prefix = entry.prefix();
            let Some(path) = entry.path(slot) else {
                continue;
            };
            let (import, address) = (&peer.settings.import, peer.settings.peer_address);
            let attributes = path.learned.attributes();
            let problem = import
                .check_attributes(attributes, address)
                .or_else(|| import.check_prefix(&prefix, address));
            if problem.is_some() {
                self.withdraw(id, Nlri { prefix, path_id });
                continue;
            }
            let (accepted, _) =
                import.without_unknown_attributes(&import.attributes.apply(attributes));
            if Arc::ptr_eq(&accepted, attributes) && !is_other_kind {
                continue;
            }
            let learned = peer.adj_rib_in.intern(&accepted);
            let change = store_path(
                &mut self.table,
                &mut peer.adj_rib_in,
                prefix,
                path_id,
                &learned,
            );
            if let Some(change) = change {
                self.propagate(change, PathSource::Peer(id), path_id);
            }
        }
    }

    /// Makes every path pending that the peer has or should have. A pending path that is equal to
    /// the sent path is not sent again.
    fn export_again(&mut self, id: PeerId) {
        self.remove_receiver(id);
        self.add_receiver(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let sent: Vec<SentPathKey> = peer.adj_rib_out.all_sent().map(|(key, _)| key).collect();
        for key in sent {
            mark_pending(&mut self.table, &mut peer.adj_rib_out, key, false);
        }
    }
}
