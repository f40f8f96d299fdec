//! Tests of valid UPDATE messages.

mod attributes;
mod four_octets;
mod packing;

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

/// Checks that `octets` decode to `update` and that `update` encodes to `octets`.
fn check_both_ways(octets: &[u8], update: Update, options: &CodecOptions) {
    assert_eq!(decode_update(octets, options).as_ref(), Ok(&update));
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), options)),
        to_hex(octets)
    );
}

/// Checks the decoding and the encoding of one attribute of the prefix 192.0.2.0/24.
///
/// `octets` follow ORIGIN, AS_PATH and NEXT_HOP. `edit` changes the expected attributes.
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

/// Decodes an UPDATE with the attributes `octets`, checks that it has no errors, and returns the
/// attributes of its path.
fn attributes_of(octets: &str, options: &CodecOptions) -> PathAttributes {
    let update = decode_update(&update_of("", octets, "18 c00002"), options).unwrap();
    assert_eq!(update.errors, []);
    (*update.announced[0].attributes).clone()
}

#[test]
fn ipv4_prefixes_are_decoded_and_encoded_in_the_fields_of_rfc_4271() {
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
fn ipv6_prefixes_are_decoded_and_encoded_in_the_attributes_of_rfc_4760() {
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
fn each_prefix_has_a_path_id_if_add_path_is_negotiated() {
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
fn add_path_for_one_family_adds_no_path_ids_to_the_other_family() {
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
fn a_prefix_without_path_id_is_sent_with_path_id_zero_if_add_path_is_negotiated() {
    let update = withdrawal(vec![prefix("192.0.2.0/24")]);
    assert_eq!(
        to_hex(&encoded(&Message::Update(update), &with_add_path())),
        to_hex(&update_of("00000000 18 c00002", "", ""))
    );
}

#[test]
fn the_host_bits_of_a_prefix_are_cleared() {
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
fn a_link_local_address_after_a_global_next_hop_is_ignored() {
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
fn ipv4_prefixes_with_an_ipv6_next_hop_are_encoded_by_rfc_8950() {
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
fn an_ipv4_next_hop_of_an_ipv6_prefix_is_sent_as_an_ipv4_mapped_address() {
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
fn one_update_can_announce_and_withdraw_prefixes_of_both_families() {
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
fn prefixes_of_unsupported_families_are_ignored() {
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
fn each_family_has_its_own_end_of_rib_marker() {
    for (octets, family) in [
        (update_of("", "", ""), Family::Ipv4Unicast),
        (update_of("", "900f 0003 0002 01", ""), Family::Ipv6Unicast),
    ] {
        let marker = Update {
            end_of_rib: Some(family),
            ..Update::default()
        };
        check_both_ways(&octets, marker, &internal());
    }
    let ipv4 = decode_update(&update_of("", "800f 03 0001 01", ""), &internal()).unwrap();
    assert_eq!(ipv4.end_of_rib, Some(Family::Ipv4Unicast));
}

#[test]
fn an_update_with_prefixes_or_other_attributes_is_not_an_end_of_rib_marker() {
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
fn an_update_without_prefixes_and_end_of_rib_marker_is_not_sent() {
    let without_prefixes = announcement(attributes("10.0.0.1"), vec![]);
    for update in [without_prefixes, Update::default()] {
        assert_eq!(
            encoded(&Message::Update(update), &internal()),
            BytesMut::new()
        );
    }
}
