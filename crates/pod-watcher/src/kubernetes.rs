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
//! - [`model`]: its objects, as little of them as is needed.
//! - [`catalog::Catalog`]: what was heard, and what it means; pure.
//! - [`source::KubernetesSource`]: feeds the catalog with what the watches tell. The watches are
//!   kube's; `watch` adds what they keep to themselves.
//! - `lease`, `announced`, `status`, `writer`: who writes, what is announced, what to write, and
//!   writing it. They never hold a watch back.

mod announced;
pub mod client;
mod grant;
mod lease;
mod lease_duration;
pub mod source;
mod status;
pub(crate) mod tasks;
mod watch;
mod writer;
mod writes;

mod addresses;
pub mod annotations;
pub mod catalog;
mod convert;
pub mod finding;
pub(crate) mod intent;
pub mod left_out;
pub mod manifests;
pub mod model;
mod restrictions;
pub mod settings;
