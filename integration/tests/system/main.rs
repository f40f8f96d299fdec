//! The whole system with real parts: kernel IPVS, BIRD, FRR, GoBGP, exabgp, nginx, wrk, grpcurl.
//!
//! Run by `make test-integration`, one test at a time on the lab's floor.

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
