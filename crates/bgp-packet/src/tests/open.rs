//! Tests of OPEN messages (RFC 4271 section 6.2, RFC 5492, RFC 9072).

use bytes::Bytes;

use super::{check_reset, decode, encoded, framed, hex, internal, to_hex};
use crate::{
    AddPathMode, Asn, Capability, DecodeError, Family, GracefulRestart, Message, NotificationError,
    Open, RouterId,
};

/// The fixed fields: version 4, AS 65001, hold time 90 s, BGP identifier 192.0.2.1.
const FIXED: &str = "04 fde9 005a c0000201";

fn open(capabilities: Vec<Capability>) -> Open {
    Open {
        asn: Asn(65001),
        hold_time_seconds: 90,
        router_id: "192.0.2.1".parse().unwrap(),
        capabilities,
    }
}

fn decode_open(body: &str) -> Result<Open, DecodeError> {
    let message = decode(&framed(1, &hex(body)), &internal())?;
    let Message::Open(open) = message else {
        panic!("not an OPEN: {message:?}");
    };
    Ok(open)
}

fn check_both_ways(parameters: &str, expected: Open) {
    let body = format!("{FIXED} {parameters}");
    assert_eq!(decode_open(&body), Ok(expected.clone()));
    let octets = encoded(&Message::Open(expected), &internal());
    assert_eq!(to_hex(&octets), to_hex(&framed(1, &hex(&body))));
}

fn check_capability(octets: &str, expected: Capability) {
    let length = hex(octets).len();
    let parameters = format!("{:02x} 02 {length:02x} {octets}", length + 2);
    check_both_ways(&parameters, open(vec![expected]));
}

/// Decodes an OPEN with one optional parameter, whose value is `octets`. Returns the capabilities
/// of the OPEN.
fn capabilities_of(octets: &str) -> Vec<Capability> {
    let length = hex(octets).len();
    let body = format!("{FIXED} {:02x} 02 {length:02x} {octets}", length + 2);
    decode_open(&body).unwrap().capabilities
}

fn check_refused(body: &str, error: NotificationError, data: &str) {
    check_reset(&framed(1, &hex(body)), &internal(), error, data);
}

fn unknown(code: u8, value: &str) -> Capability {
    Capability::Unknown {
        code,
        value: hex(value).into(),
    }
}

#[test]
fn an_open_without_parameters_has_a_body_of_ten_octets() {
    check_both_ways("00", open(vec![]));
}

#[test]
fn each_capability_is_decoded_and_encoded_with_its_code_and_value() {
    check_capability(
        "01 04 0001 00 01",
        Capability::Multiprotocol(Family::Ipv4Unicast),
    );
    check_capability(
        "01 04 0002 00 01",
        Capability::Multiprotocol(Family::Ipv6Unicast),
    );
    check_capability("02 00", Capability::RouteRefresh);
    check_capability("06 00", Capability::ExtendedMessage);
    check_capability("41 04 0000fde9", Capability::FourOctetAsn(Asn(65001)));
    check_capability(
        "45 08 0001 01 03 0002 01 02",
        Capability::AddPath(vec![
            (Family::Ipv4Unicast, AddPathMode::Both),
            (Family::Ipv6Unicast, AddPathMode::Send),
        ]),
    );
    check_capability(
        "40 0a c078 0001 01 80 0002 01 00",
        Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            notification: true,
            restart_time_seconds: 120,
            families: vec![(Family::Ipv4Unicast, true), (Family::Ipv6Unicast, false)],
        }),
    );
    check_capability("49 03 02 61 62", unknown(73, "026162"));
}

#[test]
fn capabilities_are_read_from_one_or_several_parameters() {
    let expected = vec![
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::Multiprotocol(Family::Ipv4Unicast),
    ];
    for parameters in [
        "0c 02 0a 0200 0600 010400010001",
        "10 02 02 0200 02 02 0600 02 06 010400010001",
    ] {
        let open = decode_open(&format!("{FIXED} {parameters}")).unwrap();
        assert_eq!(open.capabilities, expected);
    }
}

#[test]
fn an_unsupported_family_is_kept_as_an_unknown_capability_and_omitted_from_add_path() {
    // The decoder keeps the capability, because it shows that the peer supports RFC 4760.
    assert_eq!(
        capabilities_of("01 04 0019 00 46"),
        [unknown(1, "0019 00 46")]
    );
    assert_eq!(
        capabilities_of("45 08 0019 46 03 0001 01 01"),
        [Capability::AddPath(vec![(
            Family::Ipv4Unicast,
            AddPathMode::Receive
        )])]
    );
}

#[test]
fn a_malformed_capability_becomes_an_unknown_capability() {
    for (code, value) in [
        (1, "0001 00"),
        (1, "0001 00 01 00"),
        (2, "00"),
        (6, "01"),
        (64, "78"),
        (64, "0078 0001 01"),
        (65, "fde9"),
        (65, ""),
        (69, "0001 01"),
        (69, "0001 01 04"),
        (69, "0001 01 00"),
    ] {
        let length = hex(value).len();
        assert_eq!(
            capabilities_of(&format!("{code:02x} {length:02x} {value}")),
            [unknown(code, value)]
        );
    }
}

/// Regression test for CVE-2025-43971.
#[test]
fn an_empty_software_version_capability_is_accepted() {
    assert_eq!(capabilities_of("4b 00"), [unknown(75, "")]);
}

#[test]
fn the_as_number_of_the_four_octet_capability_overrides_the_two_octet_field() {
    let body = "04 5ba0 005a c0000201 08 02 06 41 04 00010001";
    assert_eq!(decode_open(body).unwrap().asn, Asn(65537));
}

#[test]
fn an_open_with_an_as_number_above_65535_has_as_trans_in_the_two_octet_field() {
    let open = Open {
        asn: Asn(65537),
        ..open(vec![Capability::FourOctetAsn(Asn(65537))])
    };
    assert_eq!(
        to_hex(&encoded(&Message::Open(open), &internal())[19..]),
        "045ba0005ac00002010802064104".to_owned() + "00010001"
    );
}

#[test]
fn an_open_with_an_invalid_version_as_number_hold_time_or_router_id_is_refused() {
    for (body, error, data) in [
        (
            "03 fde9 005a c0000201 00",
            NotificationError::UNSUPPORTED_VERSION_NUMBER,
            "0004",
        ),
        (
            "05 fde9 005a c0000201 00",
            NotificationError::UNSUPPORTED_VERSION_NUMBER,
            "0004",
        ),
        (
            "04 0000 005a c0000201 00",
            NotificationError::BAD_PEER_AS,
            "",
        ),
        (
            "04 fde9 0001 c0000201 00",
            NotificationError::UNACCEPTABLE_HOLD_TIME,
            "",
        ),
        (
            "04 fde9 0002 c0000201 00",
            NotificationError::UNACCEPTABLE_HOLD_TIME,
            "",
        ),
        (
            "04 fde9 005a 00000000 00",
            NotificationError::BAD_BGP_IDENTIFIER,
            "",
        ),
        (
            "04 fde9 005a c0000201 08 02 06 41 04 00000000",
            NotificationError::BAD_PEER_AS,
            "",
        ),
    ] {
        check_refused(body, error, data);
    }
}

#[test]
fn a_hold_time_of_zero_or_at_least_three_seconds_is_accepted() {
    for (hold_time, seconds) in [("0000", 0), ("0003", 3), ("ffff", 65535)] {
        let open = decode_open(&format!("04 fde9 {hold_time} c0000201 00")).unwrap();
        assert_eq!(open.hold_time_seconds, seconds);
    }
}

/// Regression test for CVE-2022-40302, CVE-2022-40318 and CVE-2022-43681.
#[test]
fn an_open_with_a_wrong_length_of_a_parameter_or_capability_is_refused() {
    for parameters in [
        // A parameter list that is longer or shorter than its length field.
        "01",
        "04 02 06 0200",
        "00 02 02 0200",
        "05 02 02 0200",
        // A parameter without length, and a parameter that is longer than the parameter list.
        "01 02",
        "04 02 03 0200",
        // A capability without length, and capabilities that are longer than their parameter.
        "03 02 01 02",
        "04 02 02 02 01",
        "08 02 02 41 04 0000fde9",
        // Malformed lists, parameters and capabilities in the extended form (RFC 9072).
        "ff ff",
        "ff ff 00",
        "ff ff 0001",
        "ff ff 0005 02 0002 0200 00",
        "ff ff 0001 02",
        "ff ff 0002 02 00",
        "ff ff 0005 02 0003 0200",
        "ff ff 0004 02 0001 02",
        "ff ff 0005 02 0002 02 01",
        "01 ff",
        "00 ff 0005 02 0002 0200",
    ] {
        let body = format!("{FIXED} {parameters}");
        check_refused(&body, NotificationError::OPEN_UNSPECIFIC, "");
    }
}

#[test]
fn an_open_with_a_parameter_that_is_no_list_of_capabilities_is_refused() {
    let unsupported = NotificationError::UNSUPPORTED_OPTIONAL_PARAMETER;
    for parameters in [
        "03 01 01 00",
        "02 00 00",
        "ff ff 0004 07 0001 00",
        "ff ff 0003 ff 0000",
    ] {
        check_refused(&format!("{FIXED} {parameters}"), unsupported, "");
    }
}

#[test]
fn an_open_with_an_empty_list_of_capabilities_is_accepted() {
    let open = decode_open(&format!("{FIXED} 02 02 00")).unwrap();
    assert_eq!(open.capabilities, []);
}

#[test]
fn the_one_octet_length_of_the_parameters_is_ignored_in_the_extended_form() {
    for short_length in ["ff", "01", "07"] {
        let body = format!("{FIXED} {short_length} ff 0005 02 0002 0200");
        assert_eq!(
            decode_open(&body).unwrap().capabilities,
            [Capability::RouteRefresh]
        );
    }
}

#[test]
fn capabilities_that_do_not_fit_into_the_normal_form_are_sent_in_the_extended_form() {
    let longest_short = vec![unknown(200, &"00".repeat(251))];
    let octets = encoded(&Message::Open(open(longest_short.clone())), &internal());
    assert_eq!(to_hex(&octets[28..31]), "ff02fd");
    assert_eq!(
        decode(&octets, &internal()),
        Ok(Message::Open(open(longest_short)))
    );

    let long = vec![unknown(200, &"00".repeat(252))];
    let octets = encoded(&Message::Open(open(long.clone())), &internal());
    assert_eq!(to_hex(&octets[28..35]), "ffff01010200fe");
    assert_eq!(decode(&octets, &internal()), Ok(Message::Open(open(long))));
}

#[test]
fn capabilities_that_do_not_fit_into_an_open_of_4096_octets_are_omitted() {
    let many: Vec<_> = (0..20).map(|_| unknown(200, &"00".repeat(255))).collect();
    let octets = encoded(&Message::Open(open(many)), &internal());
    assert!(octets.len() <= 4096);
    let Ok(Message::Open(decoded)) = decode(&octets, &internal()) else {
        panic!("the decoder refuses the encoded OPEN");
    };
    assert_eq!(decoded.capabilities.len(), 15);
}

#[test]
fn an_encoded_open_has_at_most_4096_octets() {
    // The header, the fixed fields and the fields of the extended form leave 4061 of 4096 octets
    // for capabilities.
    for (last, length, count) in [(204, 4096, 16), (205, 19 + 16 + 3855, 15)] {
        let mut capabilities = vec![unknown(200, &"00".repeat(255)); 15];
        capabilities.push(unknown(200, &"00".repeat(last)));
        let octets = encoded(&Message::Open(open(capabilities.clone())), &internal());
        assert_eq!(octets.len(), length);
        capabilities.truncate(count);
        assert_eq!(
            decode(&octets, &internal()),
            Ok(Message::Open(open(capabilities)))
        );
    }
}

#[test]
fn a_capability_with_more_than_255_octets_is_omitted() {
    let oversized = Capability::Unknown {
        code: 200,
        value: Bytes::from(vec![0; 256]),
    };
    let octets = encoded(
        &Message::Open(open(vec![oversized, Capability::RouteRefresh])),
        &internal(),
    );
    assert_eq!(
        decode(&octets, &internal()),
        Ok(Message::Open(open(vec![Capability::RouteRefresh])))
    );
}

#[test]
fn a_router_id_is_parsed_and_displayed_as_an_ipv4_address() {
    let router_id: RouterId = "192.0.2.1".parse().unwrap();
    assert_eq!(router_id.to_string(), "192.0.2.1");
}
