//! Fuzz target: runs a script of events against the owner task of a speaker.
//!
//! The owner must not panic, and must keep the invariants that `bgp_speaker::simulation` checks,
//! for example a bounded number of peers and paths.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| bgp_speaker::simulation::run(script));
