//! The whole daemon in process, over real gRPC and real BGP on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod configuration;
mod harness;
mod lagging;
mod paths;
mod readiness;
mod sessions;
mod shown;

const SERVICE: &str = "10.1.1.0/24";
const NODE_A: [u8; 4] = [192, 0, 2, 1];
const NODE_B: [u8; 4] = [192, 0, 2, 2];
