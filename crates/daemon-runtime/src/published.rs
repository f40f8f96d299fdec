//! Published objects with watches.
//!
//! One owner publishes whole objects, and many watchers read them. Each change has a revision.
//!
//! - A watcher gets every object, then [`PublishedEvent::Synced`], then each change. Every object
//!   that existed when the owner was synced comes before [`PublishedEvent::Synced`], even if the
//!   object changes before the watcher has received it: at [`PublishedEvent::Synced`] a client
//!   deletes all objects that it has not received.
//! - A slow watcher gets only the last of several changes of an object.
//! - The table keeps the last removal of each key for slow watchers. It keeps as many removals as
//!   the largest number of objects that it had since it last dropped every removal, but at least
//!   [`KEPT_REMOVALS`]. So the removal of all objects does not end a watch.
//! - A watcher that has not read a dropped removal is lagging. Its watch ends with
//!   [`WatchEnded::Lagging`], and the client starts a new watch to get all objects again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Stream, stream};
use tokio::sync::watch;

/// The number of removals that a table keeps for slow watchers, unless it had more objects at some
/// time since it last dropped every removal. Then it keeps as many removals as the largest number
/// of objects in this time.
pub const KEPT_REMOVALS: usize = 1_000;

/// Largest number of open watches of one publisher.
pub const MOST_WATCHES: usize = 256;

/// The reason why a watch has ended or cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnded {
    /// The watcher has not read a removal that the table no longer keeps.
    #[error(
        "the watcher read too slowly, and the removals that it has not read are no longer kept; start \
         a new watch to get all objects"
    )]
    Lagging,
    /// [`MOST_WATCHES`] watches are open.
    #[error("{MOST_WATCHES} watches are open, the largest allowed number; end one of them")]
    TooMany,
}

impl From<WatchEnded> for tonic::Status {
    fn from(ended: WatchEnded) -> Self {
        let message = ended.to_string();
        match ended {
            WatchEnded::Lagging => Self::aborted(message),
            WatchEnded::TooMany => Self::resource_exhausted(message),
        }
    }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishedEvent<K, V> {
    /// An object is new or has changed. The value is the whole object.
    Changed(K, V),
    Removed(K),
    /// The watcher has received all existing objects.
    Synced,
}

/// The handle with which the owner publishes and removes objects.
#[derive(Debug)]
pub struct Publisher<K, V> {
    table: Arc<Mutex<PublishedTable<K, V>>>,
    revision: watch::Sender<u64>,
}

/// The handle with which other tasks read and watch the published objects. Cloning it is cheap.
#[derive(Debug)]
pub struct Reader<K, V> {
    table: Arc<Mutex<PublishedTable<K, V>>>,
    revision: watch::Receiver<u64>,
}

/// One watch, with its position in the sequence of changes.
#[derive(Debug)]
pub struct Subscription<K, V> {
    reader: Reader<K, V>,
    /// The revision of the last change that the watcher has read.
    cursor: u64,
    /// The revision up to which the watcher has read all removals. The table reads this value to
    /// drop the removals that every watcher has read.
    read_until: Arc<AtomicU64>,
    /// The revision at the start of the watch. The watcher gets no removals up to this revision,
    /// because it has never received their objects.
    opened_at: u64,
    phase: Phase<K>,
}

/// The phase of a watch.
#[derive(Debug)]
enum Phase<K> {
    /// The owner is not synced. The watcher gets each change.
    NotSynced,
    /// The owner is synced, and the watcher gets the objects that it has not received yet.
    ///
    /// `ahead` lists their keys. So an object that changes during this phase comes before
    /// [`PublishedEvent::Synced`], and further changes do not delay [`PublishedEvent::Synced`].
    /// `until` is the revision at the start of this phase.
    Listing { ahead: VecDeque<K>, until: u64 },
    /// The watcher has got [`PublishedEvent::Synced`] and gets each change.
    Following,
}

/// The published objects at one revision, or a page of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedSnapshot<K, V> {
    pub revision: u64,
    /// The owner has published all its objects at least once.
    pub synced: bool,
    /// The number of all published objects, not only of this page.
    pub total: usize,
    /// The objects are sorted by key.
    pub objects: Vec<(K, V)>,
}

#[derive(Debug)]
struct PublishedTable<K, V> {
    revision: u64,
    synced: bool,
    /// The revision of the last change of each key. The value is `None` if the change is a removal.
    latest: BTreeMap<K, (u64, Option<V>)>,
    /// The keys of `latest`, sorted by revision.
    log: BTreeMap<u64, K>,
    /// The revisions of the kept removals.
    removals: BTreeSet<u64>,
    /// The largest number of objects since the table last dropped every removal.
    most_objects: usize,
    /// The revision of the last removal that was dropped before every watcher had read it.
    dropped: u64,
    /// [`Subscription::read_until`] of each watch.
    read_until: Vec<Weak<AtomicU64>>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Publisher<K, V> {
    /// Returns a publisher without objects that is not synced.
    pub fn new() -> Self {
        let table = PublishedTable {
            revision: 0,
            synced: false,
            latest: BTreeMap::new(),
            log: BTreeMap::new(),
            removals: BTreeSet::new(),
            most_objects: 0,
            dropped: 0,
            read_until: Vec::new(),
        };
        Self {
            table: Arc::new(Mutex::new(table)),
            revision: watch::Sender::new(0),
        }
    }

    /// Publishes an object. Causes no event if the published object is equal.
    pub fn set(&self, key: K, value: V) {
        let mut table = lock(&self.table);
        if let Some((_, Some(published))) = table.latest.get(&key)
            && *published == value
        {
            return;
        }
        table.record(key, Some(value));
        self.announce(table);
    }

    /// Calls `read` with the published object, or with `None` if `key` is not published.
    pub fn read<R>(&self, key: &K, read: impl FnOnce(Option<&V>) -> R) -> R {
        let table = lock(&self.table);
        read(table.latest.get(key).and_then(|(_, value)| value.as_ref()))
    }

    /// Removes an object. Causes no event if `key` is not published.
    pub fn remove(&self, key: &K) {
        let mut table = lock(&self.table);
        if !matches!(table.latest.get(key), Some((_, Some(_)))) {
            return;
        }
        table.record(key.clone(), None);
        table.forget_removed();
        self.announce(table);
    }

    /// Makes the published objects equal to `objects`. Equal objects cause no event.
    pub fn replace_all(&self, objects: BTreeMap<K, V>) {
        let gone: Vec<K> = lock(&self.table)
            .latest
            .iter()
            .filter(|(key, (_, value))| value.is_some() && !objects.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
        for (key, value) in objects {
            self.set(key, value);
        }
    }

    /// Declares that the owner has published all its objects. Watchers get
    /// [`PublishedEvent::Synced`].
    pub fn synced(&self) {
        let mut table = lock(&self.table);
        if !table.synced {
            table.synced = true;
            table.revision += 1;
            self.announce(table);
        }
    }

    /// Returns a new handle for reading and watching.
    pub fn reader(&self) -> Reader<K, V> {
        Reader {
            table: Arc::clone(&self.table),
            revision: self.revision.subscribe(),
        }
    }

    fn announce(&self, table: MutexGuard<'_, PublishedTable<K, V>>) {
        let revision = table.revision;
        drop(table);
        self.revision.send_replace(revision);
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Default for Publisher<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Clone for Reader<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            revision: self.revision.clone(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Reader<K, V> {
    /// Returns all published objects.
    pub fn snapshot(&self) -> PublishedSnapshot<K, V> {
        self.snapshot_after(None, usize::MAX)
    }

    /// Returns the first `limit` published objects with keys greater than `after`.
    pub fn snapshot_after(&self, after: Option<&K>, limit: usize) -> PublishedSnapshot<K, V> {
        let table = lock(&self.table);
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = table
            .latest
            .range((first, Bound::Unbounded))
            .filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?)))
            .take(limit)
            .collect();
        PublishedSnapshot {
            revision: table.revision,
            synced: table.synced,
            total: table.objects(),
            objects,
        }
    }

    /// Starts a watch.
    ///
    /// # Errors
    /// [`WatchEnded::TooMany`] if [`MOST_WATCHES`] watches are open.
    pub fn subscribe(&self) -> Result<Subscription<K, V>, WatchEnded> {
        let mut table = lock(&self.table);
        table
            .read_until
            .retain(|read_until| read_until.strong_count() > 0);
        if table.read_until.len() >= MOST_WATCHES {
            return Err(WatchEnded::TooMany);
        }
        let opened_at = table.revision;
        let read_until = Arc::new(AtomicU64::new(opened_at));
        table.read_until.push(Arc::downgrade(&read_until));
        drop(table);
        Ok(Subscription {
            reader: self.clone(),
            cursor: 0,
            read_until,
            opened_at,
            phase: Phase::NotSynced,
        })
    }
}

/// An event with its revision, or the end of the watch.
type NextEvent<K, V> = Result<(u64, PublishedEvent<K, V>), WatchEnded>;

/// An event with its revision, `None` if no event is ready, or the end of the watch.
type ReadyEvent<K, V> = Result<Option<(u64, PublishedEvent<K, V>)>, WatchEnded>;

impl<K: Ord + Clone, V: Clone> Subscription<K, V> {
    /// Waits for the next event and returns it with its revision. `None` after the publisher was
    /// dropped.
    ///
    /// # Errors
    /// The watch has ended. Do not call this function again.
    pub async fn next(&mut self) -> Option<NextEvent<K, V>> {
        loop {
            // Marks the revision as seen before the table is read. A change after the read then
            // wakes the wait below.
            self.reader.revision.borrow_and_update();
            if let Some(event) = self.next_ready().transpose() {
                return Some(event);
            }
            self.reader.revision.changed().await.ok()?;
        }
    }

    /// Returns the next event if one is ready.
    fn next_ready(&mut self) -> ReadyEvent<K, V> {
        let table = lock(&self.reader.table);
        if table.dropped > self.read_until.load(Ordering::Relaxed) {
            return Err(WatchEnded::Lagging);
        }
        if matches!(self.phase, Phase::NotSynced) && table.synced {
            let ahead = table.log.range(self.cursor + 1..);
            self.phase = Phase::Listing {
                ahead: ahead.map(|(_, key)| key.clone()).collect(),
                until: table.revision,
            };
        }
        if let Phase::Listing { ahead, until } = &mut self.phase {
            while let Some(key) = ahead.pop_front() {
                if let Some((revision, event)) = table.event(&key, self.opened_at) {
                    // If the object changed after `until`, this event has the revision `until`
                    // instead of the real revision, so that the revisions of the watch are in
                    // ascending order. In the phase `Following` the watcher gets the object a
                    // second time, with the real revision.
                    return Ok(Some((revision.min(*until), event)));
                }
            }
            // The watcher has now read all removals up to `until`.
            self.cursor = *until;
            self.read_until.fetch_max(*until, Ordering::Relaxed);
            let synced = (*until, PublishedEvent::Synced);
            self.phase = Phase::Following;
            return Ok(Some(synced));
        }
        for (&revision, key) in table.log.range(self.cursor + 1..) {
            self.cursor = revision;
            self.read_until.fetch_max(revision, Ordering::Relaxed);
            let event = table.event(key, self.opened_at);
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Returns the events as a stream. The stream ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = NextEvent<K, V>> + Send + 'static
    where
        K: Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        stream::unfold(Some(self), |subscription| async move {
            let mut subscription = subscription?;
            let event = subscription.next().await?;
            let rest = event.is_ok().then_some(subscription);
            Some((event, rest))
        })
    }
}

impl<K: Ord + Clone, V: Clone> PublishedTable<K, V> {
    /// Returns the last event of `key`. `None` for a removal before the start of the watch.
    fn event(&self, key: &K, opened_at: u64) -> Option<(u64, PublishedEvent<K, V>)> {
        let (revision, value) = self.latest.get(key)?;
        let event = match value {
            Some(value) => PublishedEvent::Changed(key.clone(), value.clone()),
            None if *revision > opened_at => PublishedEvent::Removed(key.clone()),
            None => return None,
        };
        Some((*revision, event))
    }
}

impl<K: Ord + Clone, V> PublishedTable<K, V> {
    fn objects(&self) -> usize {
        self.latest.len() - self.removals.len()
    }

    fn record(&mut self, key: K, value: Option<V>) {
        self.revision += 1;
        let is_removal = value.is_none();
        let before = self.latest.insert(key.clone(), (self.revision, value));
        if let Some((revision, _)) = before {
            self.log.remove(&revision);
            self.removals.remove(&revision);
        }
        self.log.insert(self.revision, key);
        if is_removal {
            self.removals.insert(self.revision);
        }
        self.most_objects = self.most_objects.max(self.objects());
    }

    /// Drops the removals that every watcher has read, and the oldest removals above the limit.
    ///
    /// Does nothing until removals are a third of the table. So the cost of the search is divided
    /// among many removals.
    fn forget_removed(&mut self) {
        if self.removals.len() * 3 < self.latest.len() {
            return;
        }
        self.read_until
            .retain(|read_until| read_until.strong_count() > 0);
        let watchers = self.read_until.iter().filter_map(Weak::upgrade);
        let read_until = watchers
            .map(|read_until| read_until.load(Ordering::Relaxed))
            .min();
        let most = KEPT_REMOVALS.max(self.most_objects);
        while let Some(&oldest) = self.removals.first() {
            if read_until.is_some_and(|read_until| oldest > read_until) {
                if self.removals.len() <= most {
                    return;
                }
                self.dropped = oldest;
            }
            self.removals.remove(&oldest);
            if let Some(key) = self.log.remove(&oldest) {
                self.latest.remove(&key);
            }
        }
        self.most_objects = self.objects();
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
