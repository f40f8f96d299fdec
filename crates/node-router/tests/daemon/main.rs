//! Tests of the daemon with a fake kernel, with the kernel of this machine, and as a process.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod any_order;
mod component;
mod foreign_routes;
mod kernel;
mod limits;
mod namespace;
mod process;
mod proof;
mod signer;
mod sleep;
mod support;
mod token;
mod tracking;
