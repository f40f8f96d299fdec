//! Tests of messages that made other BGP implementations crash, loop or reset sessions.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{
    check_reset, decode, decode_update, encoded, framed, hex, internal, update_of, with_add_path,
};
use crate::{Asn, CodecOptions, Decoder, Disposition, Message, NotificationError};

fn two_octets() -> CodecOptions {
    CodecOptions {
        four_octet_asn: false,
        ..internal()
    }
}

/// The attribute decoder of zettabgp 0.6.0, which this crate does not use, loops forever on an
/// AS_PATH with one extra octet after a whole segment.
#[test]
fn an_extra_octet_after_an_as_path_segment_withdraws_the_path() {
    let octets = hex(
        "ffffffffffffffffffffffffffffffff 0025 02 0000 000a 40 02 07 0201 0000fde9 02 18c00002",
    );
    let update = decode_update(&octets, &internal()).unwrap();
    assert_eq!(update.announced, []);
    assert_eq!(update.withdrawn[0].prefix.to_string(), "192.0.2.0/24");
    assert_eq!(update.errors[0].type_code, 2);
    assert_eq!(update.errors[0].disposition, Disposition::TreatAsWithdraw);
}

/// The attribute decoder of zettabgp 0.6.0, which this crate does not use, panics on an attribute
/// list of one octet.
#[test]
fn an_attribute_list_of_one_octet_ends_the_session() {
    check_reset(
        &hex("ffffffffffffffffffffffffffffffff 0018 02 0000 0001 00"),
        &internal(),
        NotificationError::MALFORMED_ATTRIBUTE_LIST,
        "00",
    );
}

/// Regression test for CVE-2026-41643.
#[test]
fn an_empty_as_path_with_an_as4_path_stays_empty() {
    let octets = update_of(
        "",
        "400101 00 400200 400304 0a000001 c011 06 0201 00010001",
        "18 c00002",
    );
    let update = decode_update(&octets, &two_octets()).unwrap();
    assert_eq!(update.announced[0].attributes.as_path.segments, []);
}

/// Second regression test for CVE-2026-41643: a merge of AS_PATH and AS4_PATH that counts each AS
/// of a set computes a length below 0.
#[test]
fn an_as_path_of_sets_is_merged_with_an_as4_path() {
    let octets = update_of(
        "",
        "400101 00 4002 0c 0102 0001 0002 0102 0003 5ba0 400304 0a000001
         c011 12 0104 00010001 00010002 00010003 00010004",
        "18 c00002",
    );
    let update = decode_update(&octets, &two_octets()).unwrap();
    assert_eq!(update.errors, []);
    assert_eq!(update.announced[0].attributes.as_path.decision_length(), 2);
}

/// Regression test for CVE-2026-42285.
#[test]
fn a_prefix_that_is_withdrawn_because_of_an_attribute_error_is_not_announced() {
    for attributes in [
        "400101 09 4002 06 0201 0000fde9 400304 0a000001",
        "400101 00 4002 06 0201 00000000 400304 0a000001",
        "400101 00 4002 06 0201 0000fde9 400304 00000000",
    ] {
        let update = decode_update(&update_of("", attributes, "18 c00002"), &internal()).unwrap();
        assert_eq!(update.announced, []);
        assert_eq!(update.withdrawn.len(), 1);
        assert_eq!(update.errors.len(), 1);
    }
}

/// Regression test for CVE-2026-37462.
#[test]
fn a_list_of_prefixes_or_attributes_that_is_longer_than_the_update_ends_the_session() {
    for body in [
        "ffff 0000",
        "0001 0000",
        "0003 0000 18",
        "0000 0001",
        "0000 ffff 00",
        "0002 08 0a",
        "0002 08 0a 00",
        "0002 08 0a 0001",
    ] {
        check_reset(
            &framed(2, &hex(body)),
            &internal(),
            NotificationError::MALFORMED_ATTRIBUTE_LIST,
            "",
        );
    }
}

#[test]
fn an_empty_as_path_is_accepted() {
    let octets = update_of("", "400101 00 400200 400304 0a000001", "18 c00002");
    let update = decode_update(&octets, &internal()).unwrap();
    let path = &update.announced[0].attributes.as_path;
    assert_eq!(path.decision_length(), 0);
    assert_eq!(path.neighbouring_asn(), None);
}

/// Regression test for CVE-2023-38802: attribute 23 (tunnel encapsulation) with a value that RFC
/// 9012 forbids.
#[test]
fn a_malformed_tunnel_encapsulation_attribute_withdraws_the_path() {
    for value in ["00", "04 000f 00ff ff", "02 ffff"] {
        let length = hex(value).len();
        let octets = update_of(
            "",
            &format!("400101 00 400200 400304 0a000001 e017 {length:02x} {value}"),
            "18 c00002",
        );
        let update = decode_update(&octets, &internal()).unwrap();
        assert_eq!(update.errors[0].type_code, 23);
        assert_eq!((update.announced.len(), update.withdrawn.len()), (0, 1));
    }
}

#[test]
fn the_value_of_an_attribute_of_an_unknown_type_is_passed_on_unchanged() {
    for value in ["00", "04 000f 00ff ff", "02 ffff"] {
        let length = hex(value).len();
        let octets = update_of(
            "",
            &format!("400101 00 400200 400304 0a000001 e063 {length:02x} {value}"),
            "18 c00002",
        );
        let update = decode_update(&octets, &internal()).unwrap();
        assert_eq!(update.errors, []);
        let other = &update.announced[0].attributes.others[0];
        assert_eq!((other.type_code, &other.value[..]), (99, &hex(value)[..]));
        assert!(!other.is_checked());
        let sent = encoded(&Message::Update(update.clone()), &internal());
        assert_eq!(decode_update(&sent, &internal()), Ok(update));
    }
}

/// Regression test for CVE-2023-46752.
#[test]
fn an_mp_reach_nlri_without_next_hop_ends_the_session() {
    check_reset(
        &update_of("", "800e 05 0002 01 00 00 400101 00 400200", ""),
        &internal(),
        NotificationError::OPTIONAL_ATTRIBUTE_ERROR,
        "800e 05 0002 01 00 00",
    );
}

/// Regression test for CVE-2023-46753.
#[test]
fn an_update_without_mandatory_attributes_announces_nothing() {
    let octets = update_of("", "c0ff 01 00", "18 c00002");
    let update = decode_update(&octets, &internal()).unwrap();
    assert_eq!(update.announced, []);
    let missing: Vec<u8> = update.errors.iter().map(|error| error.type_code).collect();
    assert_eq!(missing, [1, 2, 3]);

    let reach = "800e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8";
    let update = decode_update(&update_of("", reach, ""), &internal()).unwrap();
    assert_eq!(update.announced, []);
    assert_eq!(update.errors.len(), 2);
}

#[test]
fn a_truncated_update_does_not_make_the_decoder_panic() {
    let whole = update_of(
        "08 0a",
        "900e 001a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8
         4001 01 02 4002 06 0201 0000fde9 4003 04 0a000001 8004 04 00000001 4005 04 00000002
         4006 00 c007 08 00000003 00000000 c008 04 ffffff01 8009 04 04040404 800a 04 05050505
         c010 08 0606060606060606 e017 01 78 c020 0c 00000007 00000007 00000007",
        "18 c00002",
    );
    assert!(decode_update(&whole, &internal()).is_ok());
    for options in [internal(), two_octets(), with_add_path()] {
        for length in 23..whole.len() {
            // The first decoded message has the shorter length only in its header. The second
            // decoded message also has a shorter length of its attribute list.
            let mut octets = whole[..length].to_vec();
            octets[16..18].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            let _ = decode(&octets, &options);
            if let Some(attributes) = length.checked_sub(19 + 2 + 2 + 2) {
                let attributes = u16::try_from(attributes).unwrap();
                octets[23..25].copy_from_slice(&attributes.to_be_bytes());
                let _ = decode(&octets, &options);
            }
        }
    }
}

/// Each message is filled with AS_PATH segments, large communities, attributes or prefixes. A
/// decoder with quadratic time would need seconds.
#[test]
fn the_longest_messages_are_decoded_within_one_second() {
    let options = CodecOptions {
        extended_message: true,
        ..internal()
    };
    let mandatory = hex("400101 00 400304 0a000001");
    let with_attribute = |type_and_flags: [u8; 2], value: Vec<u8>| {
        let mut attributes = mandatory.clone();
        attributes.push(type_and_flags[0] | 0x10);
        attributes.push(type_and_flags[1]);
        attributes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        attributes.extend(value);
        let mut body = vec![0, 0];
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend(attributes);
        body.push(0);
        framed(2, &body)
    };
    let distinct: Vec<u8> = (0..5400_u32)
        .flat_map(|number| [[0; 4], [0; 4], number.to_be_bytes()].concat())
        .collect();
    let messages = [
        with_attribute([0x40, 2], hex("0201 00000001").repeat(10_900)),
        with_attribute([0xc0, 32], distinct),
        // An attribute list that contains one empty attribute 21,828 times.
        framed(
            2,
            &[&[0, 0, 0xff, 0xcc][..], &hex("c06300").repeat(21_828)].concat(),
        ),
        // A list of withdrawn routes that contains the default route 65,512 times.
        framed(2, &[&[0xff, 0xe8][..], &[0; 0xffe8], &[0, 0]].concat()),
    ];
    let start = Instant::now();
    for octets in &messages {
        let mut decoder = Decoder::new();
        decoder.set_options(options.clone());
        let _ = decoder.decode(&mut BytesMut::from(&octets[..]));
    }
    assert!(start.elapsed() < Duration::from_secs(1));

    let path = decode_update(&messages[0], &options).unwrap();
    assert_eq!(path.errors[..], []);
    assert!(path.announced[0].attributes.as_path.contains(Asn(1)));
    // The decoder keeps the first attribute and records one error for all repetitions.
    let repeated = decode_update(&messages[2], &options).unwrap();
    assert_eq!(repeated.errors.len(), 1);
    let default_routes = decode_update(&messages[3], &options).unwrap();
    assert_eq!(default_routes.withdrawn.len(), 0xffe8);
}
