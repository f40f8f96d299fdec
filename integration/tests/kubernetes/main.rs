//! pod-watcher against a real API server, through a proxy that fails on command; node-router with its tokens.
//!
//! Run by `make test-kubernetes`; needs no guest and no privilege.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announcer;
mod cluster;
mod hold_token;
mod resilience;
mod serving;
mod status;
mod watcher;
