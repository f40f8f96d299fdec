//! AS numbers of four octets towards and from speakers of two octets (RFC 6793).

use super::*;

#[test]
fn numbers_that_two_octets_lose_travel_beside_the_path() {
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
fn numbers_that_two_octets_hold_need_nothing_beside_the_path() {
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

/// RFC 6793 section 4.2.3: AS_PATH of two octets and AS4_PATH make one path.
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
fn the_part_of_the_path_that_is_older_is_taken_in_four_octets() {
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
fn a_path_of_four_octets_that_is_longer_is_ignored() {
    check_merged("0201 5ba0", "0202 00010001 00000003", &[sequence(&[23456])]);
    check_merged("", "0201 00010001", &[]);
}

#[test]
fn segments_of_a_confederation_are_dropped_from_a_path_of_four_octets() {
    check_merged(
        "0201 5ba0",
        "0301 00000009 0201 00010001",
        &[sequence(&[65537])],
    );
}

#[test]
fn neighbouring_sequences_are_joined_only_up_to_255_numbers() {
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
fn an_aggregator_of_two_octets_makes_the_four_octet_attributes_void() {
    let octets = "400101 00 4002 04 0201 5ba0 400304 0a000001
        c007 06 fde9 01010101 c011 06 0201 00010001 c012 08 00010001 02020202";
    let decoded = attributes_of(octets, &two_octets());
    assert_eq!(decoded.as_path, as_path(&[23456]));
    assert_eq!(decoded.aggregator.unwrap().asn, Asn(65001));
}

#[test]
fn a_four_octet_aggregator_without_the_other_is_void() {
    let octets = "400101 00 4002 04 0201 5ba0 400304 0a000001
        c011 06 0201 00010001 c012 08 00010001 02020202";
    let decoded = attributes_of(octets, &two_octets());
    assert_eq!(decoded.as_path, as_path(&[65537]));
    assert_eq!(decoded.aggregator, None);
}

#[test]
fn four_octet_attributes_of_a_four_octet_speaker_are_discarded() {
    let octets = "400101 00 4002 06 0201 00000001 400304 0a000001
        c011 06 0201 00010001 4012 01 00";
    assert_eq!(attributes_of(octets, &internal()).as_path, as_path(&[1]));
}
