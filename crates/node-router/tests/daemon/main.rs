//! The daemon from outside: in process on a fake kernel, in process on a real one, as a process.

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
