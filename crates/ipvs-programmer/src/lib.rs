//! The data plane on the kernel's IPVS: a [`Forwarder`](data_plane::Forwarder).
//!
//! ```text
//!  data_plane ──► forwarder ──┬──► table state ────┐
//!                             ├──► firewall state ─┼──► kernel thread ──► IPVS, routes, nftables
//!                             └──► sysctl state ───┘
//!  lists ────────────────────────────────────────────► kernel thread 2 ──► counters
//! ```
//!
//! - What the forwarder decides with is pure: [`desired_table`], [`marks`], [`firewall`],
//!   [`sysctl`], and the plan of `virtual-server`.
//! - What is written is read back before it counts as programmed.
//! - An entry of ours carries a flag in the kernel; other entries are left alone unless their key
//!   is desired. An entry that is right is never written, so a restart writes nothing.
//! - Only `translate.rs` knows both the kernel's messages and the table.

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
use data_plane::{Config, Steps};

use forwarder::IpvsForwarder;
use kernel::{Kernel, KernelThread, LinuxKernel};
use metrics::IpvsMetrics;

pub use error::KernelError;
pub use netlink::NetlinkError;
pub use netlink_socket::NETLINK_TIMEOUT;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel cannot be programmed.
    #[error("cannot program the kernel")]
    Program(#[source] KernelError),
    /// The kernel's table cannot be read.
    #[error("cannot read what the kernel holds")]
    ReadTable(#[source] KernelError),
    /// No thread.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// The data plane could not start.
    #[error(transparent)]
    DataPlane(#[from] data_plane::StartError<KernelError>),
}

/// Opens the kernel and starts the tasks; returns where DataPlane is served.
///
/// # Errors
/// The kernel cannot be programmed, or the address cannot be bound.
pub async fn start(config: Config, daemon: &mut Daemon) -> Result<ListenAddress, StartError> {
    let owned = LinuxKernel::open().map_err(StartError::Program)?;
    let for_lists = LinuxKernel::open().map_err(StartError::Program)?;
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
    let steps = Steps::register(daemon.readiness());
    let forwarder = IpvsForwarder::read(
        KernelThread::start(owned)?,
        KernelThread::start(for_lists)?,
        daemon.readiness(),
        IpvsMetrics::register(daemon.metrics()),
    )
    .await
    .map_err(StartError::ReadTable)?;
    Ok(data_plane::start(forwarder, steps, config, daemon).await?)
}
