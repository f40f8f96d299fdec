//! What comes in: from peers, checked, and from this speaker itself.

use std::{net::IpAddr, sync::Arc};

use bgp_packet::{Announced, Family, IpNet, Nlri, PathAttributes, PathId, Update};

use crate::{
    adj_rib_in::{self, AdjRibIn, Learned},
    peer::{PeerId, PeerKind, Source, is_same_family},
    policy::{MaximumPathsAction, RejectReason},
    rib::Rib,
    table::{Change, Path, Table},
};

/// What an UPDATE did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveOutcome {
    /// Paths that are new or have other attributes than before.
    pub announced: usize,
    /// Paths that are gone.
    pub withdrawn: usize,
    /// Announcements that repeated what was known.
    pub unchanged: usize,
    /// Announcements that were not accepted.
    pub rejected: Vec<(Nlri, RejectReason)>,
    /// Attributes of unknown types that import policy discarded; those of several prefixes count
    /// once.
    pub discarded_attributes: usize,
    /// Sets of attributes that import policy changed in another way: [`AttributePolicy`].
    ///
    /// [`AttributePolicy`]: crate::AttributePolicy
    pub clamped_attributes: usize,
    /// Families of which a path was rejected at the maximum and now has room: the peer is to be
    /// asked for them again (RFC 2918).
    pub unblocked: Vec<Family>,
}

/// The peer sent more paths than it may. The session is to be ended with Cease, "maximum number of
/// prefixes reached" (RFC 4486), and the peer removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than the allowed {limit} paths")]
pub struct MaximumPathsExceeded {
    /// Of the import policy.
    pub limit: u32,
}

/// The next hop of a path of our own is of the other family than its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("next hop {next_hop} is not of the family of prefix {prefix}")]
pub struct NextHopFamilyMismatch {
    /// Prefix to be originated.
    pub prefix: IpNet,
    /// Its next hop.
    pub next_hop: IpAddr,
}

/// What an accepted announcement did to the Adj-RIB-In.
enum Put {
    Changed,
    Unchanged,
    /// Nothing: the peer has reached its maximum.
    Blocked,
}

impl Rib {
    /// Takes in what a peer announced and withdrew. Unknown peers are ignored.
    ///
    /// An announcement that is not accepted counts as a withdrawal.
    ///
    /// # Errors
    /// If the peer sends more paths than its import policy allows, and the policy says
    /// [`MaximumPathsAction::Restart`]. Those up to the limit stay until the peer is removed.
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
                let (mut accepted, discarded) = import.accepted(&kept);
                outcome.discarded_attributes += discarded;
                match kind {
                    PeerKind::External => adj_rib_in::internalise(Arc::make_mut(&mut accepted)),
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
                    Put::Changed => outcome.announced += 1,
                    Put::Unchanged => outcome.unchanged += 1,
                    Put::Blocked => outcome.rejected.push((*nlri, RejectReason::MaximumPaths)),
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
        learned: &Arc<Learned>,
    ) -> Result<Put, MaximumPathsExceeded> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(Put::Unchanged);
        };
        let prefix = nlri.prefix.trunc();
        let known = self
            .table
            .index(prefix)
            .and_then(|index| peer.adj_rib_in.slot(index, nlri.path_id));
        if let (None, Some(limit)) = (known, peer.settings.import.maximum_paths)
            && peer.adj_rib_in.len() >= limit as usize
        {
            return match peer.settings.import.at_maximum {
                MaximumPathsAction::Restart => Err(MaximumPathsExceeded { limit }),
                MaximumPathsAction::Block => {
                    peer.adj_rib_in.block(Family::of(prefix));
                    Ok(Put::Blocked)
                }
            };
        }
        let change = put(
            &mut self.table,
            &mut peer.adj_rib_in,
            prefix,
            nlri.path_id,
            learned,
        );
        let Some(change) = change else {
            return Ok(Put::Unchanged);
        };
        self.follow(change, Source::Peer(id), nlri.path_id);
        Ok(Put::Changed)
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
        self.follow(change, Source::Peer(id), nlri.path_id);
        true
    }

    /// Announces a path of our own, or other attributes of one. An unspecified next hop stands for
    /// this speaker's address on each session.
    ///
    /// # Errors
    /// If the next hop is of the other family than the prefix; nothing changes then.
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
        let change = put(
            &mut self.table,
            &mut self.own,
            prefix.trunc(),
            None,
            &learned,
        );
        if let Some(change) = change {
            self.follow(change, Source::Own, None);
        }
        Ok(())
    }

    /// Withdraws a path of our own, if there is one.
    pub fn withdraw_originated(&mut self, prefix: IpNet) {
        let Some(index) = self.table.index(prefix.trunc()) else {
            return;
        };
        let Some(slot) = self.own.remove(index, None) else {
            return;
        };
        let change = self.table.remove(index, slot);
        self.follow(change, Source::Own, None);
    }
}

/// Returns `None` if the path is there already with these attributes.
pub(crate) fn put(
    table: &mut Table,
    adj_rib_in: &mut AdjRibIn,
    prefix: IpNet,
    path_id: Option<PathId>,
    learned: &Arc<Learned>,
) -> Option<Change> {
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
        Path {
            path_id,
            learned: learned.clone(),
        },
    );
    if slot.is_none() {
        adj_rib_in.insert(index, path_id, change.slot);
    }
    Some(change)
}
