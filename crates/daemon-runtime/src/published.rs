//! State that one owner publishes and many watch: whole objects, each with a revision.
//!
//! A watcher gets every object, then [`Event::Synced`], then each change. What existed is told
//! before [`Event::Synced`] even if it changes meanwhile: a receiver drops what it has not heard of
//! by then. A slow watcher skips what was overwritten in the meantime, so what it costs is bounded
//! by the number of objects.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Stream, stream};
use tokio::sync::watch;

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
    cursor: Arc<AtomicU64>,
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

/// All objects at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<K, V> {
    /// Grows with every change.
    pub revision: u64,
    /// Whether the owner has published its full set at least once.
    pub synced: bool,
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
    removed: usize,
    cursors: Vec<Weak<AtomicU64>>,
}

impl<K: Ord + Clone, V: Clone + PartialEq> Publisher<K, V> {
    /// Nothing published, not synced.
    pub fn new() -> Self {
        let table = Table {
            revision: 0,
            synced: false,
            latest: BTreeMap::new(),
            log: BTreeMap::new(),
            removed: 0,
            cursors: Vec::new(),
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
        let table = lock(&self.table);
        let objects = table
            .latest
            .iter()
            .filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?)))
            .collect();
        Snapshot {
            revision: table.revision,
            synced: table.synced,
            objects,
        }
    }

    /// Starts to watch.
    pub fn subscribe(&self) -> Subscription<K, V> {
        let cursor = Arc::new(AtomicU64::new(0));
        let mut table = lock(&self.table);
        table.cursors.retain(|cursor| cursor.strong_count() > 0);
        table.cursors.push(Arc::downgrade(&cursor));
        let opened_at = table.revision;
        drop(table);
        Subscription {
            reader: self.clone(),
            cursor,
            opened_at,
            phase: Phase::NotSynced,
        }
    }
}

impl<K: Ord + Clone, V: Clone> Subscription<K, V> {
    /// The next event with its revision; `None` when the publisher is gone.
    pub async fn next(&mut self) -> Option<(u64, Event<K, V>)> {
        loop {
            // Marked as seen before the look, so that a change after it wakes the wait below.
            self.reader.revision.borrow_and_update();
            if let Some(event) = self.next_ready() {
                return Some(event);
            }
            self.reader.revision.changed().await.ok()?;
        }
    }

    /// The next event that needs no waiting.
    fn next_ready(&mut self) -> Option<(u64, Event<K, V>)> {
        let table = lock(&self.reader.table);
        let cursor = self.cursor.load(Ordering::Relaxed);
        if matches!(self.phase, Phase::NotSynced) && table.synced {
            let ahead = table.log.range(cursor + 1..).map(|(_, key)| key.clone());
            self.phase = Phase::Listing {
                ahead: ahead.collect(),
                until: table.revision,
            };
        }
        if let Phase::Listing { ahead, until } = &mut self.phase {
            while let Some(key) = ahead.pop_front() {
                if let Some((revision, event)) = table.event(&key, self.opened_at) {
                    // What changed since is told again, so that revisions never fall.
                    return Some((revision.min(*until), event));
                }
            }
            // Up to here the cursor has kept the removals of what was ahead.
            self.cursor.store(*until, Ordering::Relaxed);
            let synced = (*until, Event::Synced);
            self.phase = Phase::Following;
            return Some(synced);
        }
        for (&revision, key) in table.log.range(cursor + 1..) {
            self.cursor.store(revision, Ordering::Relaxed);
            let event = table.event(key, self.opened_at);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = (u64, Event<K, V>)> + Send + 'static
    where
        K: Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        stream::unfold(self, |mut subscription| async move {
            let event = subscription.next().await?;
            Some((event, subscription))
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
    fn record(&mut self, key: K, value: Option<V>) {
        self.revision += 1;
        let is_removal = value.is_none();
        let before = self.latest.insert(key.clone(), (self.revision, value));
        if let Some((revision, value)) = before {
            self.log.remove(&revision);
            self.removed -= usize::from(value.is_none());
        }
        self.log.insert(self.revision, key);
        self.removed += usize::from(is_removal);
    }

    /// Drops removals that every watcher has been told of. Looked for when they are a third of the
    /// table, so that its cost is spread over as many removals.
    fn forget_removed(&mut self) {
        if self.removed * 3 < self.latest.len() {
            return;
        }
        self.cursors.retain(|cursor| cursor.strong_count() > 0);
        let told = self
            .cursors
            .iter()
            .filter_map(Weak::upgrade)
            .map(|cursor| cursor.load(Ordering::Relaxed))
            .min()
            .unwrap_or(u64::MAX);
        let log = &mut self.log;
        let removed = &mut self.removed;
        self.latest.retain(|_, (revision, value)| {
            let keep = value.is_some() || *revision > told;
            if !keep {
                log.remove(revision);
                *removed -= 1;
            }
            keep
        });
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
