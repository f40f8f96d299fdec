//! Start of the tasks of a data plane.

use std::{error::Error, time::Duration};

use daemon_runtime::{Daemon, DaemonError, GrpcContract, ListenAddress, Readiness, ReadinessStep};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::{
    config::Config,
    discovery,
    forwarder::Forwarder,
    grpc::DataPlaneGrpc,
    health_check::HealthChecks,
    metrics::{DataPlaneMetrics, HealthCheckMetrics},
    owner::{DataPlaneOwner, Inputs},
};

/// Capacity of each channel to the owner. A sender waits while its channel is full.
const CHANNEL_CAPACITY: usize = 1024;

/// Time after the end of the linger time until the runtime aborts the owner task.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// The readiness steps of a data plane in `/readyz`. A forwarder registers the steps of its kernel
/// part after these steps.
#[derive(Debug)]
pub struct DataPlaneSteps {
    /// Ready when a valid desired set has been received.
    pub(crate) desired: ReadinessStep,
    /// Ready when the kernel's table holds every virtual server of the desired set.
    pub(crate) programmed: ReadinessStep,
}

/// An error that prevents the start of a data plane. `E` is the error of its forwarder.
#[derive(Debug, thiserror::Error)]
pub enum StartError<E: Error + 'static> {
    #[error("cannot read the local prefixes from the kernel")]
    ReadLocalPrefixes(#[source] E),
    #[error(transparent)]
    Listen(#[from] DaemonError),
}

impl DataPlaneSteps {
    /// Registers the steps as missing.
    pub fn register(readiness: &Readiness) -> Self {
        Self {
            desired: readiness.step("desired-set", "no desired set received yet"),
            programmed: readiness.step("programmed", "nothing programmed yet"),
        }
    }
}

/// Starts the tasks of a data plane. Returns the address of its gRPC server.
///
/// # Errors
/// The local prefixes cannot be read, or the address cannot be bound.
pub async fn start<F: Forwarder>(
    forwarder: F,
    steps: DataPlaneSteps,
    config: Config,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError<F::Error>> {
    let (health_check_events, health_check_receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let (desired_events, desired_receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let (requests, request_receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let health_check_metrics = HealthCheckMetrics::register(daemon.metrics());
    let health_checks = HealthChecks::new(health_check_events, health_check_metrics);
    let metrics = DataPlaneMetrics::register(daemon.metrics());
    let counters = forwarder.counters();
    let owner = DataPlaneOwner::new(
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
        desired: desired_receiver,
        health_checks: health_check_receiver,
        requests: request_receiver,
    };
    let shutdown = daemon.shutdown().clone();
    daemon.spawn_until_drained("owner", owner.run(inputs, shutdown, config.linger));
    let watched = discovery::watch(config.discovery, desired_events);
    daemon.spawn_until_stopped("client of Discovery", watched);
    Ok(address)
}
