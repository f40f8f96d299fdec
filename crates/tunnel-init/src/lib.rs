//! Prepares a web pod to unpack what load balancers send through tunnels.
//!
//! ```text
//!  lb pod ──IP-in-IP──► eth0 ──► tunl0 (up, rp_filter loose) ──► local 10.1.1.0/24 ──► the server
//!  client ◄───────────── eth0 ◄─────────────────────────────────────── its answer ◄────────┘
//! ```
//!
//! A packet that the pod itself sends to a service address leaves by the default route: the address
//! may belong to another application.
//!
//! [`Plan`] says what shall be, [`prepare`] makes it so and reads it back. Everything goes by
//! netlink, since `/proc/sys` is read-only in a container. What is right already stays, so the step
//! may run any number of times.

mod args;
mod error;
mod kernel;
mod plan;

pub use args::Args;
pub use error::Error;
pub use kernel::{Kernel, prepare};
pub use plan::{Plan, Rule, Tunnel};
