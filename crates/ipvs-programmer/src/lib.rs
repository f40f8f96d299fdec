//! Makes the kernel's IPVS table equal to the desired set and checks the real servers.
//!
//! ```text
//!  Discovery ──► desired ──┐                     ┌──► kernel thread ──► IPVS, routes, nftables
//!                          ├──► programmer ──────┤
//!  real servers ◄── checks ┘    (the owner)      └──► published state ──► grpc ──► DataPlane
//!                                                          kernel thread 2 ──► counters for lists
//! ```
//!
//! - One task, the owner ([`programmer`]), decides; everything it decides with is pure:
//!   [`desired_table`], [`marks`], [`firewall`], [`sysctl`], [`status`], [`health`], and the plan
//!   of `virtual-server`.
//! - Until the desired set has come once, the kernel is not touched.
//! - What is written is read back before it counts as programmed.
//! - An entry of ours carries a flag in the kernel; other entries are left alone unless their key
//!   is desired. An entry that is right is never written, so a restart writes nothing.
//! - Only `translate.rs` knows both the kernel's messages and the table.

pub mod args;
pub mod check;
pub mod config;
pub mod desired;
pub mod desired_table;
mod error;
pub mod firewall;
pub mod grpc;
pub mod health;
pub mod init_step;
pub mod kernel;
pub mod marks;
pub mod metrics;
mod netlink;
pub mod programmer;
pub mod status;
pub mod sysctl;
#[cfg(test)]
mod testing;
mod translate;

use std::{convert::Infallible, io, time::Duration};

use daemon_runtime::{Daemon, DaemonError, GrpcContract, ListenAddress};
use tokio::sync::mpsc;
use tonic::service::Routes;

use check::Checks;
use config::Config;
use grpc::DataPlaneService;
use kernel::{Kernel, KernelThread, LinuxKernel};
use metrics::{CheckMetrics, ProgrammerMetrics};
use programmer::{Inputs, Programmer, ProgrammerError, Steps};

pub use error::KernelError;
pub use netlink::{NETLINK_TIMEOUT, NetlinkError};
pub use translate::Connections;

/// Enough for a burst; a full channel makes the sender wait.
const CHANNEL: usize = 1024;

/// What the drain may take beyond the lingering.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel cannot be programmed.
    #[error("cannot program the kernel")]
    Kernel(#[from] KernelError),
    /// The kernel cannot be read.
    #[error(transparent)]
    Adopt(#[from] ProgrammerError),
    /// No thread.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] DaemonError),
}

/// Opens the kernel and starts the tasks; returns where DataPlane is served.
///
/// # Errors
/// The kernel cannot be programmed, or the address cannot be bound.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    let owned = LinuxKernel::open()?;
    let for_lists = LinuxKernel::open()?;
    start_with(owned, for_lists, config, daemon).await
}

/// As [`start`], with the kernels given: the owner's, and another for reading counters.
///
/// # Errors
/// The kernel cannot be read, or the address cannot be bound.
pub async fn start_with(
    owned: impl Kernel + 'static,
    for_lists: impl Kernel + 'static,
    config: Config,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError> {
    let readiness = daemon.readiness();
    let steps = Steps {
        desired: readiness.step("desired-set", "not received yet"),
        programmed: readiness.step("programmed", "not yet"),
        sysctls: readiness.step("sysctls", "not looked at yet"),
        firewall: readiness.step("nftables", "not written yet"),
    };
    let (check_events, checks_in) = mpsc::channel(CHANNEL);
    let (desired_events, desired_in) = mpsc::channel(CHANNEL);
    let (requests, requests_in) = mpsc::channel(CHANNEL);
    let checks = Checks::new(check_events, CheckMetrics::register(daemon.metrics()));
    let metrics = ProgrammerMetrics::register(daemon.metrics());
    let kernel = KernelThread::start(owned)?;
    let programmer =
        Programmer::adopt(kernel, checks, steps, metrics, config.audit_interval).await?;
    let service = DataPlaneService::server(
        programmer.published(),
        requests,
        KernelThread::start(for_lists)?,
        daemon.shutdown().clone(),
    );
    let contract = GrpcContract {
        services: &["portlb.dataplane.v1.DataPlane"],
        descriptors: daemon_api::FILE_DESCRIPTOR_SET,
    };
    let address = daemon
        .serve_grpc(&config.grpc_listen, contract, Routes::new(service))
        .await?;
    daemon.set_drain_deadline(config.linger + DRAIN_MARGIN);
    let inputs = Inputs {
        desired: desired_in,
        checks: checks_in,
        requests: requests_in,
    };
    let shutdown = daemon.shutdown().clone();
    daemon.spawn_until_drained(
        "programmer",
        programmer.run(inputs, shutdown.clone(), config.linger),
    );
    let discovery = config.discovery;
    daemon.spawn("client of Discovery", async move {
        tokio::select! {
            () = desired::watch(discovery, desired_events) => {}
            () = shutdown.stopping() => {}
        }
        Ok::<_, Infallible>(())
    });
    Ok(address)
}
