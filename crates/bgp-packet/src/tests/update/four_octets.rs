//! Tests of four-octet AS numbers on two-octet sessions (RFC 6793).

use super::*;

#[test]
fn as_numbers_above_65535_are_sent_in_as4_path_and_as4_aggregator() {
    let mixed = PathAttributes {
        as_path: as_path(&[65001, 65537, 23456]),
        aggregator: Some(Aggregator {
            asn: Asn(65537),
            router_id: RouterId([1, 1, 1, 1].into()),
        }),
        ..attributes("10.0.0.1")
    };
    check_both_ways(
        &update_of(
            "",
            "4001 01 00
             4002 08 0203 fde9 5ba0 5ba0
             4003 04 0a000001
             c007 06 5ba0 01010101
             c011 0e 0203 0000fde9 00010001 00005ba0
             c012 08 00010001 01010101",
            "18 c00002",
        ),
        announcement(mixed, vec![prefix("192.0.2.0/24")]),
        &two_octets(),
    );
}

#[test]
fn a_path_of_two_octet_as_numbers_is_sent_without_as4_path() {
    let small = PathAttributes {
        as_path: as_path(&[65001, 65535]),
        ..attributes("10.0.0.1")
    };
    check_both_ways(
        &update_of(
            "",
            "4001 01 00 4002 06 0202 fde9 ffff 4003 04 0a000001",
            "18 c00002",
        ),
        announcement(small, vec![prefix("192.0.2.0/24")]),
        &two_octets(),
    );
}

/// Checks that the decoder merges the AS_PATH and the AS4_PATH of a two-octet peer into `segments`
/// (RFC 6793 section 4.2.3).
fn check_merged(as_path: &str, as4_path: &str, segments: &[AsPathSegment]) {
    let octets = format!(
        "400101 00 4002 {:02x} {as_path} 400304 0a000001 c011 {:02x} {as4_path}",
        hex_length(as_path),
        hex_length(as4_path),
    );
    let merged = attributes_of(&octets, &two_octets()).as_path;
    assert_eq!(merged.segments, segments, "{as_path} with {as4_path}");
}

fn hex_length(octets: &str) -> usize {
    crate::tests::hex(octets).len()
}

#[test]
fn as4_path_replaces_the_end_of_as_path() {
    check_merged(
        "0203 0001 5ba0 0003",
        "0202 00010001 00000003",
        &[sequence(&[1, 65537, 3])],
    );
    check_merged(
        "0202 5ba0 0003",
        "0202 00010001 00000003",
        &[sequence(&[65537, 3])],
    );
    check_merged(
        "0201 0001 0102 0005 0006 0201 5ba0",
        "0201 00010001",
        &[
            sequence(&[1]),
            AsPathSegment::Set(vec![Asn(5), Asn(6)]),
            sequence(&[65537]),
        ],
    );
    check_merged(
        "0102 0005 0006 0202 0001 5ba0",
        "0201 00010001",
        &[
            AsPathSegment::Set(vec![Asn(5), Asn(6)]),
            sequence(&[1, 65537]),
        ],
    );
    check_merged(
        "0203 0001 0002 5ba0",
        "0102 00010001 00010002",
        &[
            sequence(&[1, 2]),
            AsPathSegment::Set(vec![Asn(65537), Asn(65538)]),
        ],
    );
}

#[test]
fn an_as4_path_that_is_longer_than_as_path_is_ignored() {
    check_merged("0201 5ba0", "0202 00010001 00000003", &[sequence(&[23456])]);
    check_merged("", "0201 00010001", &[]);
}

#[test]
fn confederation_segments_of_as4_path_are_skipped() {
    check_merged(
        "0201 5ba0",
        "0301 00000009 0201 00010001",
        &[sequence(&[65537])],
    );
}

#[test]
fn a_merge_with_as4_path_makes_no_sequence_of_more_than_255_as_numbers() {
    let front = "0001".repeat(255);
    let as_path = format!("02ff {front} 0201 5ba0");
    let merged = attributes_of(
        &format!("400101 00 5002 0204 {as_path} 400304 0a000001 c011 06 0201 00010001"),
        &two_octets(),
    );
    assert_eq!(
        merged.as_path.segments,
        [sequence(&[1; 255]), sequence(&[65537])]
    );
}

#[test]
fn as4_attributes_are_ignored_if_a_two_octet_speaker_aggregated_the_path() {
    let octets = "400101 00 4002 04 0201 5ba0 400304 0a000001
        c007 06 fde9 01010101 c011 06 0201 00010001 c012 08 00010001 02020202";
    let decoded = attributes_of(octets, &two_octets());
    assert_eq!(decoded.as_path, as_path(&[23456]));
    assert_eq!(decoded.aggregator.unwrap().asn, Asn(65001));
}

#[test]
fn an_as4_aggregator_without_aggregator_is_ignored() {
    let octets = "400101 00 4002 04 0201 5ba0 400304 0a000001
        c011 06 0201 00010001 c012 08 00010001 02020202";
    let decoded = attributes_of(octets, &two_octets());
    assert_eq!(decoded.as_path, as_path(&[65537]));
    assert_eq!(decoded.aggregator, None);
}

#[test]
fn as4_attributes_are_ignored_on_four_octet_sessions() {
    let octets = "400101 00 4002 06 0201 00000001 400304 0a000001
        c011 06 0201 00010001 4012 01 00";
    assert_eq!(attributes_of(octets, &internal()).as_path, as_path(&[1]));
}
