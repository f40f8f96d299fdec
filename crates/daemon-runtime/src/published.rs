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
mod tests {
    use super::*;

    fn ready(subscription: &mut Subscription<u8, char>) -> Vec<Event<u8, char>> {
        std::iter::from_fn(|| subscription.next_ready().map(|(_, event)| event)).collect()
    }

    #[test]
    fn a_watcher_gets_every_object_then_synced_then_each_change() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        publisher.set(2, 'b');
        let mut watcher = publisher.reader().subscribe();
        assert_eq!(
            ready(&mut watcher),
            [Event::Changed(1, 'a'), Event::Changed(2, 'b')]
        );
        publisher.synced();
        assert_eq!(ready(&mut watcher), [Event::Synced]);
        publisher.set(1, 'c');
        publisher.remove(&2);
        assert_eq!(
            ready(&mut watcher),
            [Event::Changed(1, 'c'), Event::Removed(2)]
        );
    }

    #[test]
    fn synced_comes_before_changes_made_after_the_listing_began() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        publisher.synced();
        let mut watcher = publisher.reader().subscribe();
        assert_eq!(
            watcher.next_ready().map(|(_, event)| event),
            Some(Event::Changed(1, 'a'))
        );
        publisher.set(2, 'b');
        assert_eq!(ready(&mut watcher), [Event::Synced, Event::Changed(2, 'b')]);
    }

    #[test]
    fn synced_comes_after_all_that_was_published_before_it() {
        let publisher = Publisher::new();
        let mut watcher = publisher.reader().subscribe();
        publisher.set(1, 'a');
        publisher.set(2, 'b');
        publisher.synced();
        assert_eq!(
            ready(&mut watcher),
            [
                Event::Changed(1, 'a'),
                Event::Changed(2, 'b'),
                Event::Synced
            ]
        );
    }

    #[test]
    fn an_object_that_changes_while_it_is_listed_still_comes_before_synced() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        publisher.set(2, 'b');
        publisher.set(3, 'c');
        publisher.synced();
        let mut watcher = publisher.reader().subscribe();
        let (_, first) = watcher.next_ready().unwrap();
        assert_eq!(first, Event::Changed(1, 'a'));
        publisher.set(2, 'x');
        publisher.remove(&3);
        let events = ready(&mut watcher);
        let synced = events.iter().position(|event| *event == Event::Synced);
        let told = &events[..synced.unwrap()];
        assert_eq!(told, [Event::Changed(2, 'x'), Event::Removed(3)]);
    }

    #[test]
    fn changes_cannot_delay_synced() {
        let publisher = Publisher::new();
        for key in 0..10_u8 {
            publisher.set(key, 'a');
        }
        publisher.synced();
        let mut watcher = publisher.reader().subscribe();
        let mut told = 0;
        for value in ['b', 'c'].into_iter().cycle().take(100) {
            let (_, event) = watcher.next_ready().unwrap();
            if event == Event::Synced {
                break;
            }
            told += 1;
            for key in 0..10_u8 {
                publisher.set(key, value);
            }
        }
        assert_eq!(told, 10);
    }

    #[test]
    fn a_slow_watcher_skips_what_was_overwritten() {
        let publisher = Publisher::new();
        publisher.synced();
        let mut watcher = publisher.reader().subscribe();
        assert_eq!(ready(&mut watcher), [Event::Synced]);
        for value in ['a', 'b', 'c'] {
            publisher.set(1, value);
        }
        publisher.set(2, 'x');
        publisher.remove(&2);
        assert_eq!(
            ready(&mut watcher),
            [Event::Changed(1, 'c'), Event::Removed(2)]
        );
    }

    #[test]
    fn an_equal_object_is_no_change() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        let revision = publisher.reader().snapshot().revision;
        publisher.set(1, 'a');
        publisher.remove(&7);
        assert_eq!(publisher.reader().snapshot().revision, revision);
    }

    #[test]
    fn removals_that_everybody_knows_are_forgotten() {
        let publisher = Publisher::new();
        let mut watcher = publisher.reader().subscribe();
        for key in 0..100_u8 {
            publisher.set(key, 'a');
            ready(&mut watcher);
            publisher.remove(&key);
            ready(&mut watcher);
        }
        let table = lock(&publisher.table);
        assert!(table.latest.len() < 4);
        assert_eq!(table.log.len(), table.latest.len());
    }

    #[test]
    fn a_removal_is_kept_for_a_watcher_that_has_not_heard_of_it() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        let mut slow = publisher.reader().subscribe();
        assert_eq!(ready(&mut slow), [Event::Changed(1, 'a')]);
        publisher.remove(&1);
        for key in 2..50_u8 {
            publisher.set(key, 'b');
            publisher.remove(&key);
        }
        assert!(ready(&mut slow).contains(&Event::Removed(1)));
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_publisher() {
        let publisher = Publisher::<u8, char>::new();
        let mut watcher = publisher.reader().subscribe();
        drop(publisher);
        assert_eq!(watcher.next().await, None);
    }

    #[test]
    fn replacing_all_changes_only_what_differs() {
        let publisher = Publisher::new();
        publisher.set(1, 'a');
        publisher.set(2, 'b');
        publisher.synced();
        let mut watcher = publisher.reader().subscribe();
        ready(&mut watcher);
        publisher.replace_all([(2, 'b'), (3, 'c')].into());
        assert_eq!(
            ready(&mut watcher),
            [Event::Removed(1), Event::Changed(3, 'c')]
        );
    }
}
