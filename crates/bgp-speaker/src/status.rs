//! Peers, sessions and paths at a moment.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bgp_packet::{Asn, PathAttributes, PathId};
use bgp_rib::{NotBestReason, PeerCounts, PeerId, Rib, RibPath};
use bgp_session::{SessionState, Status};
use ipnet::IpNet;

use crate::{connections::Connections, peer::Peers};

/// A peer and its session at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Unique.
    pub name: String,
    /// Group that it belongs to.
    pub group: Option<String>,
    /// Address, and the port that it listens on; of a dynamic peer the port that it came from.
    pub address: SocketAddr,
    /// AS that it must have.
    pub configured_asn: Option<Asn>,
    /// Whether it came up by the prefix of a group.
    pub is_dynamic: bool,
    /// Its session.
    pub session: Status,
    /// This side's address of the established connection.
    pub local_address: Option<SocketAddr>,
    /// Time in the state.
    pub in_state: Duration,
    /// Until the hold timer expires; `None`: it does not run.
    pub hold_timer_remaining: Option<Duration>,
    /// Sizes of its tables.
    pub counts: PeerCounts,
}

/// Which paths to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// The Adj-RIBs-In of all peers and our own paths.
    All,
    /// What the peer announced, after import policy.
    AdjRibIn(String),
    /// What the peer has been sent.
    AdjRibOut(String),
}

/// A path at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// Name of the peer that announced it; `None`: this speaker, or, of an Adj-RIB-Out, a peer that is
    /// gone.
    pub peer: Option<String>,
    /// As the peer sent it, or, of an Adj-RIB-Out, as it was sent.
    pub path_id: Option<PathId>,
    /// The attributes.
    pub attributes: Arc<PathAttributes>,
    /// Whether the decision process prefers it.
    pub is_best: bool,
    /// Why the decision process does not prefer it, where it is known.
    pub not_best: Option<NotBestReason>,
}

impl PeerStatus {
    /// Whether routes flow.
    pub fn is_established(&self) -> bool {
        self.session.state == SessionState::Established
    }
}

/// The state that lists are read from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) connections: &'a Connections,
    pub(crate) rib: &'a Rib,
}

impl View<'_> {
    pub(crate) fn peers(self, now: Instant) -> Vec<PeerStatus> {
        let ids = self.peers.ids().into_iter();
        ids.filter_map(|id| self.peer(id, now)).collect()
    }

    pub(crate) fn peer(self, id: PeerId, now: Instant) -> Option<PeerStatus> {
        let peer = self.peers.get(id)?;
        let session = peer.session.status();
        let addresses = peer
            .established
            .and_then(|connection| self.connections.addresses(connection));
        Some(PeerStatus {
            name: peer.config.name.clone(),
            group: peer.config.group.clone(),
            address: peer.config.address,
            configured_asn: peer.config.session.peer_asn,
            is_dynamic: peer.is_dynamic,
            local_address: addresses.map(|it| it.local),
            in_state: now.saturating_duration_since(session.since),
            hold_timer_remaining: session
                .hold_deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            counts: self.rib.counts(id),
            session,
        })
    }

    /// Returns the paths of a table, ordered by prefix, peer and path id.
    pub(crate) fn paths(self, table: &Table, prefix: Option<IpNet>) -> Vec<PathStatus> {
        let mut paths: Vec<PathStatus> = match table {
            Table::All => match prefix {
                Some(prefix) => {
                    let paths = self.rib.paths_of(prefix);
                    paths.map(|path| self.path(&path)).collect()
                }
                None => self.rib.paths().map(|path| self.path(&path)).collect(),
            },
            Table::AdjRibIn(name) => {
                let ids = self.peers.named(name).into_iter();
                let paths = ids.flat_map(|id| self.rib.adj_rib_in(id));
                paths.map(|path| self.path(&path)).collect()
            }
            Table::AdjRibOut(name) => {
                let ids = self.peers.named(name).into_iter();
                let paths = ids.flat_map(|id| self.rib.adj_rib_out(id));
                let sent = paths.map(|sent| PathStatus {
                    prefix: sent.prefix,
                    peer: sent
                        .source
                        .and_then(|source| self.peers.name_of(source).map(str::to_owned)),
                    path_id: sent.path_id,
                    attributes: sent.attributes.clone(),
                    is_best: sent.is_best,
                    not_best: None,
                });
                sent.collect()
            }
        };
        if let Some(prefix) = prefix {
            paths.retain(|path| path.prefix == prefix.trunc());
        }
        paths.sort_by(|a, b| (a.prefix, &a.peer, a.path_id).cmp(&(b.prefix, &b.peer, b.path_id)));
        paths
    }

    pub(crate) fn path(self, path: &RibPath<'_>) -> PathStatus {
        PathStatus {
            prefix: path.key.prefix,
            peer: self.peers.name_of(path.key.source).map(str::to_owned),
            path_id: path.key.path_id,
            attributes: path.attributes.clone(),
            is_best: path.not_best.is_none(),
            not_best: path.not_best,
        }
    }
}
