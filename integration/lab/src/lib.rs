//! Networks of namespaces with real routers, web servers and clients.
//!
//! A [`Topology`] describes a network, and [`Lab::bring_up`] creates it. A [`Host`] runs processes
//! and threads inside a namespace. Dropping the [`Lab`] ends all processes and removes the network.
//! [`mod@reference`] is the network that most tests and the demo use. [`system`] runs the daemons
//! of portlb on this network. The script `environment/run` runs a test program on a kernel with
//! IPVS.

mod environment;
mod fib;
mod host;
mod lab;
mod memory_limit;
mod namespace;
mod process;
mod sample;
mod topology;
mod wait;

pub mod baseline;
pub mod bgp;
pub mod cluster;
pub mod daemons;
pub mod fake;
pub mod http;
pub mod keepalived;
pub mod kubernetes;
pub mod nginx;
pub mod nodes;
pub mod open_loop;
pub mod reference;
pub mod system;
pub mod udp;
pub mod wrk;

use std::path::Path;

pub use environment::Environment;
pub use fib::{FibChange, FibWatcher};
pub use host::Host;
pub use lab::Lab;
pub use memory_limit::MemoryLimit;
pub use nix::sys::signal::Signal;
pub use process::Process;
pub use sample::{is_complete, sample};
pub use topology::{LinkEnd, Setup, Topology};
pub use wait::{ensure_that, wait_for};

/// Returns the root folder of the repository.
pub fn repository() -> &'static Path {
    let mut ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    ancestors.nth(2).expect("the crate is in integration/lab")
}
