//! Processing of received UPDATE messages, and of paths that this speaker originates.

use std::{net::IpAddr, sync::Arc};

use bgp_packet::{Announced, Family, IpNet, Nlri, PathAttributes, PathId, Update};

use crate::{
    adj_rib_in::{self, AdjRibIn, LearnedAttributes},
    peer::{PathSource, PeerId, PeerKind, is_same_family},
    policy::{MaximumPathsAction, RejectReason},
    rib::Rib,
    table::{PathChange, PathTable, StoredPath},
};

/// The result of one received UPDATE message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveOutcome {
    /// Number of paths that are new or have changed attributes.
    pub announced: usize,
    /// Number of stored paths that a withdrawal or a rejected announcement removed.
    pub withdrawn: usize,
    /// Number of accepted announcements that are equal to the stored path.
    pub unchanged: usize,
    /// Announcements that were not accepted, with the reasons.
    pub rejected: Vec<(Nlri, RejectReason)>,
    /// Number of attributes of unknown types that the import policy discarded. An attribute that
    /// belongs to several prefixes counts once.
    pub discarded_attributes: usize,
    /// Number of attribute sets that the [`AttributePolicy`] of the import policy changed.
    ///
    /// [`AttributePolicy`]: crate::AttributePolicy
    pub clamped_attributes: usize,
    /// Families with paths that were rejected at the maximum number of paths, if the peer has fewer
    /// paths than the maximum after this UPDATE message. Otherwise empty. The caller should send
    /// the peer a ROUTE-REFRESH for each family (RFC 2918).
    pub unblocked: Vec<Family>,
}

/// The error of a peer that announced more paths than its import policy allows. The caller has to
/// end the session with Cease, "maximum number of prefixes reached" (RFC 4486), and to remove the
/// peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent more than the allowed {limit} paths")]
pub struct MaximumPathsExceeded {
    /// Maximum number of paths of the import policy.
    pub limit: u32,
}

/// The error of an originated path whose next hop has another address family than its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("next hop {next_hop} and prefix {prefix} have different address families")]
pub struct NextHopFamilyMismatch {
    pub prefix: IpNet,
    pub next_hop: IpAddr,
}

/// The result of an announcement that the checks of attributes and prefix accepted.
enum AnnounceResult {
    Changed,
    Unchanged,
    /// The peer has reached its maximum number of paths, so the path was not stored.
    Blocked,
}

impl Rib {
    /// Processes an UPDATE message of a peer. Ignores unknown peers.
    ///
    /// If the peer has a stored path with the prefix and the path id of a rejected announcement,
    /// this path is removed.
    ///
    /// # Errors
    ///
    /// Returns an error if the peer announces more paths than its import policy allows, and the
    /// policy has [`MaximumPathsAction::Restart`]. Paths up to the maximum stay stored until the
    /// caller removes the peer.
    pub fn receive(
        &mut self,
        id: PeerId,
        update: Update,
    ) -> Result<ReceiveOutcome, MaximumPathsExceeded> {
        let mut outcome = ReceiveOutcome::default();
        for nlri in update.withdrawn {
            outcome.withdrawn += usize::from(self.withdraw(id, nlri));
        }
        for announced in update.announced {
            self.receive_announced(id, &announced, &mut outcome)?;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            let limit = peer.settings.import.maximum_paths;
            outcome.unblocked = peer.adj_rib_in.take_unblocked(limit);
        }
        Ok(outcome)
    }

    fn receive_announced(
        &mut self,
        id: PeerId,
        announced: &Announced,
        outcome: &mut ReceiveOutcome,
    ) -> Result<(), MaximumPathsExceeded> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        let attributes = &announced.attributes;
        let attributes_problem =
            adj_rib_in::check_attributes(&self.config, &peer.settings, attributes);
        let learned = match (attributes_problem, peer.settings.kind) {
            (Some(_), _) => None,
            (None, kind) => {
                let import = &peer.settings.import;
                let kept = import.attributes.apply(attributes);
                outcome.clamped_attributes += usize::from(!Arc::ptr_eq(&kept, attributes));
                let (mut accepted, discarded) = import.without_unknown_attributes(&kept);
                outcome.discarded_attributes += discarded;
                match kind {
                    PeerKind::External => {
                        adj_rib_in::convert_external(Arc::make_mut(&mut accepted))
                    }
                    PeerKind::Client | PeerKind::NonClient => {}
                }
                Some(peer.adj_rib_in.intern(&accepted))
            }
        };
        for nlri in &announced.nlri {
            let Some(peer) = self.peers.get(&id) else {
                return Ok(());
            };
            let problem = attributes_problem.or_else(|| {
                adj_rib_in::check_prefix(&peer.settings, nlri.prefix, attributes.next_hop)
            });
            match (problem, &learned) {
                (None, Some(learned)) => match self.announce(id, *nlri, learned)? {
                    AnnounceResult::Changed => outcome.announced += 1,
                    AnnounceResult::Unchanged => outcome.unchanged += 1,
                    AnnounceResult::Blocked => {
                        outcome.rejected.push((*nlri, RejectReason::MaximumPaths))
                    }
                },
                (None, None) => {}
                (Some(reason), _) => {
                    outcome.withdrawn += usize::from(self.withdraw(id, *nlri));
                    outcome.rejected.push((*nlri, reason));
                }
            }
        }
        Ok(())
    }

    fn announce(
        &mut self,
        id: PeerId,
        nlri: Nlri,
        learned: &Arc<LearnedAttributes>,
    ) -> Result<AnnounceResult, MaximumPathsExceeded> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(AnnounceResult::Unchanged);
        };
        let prefix = nlri.prefix.trunc();
        let existing = self
            .table
            .index(prefix)
            .and_then(|index| peer.adj_rib_in.slot(index, nlri.path_id));
        if let (None, Some(limit)) = (existing, peer.settings.import.maximum_paths)
            && peer.adj_rib_in.len() >= limit as usize
        {
            return match peer.settings.import.at_maximum {
                MaximumPathsAction::Restart => Err(MaximumPathsExceeded { limit }),
                MaximumPathsAction::Block => {
                    peer.adj_rib_in.block(Family::of(prefix));
                    Ok(AnnounceResult::Blocked)
                }
            };
        }
        let change = store_path(
            &mut self.table,
            &mut peer.adj_rib_in,
            prefix,
            nlri.path_id,
            learned,
        );
        let Some(change) = change else {
            return Ok(AnnounceResult::Unchanged);
        };
        self.propagate(change, PathSource::Peer(id), nlri.path_id);
        Ok(AnnounceResult::Changed)
    }

    pub(crate) fn withdraw(&mut self, id: PeerId, nlri: Nlri) -> bool {
        let Some(index) = self.table.index(nlri.prefix.trunc()) else {
            return false;
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let Some(slot) = peer.adj_rib_in.remove(index, nlri.path_id) else {
            return false;
        };
        let change = self.table.remove(index, slot);
        self.propagate(change, PathSource::Peer(id), nlri.path_id);
        true
    }

    /// Adds a path of this speaker for `prefix`, or replaces the attributes of the existing path.
    /// An unspecified next hop is sent as the local address of each session.
    ///
    /// # Errors
    ///
    /// Returns an error and changes nothing if the next hop has another address family than the
    /// prefix.
    pub fn originate(
        &mut self,
        prefix: IpNet,
        attributes: Arc<PathAttributes>,
    ) -> Result<(), NextHopFamilyMismatch> {
        if !is_same_family(&prefix, attributes.next_hop) {
            return Err(NextHopFamilyMismatch {
                prefix,
                next_hop: attributes.next_hop,
            });
        }
        let learned = self.own.intern(&attributes);
        let change = store_path(
            &mut self.table,
            &mut self.own,
            prefix.trunc(),
            None,
            &learned,
        );
        if let Some(change) = change {
            self.propagate(change, PathSource::Own, None);
        }
        Ok(())
    }

    /// Withdraws the path of this speaker for `prefix`, if it exists.
    pub fn withdraw_originated(&mut self, prefix: IpNet) {
        let Some(index) = self.table.index(prefix.trunc()) else {
            return;
        };
        let Some(slot) = self.own.remove(index, None) else {
            return;
        };
        let change = self.table.remove(index, slot);
        self.propagate(change, PathSource::Own, None);
    }
}

/// Stores a path in `table` and in `adj_rib_in`, the Adj-RIB-In of its source. Returns `None` and
/// changes nothing if the source has already stored the path with equal attributes.
pub(crate) fn store_path(
    table: &mut PathTable,
    adj_rib_in: &mut AdjRibIn,
    prefix: IpNet,
    path_id: Option<PathId>,
    learned: &Arc<LearnedAttributes>,
) -> Option<PathChange> {
    let index = table.index_or_insert(prefix);
    let slot = adj_rib_in.slot(index, path_id);
    let is_known = slot
        .and_then(|slot| table.entry(index).path(slot))
        .is_some_and(|path| Arc::ptr_eq(&path.learned, learned));
    if is_known {
        return None;
    }
    let change = table.put(
        index,
        slot,
        StoredPath {
            path_id,
            learned: learned.clone(),
        },
    );
    if slot.is_none() {
        adj_rib_in.insert(index, path_id, change.slot);
    }
    Some(change)
}
