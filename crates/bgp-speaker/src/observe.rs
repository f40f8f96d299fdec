//! What others may know: lists and streams of changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bgp_packet::{Asn, PathAttributes, PathId};
use bgp_rib::{NotBestReason, PathKey, PeerCounts, PeerId, RibPath, Source};
use bgp_session::Status;
use ipnet::IpNet;
use tokio::sync::oneshot;

use crate::owner::Owner;

/// Changes that are handed over at a time, at most.
const BATCH: usize = 1024;

/// Changes that are kept for an observer that does not read. Those of what exists alone could be
/// more; the observer then begins again, with everything that exists.
const MOST_UNREAD: usize = 65_536;

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
    /// Who announced it; `None`: this speaker, or, of an Adj-RIB-Out, somebody who has gone.
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

/// Names a path that is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemovedPath {
    /// The prefix.
    pub prefix: IpNet,
    /// Who announced it; `None`: this speaker.
    pub peer: Option<String>,
    /// As the peer sent it.
    pub path_id: Option<PathId>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A peer is new, or its session has changed. Counters alone are no change.
    Peer(Box<PeerStatus>),
    /// The peer of this name is gone.
    PeerRemoved(String),
    /// A path is new or has changed.
    Path(PathStatus),
    /// A path is gone.
    PathRemoved(RemovedPath),
    /// Everything that existed when the observer came has been told. Comes once.
    Synced,
}

#[derive(Default)]
pub(crate) struct Observers {
    observers: BTreeMap<u64, Observer>,
    changed_peers: BTreeSet<PeerId>,
    removed_peers: Vec<(PeerId, String)>,
}

type ChangedPaths = BTreeMap<PathKey, Option<Arc<str>>>;

struct Observer {
    alive: Weak<()>,
    follows_paths: bool,
    changed_peers: BTreeSet<PeerId>,
    removed_peers: BTreeSet<String>,
    /// With the name of the peer, which may be gone when it is asked for.
    changed_paths: ChangedPaths,
    /// What existed when it came and has not been told: told first, so that no later change
    /// delays it. `None` once all of it has been told.
    existing_paths: Option<ChangedPaths>,
    /// It has not read [`MOST_UNREAD`] changes; they are dropped, and its next question is its last.
    is_lagging: bool,
    reply: Option<oneshot::Sender<Changes>>,
}

/// Changes for an observer; `None`: it is lagging.
pub(crate) type Changes = Option<Vec<Change>>;

impl Observers {
    pub(crate) fn session_changed(&mut self, id: PeerId) {
        self.changed_peers.insert(id);
    }

    pub(crate) fn session_removed(&mut self, id: PeerId, name: String) {
        self.changed_peers.remove(&id);
        self.removed_peers.push((id, name));
    }

    pub(crate) fn ask(&mut self, observer: u64, reply: oneshot::Sender<Changes>) {
        if let Some(observer) = self.observers.get_mut(&observer) {
            observer.reply = Some(reply);
        }
    }
}

impl Observer {
    fn has_changes(&self) -> bool {
        self.is_lagging
            || self.existing_paths.is_some()
            || !self.changed_peers.is_empty()
            || !self.removed_peers.is_empty()
            || !self.changed_paths.is_empty()
    }

    fn path_changed(&mut self, key: PathKey, name: Option<Arc<str>>) {
        let is_untold = self
            .existing_paths
            .as_ref()
            .is_some_and(|existing| existing.contains_key(&key));
        if !is_untold && !self.is_lagging {
            self.changed_paths.insert(key, name);
            self.drop_unread();
        }
    }

    fn session_removed(&mut self, id: PeerId, name: &str) {
        self.changed_peers.remove(&id);
        if !self.is_lagging {
            self.removed_peers.insert(name.to_owned());
            self.drop_unread();
        }
    }

    fn drop_unread(&mut self) {
        if self.changed_paths.len() + self.removed_peers.len() > MOST_UNREAD {
            self.is_lagging = true;
            self.changed_paths = BTreeMap::new();
            self.removed_peers = BTreeSet::new();
            self.existing_paths = None;
        }
    }

    fn next_path(&mut self) -> Option<(PathKey, Option<Arc<str>>)> {
        match &mut self.existing_paths {
            Some(existing) => existing.pop_first(),
            None => self.changed_paths.pop_first(),
        }
    }
}

impl Owner {
    pub(crate) fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        self.peers
            .keys()
            .filter_map(|id| self.peer_status(*id, now))
            .collect()
    }

    fn peer_status(&self, id: PeerId, now: Instant) -> Option<PeerStatus> {
        let peer = self.peers.get(&id)?;
        let session = peer.session.status();
        let link = peer.established.and_then(|id| self.links.get(&id));
        Some(PeerStatus {
            name: peer.config.name.clone(),
            group: peer.config.group.clone(),
            address: peer.config.address,
            configured_asn: peer.config.session.peer_asn,
            is_dynamic: peer.is_dynamic,
            local_address: link.map(|link| link.local),
            in_state: now.saturating_duration_since(session.since),
            hold_timer_remaining: session
                .hold_deadline
                .map(|deadline| deadline.saturating_duration_since(now)),
            counts: self.rib.counts(id),
            session,
        })
    }

    pub(crate) fn path_statuses(&self, table: &Table, prefix: Option<IpNet>) -> Vec<PathStatus> {
        let mut paths: Vec<PathStatus> = match table {
            Table::All => match prefix {
                Some(prefix) => self
                    .rib
                    .paths_of(prefix)
                    .map(|path| self.path_status(&path))
                    .collect(),
                None => self
                    .rib
                    .paths()
                    .map(|path| self.path_status(&path))
                    .collect(),
            },
            Table::AdjRibIn(name) => self
                .peer_named(name)
                .into_iter()
                .flat_map(|id| self.rib.adj_rib_in(id))
                .map(|path| self.path_status(&path))
                .collect(),
            Table::AdjRibOut(name) => self
                .peer_named(name)
                .into_iter()
                .flat_map(|id| self.rib.adj_rib_out(id))
                .map(|sent| PathStatus {
                    prefix: sent.prefix,
                    peer: sent.source.and_then(|source| self.source_name(source)),
                    path_id: sent.path_id,
                    attributes: sent.attributes.clone(),
                    is_best: sent.is_best,
                    not_best: None,
                })
                .collect(),
        };
        if let Some(prefix) = prefix {
            paths.retain(|path| path.prefix == prefix.trunc());
        }
        paths.sort_by(|a, b| (a.prefix, &a.peer, a.path_id).cmp(&(b.prefix, &b.peer, b.path_id)));
        paths
    }

    fn path_status(&self, path: &RibPath<'_>) -> PathStatus {
        PathStatus {
            prefix: path.key.prefix,
            peer: self.source_name(path.key.source),
            path_id: path.key.path_id,
            attributes: path.attributes.clone(),
            is_best: path.not_best.is_none(),
            not_best: path.not_best,
        }
    }

    fn peer_named(&self, name: &str) -> Option<PeerId> {
        self.peers
            .iter()
            .find(|(_, peer)| peer.config.name == name)
            .map(|(id, _)| *id)
    }

    fn source_name(&self, source: Source) -> Option<String> {
        match source {
            Source::Own => None,
            Source::Peer(id) => {
                let peer = self.peers.get(&id);
                peer.map(|peer| peer.config.name.clone())
            }
        }
    }

    /// A new observer: everything that exists counts as changed.
    pub(crate) fn observe(&mut self, observer: u64, alive: Weak<()>, follows_paths: bool) {
        let mut existing_paths = BTreeMap::new();
        if follows_paths {
            self.distribute_paths();
            self.rib.follow_changes(true);
            for path in self.rib.paths() {
                let name = self.source_name(path.key.source).map(Arc::from);
                existing_paths.insert(path.key, name);
            }
        }
        let observer_state = Observer {
            alive,
            follows_paths,
            changed_peers: self.peers.keys().copied().collect(),
            removed_peers: BTreeSet::new(),
            changed_paths: BTreeMap::new(),
            existing_paths: Some(existing_paths),
            is_lagging: false,
            reply: None,
        };
        self.observers.observers.insert(observer, observer_state);
    }

    /// Tells each observer that waits what has changed for it.
    pub(crate) fn answer_observers(&mut self, now: Instant) {
        self.distribute_paths();
        self.distribute_sessions();
        let waiting: Vec<u64> = self
            .observers
            .observers
            .iter()
            .filter(|(_, observer)| observer.reply.is_some() && observer.has_changes())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.answer(id, now);
        }
    }

    fn answer(&mut self, id: u64, now: Instant) {
        let Some(mut observer) = self.observers.observers.remove(&id) else {
            return;
        };
        if observer.is_lagging {
            if let Some(reply) = observer.reply.take() {
                // An observer that has gone needs no answer.
                let _ = reply.send(None);
            }
            return;
        }
        let mut changes = Vec::new();
        let removed = std::mem::take(&mut observer.removed_peers);
        changes.extend(removed.into_iter().map(Change::PeerRemoved));
        let changed = std::mem::take(&mut observer.changed_peers);
        let statuses = changed
            .into_iter()
            .filter_map(|id| self.peer_status(id, now));
        changes.extend(statuses.map(|status| Change::Peer(Box::new(status))));
        while changes.len() < BATCH {
            if let Some((key, name)) = observer.next_path() {
                changes.push(self.path_change(&key, name));
            } else if observer.existing_paths.take().is_some() {
                changes.push(Change::Synced);
            } else {
                break;
            }
        }
        if let Some(reply) = observer.reply.take()
            && reply.send(Some(changes)).is_ok()
        {
            self.observers.observers.insert(id, observer);
        }
    }

    fn path_change(&self, key: &PathKey, name: Option<Arc<str>>) -> Change {
        match self.rib.path(key) {
            Some(path) => Change::Path(self.path_status(&path)),
            None => Change::PathRemoved(RemovedPath {
                prefix: key.prefix,
                peer: name.map(|name| name.to_string()),
                path_id: key.path_id,
            }),
        }
    }

    fn distribute_paths(&mut self) {
        let observers = &mut self.observers.observers;
        observers.retain(|_, observer| observer.alive.strong_count() > 0);
        if !observers.values().any(|observer| observer.follows_paths) {
            self.rib.follow_changes(false);
            return;
        }
        let keys = self.rib.take_changes();
        if keys.is_empty() {
            return;
        }
        let mut names: BTreeMap<PeerId, Arc<str>> = BTreeMap::new();
        for (id, name) in &self.observers.removed_peers {
            names.insert(*id, Arc::from(name.as_str()));
        }
        for key in keys {
            let name = match key.source {
                Source::Own => None,
                Source::Peer(id) => {
                    if !names.contains_key(&id)
                        && let Some(peer) = self.peers.get(&id)
                    {
                        names.insert(id, Arc::from(peer.config.name.as_str()));
                    }
                    names.get(&id).cloned()
                }
            };
            for observer in self.observers.observers.values_mut() {
                if observer.follows_paths {
                    observer.path_changed(key, name.clone());
                }
            }
        }
    }

    fn distribute_sessions(&mut self) {
        let changed = std::mem::take(&mut self.observers.changed_peers);
        let removed = std::mem::take(&mut self.observers.removed_peers);
        for observer in self.observers.observers.values_mut() {
            for (id, name) in &removed {
                observer.session_removed(*id, name);
            }
            observer.changed_peers.extend(&changed);
        }
    }
}

impl PeerStatus {
    /// Its address without the port.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_are_not_read_are_bounded_and_end_the_observer() {
        let alive = Arc::new(());
        let mut observer = Observer {
            alive: Arc::downgrade(&alive),
            follows_paths: true,
            changed_peers: BTreeSet::new(),
            removed_peers: BTreeSet::new(),
            changed_paths: BTreeMap::new(),
            existing_paths: None,
            is_lagging: false,
            reply: None,
        };
        let key = |number: usize| PathKey {
            prefix: IpNet::from(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())),
            source: Source::Own,
            path_id: None,
        };
        for number in 0..MOST_UNREAD {
            observer.path_changed(key(number), None);
            observer.path_changed(key(number), None);
        }
        assert_eq!(observer.changed_paths.len(), MOST_UNREAD);
        assert!(!observer.is_lagging);
        for number in MOST_UNREAD..MOST_UNREAD + 10 {
            observer.path_changed(key(number), None);
        }
        assert!(observer.is_lagging && observer.has_changes());
        assert!(observer.changed_paths.is_empty());
    }
}
