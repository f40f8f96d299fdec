//! Source that reads the desired set from a Kubernetes cluster.
//!
//! ```text
//!  API server ──► watches ──► KubernetesSource ──► Index
//!                             Catalog: objects in, changes and views of Services out
//!                                  │ views
//!                                  ▼
//!                             service-status: status, Events, Leases
//! ```
//!
//! - `objects` converts the objects of the API server to the types of [`service_catalog`].
//! - [`service_catalog`] converts Services and endpoints to virtual servers, without clock and IO.
//! - [`source::KubernetesSource`] passes the events of the watches ([`kubernetes_client::watch`])
//!   to the catalog.

pub mod manifests;
pub(crate) mod objects;
pub mod source;
pub(crate) mod tasks;

#[cfg(test)]
mod tests;
