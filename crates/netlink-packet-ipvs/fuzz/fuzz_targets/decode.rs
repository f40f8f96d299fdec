//! The first octet is the command, the rest a message: it decodes or is an error, and what
//! decodes also encodes to something that decodes. An address is read as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::GenlHeader;
use netlink_packet_ipvs::{FAMILY_VERSION, IpvsMessage, decode_address, encode_address};

fuzz_target!(|data: &[u8]| {
    let Some((command, bytes)) = data.split_first() else {
        return;
    };
    let header = GenlHeader {
        cmd: *command,
        version: FAMILY_VERSION,
    };
    if let Ok(message) = IpvsMessage::parse_with_param(bytes, header) {
        let mut encoded = vec![0; message.buffer_len()];
        message.emit(&mut encoded);
        let again = IpvsMessage::parse_with_param(&encoded, header).expect("own encoding decodes");
        // Not equal: of an unknown attribute with both flags of its type one flag is kept.
        assert_eq!(again.attributes.len(), message.attributes.len());
    }
    if let Some((octets, _)) = bytes.split_first_chunk()
        && let Some(address) = decode_address((*command).into(), *octets)
    {
        let family = (*command).into();
        assert_eq!(
            decode_address(family, encode_address(address)),
            Some(address)
        );
    }
});
