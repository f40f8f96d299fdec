//! Tests of the decoder and the encoder through the public functions of the crate.

mod arbitrary;
mod header;
mod hostile_messages;
mod open;
mod pass_through;
mod properties;
mod public_signatures;
mod update;
mod update_errors;

use bytes::BytesMut;

use crate::{
    CodecOptions, DecodeError, Decoder, Family, Message, NotificationError, PathAttributes, Update,
    encode,
};

/// Parses hexadecimal digits. Ignores spaces and line ends.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn to_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Returns the octets of a message: a header with `message_type`, then `body`.
fn framed(message_type: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(message_type);
    message.extend(body);
    message
}

/// Returns the octets of an UPDATE with three lists, which are given in hexadecimal without their
/// length fields.
fn update_of(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
    let (withdrawn, attributes) = (hex(withdrawn), hex(attributes));
    let mut body = Vec::new();
    body.extend(u16::try_from(withdrawn.len()).unwrap().to_be_bytes());
    body.extend(&withdrawn);
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(&attributes);
    body.extend(hex(nlri));
    framed(2, &body)
}

/// Options of an internal session with four-octet AS numbers, without other capabilities.
fn internal() -> CodecOptions {
    CodecOptions {
        four_octet_asn: true,
        add_path: Vec::new(),
        extended_message: false,
        internal: true,
    }
}

fn with_add_path() -> CodecOptions {
    CodecOptions {
        add_path: Family::ALL.to_vec(),
        ..internal()
    }
}

/// Decodes one message and checks that no octets follow the message.
fn decode(octets: &[u8], options: &CodecOptions) -> Result<Message, DecodeError> {
    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    let mut buffer = BytesMut::from(octets);
    let message = decoder.decode(&mut buffer)?;
    assert!(buffer.is_empty(), "{} octets are left", buffer.len());
    Ok(message.expect("the octets are a whole message"))
}

fn decode_update(octets: &[u8], options: &CodecOptions) -> Result<Update, DecodeError> {
    let message = decode(octets, options)?;
    let Message::Update(update) = message else {
        panic!("not an UPDATE: {message:?}");
    };
    Ok(update)
}

/// Decodes all messages of the buffer and checks that no octets follow the last message.
fn decode_all(mut buffer: BytesMut, options: &CodecOptions) -> Vec<Message> {
    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    let mut messages = Vec::new();
    while let Some(message) = decoder.decode(&mut buffer).unwrap() {
        messages.push(message);
    }
    assert!(buffer.is_empty(), "{} octets are left", buffer.len());
    messages
}

fn encoded(message: &Message, options: &CodecOptions) -> BytesMut {
    let mut buffer = BytesMut::new();
    assert_eq!(encode(message, options, &mut buffer), []);
    buffer
}

/// Checks that the message ends the session, and that the NOTIFICATION has `error` and `data` (in
/// hexadecimal).
fn check_reset(octets: &[u8], options: &CodecOptions, error: NotificationError, data: &str) {
    let decoded = decode(octets, options).expect_err("the message ends the session");
    assert_eq!(
        (
            decoded.notification.error,
            to_hex(&decoded.notification.data)
        ),
        (error, to_hex(&hex(data))),
        "{decoded}"
    );
}

fn attributes(next_hop: &str) -> PathAttributes {
    PathAttributes::originate(next_hop.parse().unwrap())
}
