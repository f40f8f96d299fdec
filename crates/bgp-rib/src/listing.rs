//! Read access to the tables, for operators.

use std::sync::Arc;

use bgp_packet::{IpNet, PathAttributes, PathId};

use crate::{
    adj_rib_out::PathChoice,
    decision::NotBestReason,
    peer::{PathSource, PeerId},
    rib::Rib,
    table::{PathSlot, PrefixEntry, StoredPath},
};

/// The key of a path in an Adj-RIB-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathKey {
    /// The prefix of the path, with all host bits set to 0.
    pub prefix: IpNet,
    pub source: PathSource,
    /// Path id from the source (RFC 7911). `None`: the source sends no path ids.
    pub path_id: Option<PathId>,
}

/// A path of an Adj-RIB-In, with the result of the decision process.
#[derive(Clone, Copy, Debug)]
pub struct RibPath<'a> {
    pub key: PathKey,
    /// The attributes after the import policy.
    pub attributes: &'a Arc<PathAttributes>,
    /// The step of the decision process at which the path lost. `None`: the path is the best path.
    pub not_best: Option<NotBestReason>,
}

/// A path of an Adj-RIB-Out, as it was sent to the peer.
#[derive(Clone, Copy, Debug)]
pub struct SentPath<'a> {
    pub prefix: IpNet,
    /// The sent path id. `None`: the peer receives only the best path, without a path id.
    pub path_id: Option<PathId>,
    /// The attributes with which the path was sent.
    pub attributes: &'a Arc<PathAttributes>,
    /// The source of the path. `None`: a change of the path is pending, so the source of the sent
    /// path is not known.
    pub source: Option<PathSource>,
    /// Whether the path is the best path of the prefix. Always `false` while a change of the path
    /// is pending.
    pub is_best: bool,
}

/// The sizes of a peer's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Number of paths in the Adj-RIB-In.
    pub paths_received: usize,
    /// Number of paths in the Adj-RIB-Out.
    pub paths_sent: usize,
    /// Number of keys and end-of-RIB marks that are pending for [`Rib::take_pending`].
    pub pending: usize,
}

impl StoredPath {
    fn source(&self) -> PathSource {
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

fn rib_paths(entry: &PrefixEntry) -> impl Iterator<Item = RibPath<'_>> {
    entry.verdicts().map(|(path, not_best)| RibPath {
        key: path.key(entry.prefix()),
        attributes: path.learned.attributes(),
        not_best,
    })
}

fn rib_path(entry: &PrefixEntry, slot: PathSlot) -> Option<RibPath<'_>> {
    let path = entry.path(slot)?;
    Some(RibPath {
        key: path.key(entry.prefix()),
        attributes: path.learned.attributes(),
        not_best: entry.verdict(slot),
    })
}

impl Rib {
    /// Returns every path of every source. Paths of one prefix are adjacent. The order of the
    /// prefixes, and of the paths within a prefix, is not defined.
    pub fn paths(&self) -> impl Iterator<Item = RibPath<'_>> {
        self.table.entries().flat_map(|(_, entry)| rib_paths(entry))
    }

    /// Returns every path of the prefix, from all sources.
    pub fn paths_of(&self, prefix: IpNet) -> impl Iterator<Item = RibPath<'_>> {
        let entry = self
            .table
            .index(prefix.trunc())
            .map(|index| self.table.entry(index));
        entry.into_iter().flat_map(rib_paths)
    }

    /// Returns the path with this key, if it exists.
    pub fn path(&self, key: &PathKey) -> Option<RibPath<'_>> {
        let adj_rib_in = match key.source {
            PathSource::Own => &self.own,
            PathSource::Peer(id) => &self.peers.get(&id)?.adj_rib_in,
        };
        let index = self.table.index(key.prefix.trunc())?;
        rib_path(
            self.table.entry(index),
            adj_rib_in.slot(index, key.path_id)?,
        )
    }

    /// Returns the accepted paths of the peer, with attributes after the import policy. The order
    /// is not defined.
    pub fn adj_rib_in(&self, id: PeerId) -> impl Iterator<Item = RibPath<'_>> {
        let peer = self.peers.get(&id);
        peer.into_iter()
            .flat_map(|peer| peer.adj_rib_in.slots())
            .filter_map(|(index, _, slot)| rib_path(self.table.entry(index), slot))
    }

    /// Returns the paths that were sent to the peer. The order is not defined.
    pub fn adj_rib_out(&self, id: PeerId) -> impl Iterator<Item = SentPath<'_>> {
        let peer = self.peers.get(&id);
        peer.into_iter().flat_map(|peer| {
            peer.adj_rib_out.all_sent().map(|(key, attributes)| {
                let entry = self.table.entry(key.prefix);
                let best = entry.best();
                let (path, path_id) = match key.choice {
                    PathChoice::Best => (best.map(|(_, path)| path), None),
                    PathChoice::Slot(slot) => (entry.path(slot), Some(slot.path_id())),
                };
                let is_current = !peer.adj_rib_out.is_pending(key);
                let is_best = match key.choice {
                    PathChoice::Best => true,
                    PathChoice::Slot(slot) => best.is_some_and(|(best, _)| best == slot),
                };
                SentPath {
                    prefix: entry.prefix(),
                    path_id,
                    attributes,
                    source: path.filter(|_| is_current).map(StoredPath::source),
                    is_best: is_current && is_best,
                }
            })
        })
    }

    /// Returns the sizes of the peer's tables. All sizes are zero for an unknown peer.
    pub fn counts(&self, id: PeerId) -> PeerCounts {
        self.peers
            .get(&id)
            .map_or_else(PeerCounts::default, |peer| PeerCounts {
                paths_received: peer.adj_rib_in.len(),
                paths_sent: peer.adj_rib_out.sent_count(),
                pending: peer.adj_rib_out.pending_count(),
            })
    }

    /// Returns the number of prefixes that have a path or a change that is pending for a peer.
    pub fn prefix_count(&self) -> usize {
        self.table.prefix_count()
    }
}
