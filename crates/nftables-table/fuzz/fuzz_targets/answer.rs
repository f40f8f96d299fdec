//! Fuzz target of the decoder for the kernel's answers.
//!
//! No input makes the decoder panic or loop forever.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_socket::messages;
use nftables_table::answer;

/// Length of a netlink header in octets.
const HEADER: usize = 16;

fuzz_target!(|datagram: &[u8]| {
    let mut octets = 0;
    for message in messages(datagram) {
        octets += HEADER + message.payload.len();
        let _ = message.errno();
        let _ = message.is_interrupted();
        let _ = answer::fingerprint(&message);
        if let Some(chain) = answer::chain(&message) {
            assert!(chain.table.len() + chain.name.len() <= 3 * message.payload.len());
        }
    }
    assert!(octets <= datagram.len(), "the decoder reads no octet twice");
});
