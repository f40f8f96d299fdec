//! The owner of the desired set.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
    fmt::{self, Display},
    str::FromStr,
    time::SystemTime,
};

use daemon_runtime::{Publisher, Reader, ReadinessStep, Shutdown};
use tokio::sync::watch;
use virtual_server::{
    BadValue, DesiredChange, DesiredSet, ServiceRange, Timestamp, VirtualServer, VirtualServerId,
};

use crate::{
    metrics::IndexMetrics,
    roster::{PublishedVirtualServer, Roster},
    source::{DesiredSetSource, SourceDescription, SourceError, SourceEvent},
};

/// Text of the readiness step before the first event of the source.
pub(crate) const NOT_READ: &str = "not read yet";

/// Key of an object of the desired set. Service ranges sort before virtual servers, so a watch
/// sends them first: while a data plane does not have the service range of an address, the address
/// is announced as a host route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DesiredKey {
    ServiceRange(ServiceRange),
    VirtualServer(VirtualServerId),
}

impl Display for DesiredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceRange(range) => range.fmt(f),
            Self::VirtualServer(id) => id.fmt(f),
        }
    }
}

impl FromStr for DesiredKey {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        // The text of a virtual server's id never parses as a prefix.
        match text.parse() {
            Ok(range) => Ok(Self::ServiceRange(range)),
            Err(_) => text.parse().map(Self::VirtualServer),
        }
    }
}

/// A published object of the desired set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredObject {
    ServiceRange(ServiceRange),
    VirtualServer(PublishedVirtualServer),
}

/// A source of the desired set and its last error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    pub description: SourceDescription,
    /// The reason why the newest state of the source is not in use. `None`: the newest state is in
    /// use.
    pub last_error: Option<SourceError>,
}

/// Read access to the desired set and to the status of the source.
#[derive(Clone, Debug)]
pub struct IndexReader {
    pub objects: Reader<DesiredKey, DesiredObject>,
    pub source: watch::Receiver<SourceStatus>,
}

/// The owner of the desired set: it publishes the events of the source, and keeps the last good set
/// if the source fails.
#[derive(Debug)]
pub struct Index {
    objects: Publisher<DesiredKey, DesiredObject>,
    source: watch::Sender<SourceStatus>,
    /// Positions and parts of the real servers of each published virtual server.
    rosters: BTreeMap<VirtualServerId, Roster>,
    /// Number of changes of all virtual servers together so far; the number of the newest change.
    changes: u64,
    /// Numbers of published virtual servers, real servers and service ranges.
    size: DesiredSetSize,
    /// Whether the first desired set of the source was published.
    is_published: bool,
    metrics: IndexMetrics,
    step: ReadinessStep,
}

impl Index {
    /// Returns an index without objects. The readiness step `step` becomes ready when the first
    /// desired set is published.
    pub fn new(
        description: SourceDescription,
        metrics: IndexMetrics,
        step: ReadinessStep,
    ) -> (Self, IndexReader) {
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
            size: DesiredSetSize::default(),
            is_published: false,
            metrics,
            step,
        };
        (index, reader)
    }

    /// Publishes the events of the source until the daemon stops. Never returns an error.
    pub async fn run(
        mut self,
        mut source: impl DesiredSetSource,
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
            SourceEvent::Failed(error) => self.failed(error),
            SourceEvent::Recovered => self.recovered(),
        }
    }

    fn replace_all(&mut self, desired: DesiredSet, now: Timestamp) {
        let former = self.objects.reader().snapshot().objects;
        let is_removed = |key: &DesiredKey| match key {
            DesiredKey::ServiceRange(range) => !desired.service_ranges.contains(range),
            DesiredKey::VirtualServer(id) => !desired.virtual_servers.contains_key(id),
        };
        for (key, _) in former.iter().filter(|(key, _)| is_removed(key)) {
            self.remove(key);
        }
        for range in desired.service_ranges {
            self.put_range(range);
        }
        for server in desired.virtual_servers.into_values() {
            self.put_server(server, now);
        }
        tracing::info!(published = %self.size, "published the desired set of the source");
        self.published();
        self.recovered();
    }

    fn change(&mut self, changes: Vec<DesiredChange>, now: Timestamp) {
        for change in changes {
            match change {
                DesiredChange::RemoveServiceRange(range) => {
                    self.remove(&DesiredKey::ServiceRange(range));
                }
                DesiredChange::RemoveVirtualServer(id) => {
                    self.remove(&DesiredKey::VirtualServer(id))
                }
                DesiredChange::PutServiceRange(range) => self.put_range(range),
                DesiredChange::PutVirtualServer(server) => self.put_server(server, now),
            }
        }
        if !self.is_published {
            tracing::info!(published = %self.size, "published the desired set of the source");
        }
        self.published();
        if self.source.borrow().last_error.is_none() {
            self.metrics.recovered();
        }
        self.report();
    }

    fn remove(&mut self, key: &DesiredKey) {
        match key {
            DesiredKey::ServiceRange(_) => self.size.service_ranges -= 1,
            DesiredKey::VirtualServer(id) => {
                if let Some(roster) = self.rosters.remove(id) {
                    self.size.real_servers -= roster.server().real_servers.len();
                }
            }
        }
        self.size.virtual_servers = self.rosters.len();
        self.objects.remove(key);
    }

    fn put_range(&mut self, range: ServiceRange) {
        let key = DesiredKey::ServiceRange(range);
        if self.objects.read(&key, |former| former.is_none()) {
            self.size.service_ranges += 1;
        }
        self.objects.set(key, DesiredObject::ServiceRange(range));
    }

    /// Publishes the changed head and the changed parts of a virtual server. Records the share of
    /// flows that a change of weights moves to another real server.
    fn put_server(&mut self, server: VirtualServer, now: Timestamp) {
        self.changes += 1;
        let id = server.id;
        // A real server of the first desired set can have had its state for a long time, so its
        // time of the last change stays unset.
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
        let object = DesiredObject::VirtualServer(roster.published().clone());
        self.size.virtual_servers = self.rosters.len();
        self.objects.set(DesiredKey::VirtualServer(id), object);
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

    fn failed(&mut self, error: SourceError) {
        self.metrics.failed();
        if self.is_published {
            tracing::error!(
                %error,
                published = %self.size,
                "the source cannot be used; keeping the last good desired set"
            );
        } else {
            tracing::error!(%error, "the source cannot be used; no desired set is published yet");
        }
        self.source
            .send_modify(|status| status.last_error = Some(error));
        self.report();
    }

    fn report(&self) {
        let status = self.source.borrow();
        match &status.last_error {
            Some(error) if self.is_published => self.step.ready(format!(
                "{}; kept as the last good state, because the newest state cannot be used: {error}",
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

/// Numbers of objects in a desired set.
#[derive(Debug, Default)]
pub(crate) struct DesiredSetSize {
    pub(crate) service_ranges: usize,
    pub(crate) virtual_servers: usize,
    pub(crate) real_servers: usize,
}

impl fmt::Display for DesiredSetSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} virtual servers, {} service ranges",
            self.virtual_servers, self.service_ranges
        )
    }
}
