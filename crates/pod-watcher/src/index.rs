//! The one task that owns the desired set.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt,
};

use daemon_runtime::{Publisher, Reader, Shutdown, Step};
use tokio::sync::watch;
use virtual_server::{DesiredChange, DesiredSet, ServiceRange, VirtualServer, VirtualServerId};

use crate::{
    metrics::IndexMetrics,
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

/// What is published under a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The service range of the key.
    ServiceRange(ServiceRange),
    /// The virtual server whose id is the key.
    VirtualServer(VirtualServer),
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
                event = source.next() => self.handle(event),
                () = shutdown.stopping() => return Ok(()),
            }
        }
    }

    fn handle(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Snapshot(desired) => self.replace_all(desired),
            SourceEvent::Changes(changes) => self.change(changes),
            SourceEvent::Failed(error) => self.keep(error),
            SourceEvent::Recovered => self.recovered(),
        }
    }

    fn replace_all(&mut self, desired: DesiredSet) {
        self.size = Size::of(&desired);
        for server in desired.virtual_servers.values() {
            self.measure(server);
        }
        let ranges = desired.service_ranges.into_iter();
        let servers = desired.virtual_servers.into_iter();
        let objects: BTreeMap<Key, Object> = ranges
            .map(|range| (Key::ServiceRange(range), Object::ServiceRange(range)))
            .chain(
                servers.map(|(id, server)| (Key::VirtualServer(id), Object::VirtualServer(server))),
            )
            .collect();
        self.objects.replace_all(objects);
        tracing::info!(published = %self.size, "the desired set has been read");
        self.published();
        self.recovered();
    }

    fn change(&mut self, changes: Vec<DesiredChange>) {
        for change in changes {
            self.size.follow(&change);
            if let DesiredChange::PutVirtualServer(server) = &change {
                self.measure(server);
            }
            match change {
                DesiredChange::RemoveServiceRange(range) => {
                    self.objects.remove(&Key::ServiceRange(range));
                }
                DesiredChange::RemoveVirtualServer(id) => {
                    self.objects.remove(&Key::VirtualServer(id));
                }
                DesiredChange::PutServiceRange(range) => self
                    .objects
                    .set(Key::ServiceRange(range), Object::ServiceRange(range)),
                DesiredChange::PutVirtualServer(server) => self
                    .objects
                    .set(Key::VirtualServer(server.id), Object::VirtualServer(server)),
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

    /// Measures which share of flows a change of weights moves, before it is published.
    fn measure(&self, server: &VirtualServer) {
        let share = self
            .objects
            .read(&Key::VirtualServer(server.id), |before| match before {
                Some(Object::VirtualServer(before)) => server.moved_share(before),
                Some(Object::ServiceRange(_)) | None => None,
            });
        if let Some(share) = share {
            self.metrics.weights_changed(share);
        }
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

/// How much a desired set holds.
#[derive(Debug, Default)]
pub(crate) struct Size {
    pub(crate) service_ranges: usize,
    pub(crate) real_servers: usize,
    /// The real servers of each virtual server.
    virtual_servers: HashMap<VirtualServerId, usize>,
}

impl Size {
    fn of(desired: &DesiredSet) -> Self {
        let virtual_servers: HashMap<_, _> = desired
            .virtual_servers
            .iter()
            .map(|(id, server)| (*id, server.real_servers.len()))
            .collect();
        Self {
            service_ranges: desired.service_ranges.len(),
            real_servers: virtual_servers.values().sum(),
            virtual_servers,
        }
    }

    /// `change` is one that differs from what was there before.
    fn follow(&mut self, change: &DesiredChange) {
        match change {
            DesiredChange::RemoveServiceRange(_) => self.service_ranges -= 1,
            DesiredChange::PutServiceRange(_) => self.service_ranges += 1,
            DesiredChange::RemoveVirtualServer(id) => {
                self.real_servers -= self.virtual_servers.remove(id).unwrap_or(0);
            }
            DesiredChange::PutVirtualServer(server) => {
                let count = server.real_servers.len();
                let before = self.virtual_servers.insert(server.id, count);
                self.real_servers = self.real_servers + count - before.unwrap_or(0);
            }
        }
    }

    pub(crate) fn virtual_servers(&self) -> usize {
        self.virtual_servers.len()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} virtual servers, {} service ranges",
            self.virtual_servers(),
            self.service_ranges
        )
    }
}
