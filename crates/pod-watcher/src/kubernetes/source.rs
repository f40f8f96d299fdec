//! A cluster as a [`Source`]: what the watches tell goes through the catalog.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use daemon_runtime::Publisher;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kubernetes_client::watch::WatchEvent;
use service_catalog::{
    catalog::{Catalog, Input, Output, ServiceView},
    model::{ObjectKey, Scope},
};
use service_status::Views;
use tokio::sync::mpsc;

use super::objects;
use crate::{
    metrics::ClusterMetrics,
    source::{Description, Source, SourceError, SourceEvent},
};

/// News that are handled at once, so that a rolling update of many pods is published as few changes.
const BATCH: usize = 512;

/// What a watch tells the source.
#[derive(Debug)]
pub(crate) struct ScopeEvent {
    scope: Arc<Scope>,
    what: ScopeEventKind,
}

#[derive(Debug)]
enum ScopeEventKind {
    Input(Box<Input>),
    Trouble(String),
    Recovered,
}

/// What runs in a cluster.
#[derive(Debug)]
pub struct KubernetesSource {
    description: Description,
    catalog: Catalog,
    events: mpsc::Receiver<ScopeEvent>,
    /// Taken from the channel and not handled yet.
    batch: Vec<ScopeEvent>,
    /// What is wrong, by what is watched.
    troubles: BTreeMap<Arc<Scope>, String>,
    /// What was said of that last.
    said: Option<SourceError>,
    is_published: bool,
    /// Found and not said yet.
    next: VecDeque<SourceEvent>,
    views: Publisher<ObjectKey, Arc<ServiceView>>,
    metrics: ClusterMetrics,
}

/// Kinds that are converted as soon as they are read.
pub(crate) trait Converted: Sized {
    fn put(self) -> Input;
    fn deleted(self) -> Input;
}

impl Converted for core::Service {
    fn put(self) -> Input {
        Input::Service(objects::service(self))
    }

    fn deleted(self) -> Input {
        Input::ServiceDeleted(objects::service(self).key)
    }
}

impl Converted for discovery::EndpointSlice {
    fn put(self) -> Input {
        Input::EndpointSlice(objects::endpoint_slice(self))
    }

    fn deleted(self) -> Input {
        Input::EndpointSliceDeleted(objects::endpoint_slice(self).key)
    }
}

impl Converted for core::Pod {
    fn put(self) -> Input {
        Input::Pod(objects::pod(self))
    }

    fn deleted(self) -> Input {
        Input::PodDeleted(objects::pod(self).key)
    }
}

impl ScopeEvent {
    pub(crate) fn new<K: Converted>(scope: &Arc<Scope>, watched: WatchEvent<K>) -> Self {
        let input = |input| ScopeEventKind::Input(Box::new(input));
        let what = match watched {
            WatchEvent::Began => input(Input::Restarted((**scope).clone())),
            WatchEvent::Put(object) => input(object.put()),
            WatchEvent::Deleted(object) => input(object.deleted()),
            WatchEvent::Listed => input(Input::RestartedDone((**scope).clone())),
            WatchEvent::Trouble(trouble) => ScopeEventKind::Trouble(trouble),
            WatchEvent::Recovered => ScopeEventKind::Recovered,
        };
        Self {
            scope: Arc::clone(scope),
            what,
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
            description: Description {
                kind: "kubernetes",
                location,
            },
            catalog,
            events,
            batch: Vec::new(),
            troubles: BTreeMap::new(),
            said: None,
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

    fn take_over(&mut self, batch: &mut Vec<ScopeEvent>) {
        for event in batch.drain(..) {
            match event.what {
                ScopeEventKind::Input(input) => self.catalog.handle(*input),
                ScopeEventKind::Trouble(trouble) => {
                    self.troubles.insert(event.scope, trouble);
                }
                ScopeEventKind::Recovered => {
                    self.troubles.remove(&event.scope);
                }
            }
        }
        let output = self.catalog.take_output();
        self.say_output(output);
        self.say_troubles();
        self.metrics.counted(&self.catalog.counts());
    }

    fn say_output(&mut self, output: Output) {
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
            tracing::warn!(%finding, "what --pod-selector describes");
        }
        if !output.changes.is_empty() || !self.is_published {
            self.next.push_back(SourceEvent::Changes(output.changes));
            self.is_published = true;
            self.views.synced();
        }
    }

    /// Each trouble once, whatever it concerns: an API server that is away is one.
    fn say_troubles(&mut self) {
        let mut troubles: Vec<&str> = self.troubles.values().map(String::as_str).collect();
        troubles.sort_unstable();
        troubles.dedup();
        let now = (!troubles.is_empty()).then(|| SourceError::from(troubles.join("; ")));
        if now == self.said {
            return;
        }
        self.next.push_back(match &now {
            Some(error) => SourceEvent::Failed(error.clone()),
            None => SourceEvent::Recovered,
        });
        self.said = now;
    }
}

impl Source for KubernetesSource {
    fn description(&self) -> Description {
        self.description.clone()
    }

    async fn next(&mut self) -> SourceEvent {
        loop {
            if let Some(event) = self.next.pop_front() {
                return event;
            }
            let mut batch = std::mem::take(&mut self.batch);
            if self.events.recv_many(&mut batch, BATCH).await == 0 {
                // The watches live as long as the process.
                std::future::pending::<()>().await;
            }
            self.take_over(&mut batch);
            self.batch = batch;
        }
    }
}
