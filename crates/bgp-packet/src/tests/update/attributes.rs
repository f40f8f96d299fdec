//! Tests of the path attributes that portlb uses.

use super::*;

#[test]
fn each_used_attribute_is_decoded_and_encoded_with_its_flags_type_and_value() {
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
fn attributes_are_sent_in_the_order_of_their_type_codes() {
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
fn the_segments_of_an_as_path_keep_their_types_and_order() {
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
fn an_as_path_segment_of_more_than_255_numbers_is_split() {
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
            AsPathSegment::Set(_) => panic!("a sequence was decoded as a set"),
        })
        .collect();
    assert_eq!(lengths, [255, 255, 90]);
    assert_eq!(
        decoded.announced[0].attributes.as_path.decision_length(),
        600
    );
}

#[test]
fn the_extended_length_is_sent_only_for_values_above_255_octets() {
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
fn an_extended_length_of_a_short_value_is_accepted() {
    let octets = "5001 0001 00 5002 0000 5003 0004 0a000001";
    assert_eq!(attributes_of(octets, &internal()), attributes("10.0.0.1"));
}

#[test]
fn unused_flags_and_the_partial_bit_of_a_well_known_attribute_are_ignored() {
    let octets = "6f01 01 00 4f02 00 4f03 04 0a000001 cf08 04 ffffff01";
    let expected = PathAttributes {
        communities: vec![Community::NO_EXPORT],
        ..attributes("10.0.0.1")
    };
    assert_eq!(attributes_of(octets, &internal()), expected);
}

#[test]
fn an_unknown_transitive_attribute_is_passed_on_with_the_partial_bit() {
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
fn a_raw_attribute_whose_type_has_a_field_in_path_attributes_is_not_sent() {
    let with_raw_next_hop = PathAttributes {
        others: vec![RawAttribute {
            flags: 0xe0,
            type_code: 3,
            value: Bytes::from_static(&[1, 2, 3, 4]),
        }],
        ..attributes("10.0.0.1")
    };
    let update = announcement(with_raw_next_hop, vec![prefix("192.0.2.0/24")]);
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), &internal())),
        to_hex(&update_of(
            "",
            "400101 00 400200 400304 0a000001",
            "18 c00002"
        ))
    );
}

/// RFC 4271 section 5 forbids a speaker to clear the Partial bit.
#[test]
fn the_partial_bit_of_a_known_transitive_attribute_is_kept() {
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
fn duplicate_large_communities_are_removed_by_the_decoder_and_the_encoder() {
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
fn local_pref_and_reflection_attributes_are_ignored_and_omitted_on_external_sessions() {
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
fn malformed_local_pref_and_reflection_attributes_are_ignored_on_external_sessions() {
    let octets = "400101 00 400200 400304 0a000001
        4005 01 00 8009 00 800a 03 c00002 4005 00";
    assert_eq!(attributes_of(octets, &external()), attributes("10.0.0.1"));
}
