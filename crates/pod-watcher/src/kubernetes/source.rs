//! Implementation of [`DesiredSetSource`] for a Kubernetes cluster.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use daemon_runtime::Publisher;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kubernetes_client::watch::WatchEvent;
use service_catalog::{
    catalog::{Catalog, CatalogInput, CatalogOutput, ServiceView},
    model::{ObjectKey, WatchScope},
};
use service_status::Views;
use tokio::sync::mpsc;

use super::objects;
use crate::{
    metrics::ClusterMetrics,
    source::{DesiredSetSource, SourceDescription, SourceError, SourceEvent},
};

/// Largest number of events that are handled together. Because events are handled together, a
/// rolling update of many pods causes only a few changes of the desired set.
const BATCH: usize = 512;

/// An event of the watch of one scope.
#[derive(Debug)]
pub(crate) struct ScopeEvent {
    scope: Arc<WatchScope>,
    kind: ScopeEventKind,
}

#[derive(Debug)]
enum ScopeEventKind {
    CatalogInput(Box<CatalogInput>),
    /// Description of the failure.
    Failed(String),
    Recovered,
}

/// A Kubernetes cluster as the source of the desired set.
#[derive(Debug)]
pub struct KubernetesSource {
    description: SourceDescription,
    catalog: Catalog,
    events: mpsc::Receiver<ScopeEvent>,
    /// Buffer for the events of one batch, reused for the next batch.
    batch: Vec<ScopeEvent>,
    /// Scopes whose list or watch fails, with the description of the failure.
    failures: BTreeMap<Arc<WatchScope>, String>,
    /// The last reported failure. `None`: the last report was a recovery, or there was no report.
    reported: Option<SourceError>,
    /// Whether the first desired set was returned.
    is_published: bool,
    /// Events that `next` has not returned yet.
    next: VecDeque<SourceEvent>,
    views: Publisher<ObjectKey, Arc<ServiceView>>,
    metrics: ClusterMetrics,
}

/// A type of the API server's objects that is converted to an input of the catalog.
pub(crate) trait Converted: Sized {
    fn put(self) -> CatalogInput;
    fn deleted(self) -> CatalogInput;
}

impl Converted for core::Service {
    fn put(self) -> CatalogInput {
        CatalogInput::Service(objects::service(self))
    }

    fn deleted(self) -> CatalogInput {
        CatalogInput::ServiceDeleted(objects::service(self).key)
    }
}

impl Converted for discovery::EndpointSlice {
    fn put(self) -> CatalogInput {
        CatalogInput::EndpointSlice(objects::endpoint_slice(self))
    }

    fn deleted(self) -> CatalogInput {
        CatalogInput::EndpointSliceDeleted(objects::endpoint_slice(self).key)
    }
}

impl Converted for core::Pod {
    fn put(self) -> CatalogInput {
        CatalogInput::Pod(objects::pod(self))
    }

    fn deleted(self) -> CatalogInput {
        CatalogInput::PodDeleted(objects::pod(self).key)
    }
}

impl ScopeEvent {
    pub(crate) fn new<K: Converted>(scope: &Arc<WatchScope>, watched: WatchEvent<K>) -> Self {
        let input = |input| ScopeEventKind::CatalogInput(Box::new(input));
        let kind = match watched {
            WatchEvent::ListStarted => input(CatalogInput::Restarted((**scope).clone())),
            WatchEvent::Put(object) => input(object.put()),
            WatchEvent::Deleted(object) => input(object.deleted()),
            WatchEvent::Listed => input(CatalogInput::RestartedDone((**scope).clone())),
            WatchEvent::Failed(description) => ScopeEventKind::Failed(description),
            WatchEvent::Recovered => ScopeEventKind::Recovered,
        };
        Self {
            scope: Arc::clone(scope),
            kind,
        }
    }
}

impl KubernetesSource {
    pub(crate) fn new(
        location: String,
        catalog: Catalog,
        events: mpsc::Receiver<ScopeEvent>,
        metrics: ClusterMetrics,
    ) -> Self {
        Self {
            description: SourceDescription {
                kind: "kubernetes",
                location,
            },
            catalog,
            events,
            batch: Vec::new(),
            failures: BTreeMap::new(),
            reported: None,
            is_published: false,
            next: VecDeque::new(),
            views: Publisher::new(),
            metrics,
        }
    }

    pub(crate) fn views(&self) -> Views {
        self.views.reader()
    }

    pub(crate) fn catalog(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    fn handle(&mut self, batch: &mut Vec<ScopeEvent>) {
        for event in batch.drain(..) {
            match event.kind {
                ScopeEventKind::CatalogInput(input) => self.catalog.handle(*input),
                ScopeEventKind::Failed(description) => {
                    self.failures.insert(event.scope, description);
                }
                ScopeEventKind::Recovered => {
                    self.failures.remove(&event.scope);
                }
            }
        }
        let output = self.catalog.take_output();
        self.report_output(output);
        self.report_failures();
        self.metrics.set_counts(&self.catalog.counts());
    }

    fn report_output(&mut self, output: CatalogOutput) {
        if !self.catalog.is_synced() {
            return;
        }
        for (key, view) in output.services {
            match view {
                Some(view) => self.views.set(key, Arc::new(view)),
                None => self.views.remove(&key),
            }
        }
        for finding in output.pod_findings.iter().flatten() {
            tracing::warn!(%finding, "problem with the pods of --pod-selector");
        }
        if !output.changes.is_empty() || !self.is_published {
            self.next.push_back(SourceEvent::Changes(output.changes));
            self.is_published = true;
            self.views.synced();
        }
    }

    /// Reports the failures of all scopes as one error, or a recovery, if the failures have changed
    /// since the last report. Failures of several scopes with an equal description, such as an API
    /// server that cannot be reached, count as one failure.
    fn report_failures(&mut self) {
        let mut failures: Vec<&str> = self.failures.values().map(String::as_str).collect();
        failures.sort_unstable();
        failures.dedup();
        let now = (!failures.is_empty()).then(|| SourceError::from(failures.join("; ")));
        if now == self.reported {
            return;
        }
        self.next.push_back(match &now {
            Some(error) => SourceEvent::Failed(error.clone()),
            None => SourceEvent::Recovered,
        });
        self.reported = now;
    }
}

impl DesiredSetSource for KubernetesSource {
    fn description(&self) -> SourceDescription {
        self.description.clone()
    }

    async fn next(&mut self) -> SourceEvent {
        loop {
            if let Some(event) = self.next.pop_front() {
                return event;
            }
            let mut batch = std::mem::take(&mut self.batch);
            if self.events.recv_many(&mut batch, BATCH).await == 0 {
                // The channel is closed, so no event follows: the watches have ended because the
                // daemon stops.
                std::future::pending::<()>().await;
            }
            self.handle(&mut batch);
            self.batch = batch;
        }
    }
}
