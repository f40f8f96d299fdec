//! The bounded set of open connections of one server.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Part of the places that the connections in use of one process may take.
const SHARE_OF_A_PROCESS: usize = 4;

/// Where a connection comes from, as far as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A remote address.
    Address(IpAddr),
    /// A client of a unix socket: a process of the server's PID namespace.
    Process(i32),
    /// A client of a unix socket in another PID namespace: one of all processes of this user id.
    User(u32),
}

/// The open connections of one server and their limit.
///
/// A connection keeps its place while a stream is open on it. Where the limit is reached, a new
/// connection takes the place of the oldest connection without a stream, of the source that has the
/// most of them, so that a source that floods the server displaces its own connections and not those
/// of other sources.
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
    limit: usize,
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
    streams: usize,
    evicted: CancellationToken,
}

/// Counts the streams of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    number: u64,
    most_of_a_process: usize,
    table: Arc<Mutex<Table>>,
}

/// An open stream; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    number: u64,
    table: Arc<Mutex<Table>>,
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamRefused {
    /// The connection is about to be closed.
    #[error("this connection is closed for a newer one; connect again")]
    Evicted,
    /// The process has streams on as many connections as it may.
    #[error(
        "this process uses {0} connections, the most that one process may; use one connection for \
         several calls"
    )]
    TooManyConnections(usize),
}

/// What became of a new connection.
#[derive(Debug)]
pub(crate) enum Admission {
    /// There was a place.
    Admitted(Slot),
    /// Another connection was closed to make a place.
    AdmittedByEviction(Slot),
    /// Every place belongs to a connection with an open stream.
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
            limit: self.limit,
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

    /// Returns what counts the streams of this connection.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            number: self.number,
            most_of_a_process: (self.limit / SHARE_OF_A_PROCESS).max(1),
            table: self.table.clone(),
        }
    }
}

impl Usage {
    /// Counts a stream, which protects the connection from eviction.
    pub(crate) fn open_stream(&self) -> Result<OpenStream, StreamRefused> {
        let mut table = lock(&self.table);
        let (source, streams) = match table.open.get(&self.number) {
            Some(open) if !open.evicted.is_cancelled() => (open.source, open.streams),
            Some(_) | None => return Err(StreamRefused::Evicted),
        };
        if streams == 0
            && matches!(source, Source::Process(_))
            && table.in_use(source) >= self.most_of_a_process
        {
            return Err(StreamRefused::TooManyConnections(self.most_of_a_process));
        }
        if let Some(open) = table.open.get_mut(&self.number) {
            open.streams += 1;
        }
        Ok(OpenStream {
            number: self.number,
            table: self.table.clone(),
        })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // The connection may be closed already.
        if let Some(open) = lock(&self.table).open.get_mut(&self.number) {
            open.streams = open.streams.saturating_sub(1);
        }
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
            streams: 0,
            evicted,
        };
        self.open.insert(self.next, open);
        self.next
    }

    /// Returns how many connections of the source have an open stream.
    fn in_use(&self, source: Source) -> usize {
        let open = self.open.values();
        open.filter(|open| open.source == source && open.streams > 0)
            .count()
    }

    /// Asks one connection to close. Returns false if none may be closed.
    fn evict(&mut self) -> bool {
        let evictable = || {
            self.open
                .values()
                .filter(|open| open.streams == 0 && !open.evicted.is_cancelled())
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
        Source::Address(IpAddr::from([10, 0, 0, last_octet]))
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
    fn check(sources: &[u8], in_use: &[usize], expected: Option<usize>) {
        let (connections, mut slots) = full(sources).now_or_never().unwrap();
        let streams = in_use
            .iter()
            .map(|index| slots[*index].usage().open_stream());
        let _streams: Vec<OpenStream> = streams.map(Result::unwrap).collect();
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
        let refused = slots[victim].usage().open_stream().unwrap_err();
        assert_eq!(refused, StreamRefused::Evicted);
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
    fn a_connection_with_an_open_stream_keeps_its_place() {
        check(&[1, 1, 1], &[0, 1], Some(2));
        check(&[1, 1, 2], &[0, 1, 2], None);
    }

    #[tokio::test]
    async fn a_connection_whose_last_stream_has_ended_gives_way() {
        let (connections, slots) = full(&[1, 1]).await;
        let [first, second] = &slots[..] else {
            panic!("{slots:?}");
        };
        let stays = second.usage().open_stream().unwrap();
        let streams = [first.usage().open_stream(), first.usage().open_stream()];
        let admission = connections.admit(source(2)).await;
        assert!(matches!(admission, Admission::Refused), "{admission:?}");
        drop(streams);
        assert!(connections.admit(source(2)).now_or_never().is_none());
        assert!(is_evicted(first));
        assert!(!is_evicted(second));
        drop(stays);
    }

    #[tokio::test]
    async fn one_process_uses_a_quarter_of_the_places() {
        let connections = Connections::new(8);
        let mut slots = Vec::new();
        for pid in [1, 1, 1, 2] {
            let admission = connections.admit(Source::Process(pid)).await;
            let Admission::Admitted(slot) = admission else {
                panic!("{admission:?}");
            };
            slots.push(slot);
        }
        let open = |index: usize| slots[index].usage().open_stream();
        let first = open(0).unwrap();
        let second = [open(1).unwrap(), open(1).unwrap()];
        assert_eq!(open(2).unwrap_err(), StreamRefused::TooManyConnections(2));
        open(3).unwrap();
        drop(first);
        open(2).unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn processes_that_the_kernel_does_not_tell_apart_share_no_limit() {
        let connections = Connections::new(4);
        let mut open = Vec::new();
        for _ in 0..4 {
            let admission = connections.admit(Source::User(65532)).await;
            let Admission::Admitted(slot) = admission else {
                panic!("{admission:?}");
            };
            open.push((slot.usage().open_stream().unwrap(), slot));
        }
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
