//! Tests of the attributes that portlb passes on unchanged.

use super::{
    decode_update, encoded, hex, internal, to_hex,
    update_errors::{check_discarded, check_withdraws},
    update_of,
};
use crate::{CodecOptions, Message};

const MANDATORY: &str = "400101 00 4002 06 0201 0000fde9 400304 0a000001";
const NLRI: &str = "18 c00002"; // 192.0.2.0/24

/// Returns an attribute in hexadecimal. `flags_and_type` and `value` are hexadecimal, too.
fn attribute(flags_and_type: &str, value: &str) -> String {
    let length = u8::try_from(hex(value).len()).unwrap();
    format!("{flags_and_type} {length:02x} {value}")
}

#[track_caller]
fn check_passed_through(attribute: &str, options: &CodecOptions) {
    let octets = update_of("", &format!("{MANDATORY} {attribute}"), NLRI);
    let update = decode_update(&octets, options).unwrap();
    assert_eq!(update.errors, [], "{attribute}");
    let other = &update.announced[0].attributes.others[0];
    assert!(other.is_checked(), "{attribute}");
    let sent = to_hex(&encoded(&Message::Update(update), options));
    assert!(
        sent.contains(&to_hex(&hex(attribute))),
        "the encoded UPDATE {sent} does not contain the attribute {attribute}"
    );
}

#[test]
fn a_valid_attribute_that_portlb_does_not_use_is_passed_on_unchanged() {
    for (flags_and_type, values) in [
        (
            "c016",
            &[
                "00 00 000000",
                "00 01 000010 0a0000010000000a00000001",
                "00 02 000010 06 0001 04 0a000001 0002 abcd",
                "00 03 000010 0a000001e8000001",
                "00 06 000010 0a000001",
                "00 07 000010 07 0001 04 0a000001 0000",
            ][..],
        ),
        (
            "c017",
            &["0008 0000", "0008 000c 01 04 00000001 06 04 0a000001"],
        ),
        ("c019", &["0002fd00000000000000000000000000000100c8"]),
        (
            "801a",
            &[
                "01 000b 0000000000000064",
                "02 0003 01 000b 0000000000000001",
            ],
        ),
        ("c023", &["0000fde9"]),
        (
            "c028",
            &[
                "01 0007 00 0000 00000001",
                "01 0007 00 0000 00000001 03 0008 0000 003e80 001f40",
                "63 0002 abcd",
                "05 0019 00 01 0015 00 fd000000000000000000000000000001 00 003f 00",
                "05 0022 00 01 001e 00 fd000000000000000000000000000001 00 003f 00 01 0006 \
                 281810000000",
            ],
        ),
    ] {
        for value in values {
            check_passed_through(&attribute(flags_and_type, value), &internal());
        }
    }
    // The encoder sends a received Partial bit unchanged.
    check_passed_through("e023 04 0000fde9", &internal());
}

#[test]
fn a_malformed_attribute_that_portlb_does_not_use_withdraws_the_path() {
    for (flags_and_type, subcode, values) in [
        ("c016", 5, &["", "00", "00 06 0000"][..]),
        (
            "c016",
            9,
            &[
                "00 00 000000 00",
                "00 01 000000 0a000001",
                "00 02 000000",
                "00 02 000000 06 0001 04 0a0000",
                "00 02 000000 06 0001 04 0a000001 0002 ab",
                "00 02 000000 06 0001 04 0a000001 0002 abcd ef",
                "00 03 000000 0a000001",
                "00 06 000000",
                "00 06 000000 0a0000",
                "00 06 000000 0a00000100",
                // Undefined tunnel types.
                "00 08 000000 0a000001",
                "00 ff 000000",
            ],
        ),
        (
            "c017",
            9,
            &[
                "00",
                "0008 00",
                "0008 0001",
                "0008 0005 01 04 000000",
                "0008 0002 01 04",
                "0008 0000 00",
                "0008 0003 01 01 00 00",
                "0008 0002 80 00",
            ],
        ),
        (
            "c019",
            5,
            &[
                "",
                "00",
                "0002fd00000000000000000000000000000100",
                "0002fd00000000000000000000000000000100c800",
            ],
        ),
        ("c023", 5, &["", "0000", "0000fde900"]),
        ("c023", 9, &["00000000"]),
        // Flags that the type of the attribute does not allow.
        ("8016", 4, &["00 06 000000 0a000001"]),
        ("8019", 4, &["0002fd00000000000000000000000000000100c8"]),
        ("8023", 4, &["0000fde9"]),
        ("8028", 4, &["01 0007 00 0000 00000001"]),
        ("4023", 4, &["0000fde9"]),
    ] {
        for value in values {
            check_withdraws(&attribute(flags_and_type, value), subcode);
        }
    }
}

#[test]
fn a_malformed_attribute_whose_reaction_is_discard_is_dropped_and_its_path_is_kept() {
    for (flags_and_type, subcode, values) in [
        ("c017", 9, &[""][..]),
        ("8017", 4, &["0008 0000"]),
        (
            "801a",
            9,
            &[
                "",
                "01",
                "01 000b",
                "01 000a 00000000000000",
                "01 0002",
                "02 0004",
                "01 000b 0000000000000001 00",
            ],
        ),
        ("c01a", 4, &["01 000b 0000000000000064"]),
        (
            "c028",
            9,
            &[
                "",
                "01",
                "01 0007 00 0000 000000",
                "01 0006 00 0000 000000",
                "03 0002 0000",
                "03 0007 0000 003e80 00",
                "05 0000",
                "05 0004 00 01 0015",
                "05 0018 00 01 0014 00 fd000000000000000000000000000001 00 003f",
                "05 0021 00 01 001d 00 fd000000000000000000000000000001 00 003f 00 01 0005 \
                 2818100000",
                "63 0003 abcd",
            ],
        ),
    ] {
        for value in values {
            check_discarded(&attribute(flags_and_type, value), subcode);
        }
    }
}

/// The RFCs allow the values of this test, but FRR 8.4 ends an internal session that carries one of
/// them.
#[test]
fn a_valid_attribute_that_frr_refuses_is_discarded() {
    for (flags_and_type, values) in [
        (
            "c016",
            &["00 06 000000 fd000000000000000000000000000001"][..],
        ),
        (
            "c017",
            &[
                // Two tunnels, a sub-TLV with a length field of two octets, and two values whose
                // last sub-TLV has fewer than four octets.
                "0008 0000 0008 0000",
                "0008 0004 80 0001 00",
                "0008 0003 01 01 00",
                "0008 0009 01 04 00000001 02 01 00",
            ],
        ),
        (
            "c028",
            &[
                "01 0007 00 0000 ffffffff",
                "02 0013 000000 fd000000000000000000000000000001",
                "04 0013 000000 fd000000000000000000000000000001",
                "05 0001 00",
                "05 0007 00 02 0000 02 0000",
                "05 0019 00 01 0015 00 fd000000000000000000000000000001 00 003f 00 \
                 05 0019 00 01 0015 00 fd000000000000000000000000000001 00 003f 00",
                "05 001c 00 01 0018 00 fd000000000000000000000000000001 00 003f 00 02 0000",
            ],
        ),
    ] {
        for value in values {
            check_discarded(&attribute(flags_and_type, value), 9);
        }
    }
}

#[test]
fn aigp_is_neither_accepted_from_nor_sent_to_an_external_peer() {
    let aigp = "801a 0b 01 000b 0000000000000064";
    let external = CodecOptions {
        internal: false,
        ..internal()
    };
    let octets = update_of("", &format!("{MANDATORY} {aigp}"), NLRI);
    let received = decode_update(&octets, &external).unwrap();
    assert_eq!(received.announced[0].attributes.others, []);
    assert_eq!(received.errors, []);

    let received = decode_update(&octets, &internal()).unwrap();
    assert_eq!(received.announced[0].attributes.others.len(), 1);
    let sent = encoded(&Message::Update(received), &external);
    let sent = decode_update(&sent, &internal()).unwrap();
    assert_eq!(sent.announced[0].attributes.others, []);
}
