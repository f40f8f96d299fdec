//! Fuzz target: runs a script of events against the owner.
//!
//! The speaker must not panic, must not grow without a bound, and must keep the invariants of
//! `bgp_speaker::simulation`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| bgp_speaker::simulation::run(script));
