//! Tests of message headers (RFC 4271 section 6.1, RFC 8654), and of KEEPALIVE, ROUTE-REFRESH and
//! NOTIFICATION messages.

use bytes::{Bytes, BytesMut};

use super::{check_reset, decode, encoded, framed, hex, internal, to_hex};
use crate::{
    CodecOptions, Decoder, Family, Message, Notification, NotificationError, RouteRefresh, encode,
};

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

fn extended() -> CodecOptions {
    CodecOptions {
        extended_message: true,
        ..internal()
    }
}

/// Checks that `octets` decode to `message` and that `message` encodes to `octets`.
fn check_both_ways(octets: &str, message: Message) {
    let octets = hex(octets);
    assert_eq!(decode(&octets, &internal()).unwrap(), message);
    assert_eq!(to_hex(&encoded(&message, &internal())), to_hex(&octets));
}

fn check_header(header: &str, options: &CodecOptions, error: NotificationError, data: &str) {
    let header = format!("{MARKER} {header}");
    check_reset(&hex(&header), options, error, data);
}

/// Checks that the decoder accepts the header and waits for the body.
fn check_waits(header: &str, options: &CodecOptions) {
    let mut decoder = Decoder::new();
    decoder.set_options(options.clone());
    let mut buffer = BytesMut::from(&hex(&format!("{MARKER} {header}"))[..]);
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!(buffer.len(), 19);
}

#[test]
fn a_keepalive_is_a_header_without_body() {
    check_both_ways(&format!("{MARKER} 0013 04"), Message::Keepalive);
}

#[test]
fn a_route_refresh_contains_its_family() {
    for (octets, family) in [
        ("0001 00 01", Family::Ipv4Unicast),
        ("0002 00 01", Family::Ipv6Unicast),
    ] {
        check_both_ways(
            &format!("{MARKER} 0017 05 {octets}"),
            Message::RouteRefresh(RouteRefresh {
                family: Some(family),
            }),
        );
    }
}

#[test]
fn a_route_refresh_of_an_unknown_family_or_subtype_is_decoded_without_a_family() {
    let ignored = Message::RouteRefresh(RouteRefresh { family: None });
    for body in ["0019 00 46", "0001 00 80", "0001 01 01", "0001 ff 01"] {
        let message = decode(&framed(5, &hex(body)), &internal());
        assert_eq!(message.as_ref(), Ok(&ignored), "{body}");
    }
}

#[test]
fn filters_in_a_route_refresh_are_ignored() {
    assert_eq!(
        decode(&framed(5, &hex("0001 00 01 01 80 0001 80")), &internal()),
        Ok(Message::RouteRefresh(RouteRefresh {
            family: Some(Family::Ipv4Unicast)
        })),
    );
}

#[test]
fn a_notification_is_decoded_and_encoded_with_its_data() {
    check_both_ways(
        &format!("{MARKER} 0019 03 02 01 00040506"),
        Message::Notification(Notification {
            error: NotificationError::UNSUPPORTED_VERSION_NUMBER,
            data: Bytes::from_static(&[0, 4, 5, 6]),
        }),
    );
}

#[test]
fn the_data_of_a_notification_is_cut_to_the_longest_allowed_message() {
    for (options, length) in [(internal(), 4096), (extended(), 65535)] {
        let notification = Notification {
            error: NotificationError::ATTRIBUTE_LENGTH_ERROR,
            data: vec![7; 70_000].into(),
        };
        let octets = encoded(&Message::Notification(notification), &options);
        assert_eq!(octets.len(), length);
        assert!(decode(&octets, &options).is_ok());
    }
}

#[test]
fn a_marker_with_a_zero_bit_ends_the_session() {
    for index in 0..16 {
        let mut octets = framed(4, &[]);
        octets[index] = 0xfe;
        let error = NotificationError::CONNECTION_NOT_SYNCHRONIZED;
        check_reset(&octets, &internal(), error, "");
    }
}

#[test]
fn a_length_that_the_message_type_does_not_allow_ends_the_session() {
    let bad_length = NotificationError::BAD_MESSAGE_LENGTH;
    for (length, message_type) in [
        ("0000", "01"),
        ("0012", "04"),
        ("0014", "04"),
        ("001c", "01"),
        ("1001", "01"),
        ("0016", "02"),
        ("1001", "02"),
        ("0014", "03"),
        ("1001", "03"),
        ("0016", "05"),
        ("0012", "09"),
        ("ffff", "02"),
    ] {
        let header = format!("{length} {message_type}");
        check_header(&header, &internal(), bad_length, length);
    }
}

#[test]
fn an_unknown_message_type_ends_the_session() {
    for message_type in ["00", "06", "80", "ff"] {
        check_header(
            &format!("0013 {message_type}"),
            &internal(),
            NotificationError::BAD_MESSAGE_TYPE,
            message_type,
        );
    }
}

#[test]
fn the_decoder_accepts_a_header_with_an_allowed_length_before_the_body_arrives() {
    for header in ["001d 01", "1000 01", "1000 02", "1000 03", "1000 05"] {
        check_waits(header, &internal());
    }
}

#[test]
fn the_decoder_accepts_headers_of_extended_messages_if_they_are_negotiated() {
    for header in ["1001 02", "ffff 02", "ffff 03", "ffff 05"] {
        check_waits(header, &extended());
    }
}

#[test]
fn an_open_or_keepalive_above_4096_octets_ends_the_session_despite_extended_messages() {
    for header in ["1001 01", "1001 04"] {
        let length = &header[..4];
        let error = NotificationError::BAD_MESSAGE_LENGTH;
        check_header(header, &extended(), error, length);
    }
}

#[test]
fn a_new_decoder_refuses_extended_messages() {
    let mut buffer = BytesMut::from(&hex(&format!("{MARKER} 1001 02"))[..]);
    let error = Decoder::new().decode(&mut buffer).unwrap_err();
    let expected = NotificationError::BAD_MESSAGE_LENGTH;
    assert_eq!(error.notification.error, expected);
}

#[test]
fn an_incomplete_message_stays_in_the_buffer() {
    let whole = framed(5, &hex("0001 00 01"));
    let mut decoder = Decoder::new();
    for length in 0..whole.len() {
        let mut buffer = BytesMut::from(&whole[..length]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        assert_eq!(buffer, whole[..length]);
    }
}

#[test]
fn encoded_messages_are_appended_to_the_buffer() {
    let mut buffer = BytesMut::from(&b"before"[..]);
    encode(&Message::Keepalive, &internal(), &mut buffer);
    encode(&Message::Keepalive, &internal(), &mut buffer);
    let keepalive = framed(4, &[]);
    assert_eq!(buffer, [b"before", &keepalive[..], &keepalive[..]].concat());
}

#[test]
fn a_shutdown_communication_is_decoded_and_displayed() {
    let notification = Notification::administrative_shutdown("node 7: maintenance by Jürgen");
    assert_eq!(
        notification.shutdown_communication(),
        Some("node 7: maintenance by Jürgen")
    );
    assert_eq!(
        notification.to_string(),
        "Cease/Administrative Shutdown: node 7: maintenance by Jürgen"
    );
    let notification = Notification::administrative_reset("new image");
    assert_eq!(to_hex(&notification.data), "096e657720696d616765");
}

#[test]
fn a_shutdown_communication_is_cut_to_255_octets_between_characters() {
    let text = "ü".repeat(200);
    let notification = Notification::administrative_shutdown(&text);
    assert_eq!(notification.data.len(), 1 + 254);
    assert_eq!(notification.shutdown_communication(), Some(&text[..254]));
    assert_eq!(Notification::administrative_shutdown("").data, Bytes::new());
}

#[test]
fn a_notification_with_malformed_data_or_another_error_has_no_shutdown_communication() {
    let shutdown = NotificationError::ADMINISTRATIVE_SHUTDOWN;
    for (error, data) in [
        (shutdown, ""),
        (shutdown, "00"),
        (shutdown, "03 6161"),
        (shutdown, "01 6161"),
        (shutdown, "02 c3 28"),
        (NotificationError::CONNECTION_REJECTED, "01 61"),
    ] {
        let data = Bytes::from(hex(data));
        let notification = Notification { error, data };
        assert_eq!(
            notification.shutdown_communication(),
            None,
            "{notification:?}"
        );
    }
}

#[test]
fn a_notification_error_is_displayed_with_its_registered_name() {
    for (code, subcode, text) in [
        (3, 11, "UPDATE Message Error/Malformed AS_PATH"),
        (4, 0, "Hold Timer Expired"),
        (6, 99, "Cease/99"),
        (77, 1, "error 77/1"),
    ] {
        assert_eq!(NotificationError { code, subcode }.to_string(), text);
    }
}

#[test]
fn control_characters_in_a_shutdown_communication_are_displayed_escaped() {
    let notification = Notification::administrative_shutdown("a\nb\u{1b}[31m");
    assert_eq!(
        notification.to_string(),
        "Cease/Administrative Shutdown: a\\nb\\u{1b}[31m"
    );
}
