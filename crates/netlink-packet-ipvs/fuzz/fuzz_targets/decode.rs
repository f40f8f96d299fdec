//! Fuzz target of the decoder for IPVS messages.
//!
//! The first octet of the input is the command, and the other octets are the message. Decoding
//! returns a message or an error, and never panics. A decoded message that was encoded can be
//! decoded once more. An encoded address decodes to an equal address.
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
        let again = IpvsMessage::parse_with_param(&encoded, header)
            .expect("the encoding of a decoded message decodes");
        // Only the numbers of attributes are compared: if the type of an unknown attribute has both
        // flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, encoding keeps only one of the flags.
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
