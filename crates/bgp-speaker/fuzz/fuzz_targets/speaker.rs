//! No script of connections, messages, octets, timers and changes of the configuration makes the
//! speaker panic or grow without a bound; a withdrawn or lost client leaves no path, and each path that
//! a peer has been sent comes from an established session. See `bgp_speaker::simulation`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| bgp_speaker::simulation::run(script));
