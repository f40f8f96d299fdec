//! The tasks of a cluster as the source, and how they are connected.

use std::{convert::Infallible, sync::Arc};

use daemon_runtime::{Daemon, Shutdown};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kubernetes_client::{
    grant::Resource,
    watch::{Follow, Watchable},
};
use service_catalog::{
    catalog::Catalog,
    model::{Kind, Scope},
};
use tokio::sync::mpsc;

use super::source::{Converted, KubernetesSource, ScopeEvent};
use crate::{config::ClusterConfig, metrics::ClusterMetrics};

/// Events that wait for the source; a watch waits when there are more.
const QUEUE: usize = 1_024;

/// Objects in a page of a list. A slice has up to a hundred endpoints of some 400 bytes each.
const PAGE_OF_SERVICES: u32 = 250;
const PAGE_OF_SLICES: u32 = 50;
const PAGE_OF_PODS: u32 = 100;

/// The source, with its watches running.
pub(crate) fn source(
    config: &ClusterConfig,
    metrics: &ClusterMetrics,
    daemon: &mut Daemon,
) -> KubernetesSource {
    let (sender, events) = mpsc::channel(QUEUE);
    for scope in &config.settings.scopes {
        let shutdown = daemon.shutdown().clone();
        let watch = Watch {
            config,
            metrics,
            scope,
            sender: sender.clone(),
            shutdown,
        };
        match scope.kind {
            Kind::Service => {
                let selector = config.service_selector.clone();
                let task = watch.follow::<Service>(PAGE_OF_SERVICES, selector);
                daemon.spawn("watch of services", task);
            }
            Kind::EndpointSlice => {
                let task = watch.follow::<EndpointSlice>(PAGE_OF_SLICES, None);
                daemon.spawn("watch of endpointslices", task);
            }
            Kind::Pod => {
                let selector = config.pod_selector.clone();
                let task = watch.follow::<Pod>(PAGE_OF_PODS, selector);
                daemon.spawn("watch of pods", task);
            }
        }
    }
    let catalog = Catalog::new(config.settings.clone());
    KubernetesSource::new(config.url.clone(), catalog, events, metrics.clone())
}

struct Watch<'a> {
    config: &'a ClusterConfig,
    metrics: &'a ClusterMetrics,
    scope: &'a Scope,
    sender: mpsc::Sender<ScopeEvent>,
    shutdown: Shutdown,
}

impl Watch<'_> {
    fn follow<K: Watchable + Converted>(
        self,
        page_size: u32,
        label_selector: Option<String>,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + use<K> {
        let namespace = self.scope.namespace.as_deref().map(str::to_owned);
        let follow = Follow {
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
