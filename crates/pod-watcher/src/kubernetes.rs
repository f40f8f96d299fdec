//! A cluster as the source.
//!
//! ```text
//!  API server ──► watches ──► KubernetesSource ──► Index, as a file's
//!                             Catalog: objects in, changes and views of Services out
//!                                  │ views
//!  announcer ──► report Lease      ▼
//!                reports of all ──► Writer, in the pod that holds the Lease ──► status, Events
//! ```
//!
//! - [`service_catalog`]: what was heard, and what it means; pure. `objects` converts.
//! - [`source::KubernetesSource`]: feeds the catalog with what the watches tell. The watches are
//!   kube's; `watch` adds what they keep to themselves.
//! - `lease`, `announced`, `status`, `writer`: who writes, what is announced, what to write, and
//!   writing it. They never hold a watch back.

mod announced;
pub mod client;
mod grant;
mod lease;
mod lease_duration;
pub mod manifests;
pub(crate) mod objects;
pub mod source;
mod status;
pub(crate) mod tasks;
mod watch;
mod writer;
mod writes;

#[cfg(test)]
mod tests;
