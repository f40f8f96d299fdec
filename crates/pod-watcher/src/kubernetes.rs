//! A cluster as the source.
//!
//! ```text
//!  API server ──► watches ──► KubernetesSource ──► Index, as a file's
//!                             Catalog: objects in, changes and views of Services out
//!                                  │ views
//!                                  ▼
//!                             service-status: status, Events, Leases
//! ```
//!
//! - [`service_catalog`]: the objects, and what they mean; pure. `objects` converts.
//! - [`source::KubernetesSource`]: feeds the catalog with what the watches say. The watches are
//!   [`kubernetes_client::watch`]'s.

pub mod manifests;
pub(crate) mod objects;
pub mod source;
pub(crate) mod tasks;

#[cfg(test)]
mod tests;
