//! Start of the tasks of a data plane.

use std::{error::Error, time::Duration};

use daemon_runtime::{Daemon, DaemonError, GrpcContract, ListenAddress, Readiness, Step};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::{
    config::Config,
    discovery,
    forwarder::Forwarder,
    grpc::DataPlaneGrpc,
    health_check::HealthChecks,
    metrics::{DataPlaneMetrics, HealthCheckMetrics},
    owner::{Inputs, Owner},
};

/// Enough for a burst; a full channel makes the sender wait.
const CHANNEL: usize = 1024;

/// What the drain may take beyond the lingering.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// The lines of a data plane in `/readyz`. A backend registers its own after them.
#[derive(Debug)]
pub struct Steps {
    /// The desired set has been received.
    pub(crate) desired: Step,
    /// The forwarder holds it.
    pub(crate) programmed: Step,
}

/// Why a data plane could not start. `E` is the error of its forwarder.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E: Error + 'static> {
    /// The local prefixes cannot be read.
    #[error("cannot read what the kernel holds")]
    ReadLocalPrefixes(#[source] E),
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] DaemonError),
}

impl Steps {
    /// Adds the lines.
    pub fn register(readiness: &Readiness) -> Self {
        Self {
            desired: readiness.step("desired-set", "not received yet"),
            programmed: readiness.step("programmed", "not yet"),
        }
    }
}

/// Starts the tasks of a data plane and returns where DataPlane is served.
///
/// # Errors
/// The local prefixes cannot be read, or the address cannot be bound.
pub async fn start<F: Forwarder>(
    forwarder: F,
    steps: Steps,
    config: Config,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError<F::Error>> {
    let (health_check_events, health_checks_in) = mpsc::channel(CHANNEL);
    let (desired_events, desired_in) = mpsc::channel(CHANNEL);
    let (requests, requests_in) = mpsc::channel(CHANNEL);
    let health_check_metrics = HealthCheckMetrics::register(daemon.metrics());
    let health_checks = HealthChecks::new(health_check_events, health_check_metrics);
    let metrics = DataPlaneMetrics::register(daemon.metrics());
    let counters = forwarder.counters();
    let owner = Owner::new(
        forwarder,
        health_checks,
        steps,
        metrics,
        config.audit_interval,
    )
    .await
    .map_err(StartError::ReadLocalPrefixes)?;
    let service = DataPlaneGrpc::server(
        owner.published(),
        requests,
        counters,
        daemon.shutdown().clone(),
    );
    let contract = GrpcContract {
        services: &["portlb.dataplane.v1.DataPlaneService"],
        descriptors: daemon_api::FILE_DESCRIPTOR_SET,
    };
    let address = daemon
        .serve_grpc(&config.grpc_listen, contract, Routes::new(service))
        .await?;
    daemon.set_drain_deadline(config.linger + DRAIN_MARGIN);
    let inputs = Inputs {
        desired: desired_in,
        health_checks: health_checks_in,
        requests: requests_in,
    };
    let shutdown = daemon.shutdown().clone();
    daemon.spawn_until_drained("owner", owner.run(inputs, shutdown, config.linger));
    let watched = discovery::watch(config.discovery, desired_events);
    daemon.spawn_until_stopped("client of Discovery", watched);
    Ok(address)
}
