//! What every data plane needs apart from its kernel part, which is one [`Forwarder`].
//!
//! ```text
//!  Discovery ──► discovery ──┐                 ┌──► Forwarder (another crate) ──► the kernel
//!                            ├──► owner ───────┤
//!  real servers ◄── health ──┘                 └──► published state ──► grpc ──► DataPlane
//!                   checks                            ConnectionCounters ──► counters for lists
//! ```
//!
//! - One task, the owner, decides. It is one loop over parts that own their state: the desired
//!   set, the drains, the health checks, the local prefixes, the audit clock and the status.
//! - Until the desired set has come once, the forwarder changes nothing in the kernel.
//! - The forwarder reads back what it writes before it counts as programmed.

mod audit_clock;
mod config;
mod desired_state;
mod discovery;
mod drain_tracker;
mod forwarder;
mod grpc;
mod health_check;
mod local_prefixes;
mod metrics;
mod owner;
mod start;
mod status;
mod status_publisher;

pub use config::Config;
pub use forwarder::{
    AuditedSlice, ConnectionCounters, Connections, CountedConnections, Forwarder, Observation,
};
pub use health_check::Health;
pub use owner::HealthCheckPanicked;
pub use start::{StartError, Steps, start};
