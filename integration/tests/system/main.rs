//! Tests of all daemons together with real programs.
//!
//! The real programs are kernel IPVS, BIRD, FRR, GoBGP, exabgp, nginx, wrk and grpcurl.
//! `make test-integration` runs these tests in the lab, one at a time.

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
