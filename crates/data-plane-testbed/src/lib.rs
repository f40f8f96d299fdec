//! Test environment of a data plane in a separate network namespace.
//!
//! ```text
//!  FakeDiscovery (Discovery) ──► TestDataPlane (the daemon) ──► TestKernel (in memory, from the test)
//!                            └── health checks ──► real servers (real sockets)
//! ```

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod discovery;
mod kernel;
mod serving;
mod unit;
mod world;

pub use discovery::{FakeDiscovery, events};
pub use kernel::{TestKernel, TestKernelState};
pub use serving::DrainFixture;
pub use unit::checked_virtual_server;
pub use world::{
    LIMIT, RealServerSocket, TestDataPlane, desired, real_server, run, virtual_server,
};

/// The service range of [`desired`].
pub const RANGE: &str = "10.1.1.0/24";
/// A virtual server in [`RANGE`].
pub const ID: &str = "tcp/10.1.1.10:8080";
/// The first real server of most tests.
pub const ONE: &str = "10.244.0.1:8080";
/// The second real server of most tests.
pub const TWO: &str = "10.244.0.2:8080";
