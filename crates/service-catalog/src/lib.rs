//! What Services and EndpointSlices ask for: parsed, validated, with addresses allocated. Pure: no
//! clock, no IO, no client of Kubernetes.
//!
//! - [`model`]: the objects, as little of them as is needed.
//! - [`annotations`], [`service_spec`]: what one Service asks for, or why that cannot be.
//! - [`catalog::Catalog`]: objects in; changes of the desired set and a view of each Service out.
//! - [`finding`], [`left_out`]: what the author of a Service should know.
//! - [`settings`]: what the operator chose.

#![warn(missing_docs)]

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
