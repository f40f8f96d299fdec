//! UPDATE without errors: what the octets mean, and how it is sent. Long because it is one table of
//! octets and meanings for each attribute.

use std::{net::IpAddr, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    attributes, decode_all, decode_update, encoded, internal, to_hex, update_of, with_add_path,
};
use crate::{
    Aggregator, Announced, AsPath, AsPathSegment, Asn, ClusterId, CodecOptions, Community, Family,
    LargeCommunity, Message, Nlri, Origin, PartialAttributes, PathAttributes, PathId, RawAttribute,
    RouterId, Update, encode,
};

fn two_octets() -> CodecOptions {
    CodecOptions {
        four_octet_asn: false,
        ..internal()
    }
}

fn external() -> CodecOptions {
    CodecOptions {
        internal: false,
        ..internal()
    }
}

fn prefix(prefix: &str) -> Nlri {
    Nlri {
        prefix: prefix.parse().unwrap(),
        path_id: None,
    }
}

fn path(text: &str, path_id: u32) -> Nlri {
    Nlri {
        path_id: Some(PathId(path_id)),
        ..prefix(text)
    }
}

fn announcement(attributes: PathAttributes, nlri: Vec<Nlri>) -> Update {
    Update {
        announced: vec![Announced {
            attributes: Arc::new(attributes),
            nlri,
        }],
        ..Update::default()
    }
}

fn withdrawal(withdrawn: Vec<Nlri>) -> Update {
    Update {
        withdrawn,
        ..Update::default()
    }
}

fn sequence(asns: &[u32]) -> AsPathSegment {
    AsPathSegment::Sequence(asns.iter().copied().map(Asn).collect())
}

fn as_path(asns: &[u32]) -> AsPath {
    AsPath {
        segments: vec![sequence(asns)],
    }
}

/// An UPDATE that is both decoded from and encoded to these octets.
fn check_both_ways(octets: &[u8], update: Update, options: &CodecOptions) {
    assert_eq!(decode_update(octets, options).as_ref(), Ok(&update));
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), options)),
        to_hex(octets)
    );
}

/// The attributes of 192.0.2.0/24 with these octets behind ORIGIN, AS_PATH and NEXT_HOP.
fn check_attribute(octets: &str, options: &CodecOptions, edit: impl FnOnce(&mut PathAttributes)) {
    let octets = format!("400101 00 400200 400304 0a000001 {octets}");
    let mut expected = attributes("10.0.0.1");
    edit(&mut expected);
    check_both_ways(
        &update_of("", &octets, "18 c00002"),
        announcement(expected, vec![prefix("192.0.2.0/24")]),
        options,
    );
}

/// The attributes that are decoded from these octets.
fn attributes_of(octets: &str, options: &CodecOptions) -> PathAttributes {
    let update = decode_update(&update_of("", octets, "18 c00002"), options).unwrap();
    assert_eq!(update.errors, []);
    (*update.announced[0].attributes).clone()
}

#[test]
fn ipv4_prefixes_stand_in_the_classic_fields() {
    check_both_ways(
        &update_of(
            "",
            "400101 00 400200 400304 0a000001",
            "00 08 0a 11 0a0100 20 c0000207",
        ),
        announcement(
            attributes("10.0.0.1"),
            vec![
                prefix("0.0.0.0/0"),
                prefix("10.0.0.0/8"),
                prefix("10.1.0.0/17"),
                prefix("192.0.2.7/32"),
            ],
        ),
        &internal(),
    );
    check_both_ways(
        &update_of("18 c00002 08 0a", "", ""),
        withdrawal(vec![prefix("192.0.2.0/24"), prefix("10.0.0.0/8")]),
        &internal(),
    );
}

#[test]
fn ipv6_prefixes_stand_in_the_attributes_of_rfc_4760() {
    check_both_ways(
        &update_of(
            "",
            "900e 001b 0002 01 10 20010db8000000000000000000000001 00 20 20010db8 00
             400101 00 400200",
            "",
        ),
        announcement(
            attributes("2001:db8::1"),
            vec![prefix("2001:db8::/32"), prefix("::/0")],
        ),
        &internal(),
    );
    check_both_ways(
        &update_of("", "900f 0008 0002 01 20 20010db8", ""),
        withdrawal(vec![prefix("2001:db8::/32")]),
        &internal(),
    );
}

#[test]
fn path_ids_precede_the_prefixes_where_they_were_negotiated() {
    check_both_ways(
        &update_of(
            "",
            "400101 00 400200 400304 0a000001",
            "00000001 18 c00002 00000002 18 c00002",
        ),
        announcement(
            attributes("10.0.0.1"),
            vec![path("192.0.2.0/24", 1), path("192.0.2.0/24", 2)],
        ),
        &with_add_path(),
    );
    check_both_ways(
        &update_of("", "900f 000c 0002 01 ffffffff 20 20010db8", ""),
        withdrawal(vec![path("2001:db8::/32", u32::MAX)]),
        &with_add_path(),
    );
}

#[test]
fn add_path_is_negotiated_for_each_family() {
    let options = CodecOptions {
        add_path: vec![Family::Ipv6Unicast],
        ..internal()
    };
    let octets = update_of("18 c00002", "900f 000c 0002 01 00000007 20 20010db8", "");
    assert_eq!(
        decode_update(&octets, &options).unwrap().withdrawn,
        [prefix("192.0.2.0/24"), path("2001:db8::/32", 7)]
    );
}

#[test]
fn a_path_id_that_is_missing_is_sent_as_zero() {
    let update = withdrawal(vec![prefix("192.0.2.0/24")]);
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), &with_add_path())),
        to_hex(&update_of("00000000 18 c00002", "", ""))
    );
}

#[test]
fn host_bits_are_cut_off() {
    let octets = update_of("11 c0ffff 00", "900f 0006 0002 01 09 ffff", "");
    assert_eq!(
        decode_update(&octets, &internal()).unwrap().withdrawn,
        [
            prefix("192.255.128.0/17"),
            prefix("0.0.0.0/0"),
            prefix("ff80::/9")
        ]
    );
    let host = Update {
        withdrawn: vec![prefix("192.255.255.255/17")],
        ..Update::default()
    };
    assert_eq!(
        to_hex(&encoded(&Message::Update(host), &internal())),
        to_hex(&update_of("11 c0ff80", "", ""))
    );
}

#[test]
fn each_attribute_has_its_flags_type_and_value() {
    check_attribute("8004 04 00000064", &internal(), |attributes| {
        attributes.multi_exit_disc = Some(100);
    });
    check_attribute("4005 04 000000c8", &internal(), |attributes| {
        attributes.local_pref = Some(200);
    });
    check_attribute("4006 00", &internal(), |attributes| {
        attributes.atomic_aggregate = true;
    });
    check_attribute("c007 08 00010001 c0000201", &internal(), |attributes| {
        attributes.aggregator = Some(Aggregator {
            asn: Asn(65537),
            router_id: "192.0.2.1".parse().unwrap(),
        });
    });
    check_attribute("c008 08 ffff0000 fde90001", &internal(), |attributes| {
        attributes.communities = vec![Community::GRACEFUL_SHUTDOWN, "65001:1".parse().unwrap()];
    });
    check_attribute("8009 04 c0000201", &internal(), |attributes| {
        attributes.originator_id = Some(RouterId("192.0.2.1".parse().unwrap()));
    });
    check_attribute("800a 08 c0000202 c0000201", &internal(), |attributes| {
        attributes.cluster_list = vec![
            ClusterId("192.0.2.2".parse().unwrap()),
            ClusterId("192.0.2.1".parse().unwrap()),
        ];
    });
    check_attribute("c010 08 0002fde900000001", &internal(), |attributes| {
        attributes.extended_communities = vec![[0, 2, 0xfd, 0xe9, 0, 0, 0, 1]];
    });
    check_attribute(
        "c020 0c 0000fde9 00000001 00000002",
        &internal(),
        |attributes| {
            attributes.large_communities = vec![LargeCommunity(65001, 1, 2)];
        },
    );
}

#[test]
fn all_attributes_together_stand_in_ascending_order() {
    let attributes = PathAttributes {
        origin: Origin::Incomplete,
        as_path: as_path(&[65001]),
        next_hop: "10.0.0.1".parse().unwrap(),
        multi_exit_disc: Some(1),
        local_pref: Some(2),
        atomic_aggregate: true,
        aggregator: Some(Aggregator {
            asn: Asn(3),
            router_id: RouterId([0, 0, 0, 0].into()),
        }),
        communities: vec![Community::NO_EXPORT],
        originator_id: Some(RouterId([4, 4, 4, 4].into())),
        cluster_list: vec![ClusterId([5, 5, 5, 5].into())],
        extended_communities: vec![[6; 8]],
        large_communities: vec![LargeCommunity(7, 7, 7)],
        partial: PartialAttributes::default(),
        others: [11, 24, 255]
            .map(|type_code| RawAttribute {
                flags: 0xe0,
                type_code,
                value: Bytes::from_static(b"x"),
            })
            .to_vec(),
    };
    check_both_ways(
        &update_of(
            "",
            "4001 01 02
             4002 06 0201 0000fde9
             4003 04 0a000001
             8004 04 00000001
             4005 04 00000002
             4006 00
             c007 08 00000003 00000000
             c008 04 ffffff01
             8009 04 04040404
             800a 04 05050505
             e00b 01 78
             c010 08 0606060606060606
             e018 01 78
             c020 0c 00000007 00000007 00000007
             e0ff 01 78",
            "18 c00002",
        ),
        announcement(attributes, vec![prefix("192.0.2.0/24")]),
        &internal(),
    );
}

#[test]
fn sets_and_sequences_keep_their_types_and_their_order() {
    check_both_ways(
        &update_of(
            "",
            "4001 01 01 4002 14 0202 00010001 00000002 0102 00000003 fffffffe 4003 04 0a000001",
            "18 c00002",
        ),
        announcement(
            PathAttributes {
                origin: Origin::Egp,
                as_path: AsPath {
                    segments: vec![
                        sequence(&[65537, 2]),
                        AsPathSegment::Set(vec![Asn(3), Asn(0xffff_fffe)]),
                    ],
                },
                ..attributes("10.0.0.1")
            },
            vec![prefix("192.0.2.0/24")],
        ),
        &internal(),
    );
}

#[test]
fn a_segment_of_more_than_255_numbers_is_sent_as_several() {
    let long = PathAttributes {
        as_path: as_path(&(1..=600).collect::<Vec<u32>>()),
        ..attributes("10.0.0.1")
    };
    let update = announcement(long, vec![prefix("192.0.2.0/24")]);
    let octets = encoded(&Message::Update(update), &internal());
    let decoded = decode_update(&octets, &internal()).unwrap();
    let segments = &decoded.announced[0].attributes.as_path.segments;
    let lengths: Vec<usize> = segments
        .iter()
        .map(|segment| match segment {
            AsPathSegment::Sequence(asns) => asns.len(),
            AsPathSegment::Set(_) => panic!("a sequence became a set"),
        })
        .collect();
    assert_eq!(lengths, [255, 255, 90]);
    assert_eq!(
        decoded.announced[0].attributes.as_path.decision_length(),
        600
    );
}

#[test]
fn an_extended_length_is_sent_above_255_octets_only() {
    for (count, header) in [(63, "c008fc"), (64, "d0080100")] {
        let many = PathAttributes {
            communities: vec![Community(0x7777_7777); count],
            ..attributes("10.0.0.1")
        };
        let update = announcement(many, vec![prefix("192.0.2.0/24")]);
        let octets = encoded(&Message::Update(update.clone()), &internal());
        assert!(to_hex(&octets).contains(header));
        assert_eq!(decode_update(&octets, &internal()), Ok(update));
    }
}

#[test]
fn an_extended_length_is_read_where_a_short_one_would_do() {
    let octets = "5001 0001 00 5002 0000 5003 0004 0a000001";
    assert_eq!(attributes_of(octets, &internal()), attributes("10.0.0.1"));
}

#[test]
fn unused_flags_and_the_partial_bit_of_a_well_known_attribute_do_not_matter() {
    let octets = "6f01 01 00 4f02 00 4f03 04 0a000001 cf08 04 ffffff01";
    let expected = PathAttributes {
        communities: vec![Community::NO_EXPORT],
        ..attributes("10.0.0.1")
    };
    assert_eq!(attributes_of(octets, &internal()), expected);
}

#[test]
fn what_is_not_understood_is_carried_with_the_partial_bit_if_transitive() {
    for flags in ["c0", "e0", "cf"] {
        let octets = format!("400101 00 400200 400304 0a000001 {flags}63 02 abcd 8018 01 00");
        assert_eq!(
            attributes_of(&octets, &internal()).others,
            [RawAttribute {
                flags: 0xe0,
                type_code: 99,
                value: Bytes::from_static(&[0xab, 0xcd]),
            }]
        );
    }
}

#[test]
fn an_attribute_of_a_known_type_is_never_sent_from_the_ones_not_understood() {
    let smuggled = PathAttributes {
        others: vec![RawAttribute {
            flags: 0xe0,
            type_code: 3,
            value: Bytes::from_static(&[1, 2, 3, 4]),
        }],
        ..attributes("10.0.0.1")
    };
    let update = announcement(smuggled, vec![prefix("192.0.2.0/24")]);
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), &internal())),
        to_hex(&update_of(
            "",
            "400101 00 400200 400304 0a000001",
            "18 c00002"
        ))
    );
}

/// RFC 4271 section 5: "MUST NOT be set back to 0".
#[test]
fn the_partial_bit_of_a_known_transitive_attribute_stays() {
    let partial = PartialAttributes {
        aggregator: true,
        communities: true,
        extended_communities: true,
        large_communities: true,
    };
    check_attribute(
        "e007 08 0000fde9 c0000201 e008 04 fde80001 e010 08 0002fde800000001
         e020 0c 000000010000000200000003",
        &internal(),
        |attributes| {
            attributes.aggregator = Some(Aggregator {
                asn: Asn(65001),
                router_id: RouterId([192, 0, 2, 1].into()),
            });
            attributes.communities = vec![Community(0xfde8_0001)];
            attributes.extended_communities = vec![[0, 2, 0xfd, 0xe8, 0, 0, 0, 1]];
            attributes.large_communities = vec![LargeCommunity(1, 2, 3)];
            attributes.partial = partial;
        },
    );
    check_attribute("c008 04 fde80001", &internal(), |attributes| {
        attributes.communities = vec![Community(0xfde8_0001)];
    });
}

#[test]
fn repeated_large_communities_are_removed_on_both_ways() {
    let repeated = "400101 00 400200 400304 0a000001
        c020 24 00000001 00000002 00000003 00000000 00000000 00000000 00000001 00000002 00000003";
    let decoded = attributes_of(repeated, &internal());
    let once = [LargeCommunity(1, 2, 3), LargeCommunity(0, 0, 0)];
    assert_eq!(decoded.large_communities, once);
    let twice = PathAttributes {
        large_communities: once.repeat(2),
        ..attributes("10.0.0.1")
    };
    let update = announcement(twice, vec![prefix("192.0.2.0/24")]);
    let octets = encoded(&Message::Update(update), &internal());
    let decoded = decode_update(&octets, &internal()).unwrap();
    assert_eq!(decoded.announced[0].attributes.large_communities, once);
}

#[test]
fn local_preference_and_reflection_stay_inside_of_the_as() {
    let octets = "400101 00 400200 400304 0a000001
        4005 04 000000c8 8009 04 c0000201 800a 04 c0000202";
    assert_eq!(attributes_of(octets, &external()), attributes("10.0.0.1"));

    let update = announcement(
        attributes_of(octets, &internal()),
        vec![prefix("192.0.2.0/24")],
    );
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), &external())),
        to_hex(&update_of(
            "",
            "400101 00 400200 400304 0a000001",
            "18 c00002"
        ))
    );
}

#[test]
fn even_malformed_ones_of_those_are_ignored_from_outside() {
    let octets = "400101 00 400200 400304 0a000001
        4005 01 00 8009 00 800a 03 c00002 4005 00";
    assert_eq!(attributes_of(octets, &external()), attributes("10.0.0.1"));
}

#[test]
fn the_link_local_half_of_a_next_hop_is_dropped() {
    let octets = update_of(
        "",
        "400101 00 400200
         800e 2a 0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00
         20 20010db8",
        "",
    );
    let decoded = decode_update(&octets, &internal()).unwrap();
    let global: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(decoded.announced[0].attributes.next_hop, global);
    assert_eq!(decoded.announced[0].nlri, [prefix("2001:db8::/32")]);
}

#[test]
fn ipv4_prefixes_with_an_ipv6_next_hop_travel_as_rfc_8950_says() {
    check_both_ways(
        &update_of(
            "",
            "900e 0019 0001 01 10 20010db8000000000000000000000001 00 18 c00002 400101 00 400200",
            "",
        ),
        announcement(attributes("2001:db8::1"), vec![prefix("192.0.2.0/24")]),
        &internal(),
    );
}

#[test]
fn ipv4_prefixes_are_read_from_the_attributes_of_rfc_4760() {
    let octets = update_of(
        "",
        "800e 0d 0001 01 04 0a000001 00 18 c00002 400101 00 400200",
        "",
    );
    assert_eq!(
        decode_update(&octets, &internal()),
        Ok(announcement(
            attributes("10.0.0.1"),
            vec![prefix("192.0.2.0/24")]
        ))
    );
}

#[test]
fn an_ipv6_prefix_with_an_ipv4_next_hop_gets_the_mapped_address() {
    let update = announcement(attributes("10.0.0.1"), vec![prefix("2001:db8::/32")]);
    let octets = encoded(&Message::Update(update), &internal());
    assert_eq!(
        decode_update(&octets, &internal()),
        Ok(announcement(
            attributes("::ffff:10.0.0.1"),
            vec![prefix("2001:db8::/32")]
        ))
    );
}

#[test]
fn one_message_may_say_all_at_once() {
    let octets = update_of(
        "08 0a",
        "800e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8
         800f 08 0002 01 20 20010db9
         400101 00 400200 400304 0a000001",
        "18 c00002",
    );
    let ipv4 = announcement(attributes("10.0.0.1"), vec![prefix("192.0.2.0/24")]);
    let ipv6 = announcement(attributes("2001:db8::1"), vec![prefix("2001:db8::/32")]);
    assert_eq!(
        decode_update(&octets, &internal()),
        Ok(Update {
            withdrawn: vec![prefix("10.0.0.0/8"), prefix("2001:db9::/32")],
            announced: [ipv4.announced, ipv6.announced].concat(),
            end_of_rib: None,
            errors: vec![],
        })
    );
}

#[test]
fn families_that_are_not_spoken_are_ignored() {
    for octets in [
        "800e 0e 0019 46 04 0a000001 00 0102030405 400101 00 400200",
        "800e 0e 0001 80 04 0a000001 00 0102030405 400101 00 400200",
        "800f 08 0019 46 0102030405",
        "800f 03 0019 46",
    ] {
        let update = decode_update(&update_of("", octets, ""), &internal());
        assert_eq!(update, Ok(Update::default()), "{octets}");
    }
}

#[test]
fn the_end_of_the_rib_has_a_form_for_each_family() {
    for (octets, family) in [
        (update_of("", "", ""), Family::Ipv4Unicast),
        (update_of("", "900f 0003 0002 01", ""), Family::Ipv6Unicast),
    ] {
        let end = Update {
            end_of_rib: Some(family),
            ..Update::default()
        };
        check_both_ways(&octets, end, &internal());
    }
    let ipv4 = decode_update(&update_of("", "800f 03 0001 01", ""), &internal()).unwrap();
    assert_eq!(ipv4.end_of_rib, Some(Family::Ipv4Unicast));
}

#[test]
fn a_message_that_says_something_else_ends_no_rib() {
    for octets in [
        update_of("08 0a", "800f 03 0002 01", ""),
        update_of("", "800f 03 0002 01 400101 00", ""),
        update_of("", "800f 05 0002 01 08 20", ""),
        update_of("", "400101 00", ""),
    ] {
        let update = decode_update(&octets, &internal()).unwrap();
        assert_eq!(update.end_of_rib, None);
    }
}

#[test]
fn an_update_that_says_nothing_is_not_sent() {
    let nothing = announcement(attributes("10.0.0.1"), vec![]);
    for update in [nothing, Update::default()] {
        assert_eq!(
            encoded(&Message::Update(update), &internal()),
            BytesMut::new()
        );
    }
}

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
    super::hex(octets).len()
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

#[test]
fn prefixes_of_any_number_are_packed_into_full_messages() {
    for (extended_message, maximum) in [(false, 4096), (true, 65535)] {
        let options = CodecOptions {
            extended_message,
            ..with_add_path()
        };
        for next_hop in ["10.0.0.1", "2001:db8::1"] {
            let nlri: Vec<Nlri> = (0..20_000).map(|id| path("192.0.2.0/24", id)).collect();
            let update = announcement(attributes(next_hop), nlri.clone());
            check_packed(&update, &options, maximum, &nlri);
            check_packed(&withdrawal(nlri.clone()), &options, maximum, &nlri);
        }
    }
}

fn check_packed(update: &Update, options: &CodecOptions, maximum: usize, nlri: &[Nlri]) {
    let octets = encoded(&Message::Update(update.clone()), options);
    let total = octets.len();
    let messages = decode_all(octets, options);
    assert!(
        messages.len() <= total / (maximum - 20) + 1,
        "{} messages for {total} octets",
        messages.len()
    );
    assert_eq!(prefixes_of(messages), nlri);
}

/// All prefixes of the messages, withdrawn or announced.
fn prefixes_of(messages: Vec<Message>) -> Vec<Nlri> {
    let mut prefixes = Vec::new();
    for message in messages {
        let Message::Update(update) = message else {
            panic!("not an UPDATE: {message:?}");
        };
        prefixes.extend(update.withdrawn);
        prefixes.extend(update.announced.into_iter().flat_map(|group| group.nlri));
    }
    prefixes
}

#[test]
fn prefixes_that_do_not_fit_beside_their_attributes_are_withdrawn_and_returned() {
    // ORIGIN, AS_PATH, NEXT_HOP and the header of COMMUNITIES leave 4096 - 23 - 14 - 4 octets.
    let large = PathAttributes {
        communities: vec![Community(1); 1013],
        ..attributes("10.0.0.1")
    };
    let fits = prefix("10.0.0.0/8");
    let does_not = prefix("10.1.0.0/24");
    let update = announcement(large, vec![fits, does_not, fits]);
    let mut octets = BytesMut::new();
    assert_eq!(
        encode(&Message::Update(update.clone()), &internal(), &mut octets),
        [does_not]
    );
    let messages = decode_all(octets, &internal());
    let [
        Message::Update(first),
        Message::Update(second),
        Message::Update(last),
    ] = &messages[..]
    else {
        panic!("three messages: {messages:?}");
    };
    assert_eq!(first.announced[0].nlri, [fits]);
    assert_eq!(second.announced[0].nlri, [fits]);
    assert_eq!(*last, withdrawal(vec![does_not]));

    let options = CodecOptions {
        extended_message: true,
        ..internal()
    };
    check_packed(&update, &options, 65535, &[fits, does_not, fits]);
}

#[test]
fn attributes_beyond_any_message_lead_to_a_withdrawal() {
    for next_hop in ["10.0.0.1", "2001:db8::1"] {
        let endless = PathAttributes {
            communities: vec![Community(1); 20_000],
            ..attributes(next_hop)
        };
        let nlri = vec![prefix("10.0.0.0/8"), prefix("2001:db8::/32")];
        let update = Message::Update(announcement(endless, nlri.clone()));
        for extended_message in [false, true] {
            let options = CodecOptions {
                extended_message,
                ..internal()
            };
            let mut octets = BytesMut::new();
            assert_eq!(encode(&update, &options, &mut octets), nlri);
            assert_eq!(
                decode_all(octets, &options),
                [
                    Message::Update(withdrawal(vec![nlri[0]])),
                    Message::Update(withdrawal(vec![nlri[1]])),
                ]
            );
        }
    }
}

#[test]
fn a_group_of_both_families_is_sent_as_two() {
    let mixed = vec![prefix("2001:db8::/32"), prefix("10.0.0.0/8")];
    let update = announcement(attributes("2001:db8::1"), mixed.clone());
    let octets = encoded(&Message::Update(update), &internal());
    let found = prefixes_of(decode_all(octets, &internal()));
    assert_eq!(found, [mixed[1], mixed[0]]);
}
