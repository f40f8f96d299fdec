//! The one task that owns the desired set.

use std::{collections::BTreeMap, convert::Infallible};

use daemon_runtime::{Publisher, Reader, Shutdown, Step};
use tokio::sync::watch;
use virtual_server::{DesiredSet, ServiceRange, VirtualServer, VirtualServerId};

use crate::{
    metrics::IndexMetrics,
    source::{Description, Source, SourceError, SourceEvent},
};

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
    /// Summary of what is published; `None` until the source has said it for the first time.
    published: Option<String>,
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
            published: None,
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
            SourceEvent::Snapshot(desired) => self.publish(desired),
            SourceEvent::Failed(error) => self.keep(error),
        }
    }

    fn publish(&mut self, desired: DesiredSet) {
        self.metrics.published(&desired);
        let summary = format!(
            "{} virtual servers, {} service ranges",
            desired.virtual_servers.len(),
            desired.service_ranges.len()
        );
        let ranges = desired.service_ranges.into_iter();
        let servers = desired.virtual_servers.into_iter();
        let objects: BTreeMap<Key, Object> = ranges
            .map(|range| (Key::ServiceRange(range), Object::ServiceRange(range)))
            .chain(
                servers.map(|(id, server)| (Key::VirtualServer(id), Object::VirtualServer(server))),
            )
            .collect();
        self.objects.replace_all(objects);
        self.objects.synced();
        self.source.send_modify(|status| status.last_error = None);
        tracing::info!(published = summary, "the desired set has been read");
        self.step.ready(summary.clone());
        self.published = Some(summary);
    }

    fn keep(&mut self, error: SourceError) {
        self.metrics.failed();
        match &self.published {
            Some(summary) => {
                tracing::error!(%error, kept = summary, "the source cannot be used");
                self.step.ready(format!(
                    "{summary}; kept, since the newest state cannot be used: {error}"
                ));
            }
            None => {
                tracing::error!(%error, "the source cannot be used; nothing is published yet");
                self.step.missing(error.to_string());
            }
        }
        self.source
            .send_modify(|status| status.last_error = Some(error));
    }
}
