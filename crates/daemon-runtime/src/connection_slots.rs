//! The limits of a server for connections and client processes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Divisor of the connection limit: one client process may have open streams on at most a quarter
/// of the connections that the limit allows.
const SHARE_OF_A_PROCESS: usize = 4;

/// The client of a connection, as the kernel identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClientSource {
    /// The address of a TCP client.
    Address(IpAddr),
    /// A client of a unix socket, by its process id in the PID namespace of the server.
    Process(i32),
    /// A client of a unix socket, by its user id: the client runs in another PID namespace, and the
    /// kernel does not give its process id.
    User(u32),
}

/// The open connections of one server with their limit.
///
/// If the limit is reached, the server closes a connection without open streams in favour of a new
/// connection. It chooses the source with the most connections without open streams, and closes the
/// oldest such connection of this source. So a source that floods the server loses its own
/// connections.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    limit: usize,
    slots: Arc<Semaphore>,
    table: Arc<Mutex<OpenConnections>>,
}

/// The right to one open connection. Dropping it allows another connection.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    number: u64,
    limit: usize,
    evicted: CancellationToken,
    table: Arc<Mutex<OpenConnections>>,
    _permit: OwnedSemaphorePermit,
}

/// The open connections of a server. A newer connection has a higher number.
#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    open: BTreeMap<u64, OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    source: ClientSource,
    /// The number of open streams on this connection.
    streams: usize,
    evicted: CancellationToken,
}

/// A counter of the open streams of one connection.
#[derive(Clone, Debug)]
pub(crate) struct StreamCounter {
    number: u64,
    most_of_a_process: usize,
    table: Arc<Mutex<OpenConnections>>,
}

/// One open stream. Dropping it decreases the counter of its connection.
#[derive(Debug)]
pub(crate) struct OpenStream {
    number: u64,
    table: Arc<Mutex<OpenConnections>>,
}

/// The reason why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamRefused {
    #[error(
        "the server closes this connection, because its connection limit is reached; connect again"
    )]
    Evicted,
    /// The client process already has open streams on this number of connections, its limit.
    #[error(
        "this process has calls on {0} connections, which is the limit for one process; use one \
         connection for several calls"
    )]
    TooManyConnections(usize),
}

/// The decision about a new connection.
#[derive(Debug)]
pub(crate) enum Admission {
    Admitted(ConnectionSlot),
    /// The limit was reached, and the server closed another connection in favour of the new
    /// connection.
    AdmittedByEviction(ConnectionSlot),
    /// The limit is reached, and the server cannot close another connection, because every
    /// connection has an open stream.
    Refused,
}

impl ConnectionSlots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            table: Arc::default(),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn open(&self) -> usize {
        self.limit - self.slots.available_permits()
    }

    /// Decides about a new connection. If the server must close another connection, waits until it
    /// is closed, so that at most one connection above the limit is open.
    pub(crate) async fn admit(&self, source: ClientSource) -> Admission {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Admission::Admitted(self.slot(source, permit));
        }
        if !lock(&self.table).evict() {
            return Admission::Refused;
        }
        let permit = self.slots.clone().acquire_owned();
        let permit = permit.await.expect("the semaphore is never closed");
        Admission::AdmittedByEviction(self.slot(source, permit))
    }

    fn slot(&self, source: ClientSource, permit: OwnedSemaphorePermit) -> ConnectionSlot {
        let evicted = CancellationToken::new();
        let number = lock(&self.table).add(source, evicted.clone());
        ConnectionSlot {
            number,
            limit: self.limit,
            evicted,
            table: self.table.clone(),
            _permit: permit,
        }
    }
}

impl ConnectionSlot {
    /// Returns a future that completes when the server must close this connection in favour of a
    /// new connection.
    pub(crate) fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evicted.clone().cancelled_owned()
    }

    /// Returns the counter for the streams of this connection.
    pub(crate) fn stream_counter(&self) -> StreamCounter {
        StreamCounter {
            number: self.number,
            most_of_a_process: (self.limit / SHARE_OF_A_PROCESS).max(1),
            table: self.table.clone(),
        }
    }
}

impl StreamCounter {
    /// Counts a new stream. The connection is not evicted while it has an open stream.
    pub(crate) fn open_stream(&self) -> Result<OpenStream, StreamRefused> {
        let mut table = lock(&self.table);
        let (source, streams) = match table.open.get(&self.number) {
            Some(open) if !open.evicted.is_cancelled() => (open.source, open.streams),
            Some(_) | None => return Err(StreamRefused::Evicted),
        };
        if streams == 0
            && matches!(source, ClientSource::Process(_))
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
        // The table has no entry if the connection is already closed.
        if let Some(open) = lock(&self.table).open.get_mut(&self.number) {
            open.streams = open.streams.saturating_sub(1);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.table).open.remove(&self.number);
    }
}

impl OpenConnections {
    fn add(&mut self, source: ClientSource, evicted: CancellationToken) -> u64 {
        self.next += 1;
        let open = OpenConnection {
            source,
            streams: 0,
            evicted,
        };
        self.open.insert(self.next, open);
        self.next
    }

    /// Returns the number of connections of this source with an open stream.
    fn in_use(&self, source: ClientSource) -> usize {
        let open = self.open.values();
        open.filter(|open| open.source == source && open.streams > 0)
            .count()
    }

    /// Evicts one connection. Returns false if every connection has an open stream or is already
    /// evicted.
    fn evict(&mut self) -> bool {
        let evictable = || {
            self.open
                .values()
                .filter(|open| open.streams == 0 && !open.evicted.is_cancelled())
        };
        let mut counts: HashMap<ClientSource, usize> = HashMap::new();
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

fn lock(table: &Mutex<OpenConnections>) -> MutexGuard<'_, OpenConnections> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn source(last_octet: u8) -> ClientSource {
        ClientSource::Address(IpAddr::from([10, 0, 0, last_octet]))
    }

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.evicted.is_cancelled()
    }

    /// Opens one connection for each entry of `sources`, in this order, up to the limit.
    async fn full(sources: &[u8]) -> (ConnectionSlots, Vec<ConnectionSlot>) {
        let connections = ConnectionSlots::new(sources.len());
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

    /// Checks which connection is closed in favour of a new connection of another source.
    ///
    /// `in_use` are the indexes of the connections with an open stream. `expected` is the index of
    /// the closed connection; `None` means that the new connection is refused.
    #[track_caller]
    fn check(sources: &[u8], in_use: &[usize], expected: Option<usize>) {
        let (connections, mut slots) = full(sources).now_or_never().unwrap();
        let streams = in_use
            .iter()
            .map(|index| slots[*index].stream_counter().open_stream());
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
        assert!(
            result.is_none(),
            "the admission waits for the evicted connection"
        );
        let refused = slots[victim].stream_counter().open_stream().unwrap_err();
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
    fn at_the_limit_the_oldest_connection_of_the_source_with_the_most_connections_is_closed() {
        check(&[1, 2, 2, 3], &[], Some(1));
        check(&[1, 2, 3, 4], &[], Some(0));
        check(&[2, 1, 1, 2, 1], &[], Some(1));
    }

    #[test]
    fn at_the_limit_a_connection_with_an_open_stream_is_not_closed() {
        check(&[1, 1, 1], &[0, 1], Some(2));
        check(&[1, 1, 2], &[0, 1, 2], None);
    }

    #[tokio::test]
    async fn at_the_limit_a_connection_is_closed_only_after_its_last_stream_has_ended() {
        let (connections, slots) = full(&[1, 1]).await;
        let [first, second] = &slots[..] else {
            panic!("{slots:?}");
        };
        let open_stream = second.stream_counter().open_stream().unwrap();
        let streams = [
            first.stream_counter().open_stream(),
            first.stream_counter().open_stream(),
        ];
        let admission = connections.admit(source(2)).await;
        assert!(matches!(admission, Admission::Refused), "{admission:?}");
        drop(streams);
        assert!(connections.admit(source(2)).now_or_never().is_none());
        assert!(is_evicted(first));
        assert!(!is_evicted(second));
        drop(open_stream);
    }

    #[tokio::test]
    async fn one_process_has_streams_on_at_most_a_quarter_of_the_connections() {
        let connections = ConnectionSlots::new(8);
        let mut slots = Vec::new();
        for pid in [1, 1, 1, 2] {
            let admission = connections.admit(ClientSource::Process(pid)).await;
            let Admission::Admitted(slot) = admission else {
                panic!("{admission:?}");
            };
            slots.push(slot);
        }
        let open = |index: usize| slots[index].stream_counter().open_stream();
        let first = open(0).unwrap();
        let second = [open(1).unwrap(), open(1).unwrap()];
        assert_eq!(open(2).unwrap_err(), StreamRefused::TooManyConnections(2));
        open(3).unwrap();
        drop(first);
        open(2).unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn the_process_limit_does_not_apply_to_clients_without_a_process_id() {
        let connections = ConnectionSlots::new(4);
        let mut open = Vec::new();
        for _ in 0..4 {
            let admission = connections.admit(ClientSource::User(65532)).await;
            let Admission::Admitted(slot) = admission else {
                panic!("{admission:?}");
            };
            open.push((slot.stream_counter().open_stream().unwrap(), slot));
        }
    }

    #[tokio::test]
    async fn dropping_a_connection_slot_allows_another_connection() {
        let (connections, mut slots) = full(&[1, 2]).await;
        slots.remove(0);
        assert_eq!(connections.open(), 1);
        let admission = connections.admit(source(3)).await;
        assert!(matches!(admission, Admission::Admitted(_)), "{admission:?}");
        assert!(!is_evicted(&slots[0]));
    }
}
