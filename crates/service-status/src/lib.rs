//! Writes what became of a Service: its status and Events, by one elected load balancer.
//!
//! ```text
//!  announcer ──► AnnouncerWatch ──► Reporter ──► this pod's report, a Lease
//!                                                      │ reports of all
//!  catalog ──► views ──────────────────────────────────┼──► Writer ──► status, Events
//!  election Lease ◄──► Candidate ──► this pod leads ───┘
//! ```
//!
//! - `election`, `reports`, `leadership`, `status`, `events`: what to write; pure, with time and
//!   jitter as parameters.
//! - `kubernetes`: the tasks that talk to the API server. They never hold a watch of Services back.
//! - `grpc`: follows the bgp-announcer of this pod.

#![warn(missing_docs)]

mod election;
mod end;
mod events;
mod fingerprint;
mod grpc;
mod kubernetes;
mod leadership;
mod lease_duration;
mod metrics;
mod reports;
mod status;

use std::{convert::Infallible, sync::Arc, time::Duration};

use daemon_runtime::{Daemon, Reader, Target};
use kubernetes_client::{client::Origin, metrics::RequestMetrics};
use service_catalog::{catalog::ServiceView, model::ObjectKey};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{end::End, metrics::StatusMetrics};
use self::{
    grpc::AnnouncerWatch,
    kubernetes::{
        ApiServer,
        candidate::{self, Candidate},
        reporter::{self, Reporter, WrittenReport},
        writer::{self, Writer},
    },
};

/// Longest time from the end of the data plane until the Lease is given up.
pub const LONGEST_END: Duration = reporter::END_TIMEOUT
    .saturating_add(writer::END_TIMEOUT)
    .saturating_add(candidate::END_TIMEOUT);

/// Views of Services, whose status is to be written.
pub type Views = Reader<ObjectKey, Arc<ServiceView>>;

/// Which pod writes, and where.
#[derive(Clone, Debug)]
pub struct StatusConfig {
    /// The bgp-announcer of this pod.
    pub announcer: Target,
    /// The Lease of the pod that writes.
    pub lease_name: String,
    /// This pod.
    pub pod_name: String,
    /// Namespace of the Leases.
    pub namespace: String,
    /// This pod's uid.
    pub pod_uid: Option<String>,
}

/// The cluster that is written to.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Address and credentials.
    pub origin: Origin,
    /// How long a watch may last.
    pub watch_timeout: Duration,
    /// Metrics of the watch of reports.
    pub requests: RequestMetrics,
}

/// Starts the tasks that write status, Events and Leases. Where the data plane ends, each ends after the
/// one before: this pod's report is taken back, then what is announced by none leaves the status,
/// then the Lease is free. Where this daemon ends alone, only the Lease is given up; its report
/// stands until it is renewed or runs out.
pub fn start(
    cluster: &Cluster,
    config: StatusConfig,
    views: Views,
    metrics: &StatusMetrics,
    end: &End,
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
    let candidate = Candidate {
        server: server(),
        name: lease_name.clone(),
        namespace: namespace.clone(),
        identity: pod_name.clone(),
        leads,
    };
    let writer = Writer {
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
    let (taken_back, written) = (CancellationToken::new(), CancellationToken::new());
    let report = reporter.run(end.unwatched.clone());
    let status = writer.run(taken_back.clone());
    let lease = candidate.run(written.clone());
    daemon.spawn_until_stopped("announcements", announcements.run());
    daemon.spawn_until_drained("report", until_alone(report, end.clone(), taken_back));
    daemon.spawn_until_drained("status", until_alone(status, end.clone(), written));
    daemon.spawn_until_drained("lease", async {
        lease.await;
        Ok::<_, Infallible>(())
    });
}

/// Runs the task to its end, or breaks it off where this daemon ends alone; then cancels `ended`.
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
