//! The bounded set of open connections of one server.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The remote address of a connection; `None` for every client of a unix socket.
pub(crate) type Source = Option<IpAddr>;

/// The open connections of one server and their limit.
///
/// Where the limit is reached, a new connection takes the place of the oldest connection of the
/// source that has the most, so that a source that floods the server displaces its own connections
/// and not those of other sources. An established connection keeps its place.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    places: Arc<Semaphore>,
    table: Arc<Mutex<Table>>,
}

/// The place of one open connection; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u64,
    evicted: CancellationToken,
    table: Arc<Mutex<Table>>,
    _place: OwnedSemaphorePermit,
}

/// The open connections by their number; a higher number is a younger connection.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    source: Source,
    is_established: bool,
    evicted: CancellationToken,
}

/// What became of a new connection.
#[derive(Debug)]
pub(crate) enum Admission {
    /// There was a place.
    Admitted(Slot),
    /// Another connection was closed to make a place.
    AdmittedByEviction(Slot),
    /// Every place belongs to an established connection.
    Refused,
}

impl Connections {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
            table: Arc::default(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn open(&self) -> usize {
        self.limit - self.places.available_permits()
    }

    /// Admits a new connection. Returns when the evicted connection, if there is one, is closed, so
    /// that never more than the limit and the new connection are open.
    pub(crate) async fn admit(&self, source: Source) -> Admission {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Admission::Admitted(self.slot(source, place));
        }
        if !lock(&self.table).evict() {
            return Admission::Refused;
        }
        let place = self.places.clone().acquire_owned();
        let place = place.await.expect("the semaphore is never closed");
        Admission::AdmittedByEviction(self.slot(source, place))
    }

    fn slot(&self, source: Source, place: OwnedSemaphorePermit) -> Slot {
        let evicted = CancellationToken::new();
        let number = lock(&self.table).add(source, evicted.clone());
        Slot {
            number,
            evicted,
            table: self.table.clone(),
            _place: place,
        }
    }
}

impl Slot {
    /// Returns when this connection must close to make a place.
    pub(crate) fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evicted.clone().cancelled_owned()
    }

    /// Protects this connection from eviction. Returns false if it is evicted already.
    pub(crate) fn establish(&self) -> bool {
        let mut table = lock(&self.table);
        let Some(open) = table.open.get_mut(&self.number) else {
            return false;
        };
        open.is_established = !open.evicted.is_cancelled();
        open.is_established
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.table).open.remove(&self.number);
    }
}

impl Table {
    fn add(&mut self, source: Source, evicted: CancellationToken) -> u64 {
        self.next += 1;
        let open = Open {
            source,
            is_established: false,
            evicted,
        };
        self.open.insert(self.next, open);
        self.next
    }

    /// Asks one connection to close. Returns false if none may be closed.
    fn evict(&mut self) -> bool {
        let evictable = || {
            self.open
                .values()
                .filter(|open| !open.is_established && !open.evicted.is_cancelled())
        };
        let mut counts: HashMap<Source, usize> = HashMap::new();
        for open in evictable() {
            *counts.entry(open.source).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let victim = evictable().find(|open| counts.get(&open.source).copied() == most);
        if let Some(victim) = victim {
            victim.evicted.cancel();
        }
        victim.is_some()
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn source(last_octet: u8) -> Source {
        Some(IpAddr::from([10, 0, 0, last_octet]))
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted.is_cancelled()
    }

    /// Fills a set with one connection of each source, in this order.
    async fn full(sources: &[u8]) -> (Connections, Vec<Slot>) {
        let connections = Connections::new(sources.len());
        let mut slots = Vec::new();
        for last_octet in sources {
            let admission = connections.admit(source(*last_octet)).await;
            let Admission::Admitted(slot) = admission else {
                panic!("{admission:?}");
            };
            slots.push(slot);
        }
        assert_eq!(connections.open(), sources.len());
        (connections, slots)
    }

    /// Which of these connections makes place for a new connection of a source of its own.
    #[track_caller]
    fn check(sources: &[u8], established: &[usize], expected: Option<usize>) {
        let (connections, mut slots) = full(sources).now_or_never().unwrap();
        for index in established {
            assert!(slots[*index].establish());
        }
        let mut admission = Box::pin(connections.admit(source(99)));
        let result = admission.as_mut().now_or_never();
        let evicted: Vec<_> = (0..slots.len())
            .filter(|index| is_evicted(&slots[*index]))
            .collect();
        assert_eq!(evicted, Vec::from_iter(expected));
        let Some(victim) = expected else {
            assert!(matches!(result, Some(Admission::Refused)), "{result:?}");
            return;
        };
        assert!(result.is_none(), "the evicted connection is still open");
        assert!(!slots[victim].establish(), "an evicted connection stays so");
        drop(slots.remove(victim));
        let result = admission.now_or_never();
        assert!(
            matches!(result, Some(Admission::AdmittedByEviction(_))),
            "{result:?}"
        );
        assert_eq!(connections.open(), connections.limit());
    }

    #[test]
    fn the_oldest_connection_of_the_source_with_the_most_makes_place() {
        check(&[1, 2, 2, 3], &[], Some(1));
        check(&[1, 2, 3, 4], &[], Some(0));
        check(&[2, 1, 1, 2, 1], &[], Some(1));
    }

    #[test]
    fn an_established_connection_keeps_its_place() {
        check(&[1, 1, 1], &[0, 1], Some(2));
        check(&[1, 1, 2], &[0, 1, 2], None);
    }

    #[tokio::test]
    async fn a_dropped_slot_is_a_free_place() {
        let (connections, mut slots) = full(&[1, 2]).await;
        slots.remove(0);
        assert_eq!(connections.open(), 1);
        let admission = connections.admit(source(3)).await;
        assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
        assert!(!is_evicted(&slots[0]));
    }
}
