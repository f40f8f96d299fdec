//! Preparation of a web pod for tunnel packets of load balancers.
//!
//! ```text
//!  lb pod ──IP-in-IP──► eth0 ──► tunl0 (up, rp_filter loose) ──► local 10.1.1.0/24 ──► the server
//!  client ◄───────────── eth0 ◄─────────────────────────────────────── its reply  ◄────────┘
//! ```
//!
//! A packet that the pod itself sends to a service address is routed by the table `main` and leaves
//! the pod, because the address can belong to another application.
//!
//! [`TunnelPlan`] is the desired state. [`prepare`] applies the plan and reads the result back. All
//! changes are made over netlink, because `/proc/sys` is read-only in a container. A second run
//! leaves correct devices, routes and rules unchanged.

mod args;
mod error;
mod kernel;
mod plan;

pub use args::Args;
pub use error::TunnelInitError;
pub use kernel::{TunnelKernel, prepare};
pub use plan::{PodRoutingRule, Tunnel, TunnelPlan};
