//! Data plane on the kernel's IPVS: a [`Forwarder`](data_plane::Forwarder).
//!
//! ```text
//!  data_plane ──► forwarder ──┬──► table state ────┐
//!                             ├──► firewall state ─┼──► kernel thread ──► IPVS, routes, nftables
//!                             └──► sysctl state ───┘
//!  lists ────────────────────────────────────────────► kernel thread 2 ──► counters
//! ```
//!
//! - The decisions of the forwarder are pure functions of [`desired_table`], [`marks`],
//!   [`firewall`], [`sysctl`] and the plan of `virtual-server`.
//! - Each written entry is read back before it counts as programmed.
//! - Each entry of this daemon has a flag in the kernel. Entries of other programs are not changed,
//!   unless the desired set contains their key. An entry that is right is not written again, so a
//!   restart writes nothing.
//! - Only `translate.rs` converts between the kernel's messages and the table of `virtual-server`.

pub mod args;
mod config;
pub mod desired_table;
mod error;
pub mod firewall;
mod firewall_state;
mod forwarder;
pub mod init_step;
pub mod kernel;
pub mod marks;
mod metrics;
mod netlink;
pub mod sysctl;
mod sysctl_state;
mod table_state;
mod translate;

use std::io;

use daemon_runtime::{Daemon, ListenAddress};
use data_plane::{Config, DataPlaneSteps};

use forwarder::IpvsForwarder;
use kernel::{IpvsKernel, KernelThread, LinuxKernel};
use metrics::IpvsMetrics;

pub use error::IpvsKernelError;
pub use netlink::NetlinkError;
pub use netlink_socket::NETLINK_TIMEOUT;

/// An error that prevents the start of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the kernel interfaces for IPVS and routes")]
    Program(#[source] IpvsKernelError),
    #[error("cannot read the kernel's IPVS table")]
    ReadTable(#[source] IpvsKernelError),
    #[error("cannot start a thread for the kernel interface")]
    Thread(#[from] io::Error),
    #[error(transparent)]
    DataPlane(#[from] data_plane::StartError<IpvsKernelError>),
}

/// Opens the kernel and starts the tasks of the daemon. Returns the address on which the gRPC
/// contract is served.
///
/// # Errors
/// Returns an error if the kernel interfaces cannot be opened, a thread cannot be started, the IPVS
/// table or the local prefixes cannot be read, or the gRPC address cannot be bound.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    let owned = LinuxKernel::open().map_err(StartError::Program)?;
    let for_counters = LinuxKernel::open().map_err(StartError::Program)?;
    start_with(owned, for_counters, config, daemon).await
}

/// Starts the tasks of the daemon with the given kernels: `owned` for the forwarder, and
/// `for_counters` for reading the connection counters of lists.
///
/// # Errors
/// Returns an error if a thread cannot be started, the IPVS table or the local prefixes cannot be
/// read, or the gRPC address cannot be bound.
pub async fn start_with(
    owned: impl IpvsKernel + 'static,
    for_counters: impl IpvsKernel + 'static,
    config: Config,
    daemon: &mut Daemon,
) -> Result<ListenAddress, StartError> {
    let steps = DataPlaneSteps::register(daemon.readiness());
    let forwarder = IpvsForwarder::read(
        KernelThread::start(owned)?,
        KernelThread::start(for_counters)?,
        daemon.readiness(),
        IpvsMetrics::register(daemon.metrics()),
    )
    .await
    .map_err(StartError::ReadTable)?;
    Ok(data_plane::start(forwarder, steps, config, daemon).await?)
}
