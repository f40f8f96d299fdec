//! Connections to the API server of Kubernetes.

pub mod client;
pub mod grant;
pub mod metrics;
pub mod watch;
