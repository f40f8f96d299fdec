//! Network topologies of namespaces, with real routers, web servers and
//! clients, as code.
//!
//! A [`Topology`] says what there is; [`Lab::bring_up`] makes it; a [`Host`]
//! runs things inside; dropping the [`Lab`] ends all of it. `environment/run` puts
//! the program on a kernel that has IPVS. [`mod@reference`] is the network that
//! most tests and the demo use, [`system`] our daemons on it.

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

pub mod bgp;
pub mod by_hand;
pub mod cluster;
pub mod daemons;
pub mod http;
pub mod keepalived;
pub mod kubernetes;
pub mod nginx;
pub mod nodes;
pub mod open_loop;
pub mod reference;
pub mod stand_in;
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
pub use topology::{End, Setup, Topology};
pub use wait::{ensure_that, wait_for};

/// The root of the source tree.
pub fn repository() -> &'static Path {
    let mut ancestors = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    ancestors.nth(2).expect("this crate is two folders deep")
}
