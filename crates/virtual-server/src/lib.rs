//! Model of virtual servers, and plans for the kernel's table.
//!
//! The crate has no clock and no IO.
//!
//! - [`VirtualServer`] is an address, a protocol and a port, a range of ports or all ports, with
//!   its real servers. [`VirtualServer::validate`] returns the problems of all invalid fields.
//! - [`Options`] are the settings that a user can leave out. [`Options::resolve`] fills in the
//!   defaults and returns a [`Behaviour`].
//! - [`ServiceRange`] is a prefix that is announced as a whole.
//! - [`DesiredSet`] contains all virtual servers and service ranges.
//!   [`DesiredSet::changes_to`] returns the difference of two sets.
//! - [`VirtualServerTable`] is the content of the kernel's table. [`plan`] returns the changes that
//!   turn one table into another.

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
    AddressFamily, EntryForwardingMethod, EntryKey, EntryScheduler, EntrySettings, RealServerEntry,
    TableChange, TableEntry, VirtualServerTable,
};
pub use weight_levels::weight_levels;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
