//! Tests of UPDATE messages with errors (RFC 7606).

use super::{check_reset, decode_update, hex, internal, to_hex, update_of};
use crate::{Asn, AttributeError, CodecOptions, Disposition, NotificationError, Update};

const DISCARD: Disposition = Disposition::AttributeDiscard;
const WITHDRAW: Disposition = Disposition::TreatAsWithdraw;

const ORIGIN: &str = "400101 00";
const AS_PATH: &str = "4002 06 0201 0000fde9";
const NEXT_HOP: &str = "400304 0a000001";
const NLRI: &str = "18 c00002"; // 192.0.2.0/24

fn two_octets() -> CodecOptions {
    CodecOptions {
        four_octet_asn: false,
        ..internal()
    }
}

/// Decodes an UPDATE that must not end the session.
fn decode_without_reset(octets: &[u8], options: &CodecOptions) -> Update {
    match decode_update(octets, options) {
        Ok(update) => update,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

fn check_errors(update: &Update, expected: &[(u8, Disposition, u8, &str)]) {
    let errors: Vec<_> = update
        .errors
        .iter()
        .map(|error| {
            let AttributeError {
                type_code,
                disposition,
                subcode,
                data,
                problem: _,
            } = error;
            (*type_code, *disposition, *subcode, to_hex(data))
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(type_code, disposition, subcode, data)| {
            (*type_code, *disposition, *subcode, to_hex(&hex(data)))
        })
        .collect();
    assert_eq!(errors, expected, "{update:?}");
}

/// Checks that the malformed `attribute` withdraws the announced prefix, and that `attribute` ends
/// the session if the UPDATE announces no prefix.
fn check_withdrawn(attributes: &str, attribute: &str, subcode: u8, options: &CodecOptions) {
    let update = decode_without_reset(&update_of("", attributes, NLRI), options);
    let type_code = hex(attribute)[1];
    check_errors(&update, &[(type_code, WITHDRAW, subcode, attribute)]);
    assert_eq!(update.announced, []);
    assert_eq!(update.withdrawn.len(), 1);
    assert_eq!(update.withdrawn[0].prefix.to_string(), "192.0.2.0/24");
    check_reset(
        &update_of("08 0a", attributes, ""),
        options,
        NotificationError::update(subcode),
        attribute,
    );
}

/// Checks that the malformed optional `attribute` withdraws the announced prefix, and that it ends
/// the session if the UPDATE announces no prefix.
pub(super) fn check_withdraws(attribute: &str, subcode: u8) {
    let attributes = format!("{ORIGIN} {AS_PATH} {NEXT_HOP} {attribute}");
    check_withdrawn(&attributes, attribute, subcode, &internal());
}

/// Checks that the decoder drops the malformed optional `attribute`, and that the path has all
/// other attributes.
pub(super) fn check_discarded(attribute: &str, subcode: u8) {
    let attributes = format!("{ORIGIN} {AS_PATH} {NEXT_HOP}");
    let without = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
    let attributes = format!("{attributes} {attribute}");
    let with = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
    check_errors(&with, &[(hex(attribute)[1], DISCARD, subcode, attribute)]);
    assert_eq!(with.announced, without.announced);
    assert_eq!(with.withdrawn, []);
    // In an UPDATE that only withdraws prefixes, the decoder drops the attribute, too.
    let alone = decode_without_reset(&update_of("08 0a", &attributes, ""), &internal());
    check_errors(&alone, &[(hex(attribute)[1], DISCARD, subcode, attribute)]);
}

/// Checks that the malformed `attribute` ends the session, with and without announced prefixes.
fn check_resets(attribute: &str, subcode: u8) {
    let attributes = format!("{attribute} {ORIGIN} {AS_PATH} {NEXT_HOP}");
    let error = NotificationError::update(subcode);
    for nlri in ["", NLRI] {
        check_reset(
            &update_of("", &attributes, nlri),
            &internal(),
            error,
            attribute,
        );
    }
}

#[test]
fn a_malformed_origin_withdraws_the_path() {
    for (origin, subcode) in [
        ("400100", 5),
        ("400102 0000", 5),
        ("400101 03", 6),
        ("400101 ff", 6),
    ] {
        let attributes = format!("{origin} {AS_PATH} {NEXT_HOP}");
        check_withdrawn(&attributes, origin, subcode, &internal());
    }
}

#[test]
fn a_malformed_as_path_withdraws_the_path() {
    for as_path in [
        // One extra octet, alone and after a whole segment.
        "4002 01 02",
        "4002 07 0201 0000fde9 02",
        // A segment that is longer than the attribute, shorter than the attribute, or empty.
        "4002 06 0202 0000fde9",
        "4002 08 0201 0000fde9 0000",
        "4002 02 0200",
        "4002 08 0201 0000fde9 0200",
        // Undefined segment types.
        "4002 06 0001 0000fde9",
        "4002 06 0501 0000fde9",
        // Confederation segments (RFC 5065). portlb does not support confederations.
        "4002 06 0301 0000fde9",
        "4002 06 0401 0000fde9",
        // AS 0 (RFC 7607).
        "4002 0a 0202 0000fde9 00000000",
        "4002 06 0101 00000000",
    ] {
        let attributes = format!("{ORIGIN} {as_path} {NEXT_HOP}");
        check_withdrawn(&attributes, as_path, 11, &internal());
    }
}

#[test]
fn an_as_path_with_four_octet_numbers_on_a_two_octet_session_withdraws_the_path() {
    let wide = "4002 06 0201 0000fde9";
    let attributes = format!("{ORIGIN} {wide} {NEXT_HOP}");
    check_withdrawn(&attributes, wide, 11, &two_octets());
}

#[test]
fn a_malformed_next_hop_withdraws_the_path() {
    for (next_hop, subcode) in [
        ("4003 00", 5),
        ("4003 03 0a0000", 5),
        ("4003 05 0a00000100", 5),
        ("4003 10 20010db8000000000000000000000001", 5),
        ("4003 04 00000000", 8),
        ("4003 04 00000001", 8),
        ("4003 04 e0000001", 8),
        ("4003 04 ffffffff", 8),
    ] {
        let attributes = format!("{ORIGIN} {AS_PATH} {next_hop}");
        check_withdrawn(&attributes, next_hop, subcode, &internal());
    }
}

#[test]
fn an_attribute_of_the_wrong_length_withdraws_the_path() {
    for attribute in [
        "8004 03 000000",
        "8004 05 0000000000",
        "4005 00",
        "4005 05 0000000000",
        "c008 00",
        "c008 03 ffffff",
        "c008 05 ffffff0100",
        "8009 00",
        "8009 05 0000000000",
        "800a 00",
        "800a 05 0000000000",
        "c010 00",
        "c010 09 000000000000000000",
        "c020 00",
        "c020 0b 0000000000000000000000",
        "c020 0d 00000000000000000000000000",
    ] {
        check_withdraws(attribute, 5);
    }
}

#[test]
fn a_malformed_atomic_aggregate_or_aggregator_is_discarded() {
    for (attribute, subcode) in [
        ("4006 01 00", 5),
        ("c007 00", 5),
        ("c007 06 fde9 01010101", 5),
        ("c007 09 000000000000000000", 5),
        ("c007 08 00000000 01010101", 9),
    ] {
        check_discarded(attribute, subcode);
    }
}

#[test]
fn an_aggregator_with_router_id_zero_is_accepted() {
    let octets = format!("{ORIGIN} {AS_PATH} {NEXT_HOP} c007 08 0000fde9 00000000");
    let update = decode_without_reset(&update_of("", &octets, NLRI), &internal());
    let aggregator = update.announced[0].attributes.aggregator.unwrap();
    assert_eq!(aggregator.asn, Asn(65001));
}

#[test]
fn a_malformed_as4_attribute_is_discarded() {
    let mandatory = format!("{ORIGIN} 4002 04 0201 5ba0 {NEXT_HOP} c007 06 5ba0 01010101");
    for (attribute, subcode) in [
        ("c011 00", 5),
        ("c011 01 02", 11),
        ("c011 04 0201 fde9", 11),
        ("c011 07 0201 0000fde9 00", 11),
        ("c011 02 0200", 11),
        ("c011 06 0601 0000fde9", 11),
        ("c011 06 0201 00000000", 11),
        ("c012 06 fde9 01010101", 5),
        ("c012 08 00000000 01010101", 9),
    ] {
        let octets = update_of("", &format!("{mandatory} {attribute}"), NLRI);
        let update = decode_without_reset(&octets, &two_octets());
        check_errors(&update, &[(hex(attribute)[1], DISCARD, subcode, attribute)]);
        let attributes = &update.announced[0].attributes;
        assert_eq!(attributes.as_path.neighbouring_asn(), Some(Asn::TRANS));
        assert_eq!(attributes.aggregator.unwrap().asn, Asn::TRANS);
    }
}

#[test]
fn attribute_flags_that_the_type_does_not_allow_withdraw_the_path() {
    for origin in ["800101 00", "000101 00", "c00101 00"] {
        let attributes = format!("{origin} {AS_PATH} {NEXT_HOP}");
        check_withdrawn(&attributes, origin, 4, &internal());
    }
    for attribute in [
        "4004 04 00000001",
        "c004 04 00000001",
        "c005 04 00000001",
        "c006 00",
        "4007 08 0000fde9 01010101",
        "8008 04 ffffff01",
        "c009 04 01010101",
        "400a 04 01010101",
        "8010 08 0000000000000000",
        "8020 0c 000000000000000000000000",
    ] {
        check_withdraws(attribute, 4);
    }
}

#[test]
fn a_missing_mandatory_attribute_withdraws_the_path() {
    for (attributes, missing) in [
        (format!("{AS_PATH} {NEXT_HOP}"), &[1][..]),
        (format!("{ORIGIN} {NEXT_HOP}"), &[2]),
        (format!("{ORIGIN} {AS_PATH}"), &[3]),
        (String::new(), &[1, 2, 3]),
    ] {
        let update = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
        let data: Vec<String> = missing.iter().map(|code| format!("{code:02x}")).collect();
        let expected: Vec<_> = missing
            .iter()
            .zip(&data)
            .map(|(code, data)| (*code, WITHDRAW, 3, data.as_str()))
            .collect();
        check_errors(&update, &expected);
        assert_eq!((update.withdrawn.len(), update.announced.len()), (1, 0));
    }
}

#[test]
fn ipv6_prefixes_do_not_need_the_next_hop_attribute() {
    let reach = "800e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8";
    let update = decode_without_reset(
        &update_of("", &format!("{reach} {ORIGIN} {AS_PATH}"), ""),
        &internal(),
    );
    check_errors(&update, &[]);
    let update = decode_without_reset(
        &update_of("", &format!("{reach} {ORIGIN}"), ""),
        &internal(),
    );
    check_errors(&update, &[(2, WITHDRAW, 3, "02")]);
    assert_eq!(update.withdrawn[0].prefix.to_string(), "2001:db8::/32");
}

#[test]
fn repetitions_of_an_attribute_are_discarded() {
    let repeated = "8004 04 00000002";
    let attributes = format!(
        "{ORIGIN} {AS_PATH} {NEXT_HOP} 8004 04 00000001 {repeated} 8004 00 c018 00 c018 01 01"
    );
    let update = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
    check_errors(
        &update,
        &[(4, DISCARD, 1, repeated), (24, DISCARD, 1, "c018 01 01")],
    );
    let attributes = &update.announced[0].attributes;
    assert_eq!(attributes.multi_exit_disc, Some(1));
    assert_eq!(attributes.others.len(), 1);
    assert!(attributes.others[0].value.is_empty());
}

#[test]
fn a_malformed_attribute_is_not_replaced_by_its_valid_repetition() {
    let attributes = format!("400101 09 {AS_PATH} {NEXT_HOP} {ORIGIN}");
    let update = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
    check_errors(
        &update,
        &[(1, WITHDRAW, 6, "400101 09"), (1, DISCARD, 1, ORIGIN)],
    );
    assert_eq!(update.announced, []);
}

#[test]
fn a_repeated_multiprotocol_attribute_ends_the_session() {
    for attribute in ["800f 03 0002 01", "800e 09 0019 46 04 0a000001 00"] {
        check_reset(
            &update_of("", &format!("{attribute} {attribute}"), NLRI),
            &internal(),
            NotificationError::MALFORMED_ATTRIBUTE_LIST,
            attribute,
        );
    }
}

#[test]
fn a_malformed_multiprotocol_attribute_ends_the_session() {
    for (attribute, subcode) in [
        // Attributes that are too short for their fixed fields, as in CVE-2023-46752.
        ("800e 00", 9),
        ("800e 03 0002 01", 9),
        ("800e 04 0002 01 00", 9),
        ("800e 05 0002 01 10 00", 9),
        ("800e 14 0002 01 10 20010db8000000000000000000000001", 9),
        ("800f 02 0002", 9),
        // A next hop with a length that the address family does not allow.
        ("800e 05 0002 01 00 00", 9),
        ("800e 09 0002 01 04 0a000001 00", 9),
        ("800e 0d 0001 01 08 0000000000000001 00", 9),
        (
            "800e 1d 0002 01 18 000000000000000020010db8000000000000000000000001 00",
            9,
        ),
        // A prefix length above the bits of the family, and a prefix that is longer than the list.
        (
            "800e 17 0002 01 10 20010db8000000000000000000000001 00 81 ff",
            9,
        ),
        (
            "800e 17 0002 01 10 20010db8000000000000000000000001 00 40 ff",
            9,
        ),
        ("800e 0b 0001 01 04 0a000001 00 21 ff", 9),
        ("800f 05 0002 01 20 20", 9),
        ("800f 04 0002 01 81", 9),
        // Flags that the type of the attribute does not allow (RFC 7606 section 5.3).
        ("400e 09 0019 46 04 0a000001 00", 4),
        ("c00f 03 0002 01", 4),
    ] {
        check_resets(attribute, subcode);
    }
}

#[test]
fn a_multiprotocol_next_hop_that_is_not_a_host_address_withdraws_the_prefixes() {
    for next_hop in [
        "00000000000000000000000000000000",
        "ff020000000000000000000000000001",
    ] {
        let reach = format!("800e 1a 0002 01 10 {next_hop} 00 20 20010db8");
        let octets = update_of("", &format!("{reach} {ORIGIN} {AS_PATH}"), "");
        let update = decode_without_reset(&octets, &internal());
        check_errors(&update, &[(14, WITHDRAW, 9, &reach)]);
        assert_eq!(update.announced, []);
        assert_eq!(update.withdrawn[0].prefix.to_string(), "2001:db8::/32");
    }
}

#[test]
fn a_malformed_prefix_ends_the_session() {
    let attributes = format!("{ORIGIN} {AS_PATH} {NEXT_HOP}");
    let error = NotificationError::INVALID_NETWORK_FIELD;
    for list in ["21 0000000000", "18 c000", "20", "ff", "18 c00002 01"] {
        for octets in [
            update_of(list, "", ""),
            update_of("", &attributes, list),
            // An attribute error with treat-as-withdraw does not prevent the end of the session.
            update_of("", &format!("{attributes} 8004 00"), list),
        ] {
            check_reset(&octets, &internal(), error, "");
        }
    }
}

#[test]
fn a_prefix_without_path_id_ends_a_session_with_add_path() {
    let options = super::with_add_path();
    for list in ["18 c00002", "00000001", "00000001 18 c000", "000000"] {
        check_reset(
            &update_of(list, "", ""),
            &options,
            NotificationError::INVALID_NETWORK_FIELD,
            "",
        );
    }
}

#[test]
fn an_attribute_that_is_longer_than_the_attribute_list_withdraws_the_path() {
    for overrun in ["c0", "c008", "c008 05 ffffff01", "d008 00", "d008 ffff 00"] {
        let attributes = format!("{ORIGIN} {AS_PATH} {NEXT_HOP} {overrun}");
        let update = decode_without_reset(&update_of("", &attributes, NLRI), &internal());
        let type_code = hex(overrun).get(1).copied().unwrap_or(0);
        check_errors(&update, &[(type_code, WITHDRAW, 1, overrun)]);
        assert_eq!((update.withdrawn.len(), update.announced.len()), (1, 0));
        check_reset(
            &update_of("", &attributes, ""),
            &internal(),
            NotificationError::MALFORMED_ATTRIBUTE_LIST,
            overrun,
        );
    }
}

#[test]
fn an_attribute_error_withdraws_every_prefix_of_the_update() {
    let octets = update_of(
        "08 0a",
        &format!(
            "800e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8
             800f 08 0002 01 20 20010db9 {ORIGIN} {AS_PATH} {NEXT_HOP} c008 01 00"
        ),
        NLRI,
    );
    let update = decode_without_reset(&octets, &internal());
    let withdrawn: Vec<String> = update
        .withdrawn
        .iter()
        .map(|nlri| nlri.prefix.to_string())
        .collect();
    assert_eq!(
        withdrawn,
        [
            "10.0.0.0/8",
            "2001:db9::/32",
            "192.0.2.0/24",
            "2001:db8::/32"
        ]
    );
    assert_eq!(update.announced, []);
}

#[test]
fn a_path_that_is_treated_as_withdrawn_keeps_its_path_id() {
    let octets = update_of("", &format!("{ORIGIN} {NEXT_HOP}"), "00000007 18 c00002");
    let update = decode_without_reset(&octets, &super::with_add_path());
    assert_eq!(update.withdrawn[0].path_id.unwrap().0, 7);
}

#[test]
fn flags_that_an_as4_attribute_does_not_allow_withdraw_the_path() {
    for attribute in ["8011 06 0201 00010001", "4012 08 00010001 01010101"] {
        let attributes = format!("{ORIGIN} 4002 04 0201 5ba0 {NEXT_HOP} {attribute}");
        check_withdrawn(&attributes, attribute, 4, &two_octets());
    }
}

/// RFC 7606 section 5.2: treat-as-withdraw is possible only if the UPDATE announces prefixes.
#[test]
fn an_attribute_error_in_an_update_without_announced_prefixes_ends_the_session() {
    let malformed = "c008 01 00";
    for octets in [
        update_of("08 0a", malformed, ""),
        update_of("", &format!("800f 08 0002 01 20 20010db9 {malformed}"), ""),
        update_of("", malformed, ""),
    ] {
        check_reset(
            &octets,
            &internal(),
            NotificationError::ATTRIBUTE_LENGTH_ERROR,
            malformed,
        );
    }
}

#[test]
fn an_attribute_error_with_prefixes_of_an_unsupported_family_does_not_end_the_session() {
    let octets = format!("800e 0e 0019 46 04 0a000001 00 0102030405 {ORIGIN} {AS_PATH} c008 01 00");
    let update = decode_without_reset(&update_of("", &octets, ""), &internal());
    check_errors(&update, &[(8, WITHDRAW, 5, "c008 01 00")]);
}

/// RFC 7606 section 3 h: for an UPDATE with several errors, the strongest reaction applies.
#[test]
fn the_notification_contains_the_first_of_the_errors_with_the_strongest_reaction() {
    check_reset(
        &update_of("08 0a", "4006 01 00 8004 00 c008 01 00", ""),
        &internal(),
        NotificationError::ATTRIBUTE_LENGTH_ERROR,
        "8004 00",
    );
}

/// Regression test for CVE-2026-41642.
#[test]
fn an_unknown_attribute_with_the_flags_of_a_well_known_attribute_ends_the_session() {
    for attribute in ["400b 00", "0063 02 abcd", "40ff 00", "7000 0001 00"] {
        check_resets(attribute, 2);
    }
}
