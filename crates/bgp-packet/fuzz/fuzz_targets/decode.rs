//! No bytes make the decoder panic, block or eat memory; and what it accepts can be sent, and is
//! accepted again with the same meaning.
//!
//! The first octet chooses the options, the second the type of the message whose body the rest is;
//! of type 0, the rest is a stream of messages as it stands.

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
        check_again(message, &options);
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

fn check_again(message: Message, options: &CodecOptions) {
    let mut buffer = BytesMut::new();
    let oversized = encode(&message, options, &mut buffer);
    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    let mut again = Vec::new();
    while let Some(message) = decoder.decode(&mut buffer).expect("what was sent is valid") {
        again.push(message);
    }
    assert!(buffer.is_empty(), "what was sent is whole");
    let Message::Update(update) = message else {
        assert_eq!(again, [message]);
        return;
    };
    let mut announced = 0;
    let mut withdrawn = 0;
    for message in again {
        let Message::Update(Update {
            withdrawn: prefixes,
            announced: groups,
            errors,
            ..
        }) = message
        else {
            panic!("an UPDATE became something else");
        };
        assert_eq!(errors, []);
        withdrawn += prefixes.len();
        announced += groups.iter().map(|group| group.nlri.len()).sum::<usize>();
    }
    let before: usize = update.announced.iter().map(|group| group.nlri.len()).sum();
    assert_eq!(announced + oversized.len(), before);
    assert_eq!(withdrawn, update.withdrawn.len() + oversized.len());
}
