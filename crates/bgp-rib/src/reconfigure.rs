//! Policies of a peer that change while its session stays.

use std::sync::Arc;

use bgp_packet::{Family, Nlri};

use crate::{
    adj_rib_out::Key,
    peer::{PeerId, PeerKind, Source},
    policy::{ExportPolicy, ImportPolicy},
    receive::put,
    rib::Rib,
    send::mark,
};

impl Rib {
    /// Gives a peer another role and other policies. What both sides hold stays, but for what the
    /// policies exclude: paths of the peer that are no longer accepted are withdrawn, and the
    /// difference between what it has been sent and what it is to have becomes pending. Unknown
    /// peers are ignored.
    ///
    /// Paths that import policy rejected are not kept. Returns the families that the peer is to be
    /// asked for again (RFC 2918), since the new policy may accept more of them.
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
        let peer = self.peers.get_mut(&id).expect("looked up above");
        peer.adj_rib_in.take_unblocked(limit)
    }

    /// Runs import policy over the paths that are held of the peer.
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
            let (accepted, _) = import.accepted(&import.attributes.apply(attributes));
            if Arc::ptr_eq(&accepted, attributes) && !is_other_kind {
                continue;
            }
            let learned = peer.adj_rib_in.intern(&accepted);
            let change = put(
                &mut self.table,
                &mut peer.adj_rib_in,
                prefix,
                path_id,
                &learned,
            );
            if let Some(change) = change {
                self.follow(change, Source::Peer(id), path_id);
            }
        }
    }

    /// Makes everything pending that the peer has been sent or may be sent. What it has already
    /// is not sent again.
    fn export_again(&mut self, id: PeerId) {
        self.remove_receiver(id);
        self.add_receiver(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let sent: Vec<Key> = peer.adj_rib_out.all_sent().map(|(key, _)| key).collect();
        for key in sent {
            mark(&mut self.table, &mut peer.adj_rib_out, key, false);
        }
    }
}
