//! Component tests of route-reflector. The daemon runs in the test process, with real gRPC and BGP
//! connections on loopback addresses.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod configuration;
mod harness;
mod lagging;
mod lists;
mod paths;
mod readiness;
mod sessions;

const SERVICE: &str = "10.1.1.0/24";
const NODE_A: [u8; 4] = [192, 0, 2, 1];
const NODE_B: [u8; 4] = [192, 0, 2, 2];
