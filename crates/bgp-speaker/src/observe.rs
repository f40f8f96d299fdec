//! Change streams of sessions and paths for observers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Instant,
};

use bgp_rib::{PathKey, PathSource, PeerId, Rib};
use tokio::sync::oneshot;

use crate::{
    path_list::{PathName, PathStatus},
    peer::Peers,
    status::{PeerStatus, View},
};

/// Limit of the changes in one batch to an observer. A batch has all unread changes of peers, even
/// above the limit, and then changes of paths up to the limit.
const BATCH: usize = 1024;

/// Largest number of unread changes of paths and removals of peers that the speaker stores for an
/// observer. Above this number, the stream of the observer ends, and the observer must start a new
/// stream, which begins with all existing peers and paths. Paths that existed when the observer was
/// added do not count.
const MAX_UNREAD: usize = 65_536;

/// A change of a peer or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeakerChange {
    /// A peer was added, or its configuration, its session state or its last error changed. A
    /// change of counters alone is not reported.
    Peer(Box<PeerStatus>),
    /// The peer with this name was removed.
    PeerRemoved(String),
    /// A path was added or changed.
    Path(PathStatus),
    /// A path was removed.
    PathRemoved(PathName),
    /// The observer has received all peers and paths that existed when the observer was added. Sent
    /// once.
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
    /// Changed paths with the names of their peers. The name is stored because the peer can be
    /// removed before the observer reads the change.
    changed_paths: ChangedPaths,
    /// Paths that existed when the observer was added, and that the observer has not received.
    /// These paths are sent before the paths in `changed_paths`. `None`: the observer has received
    /// all existing paths, or is lagging.
    existing_paths: Option<ChangedPaths>,
    /// Whether the observer exceeded [`MAX_UNREAD`]. Its changes were dropped, and its next request
    /// ends the stream.
    is_lagging: bool,
    reply: Option<oneshot::Sender<ObservedChanges>>,
}

/// Changes for an observer. `None`: the observer has exceeded [`MAX_UNREAD`].
pub(crate) type ObservedChanges = Option<Vec<SpeakerChange>>;

impl Observers {
    pub(crate) fn session_changed(&mut self, id: PeerId) {
        self.changed_peers.insert(id);
    }

    pub(crate) fn session_removed(&mut self, id: PeerId, name: String) {
        self.changed_peers.remove(&id);
        self.removed_peers.push((id, name));
    }

    pub(crate) fn next_changes(&mut self, observer: u64, reply: oneshot::Sender<ObservedChanges>) {
        if let Some(observer) = self.observers.get_mut(&observer) {
            observer.reply = Some(reply);
        }
    }

    /// Adds an observer. Its first changes are all existing peers and, if `follows_paths` is true,
    /// all existing paths.
    pub(crate) fn add(
        &mut self,
        observer: u64,
        alive: Weak<()>,
        follows_paths: bool,
        peers: &Peers,
        rib: &mut Rib,
    ) {
        let mut existing_paths = BTreeMap::new();
        if follows_paths {
            self.distribute_paths(peers, rib);
            rib.follow_changes(true);
            for path in rib.paths() {
                let name = peers.name_of(path.key.source).map(Arc::from);
                existing_paths.insert(path.key, name);
            }
        }
        let observer_state = Observer {
            alive,
            follows_paths,
            changed_peers: peers.ids().into_iter().collect(),
            removed_peers: BTreeSet::new(),
            changed_paths: BTreeMap::new(),
            existing_paths: Some(existing_paths),
            is_lagging: false,
            reply: None,
        };
        self.observers.insert(observer, observer_state);
    }

    /// Stores the changes of paths and sessions since the previous call for each observer. Takes
    /// the changes of paths from the RIB.
    pub(crate) fn distribute(&mut self, peers: &Peers, rib: &mut Rib) {
        self.distribute_paths(peers, rib);
        self.distribute_sessions();
    }

    /// Sends the stored changes to each observer that waits for changes.
    pub(crate) fn answer(&mut self, view: View<'_>, now: Instant) {
        let waiting: Vec<u64> = self
            .observers
            .iter()
            .filter(|(_, observer)| observer.reply.is_some() && observer.has_changes())
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let Some(mut observer) = self.observers.remove(&id) else {
                continue;
            };
            // An observer that lags is removed after this reply. An observer that was dropped is
            // removed because the send fails.
            let changes = (!observer.is_lagging).then(|| observer.next_changes(view, now));
            let stays = changes.is_some();
            if let Some(reply) = observer.reply.take()
                && reply.send(changes).is_ok()
                && stays
            {
                self.observers.insert(id, observer);
            }
        }
    }

    fn distribute_paths(&mut self, peers: &Peers, rib: &mut Rib) {
        let observers = &mut self.observers;
        observers.retain(|_, observer| observer.alive.strong_count() > 0);
        if !observers.values().any(|observer| observer.follows_paths) {
            rib.follow_changes(false);
            return;
        }
        let keys = rib.take_changes();
        if keys.is_empty() {
            return;
        }
        let mut names: BTreeMap<PeerId, Arc<str>> = BTreeMap::new();
        for (id, name) in &self.removed_peers {
            names.insert(*id, Arc::from(name.as_str()));
        }
        for key in keys {
            let name = match key.source {
                PathSource::Own => None,
                PathSource::Peer(id) => {
                    if !names.contains_key(&id)
                        && let Some(peer) = peers.get(id)
                    {
                        names.insert(id, Arc::from(peer.config.name.as_str()));
                    }
                    names.get(&id).cloned()
                }
            };
            for observer in observers.values_mut() {
                if observer.follows_paths {
                    observer.path_changed(key, name.clone());
                }
            }
        }
    }

    fn distribute_sessions(&mut self) {
        let changed = std::mem::take(&mut self.changed_peers);
        let removed = std::mem::take(&mut self.removed_peers);
        for observer in self.observers.values_mut() {
            for (id, name) in &removed {
                observer.session_removed(*id, name);
            }
            observer.changed_peers.extend(&changed);
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
        let is_unsent = self
            .existing_paths
            .as_ref()
            .is_some_and(|existing| existing.contains_key(&key));
        if !is_unsent && !self.is_lagging {
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
        if self.changed_paths.len() + self.removed_peers.len() > MAX_UNREAD {
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

    fn next_changes(&mut self, view: View<'_>, now: Instant) -> Vec<SpeakerChange> {
        let mut changes = Vec::new();
        let removed = std::mem::take(&mut self.removed_peers);
        changes.extend(removed.into_iter().map(SpeakerChange::PeerRemoved));
        let changed = std::mem::take(&mut self.changed_peers);
        let statuses = changed.into_iter().filter_map(|id| view.peer(id, now));
        changes.extend(statuses.map(|status| SpeakerChange::Peer(Box::new(status))));
        while changes.len() < BATCH {
            if let Some((key, name)) = self.next_path() {
                changes.push(path_change(view, &key, name));
            } else if self.existing_paths.take().is_some() {
                changes.push(SpeakerChange::Synced);
            } else {
                break;
            }
        }
        changes
    }
}

fn path_change(view: View<'_>, key: &PathKey, name: Option<Arc<str>>) -> SpeakerChange {
    match view.rib.path(key) {
        Some(path) => SpeakerChange::Path(view.path(&path)),
        None => SpeakerChange::PathRemoved(PathName {
            prefix: key.prefix,
            peer: name.map(|name| name.to_string()),
            path_id: key.path_id,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;

    use super::*;

    #[test]
    fn the_changes_of_an_observer_are_dropped_when_too_many_are_unread() {
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
            source: PathSource::Own,
            path_id: None,
        };
        for number in 0..MAX_UNREAD {
            observer.path_changed(key(number), None);
            observer.path_changed(key(number), None);
        }
        assert_eq!(observer.changed_paths.len(), MAX_UNREAD);
        assert!(!observer.is_lagging);
        for number in MAX_UNREAD..MAX_UNREAD + 10 {
            observer.path_changed(key(number), None);
        }
        assert!(observer.is_lagging && observer.has_changes());
        assert!(observer.changed_paths.is_empty());
    }
}
