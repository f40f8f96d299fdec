//! The tasks of a cluster as the source, and how they are connected.

use std::{convert::Infallible, sync::Arc, time::Duration};

use daemon_runtime::{Daemon, Shutdown};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use service_catalog::{
    catalog::Catalog,
    model::{Kind, Scope},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    announced::{self, Announcements, Reporter, Standing},
    grant::Resource,
    lease::{self, Candidate},
    source::{Converted, Heard, KubernetesSource, Views},
    watch::{Follow, Watchable},
    writer::{self, Writer},
    writes::ApiServer,
};
use crate::{
    config::{ClusterConfig, StatusConfig},
    end::End,
    metrics::ClusterMetrics,
};

/// Longest time from the end of the data plane until the Lease is given up.
pub(crate) const LONGEST_END: Duration = announced::END_TIMEOUT
    .saturating_add(writer::END_TIMEOUT)
    .saturating_add(lease::END_TIMEOUT);

/// News that wait for the source; a watch waits when there are more.
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
    let (told, heard) = mpsc::channel(QUEUE);
    for scope in &config.settings.scopes {
        let shutdown = daemon.shutdown().clone();
        let watch = Watch {
            config,
            metrics,
            scope,
            told: told.clone(),
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
    KubernetesSource::new(config.url.clone(), catalog, heard, metrics.clone())
}

struct Watch<'a> {
    config: &'a ClusterConfig,
    metrics: &'a ClusterMetrics,
    scope: &'a Scope,
    told: mpsc::Sender<Heard>,
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
            metrics: self.metrics.clone(),
        };
        let scope = Arc::new(self.scope.clone());
        let (told, shutdown) = (self.told, self.shutdown);
        async move {
            tokio::select! {
                () = follow.run::<K, _>(told, move |news| Heard::new(&scope, news)) => {}
                () = shutdown.stopping() => {}
            }
            Ok(())
        }
    }
}

/// Starts what writes status, Events and Leases. Where the data plane ends, each ends after the
/// one before: this pod's report is taken back, then what is announced by none leaves the status,
/// then the Lease is free. Where this daemon ends alone, only the Lease is given up; its report
/// stands until it is renewed or runs out.
pub(crate) fn write_status(
    cluster: &ClusterConfig,
    status: StatusConfig,
    views: Views,
    metrics: &ClusterMetrics,
    end: &End,
    daemon: &mut Daemon,
) {
    let StatusConfig {
        announcer,
        lease_name,
        pod_name,
        namespace,
        pod_uid,
    } = status;
    let server = || ApiServer::new(cluster.origin.clone(), metrics.clone());
    let (announced, announced_here) = watch::channel(None);
    let (reported, reported_here) = watch::channel(None);
    let (leads, leads_here) = watch::channel(None);
    let announcements = Announcements {
        announcer,
        announced,
    };
    let reporter = Reporter {
        server: server(),
        lease_name: lease_name.clone(),
        pod_name: pod_name.clone(),
        pod_uid,
        namespace: namespace.clone(),
        announced: announced_here,
        reported,
        standing: Standing::default(),
    };
    let candidate = Candidate {
        server: server(),
        name: lease_name.clone(),
        namespace: namespace.clone(),
        identity: pod_name.clone(),
        leads,
    };
    let writer = Writer {
        server: server(),
        origin: cluster.origin.clone(),
        views,
        leads: leads_here,
        reported: reported_here,
        lease_name,
        namespace,
        pod_name,
        watch_timeout: cluster.watch_timeout,
    };
    let (taken_back, written) = (CancellationToken::new(), CancellationToken::new());
    let report = reporter.run(end.unwatched.clone());
    let status = writer.run(taken_back.clone());
    let lease = candidate.run(written.clone());
    let shutdown = daemon.shutdown().clone();
    daemon.spawn("announcements", announcements.run(shutdown));
    daemon.spawn_until_drained("report", until_alone(report, end.clone(), taken_back));
    daemon.spawn_until_drained("status", until_alone(status, end.clone(), written));
    daemon.spawn_until_drained("lease", async {
        lease.await;
        Ok::<_, Infallible>(())
    });
}

/// Runs the task to its end, or breaks it off where this daemon ends alone; then says so.
async fn until_alone(
    task: impl Future<Output = ()>,
    end: End,
    ended: CancellationToken,
) -> Result<(), Infallible> {
    tokio::select! {
        () = task => {}
        () = end.alone.cancelled() => {}
    }
    ended.cancel();
    Ok(())
}
