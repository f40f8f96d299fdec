//! Tasks that list and watch a cluster.

use std::{convert::Infallible, sync::Arc};

use daemon_runtime::{Daemon, Shutdown};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kubernetes_client::{
    grant::Resource,
    watch::{ListWatch, Watchable},
};
use service_catalog::{
    catalog::Catalog,
    model::{ObjectKind, WatchScope},
};
use tokio::sync::mpsc;

use super::source::{Converted, KubernetesSource, ScopeEvent};
use crate::{config::ClusterConfig, metrics::ClusterMetrics};

/// Capacity of the channel for events to the source. A watch waits while the channel is full.
const QUEUE: usize = 1_024;

/// Number of Services in a page of a list.
const PAGE_OF_SERVICES: u32 = 250;

/// Number of EndpointSlices in a page of a list. A cluster with default flags writes slices with up
/// to 100 endpoints, each of about 400 bytes.
const PAGE_OF_SLICES: u32 = 50;

/// Number of pods in a page of a list.
const PAGE_OF_PODS: u32 = 100;

/// Starts a watch of each scope, and returns the source that receives the events of these watches.
pub(crate) fn source(
    config: &ClusterConfig,
    metrics: &ClusterMetrics,
    daemon: &mut Daemon,
) -> KubernetesSource {
    let (sender, events) = mpsc::channel(QUEUE);
    for scope in &config.settings.scopes {
        let shutdown = daemon.shutdown().clone();
        let watch = ScopeWatch {
            config,
            metrics,
            scope,
            sender: sender.clone(),
            shutdown,
        };
        match scope.kind {
            ObjectKind::Service => {
                let selector = config.service_selector.clone();
                let task = watch.follow::<Service>(PAGE_OF_SERVICES, selector);
                daemon.spawn("watch of services", task);
            }
            ObjectKind::EndpointSlice => {
                let task = watch.follow::<EndpointSlice>(PAGE_OF_SLICES, None);
                daemon.spawn("watch of endpointslices", task);
            }
            ObjectKind::Pod => {
                let selector = config.pod_selector.clone();
                let task = watch.follow::<Pod>(PAGE_OF_PODS, selector);
                daemon.spawn("watch of pods", task);
            }
        }
    }
    let catalog = Catalog::new(config.settings.clone());
    KubernetesSource::new(config.url.clone(), catalog, events, metrics.clone())
}

struct ScopeWatch<'a> {
    config: &'a ClusterConfig,
    metrics: &'a ClusterMetrics,
    scope: &'a WatchScope,
    sender: mpsc::Sender<ScopeEvent>,
    shutdown: Shutdown,
}

impl ScopeWatch<'_> {
    fn follow<K: Watchable + Converted>(
        self,
        page_size: u32,
        label_selector: Option<String>,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + use<K> {
        let namespace = self.scope.namespace.as_deref().map(str::to_owned);
        let follow = ListWatch {
            origin: self.config.origin.clone(),
            resource: Resource::of::<K>(namespace),
            label_selector,
            page_size,
            watch_timeout: self.config.watch_timeout,
            metrics: self.metrics.requests.clone(),
        };
        let scope = Arc::new(self.scope.clone());
        let (sender, shutdown) = (self.sender, self.shutdown);
        async move {
            tokio::select! {
                () = follow.run::<K, _>(sender, move |event| ScopeEvent::new(&scope, event)) => {}
                () = shutdown.stopping() => {}
            }
            Ok(())
        }
    }
}
