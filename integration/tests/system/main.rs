//! Tests of all daemons of portlb together with real routers and clients.
//!
//! `make test-integration` runs these tests, one at a time, in an environment of the lab.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drain;
mod expect;
mod failures;
mod foreign;
mod forwarding;
mod input;
mod interop;
mod order;
mod swap;
