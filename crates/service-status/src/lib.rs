//! Writer of the status and the Events of Services.
//!
//! This code runs in every lb pod. One elected pod writes.
//!
//! ```text
//!  announcer ──► AnnouncerWatch ──► Reporter ──► this pod's report, a Lease
//!                                                      │ reports of all pods
//!  catalog ──► views ──────────────────────────────────┼──► StatusWriter ──► status, Events
//!  election Lease ◄──► LeaseCandidate ──► leadership ──┘
//! ```
//!
//! - `election`, `reports`, `leadership`, `status`, `events`: the decisions. These modules are
//!   pure: time and jitter are parameters.
//! - `kubernetes`: the tasks that talk to the API server. They never block the watch of Services.
//! - `grpc`: the watch of this pod's bgp-announcer.

mod election;
mod end_signals;
mod events;
mod grpc;
mod kubernetes;
mod leadership;
mod lease_duration;
mod metrics;
mod reports;
mod stable_hash;
mod status;

use std::{convert::Infallible, sync::Arc, time::Duration};

use daemon_runtime::{Daemon, GrpcTarget, Reader};
use kubernetes_client::{client::ApiServerOrigin, metrics::RequestMetrics};
use service_catalog::{catalog::ServiceView, model::ObjectKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{end_signals::EndSignals, metrics::StatusMetrics};
use self::{
    grpc::AnnouncerWatch,
    kubernetes::{
        ApiServer,
        candidate::{self, LeaseCandidate},
        reporter::{self, Reporter, WrittenReport},
        writer::{self, StatusWriter},
    },
};

/// Longest time from the end of the data plane's watch until the Lease is released.
pub const LONGEST_SHUTDOWN: Duration = reporter::SHUTDOWN_TIMEOUT
    .saturating_add(writer::SHUTDOWN_TIMEOUT)
    .saturating_add(candidate::SHUTDOWN_TIMEOUT);

/// The views of all Services whose status is written.
pub type Views = Reader<ObjectKey, Arc<ServiceView>>;

/// The announcer of this pod, the names of the pod and of the Leases, and the uid of the pod.
#[derive(Clone, Debug)]
pub struct StatusConfig {
    pub announcer: GrpcTarget,
    /// Name of the Lease whose holder writes the status.
    pub lease_name: String,
    pub pod_name: String,
    /// The namespace of all Leases.
    pub namespace: String,
    /// The uid of this pod, which becomes the owner of its report. If it is `None`, this pod
    /// deletes its report when the pod ends.
    pub pod_uid: Option<String>,
}

/// The connection to the cluster whose Services get a status.
#[derive(Clone, Debug)]
pub struct ClusterAccess {
    pub origin: ApiServerOrigin,
    /// Time after which the API server ends a watch.
    pub watch_timeout: Duration,
    /// Metrics of the requests of the watch of reports.
    pub requests: RequestMetrics,
}

/// Starts the tasks that write status, Events and Leases.
///
/// When the whole pod ends, the tasks end in this order: first this pod's report is removed, then
/// addresses that no pod announces are removed from the status, then the Lease is released. When
/// only this daemon ends, the Lease is released immediately, and this pod's report stays until the
/// restarted daemon renews it or it expires.
pub fn start(
    cluster: &ClusterAccess,
    config: StatusConfig,
    views: Views,
    metrics: &StatusMetrics,
    end: &EndSignals,
    daemon: &mut Daemon,
) {
    let StatusConfig {
        announcer,
        lease_name,
        pod_name,
        namespace,
        pod_uid,
    } = config;
    let server = || ApiServer::new(cluster.origin.clone(), metrics.clone());
    let (announced, announced_here) = watch::channel(None);
    let (reported, reported_here) = watch::channel(None);
    let (leads, leads_here) = watch::channel(None);
    let announcements = AnnouncerWatch {
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
        written: WrittenReport::default(),
    };
    let candidate = LeaseCandidate {
        server: server(),
        name: lease_name.clone(),
        namespace: namespace.clone(),
        identity: pod_name.clone(),
        leads,
    };
    let writer = StatusWriter {
        server: server(),
        request_metrics: cluster.requests.clone(),
        origin: cluster.origin.clone(),
        views,
        leads: leads_here,
        reported: reported_here,
        lease_name,
        namespace,
        pod_name,
        watch_timeout: cluster.watch_timeout,
    };
    let (report_removed, written) = (CancellationToken::new(), CancellationToken::new());
    let report = reporter.run(end.data_plane_ended.clone());
    let status = writer.run(report_removed.clone());
    let lease = candidate.run(written.clone());
    daemon.spawn_until_stopped("announcements", announcements.run());
    daemon.spawn_until_drained(
        "report",
        run_until_alone(report, end.clone(), report_removed),
    );
    daemon.spawn_until_drained("status", run_until_alone(status, end.clone(), written));
    daemon.spawn_until_drained("lease", async {
        lease.await;
        Ok::<_, Infallible>(())
    });
}

/// Runs the task until it returns or `daemon_ended_alone` is cancelled, then cancels `ended`.
async fn run_until_alone(
    task: impl Future<Output = ()>,
    end: EndSignals,
    ended: CancellationToken,
) -> Result<(), Infallible> {
    tokio::select! {
        () = task => {}
        () = end.daemon_ended_alone.cancelled() => {}
    }
    ended.cancel();
    Ok(())
}
