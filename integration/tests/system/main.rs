//! Tests of all daemons together with real programs.
//!
//! Run by `make test-integration`, one test at a time in an environment of the lab.

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
