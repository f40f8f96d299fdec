//! Tests of pod-watcher and node-router with a real API server.
//!
//! pod-watcher connects through a proxy that refuses, cuts, stalls or slows connections.
//! node-router verifies tokens that the API server has issued. `make test-kubernetes` runs these
//! tests. The tests need no guest and no privilege.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announcer;
mod cluster;
mod hold_token;
mod resilience;
mod serving;
mod status;
mod watcher;
