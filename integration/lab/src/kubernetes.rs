//! A real Kubernetes API server, and a network between it and its clients that
//! fails on command. Both run on the machine's own kernel and need no root:
//! only what `environment/install packages kubernetes` brings.

mod control_plane;
mod credentials;
mod fault_proxy;
pub mod outside;

pub use control_plane::{ControlPlane, Settings, binaries, client};
pub use fault_proxy::FaultProxy;
