//! The one task that owns the desired set.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
    fmt::{self, Display},
    str::FromStr,
    time::SystemTime,
};

use daemon_runtime::{Publisher, Reader, Shutdown, Step};
use tokio::sync::watch;
use virtual_server::{
    BadValue, DesiredChange, DesiredSet, ServiceRange, Timestamp, VirtualServer, VirtualServerId,
};

use crate::{
    metrics::IndexMetrics,
    roster::{Parted, Roster},
    source::{Description, Source, SourceError, SourceEvent},
};

/// What is said of a source that has not said anything yet.
pub(crate) const NOT_READ: &str = "not read yet";

/// What an object of the desired set is known by. Ranges come first, so that whoever announces
/// knows the range before the addresses in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A service range is its own key.
    ServiceRange(ServiceRange),
    /// A virtual server is known by its id.
    VirtualServer(VirtualServerId),
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceRange(range) => range.fmt(f),
            Self::VirtualServer(id) => id.fmt(f),
        }
    }
}

impl FromStr for Key {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        // No virtual server reads as a prefix.
        match text.parse() {
            Ok(range) => Ok(Self::ServiceRange(range)),
            Err(_) => text.parse().map(Self::VirtualServer),
        }
    }
}

/// What is published under a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The service range of the key.
    ServiceRange(ServiceRange),
    /// The virtual server whose id is the key.
    VirtualServer(Parted),
}

/// What the source is and whether its newest state is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// What and where it is.
    pub description: Description,
    /// Why its newest state is not in use.
    pub last_error: Option<SourceError>,
}

/// What others may see of the index.
#[derive(Clone, Debug)]
pub struct IndexReader {
    /// The desired set.
    pub objects: Reader<Key, Object>,
    /// The source.
    pub source: watch::Receiver<SourceStatus>,
}

/// Publishes what the source says, and keeps it when the source fails.
#[derive(Debug)]
pub struct Index {
    objects: Publisher<Key, Object>,
    source: watch::Sender<SourceStatus>,
    /// The virtual servers that are published.
    rosters: BTreeMap<VirtualServerId, Roster>,
    /// Changes of virtual servers.
    changes: u64,
    /// How much is published.
    size: Size,
    /// Whether the source has said it for the first time.
    is_published: bool,
    metrics: IndexMetrics,
    step: Step,
}

impl Index {
    /// Nothing published yet. `step` is ready once something is.
    pub fn new(description: Description, metrics: IndexMetrics, step: Step) -> (Self, IndexReader) {
        let objects = Publisher::new();
        let source = watch::Sender::new(SourceStatus {
            description,
            last_error: None,
        });
        let reader = IndexReader {
            objects: objects.reader(),
            source: source.subscribe(),
        };
        let index = Self {
            objects,
            source,
            rosters: BTreeMap::new(),
            changes: 0,
            size: Size::default(),
            is_published: false,
            metrics,
            step,
        };
        (index, reader)
    }

    /// Follows the source until the daemon stops.
    ///
    /// # Errors
    /// None.
    pub async fn run(
        mut self,
        mut source: impl Source,
        shutdown: Shutdown,
    ) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                event = source.next() => self.handle(event, now()),
                () = shutdown.stopping() => return Ok(()),
            }
        }
    }

    fn handle(&mut self, event: SourceEvent, now: Timestamp) {
        match event {
            SourceEvent::Snapshot(desired) => self.replace_all(desired, now),
            SourceEvent::Changes(changes) => self.change(changes, now),
            SourceEvent::Failed(error) => self.keep(error),
            SourceEvent::Recovered => self.recovered(),
        }
    }

    fn replace_all(&mut self, desired: DesiredSet, now: Timestamp) {
        let former = self.objects.reader().snapshot().objects;
        let is_gone = |key: &Key| match key {
            Key::ServiceRange(range) => !desired.service_ranges.contains(range),
            Key::VirtualServer(id) => !desired.virtual_servers.contains_key(id),
        };
        for (key, _) in former.iter().filter(|(key, _)| is_gone(key)) {
            self.remove(key);
        }
        for range in desired.service_ranges {
            self.put_range(range);
        }
        for server in desired.virtual_servers.into_values() {
            self.put_server(server, now);
        }
        tracing::info!(published = %self.size, "the desired set has been read");
        self.published();
        self.recovered();
    }

    fn change(&mut self, changes: Vec<DesiredChange>, now: Timestamp) {
        for change in changes {
            match change {
                DesiredChange::RemoveServiceRange(range) => {
                    self.remove(&Key::ServiceRange(range));
                }
                DesiredChange::RemoveVirtualServer(id) => self.remove(&Key::VirtualServer(id)),
                DesiredChange::PutServiceRange(range) => self.put_range(range),
                DesiredChange::PutVirtualServer(server) => self.put_server(server, now),
            }
        }
        if !self.is_published {
            tracing::info!(published = %self.size, "the desired set has been read");
        }
        self.published();
        if self.source.borrow().last_error.is_none() {
            self.metrics.recovered();
        }
        self.report();
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::ServiceRange(_) => self.size.service_ranges -= 1,
            Key::VirtualServer(id) => {
                if let Some(roster) = self.rosters.remove(id) {
                    self.size.real_servers -= roster.server().real_servers.len();
                }
            }
        }
        self.size.virtual_servers = self.rosters.len();
        self.objects.remove(key);
    }

    fn put_range(&mut self, range: ServiceRange) {
        let key = Key::ServiceRange(range);
        if self.objects.read(&key, |former| former.is_none()) {
            self.size.service_ranges += 1;
        }
        self.objects.set(key, Object::ServiceRange(range));
    }

    /// Publishes what differs of a virtual server, after it has measured which share of flows a
    /// change of weights moves.
    fn put_server(&mut self, server: VirtualServer, now: Timestamp) {
        self.changes += 1;
        let id = server.id;
        // What the first set holds may have existed for long.
        let now = self.is_published.then_some(now);
        let (roster, former) = match self.rosters.entry(id) {
            Entry::Occupied(entry) => {
                let roster = entry.into_mut();
                let former = roster.update(server, now, self.changes);
                (roster, Some(former))
            }
            Entry::Vacant(entry) => (entry.insert(Roster::new(server, self.changes)), None),
        };
        let server = roster.server();
        self.size.real_servers += server.real_servers.len();
        if let Some(former) = former {
            self.size.real_servers -= former.real_servers.len();
            if let Some(share) = server.moved_share(&former) {
                self.metrics.weights_changed(share);
            }
        }
        let object = Object::VirtualServer(roster.published().clone());
        self.size.virtual_servers = self.rosters.len();
        self.objects.set(Key::VirtualServer(id), object);
    }

    fn published(&mut self) {
        self.objects.synced();
        self.is_published = true;
        self.metrics.published(&self.size);
    }

    fn recovered(&mut self) {
        self.metrics.recovered();
        self.source.send_modify(|status| status.last_error = None);
        self.report();
    }

    fn keep(&mut self, error: SourceError) {
        self.metrics.failed();
        if self.is_published {
            tracing::error!(%error, kept = %self.size, "the source cannot be used");
        } else {
            tracing::error!(%error, "the source cannot be used; nothing is published yet");
        }
        self.source
            .send_modify(|status| status.last_error = Some(error));
        self.report();
    }

    fn report(&self) {
        let status = self.source.borrow();
        match &status.last_error {
            Some(error) if self.is_published => self.step.ready(format!(
                "{}; kept, since the newest state cannot be used: {error}",
                self.size
            )),
            Some(error) => self.step.missing(error.to_string()),
            None if self.is_published => self.step.ready(self.size.to_string()),
            None => self.step.missing(NOT_READ),
        }
    }
}

fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since_1970.unwrap_or_default())
}

/// How much a desired set holds.
#[derive(Debug, Default)]
pub(crate) struct Size {
    pub(crate) service_ranges: usize,
    pub(crate) virtual_servers: usize,
    pub(crate) real_servers: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} virtual servers, {} service ranges",
            self.virtual_servers, self.service_ranges
        )
    }
}
