//! Common parts of all data planes, without the [`Forwarder`].
//!
//! ```text
//!  Discovery ──► discovery ──┐                 ┌──► Forwarder (another crate) ──► the kernel
//!                            ├──► owner ───────┤
//!  real servers ◄── health ──┘                 └──► published state ──► grpc ──► DataPlane
//!                   checks                            ConnectionCounters ──► counters for lists
//! ```
//!
//! - One task, the owner, makes all decisions. The owner is a loop over parts that each own their
//!   state: the desired set, the drains, the health checks, the local prefixes, the audit clock and
//!   the status.
//! - Until the first desired set arrives, the forwarder changes nothing in the kernel.
//! - A virtual server counts as programmed only after the forwarder has read its kernel entries
//!   back.

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
    AuditedSlice, ConnectionCounters, ConnectionCounts, CountedConnections, Forwarder, Observation,
};
pub use health_check::Health;
pub use owner::HealthCheckPanicked;
pub use start::{DataPlaneSteps, StartError, start};
