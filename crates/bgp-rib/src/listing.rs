//! The tables as an operator reads them.

use std::sync::Arc;

use bgp_packet::{IpNet, PathAttributes, PathId};

use crate::{
    adj_rib_out::What,
    decision::NotBestReason,
    peer::{PeerId, Source},
    rib::Rib,
    table::{Entry, Path, Slot},
};

/// Names a path of an Adj-RIB-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathKey {
    /// Without host bits.
    pub prefix: IpNet,
    /// Who announced it.
    pub source: Source,
    /// As the source sent it (RFC 7911).
    pub path_id: Option<PathId>,
}

/// A path of an Adj-RIB-In, with the decision process's verdict.
#[derive(Clone, Copy, Debug)]
pub struct RibPath<'a> {
    /// Its name.
    pub key: PathKey,
    /// After import.
    pub attributes: &'a Arc<PathAttributes>,
    /// Why it is not the best path; `None`: it is.
    pub not_best: Option<NotBestReason>,
}

/// What a peer has been sent for a prefix.
#[derive(Clone, Copy, Debug)]
pub struct SentPath<'a> {
    /// The prefix.
    pub prefix: IpNet,
    /// As sent, where the peer takes all paths.
    pub path_id: Option<PathId>,
    /// As sent.
    pub attributes: &'a Arc<PathAttributes>,
    /// Who announced it; `None` while a change is pending, since the path may be gone.
    pub source: Option<Source>,
    /// Whether it is the best path of the prefix; `false` while a change is pending.
    pub is_best: bool,
}

/// Sizes of a peer's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Adj-RIB-In: paths that were accepted.
    pub paths_received: usize,
    /// Adj-RIB-Out.
    pub paths_sent: usize,
    /// Keys that [`Rib::take_pending`] will look at.
    pub pending: usize,
}

impl Path {
    fn source(&self) -> Source {
        self.learned.source().source()
    }

    pub(crate) fn key(&self, prefix: IpNet) -> PathKey {
        PathKey {
            prefix,
            source: self.source(),
            path_id: self.path_id,
        }
    }
}

fn rib_paths(entry: &Entry) -> impl Iterator<Item = RibPath<'_>> {
    entry.verdicts().map(|(path, not_best)| RibPath {
        key: path.key(entry.prefix()),
        attributes: path.learned.attributes(),
        not_best,
    })
}

fn rib_path(entry: &Entry, slot: Slot) -> Option<RibPath<'_>> {
    let path = entry.path(slot)?;
    Some(RibPath {
        key: path.key(entry.prefix()),
        attributes: path.learned.attributes(),
        not_best: entry.verdict(slot),
    })
}

impl Rib {
    /// Every path of every source, in no order but prefix by prefix.
    pub fn paths(&self) -> impl Iterator<Item = RibPath<'_>> {
        self.table.entries().flat_map(|(_, entry)| rib_paths(entry))
    }

    /// Every path of the prefix.
    pub fn paths_of(&self, prefix: IpNet) -> impl Iterator<Item = RibPath<'_>> {
        let entry = self
            .table
            .index(prefix.trunc())
            .map(|index| self.table.entry(index));
        entry.into_iter().flat_map(rib_paths)
    }

    /// The path of this name, if it exists.
    pub fn path(&self, key: &PathKey) -> Option<RibPath<'_>> {
        let adj_rib_in = match key.source {
            Source::Own => &self.own,
            Source::Peer(id) => &self.peers.get(&id)?.adj_rib_in,
        };
        let index = self.table.index(key.prefix.trunc())?;
        rib_path(
            self.table.entry(index),
            adj_rib_in.slot(index, key.path_id)?,
        )
    }

    /// What the peer announced, after import policy. In no order.
    pub fn adj_rib_in(&self, id: PeerId) -> impl Iterator<Item = RibPath<'_>> {
        let peer = self.peers.get(&id);
        peer.into_iter()
            .flat_map(|peer| peer.adj_rib_in.slots())
            .filter_map(|(index, _, slot)| rib_path(self.table.entry(index), slot))
    }

    /// What the peer has been sent. In no order.
    pub fn adj_rib_out(&self, id: PeerId) -> impl Iterator<Item = SentPath<'_>> {
        let peer = self.peers.get(&id);
        peer.into_iter().flat_map(|peer| {
            peer.adj_rib_out.all_sent().map(|(key, attributes)| {
                let entry = self.table.entry(key.prefix);
                let best = entry.best();
                let (path, path_id) = match key.what {
                    What::Best => (best.map(|(_, path)| path), None),
                    What::Slot(slot) => (entry.path(slot), Some(slot.path_id())),
                };
                let is_settled = !peer.adj_rib_out.is_pending(key);
                let is_best = match key.what {
                    What::Best => true,
                    What::Slot(slot) => best.is_some_and(|(best, _)| best == slot),
                };
                SentPath {
                    prefix: entry.prefix(),
                    path_id,
                    attributes,
                    source: path.filter(|_| is_settled).map(Path::source),
                    is_best: is_settled && is_best,
                }
            })
        })
    }

    /// Sizes of the peer's tables; zero for an unknown one.
    pub fn counts(&self, id: PeerId) -> PeerCounts {
        self.peers
            .get(&id)
            .map_or_else(PeerCounts::default, |peer| PeerCounts {
                paths_received: peer.adj_rib_in.len(),
                paths_sent: peer.adj_rib_out.sent_count(),
                pending: peer.adj_rib_out.pending_count(),
            })
    }

    /// Number of prefixes that have a path, or still have to be withdrawn from a peer.
    pub fn prefix_count(&self) -> usize {
        self.table.prefix_count()
    }
}
