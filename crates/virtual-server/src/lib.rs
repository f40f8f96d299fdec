//! What a virtual server and its real servers are, and the ordered difference between two tables
//! of them. Pure: no clock, no IO.
//!
//! - [`VirtualServer`] is what a user wants: one address, protocol and port (or range of ports),
//!   and the real servers behind it. [`VirtualServer::validate`] says what cannot be.
//! - [`Options`] is what the user may leave out; resolved, it is a [`Behaviour`].
//! - [`ServiceRange`] is a prefix announced as a whole.
//! - [`DesiredSet`] is all of both, and what differs between two of them.
//! - [`Table`] is what a kernel holds; [`plan`] is the way from one table to another.

#![warn(missing_docs)]

mod defaults;
mod desired_set;
mod invalid;
mod model;
mod moved_share;
mod options;
mod parse;
mod plan;
mod table;
pub mod text;
mod validate;
mod weight_levels;

pub use desired_set::{DesiredChange, DesiredSet};
pub use invalid::{
    BadValue, Field, FieldPath, HealthCheckField, Invalid, Problems, RealServerField,
    RealServerKey, Suggestion,
};
pub use ipnet::IpNet;
pub use model::{
    FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Persistence, Ports, Protocol,
    RealServer, RealServerHistory, RealServerState, Scheduler, SchedulerFlags, ServiceRange,
    Timestamp, TunnelKind, VirtualServer, VirtualServerId, Weight,
};
pub use options::{Behaviour, HealthCheckChoice, HealthCheckOptions, Options, PersistenceOptions};
pub use plan::{Placements, plan, plan_keys};
pub use table::{
    AddressFamily, Entry, EntryForwardingMethod, EntryKey, EntryScheduler, EntrySettings,
    RealServerEntry, Table, TableChange,
};
pub use weight_levels::weight_levels;

/// Runs the example in the README as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
