//! A real Kubernetes control plane, and a proxy that simulates network faults.
//!
//! The control plane and the proxy run on the machine's own kernel and need no root. They need the
//! programs that `environment/install packages kubernetes` installs.

mod control_plane;
pub mod control_plane_host;
mod credentials;
mod fault_proxy;

pub use control_plane::{ControlPlane, ControlPlaneSettings, binaries, client};
pub use fault_proxy::FaultProxy;
