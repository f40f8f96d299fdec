//! The first octet is the command, the rest a message: it decodes or is an error, and what
//! decodes also encodes to something that decodes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::GenlHeader;
use netlink_packet_ipvs::{FAMILY_VERSION, IpvsMessage};

fuzz_target!(|data: &[u8]| {
    let Some((command, bytes)) = data.split_first() else { return };
    let header = GenlHeader { cmd: *command, version: FAMILY_VERSION };
    if let Ok(message) = IpvsMessage::parse_with_param(bytes, header) {
        let mut encoded = vec![0; message.buffer_len()];
        message.emit(&mut encoded);
        let again = IpvsMessage::parse_with_param(&encoded, header).expect("own encoding decodes");
        assert_eq!(again.attributes.len(), message.attributes.len());
    }
});
