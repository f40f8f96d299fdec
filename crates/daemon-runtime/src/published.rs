//! State that one owner publishes and many watch: whole objects, each with a revision.
//!
//! A watcher gets every object, then [`Event::Synced`], then each change. What existed is told
//! before [`Event::Synced`] even if it changes meanwhile: a receiver drops what it has not heard of
//! by then. A slow watcher skips what was overwritten in the meantime. Removals are kept for it, one
//! for each key, up to the largest number of objects since the oldest of them, or [`KEPT_REMOVALS`].
//! So a removal of everything ends no watch. A watcher that has not read an older removal is lagging,
//! and its watch ends with [`WatchEnded::Lagging`]. A new watch tells it everything.

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

/// Removals that are kept for slow watchers of a small table; a larger one keeps as many as it had
/// objects since the oldest of them.
pub const KEPT_REMOVALS: usize = 1_000;

/// Most watches of one publisher.
pub const MOST_WATCHES: usize = 256;

/// Why a watch has ended or cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnded {
    /// The watcher has not read removals that are not kept any longer.
    #[error(
        "the watcher did not read for so long that removals are no longer kept for it; watch again to \
         get everything"
    )]
    Lagging,
    /// There are [`MOST_WATCHES`] watches.
    #[error("{MOST_WATCHES} watches are open, which is the most; end one of them")]
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

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<K, V> {
    /// An object is new or has changed; it comes whole.
    Changed(K, V),
    /// An object is gone.
    Removed(K),
    /// Everything that exists has been told.
    Synced,
}

/// The owner's side.
#[derive(Debug)]
pub struct Publisher<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
    revision: watch::Sender<u64>,
}

/// The watchers' side; cheap to clone.
#[derive(Debug)]
pub struct Reader<K, V> {
    table: Arc<Mutex<Table<K, V>>>,
    revision: watch::Receiver<u64>,
}

/// One watcher's place in the stream of changes.
#[derive(Debug)]
pub struct Subscription<K, V> {
    reader: Reader<K, V>,
    /// Place in the log.
    cursor: u64,
    /// Removals up to here are not kept for this watcher.
    told: Arc<AtomicU64>,
    /// Removals up to here concern objects that this watcher has never heard of.
    opened_at: u64,
    phase: Phase<K>,
}

/// How far a watcher has come.
#[derive(Debug)]
enum Phase<K> {
    /// Hears what the owner publishes until the owner is synced.
    NotSynced,
    /// Hears of what it had not heard yet when the owner was synced, each as it is by then. It is
    /// listed by key, so that neither can an object that changes meanwhile come after
    /// [`Event::Synced`], nor can changes delay that.
    Listing { ahead: VecDeque<K>, until: u64 },
    /// Hears each change.
    Following,
}

/// Objects at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<K, V> {
    /// Grows with every change.
    pub revision: u64,
    /// Whether the owner has published its full set at least once.
    pub synced: bool,
    /// Number of all objects.
    pub total: usize,
    /// In the order of their keys.
    pub objects: Vec<(K, V)>,
}

#[derive(Debug)]
struct Table<K, V> {
    revision: u64,
    synced: bool,
    /// Each key's latest revision; no value: it was removed then.
    latest: BTreeMap<K, (u64, Option<V>)>,
    /// The same by revision.
    log: BTreeMap<u64, K>,
    /// Revisions of the removals that are kept.
    removals: BTreeSet<u64>,
    /// The largest number of objects since the oldest removal that is kept.
    most_objects: usize,
    /// The last removal that was dropped although a watcher had not been told.
    dropped: u64,
    /// How far each watcher has been told of removals.
    told: Vec<Weak<AtomicU64>>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Publisher<K, V> {
    /// Nothing published, not synced.
    pub fn new() -> Self {
        let table = Table {
            revision: 0,
            synced: false,
            latest: BTreeMap::new(),
            log: BTreeMap::new(),
            removals: BTreeSet::new(),
            most_objects: 0,
            dropped: 0,
            told: Vec::new(),
        };
        Self {
            table: Arc::new(Mutex::new(table)),
            revision: watch::Sender::new(0),
        }
    }

    /// Publishes an object; one that equals what is published already is no change.
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

    /// Passes the published object to `read`; `None` where none is published.
    pub fn read<R>(&self, key: &K, read: impl FnOnce(Option<&V>) -> R) -> R {
        let table = lock(&self.table);
        read(table.latest.get(key).and_then(|(_, value)| value.as_ref()))
    }

    /// Takes an object back; an unknown one is no change.
    pub fn remove(&self, key: &K) {
        let mut table = lock(&self.table);
        if !matches!(table.latest.get(key), Some((_, Some(_)))) {
            return;
        }
        table.record(key.clone(), None);
        table.forget_removed();
        self.announce(table);
    }

    /// Makes the published set equal to `objects`, as the least number of changes.
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

    /// Says that the full set is published; watchers get their [`Event::Synced`].
    pub fn synced(&self) {
        let mut table = lock(&self.table);
        if !table.synced {
            table.synced = true;
            table.revision += 1;
            self.announce(table);
        }
    }

    /// For those who read and watch.
    pub fn reader(&self) -> Reader<K, V> {
        Reader {
            table: Arc::clone(&self.table),
            revision: self.revision.subscribe(),
        }
    }

    fn announce(&self, table: MutexGuard<'_, Table<K, V>>) {
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
    /// All objects at this moment.
    pub fn snapshot(&self) -> Snapshot<K, V> {
        self.snapshot_after(None, usize::MAX)
    }

    /// The first objects at this moment whose keys are greater than `after`, at most `limit`.
    pub fn snapshot_after(&self, after: Option<&K>, limit: usize) -> Snapshot<K, V> {
        let table = lock(&self.table);
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = table
            .latest
            .range((first, Bound::Unbounded))
            .filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?)))
            .take(limit)
            .collect();
        Snapshot {
            revision: table.revision,
            synced: table.synced,
            total: table.objects(),
            objects,
        }
    }

    /// Starts to watch.
    ///
    /// # Errors
    /// [`WatchEnded::TooMany`].
    pub fn subscribe(&self) -> Result<Subscription<K, V>, WatchEnded> {
        let mut table = lock(&self.table);
        table.told.retain(|told| told.strong_count() > 0);
        if table.told.len() >= MOST_WATCHES {
            return Err(WatchEnded::TooMany);
        }
        let opened_at = table.revision;
        let told = Arc::new(AtomicU64::new(opened_at));
        table.told.push(Arc::downgrade(&told));
        drop(table);
        Ok(Subscription {
            reader: self.clone(),
            cursor: 0,
            told,
            opened_at,
            phase: Phase::NotSynced,
        })
    }
}

/// An event with its revision, or the end of the watch.
type Next<K, V> = Result<(u64, Event<K, V>), WatchEnded>;

/// What needs no waiting: an event with its revision, nothing, or the end of the watch.
type Ready<K, V> = Result<Option<(u64, Event<K, V>)>, WatchEnded>;

impl<K: Ord + Clone, V: Clone> Subscription<K, V> {
    /// The next event with its revision; `None` when the publisher is gone. After an error the watch
    /// has ended.
    pub async fn next(&mut self) -> Option<Next<K, V>> {
        loop {
            // Marked as seen before the look, so that a change after it wakes the wait below.
            self.reader.revision.borrow_and_update();
            if let Some(event) = self.next_ready().transpose() {
                return Some(event);
            }
            self.reader.revision.changed().await.ok()?;
        }
    }

    /// The next event that needs no waiting.
    fn next_ready(&mut self) -> Ready<K, V> {
        let table = lock(&self.reader.table);
        if table.dropped > self.told.load(Ordering::Relaxed) {
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
                    // What changed since is told again, so that revisions never fall.
                    return Ok(Some((revision.min(*until), event)));
                }
            }
            // Up to here the removals of what was ahead have been kept.
            self.cursor = *until;
            self.told.fetch_max(*until, Ordering::Relaxed);
            let synced = (*until, Event::Synced);
            self.phase = Phase::Following;
            return Ok(Some(synced));
        }
        for (&revision, key) in table.log.range(self.cursor + 1..) {
            self.cursor = revision;
            self.told.fetch_max(revision, Ordering::Relaxed);
            let event = table.event(key, self.opened_at);
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The events as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Next<K, V>> + Send + 'static
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

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// What is to be said of an object; nothing of one that was gone before the watch began.
    fn event(&self, key: &K, opened_at: u64) -> Option<(u64, Event<K, V>)> {
        let (revision, value) = self.latest.get(key)?;
        let event = match value {
            Some(value) => Event::Changed(key.clone(), value.clone()),
            None if *revision > opened_at => Event::Removed(key.clone()),
            None => return None,
        };
        Some((*revision, event))
    }
}

impl<K: Ord + Clone, V> Table<K, V> {
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

    /// Drops removals that every watcher has been told of, and the oldest ones beyond the limit. The
    /// watchers are asked when removals are a third of the table, so that the cost is spread over as
    /// many removals.
    fn forget_removed(&mut self) {
        if self.removals.len() * 3 < self.latest.len() {
            return;
        }
        self.told.retain(|told| told.strong_count() > 0);
        let watchers = self.told.iter().filter_map(Weak::upgrade);
        let told = watchers.map(|told| told.load(Ordering::Relaxed)).min();
        let most = KEPT_REMOVALS.max(self.most_objects);
        while let Some(&oldest) = self.removals.first() {
            if told.is_some_and(|told| oldest > told) {
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
