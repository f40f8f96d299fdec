//! Fuzz target for the BGP decoder.
//!
//! The target checks that no input makes the decoder panic, block or allocate without bound. It
//! also checks that the encoder can encode each accepted message, and that the encoded message
//! decodes to an equal message. For an UPDATE, only the numbers of prefixes must be equal.
//!
//! The first octet of the input selects the codec options. The second octet is the message type,
//! and the target puts a header of this type in front of the remaining octets. If the second octet
//! is 0, the target adds no header, because the remaining octets contain the headers of a stream of
//! messages.

#![no_main]

use bgp_packet::{CodecOptions, Decoder, Family, Message, Update, encode};
use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [bits, message_type, body @ ..] = data else {
        return;
    };
    let options = options(*bits);
    let mut buffer = BytesMut::new();
    if *message_type != 0 {
        let Ok(length) = u16::try_from(19 + body.len()) else {
            return;
        };
        buffer.put_bytes(0xff, 16);
        buffer.put_u16(length);
        buffer.put_u8(*message_type);
    }
    buffer.put_slice(body);

    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    while let Ok(Some(message)) = decoder.decode(&mut buffer) {
        check_round_trip(message, &options);
    }
});

fn options(bits: u8) -> CodecOptions {
    let mut add_path = Vec::new();
    if bits & 1 != 0 {
        add_path.push(Family::Ipv4Unicast);
    }
    if bits & 2 != 0 {
        add_path.push(Family::Ipv6Unicast);
    }
    CodecOptions {
        four_octet_asn: bits & 4 != 0,
        add_path,
        extended_message: bits & 8 != 0,
        internal: bits & 16 != 0,
    }
}

/// Checks that the encoded `message` decodes to an equal message.
///
/// The encoder can split an UPDATE into several messages, so for an UPDATE only the numbers of
/// announced and withdrawn prefixes are compared.
fn check_round_trip(message: Message, options: &CodecOptions) {
    let mut buffer = BytesMut::new();
    let oversized = encode(&message, options, &mut buffer);
    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    let mut decoded = Vec::new();
    while let Some(message) = decoder
        .decode(&mut buffer)
        .expect("the decoder accepts every encoded message")
    {
        decoded.push(message);
    }
    assert!(buffer.is_empty(), "the encoder writes whole messages");
    let Message::Update(update) = message else {
        assert_eq!(decoded, [message]);
        return;
    };
    let mut announced = 0;
    let mut withdrawn = 0;
    for message in decoded {
        let Message::Update(Update {
            withdrawn: prefixes,
            announced: groups,
            errors,
            ..
        }) = message
        else {
            panic!("an encoded UPDATE decodes to a message of another type");
        };
        assert_eq!(errors, []);
        withdrawn += prefixes.len();
        announced += groups.iter().map(|group| group.nlri.len()).sum::<usize>();
    }
    let announced_before: usize = update.announced.iter().map(|group| group.nlri.len()).sum();
    assert_eq!(announced + oversized.len(), announced_before);
    assert_eq!(withdrawn, update.withdrawn.len() + oversized.len());
}
