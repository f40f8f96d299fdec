//! Catalog of Services and EndpointSlices, with address allocation.
//!
//! The crate has no clock, no IO and no client of Kubernetes.
//!
//! - [`model`]: the Kubernetes objects, reduced to the fields that the catalog reads.
//! - [`annotations`], [`service_spec`]: the specification of one Service, or the reasons why the
//!   Service is invalid.
//! - [`catalog::Catalog`]: the state of a cluster. Its inputs are objects, its outputs are changes
//!   of the desired set and a view of each Service.
//! - [`finding`], [`left_out`]: messages for the author of a Service.
//! - [`settings`]: the settings of the operator.

mod addresses;
pub mod annotations;
pub mod catalog;
pub mod finding;
pub mod left_out;
pub mod model;
mod real_servers;
mod restrictions;
pub mod service_spec;
pub mod settings;
