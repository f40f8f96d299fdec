//! A test of malformed attributes and unusable next hops.
//!
//! Without checks in route-reflector these attributes would end the sessions between
//! route-reflector and routers.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use lab::bgp::Program;

use super::hostile::{GOOD, HOSTILE, KEEPALIVE, OPEN, RawConnection, UPDATE, lab_asn, message};
use crate::expect::SOON;
use crate::interop::network::{
    LinkMember, Network, REFLECTOR, ROUTERS, ReflectorProcess, SERVICE, SERVICE6,
};

const ROUTER: LinkMember = LinkMember::Router(1);

/// A group of clients without `allowedNextHops`.
///
/// Without this setting the import policy accepts every next hop, so the reflector itself must
/// refuse unusable next hops.
const TRUSTING: &str = "
- name: clients
  role: client
  dynamicPrefixes: [10.0.1.0/24]
  holdTime: 60s
  maximumPaths: 20000
  importPrefixes:
  - {prefix: 10.1.0.0/16, maximumLength: 32}
  - {prefix: 'fd00:10:1::/48', maximumLength: 128}";

/// The IPv4 prefix that is announced last, before only [`LAST6`]. The arrival of both prefixes at
/// the router shows that the reflector has handled every earlier update.
const LAST: &str = "10.1.255.1/32";
const LAST6: &str = "fd00:10:1:ffff::1/128";

/// Types of attributes that are well-known or that the reflector parses.
const KNOWN: [u8; 19] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 22, 23, 25, 26, 32, 35, 40, 18,
];

/// Malformed attributes, and valid attributes that FRR 8.4 refuses. Each entry has two strings of
/// hexadecimal digits: the flags and the type of the attribute, and the value.
///
/// RFC 5701, 6514, 7311, 8669, 9012, 9234 and 9252 define the valid values of these attributes.
const REFUSED: [(&str, &str); 43] = [
    ("c016", "0006000000"),
    ("c016", "00060000000a0000"),
    ("c016", "00060000000a00000100"),
    ("c016", "0006000000fd000000000000000000000000000001"),
    ("c016", "00020000000600010400"),
    ("c016", "00080000000a000001"),
    ("c016", "00ff000000"),
    ("8016", "00060000000a000001"),
    ("c017", ""),
    ("c017", "00"),
    ("c017", "000800"),
    ("c017", "00080001"),
    ("c017", "000800050104000000"),
    ("c017", "000800020104"),
    ("c017", "000800030102"),
    ("c017", "0008000301010000"),
    ("c017", "00080000"),
    ("c017", "0008000000080000"),
    ("c017", "0008000480000100"),
    ("c017", "00080003010100"),
    ("c017", "00080009010400000001020100"),
    ("8017", "00080000"),
    ("c019", "0002fd000000000000000000000000000001"),
    ("c019", "0002fd00000000000000000000000000000100c800"),
    ("801a", "01000a00000000000000"),
    ("801a", "0100020000"),
    ("c01a", "01000b0000000000000064"),
    ("c023", "000000"),
    ("c023", "00000000"),
    ("c023", "0000fde900"),
    ("8023", "0000fde9"),
    ("c028", "01"),
    ("c028", "010007000000000000"),
    ("c028", "010007000000ffffffff"),
    ("c028", "0100060000000000"),
    ("c028", "0300020000"),
    ("c028", "0300070000003e8000"),
    ("c028", "020013000000fd000000000000000000000000000001"),
    ("c028", "050000"),
    ("c028", "05000100"),
    ("c028", "05000400010015"),
    (
        "c028",
        "0500180001001400fd00000000000000000000000000000100003f",
    ),
    ("c028", "05000700020000020000"),
];

/// Valid attributes that the reflector passes on and that FRR accepts.
const VALID: [(&str, &str); 13] = [
    ("c016", "0000000000"),
    ("c016", "00010000100a0000010000000a00000001"),
    ("c016", "00030000100a000001e8000001"),
    ("c016", "00060000100a000001"),
    ("c016", "0007000010070001040a0000010000"),
    ("c017", "00080000"),
    ("c017", "0008000c01040000000106040a000001"),
    ("c019", "0002fd00000000000000000000000000000100c8"),
    ("801a", "01000b0000000000000064"),
    ("c023", "0000fde9"),
    ("c028", "01000700000000000001"),
    (
        "c028",
        "0500190001001500fd00000000000000000000000000000100003f00",
    ),
    (
        "c028",
        "0500220001001e00fd00000000000000000000000000000100003f00010006281810000000",
    ),
];

fn octets(digits: &str) -> Vec<u8> {
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|index| u8::from_str_radix(&digits[index..index + 2], 16))
        .collect::<Result<_, _>>()
        .expect("the tests' values are pairs of hexadecimal digits")
}

fn attribute(flags: u8, type_code: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("the tests' values are short");
    let mut attribute = vec![flags | 0x10, type_code];
    attribute.extend(length.to_be_bytes());
    attribute.extend(value);
    attribute
}

/// Returns ORIGIN, AS_PATH, NEXT_HOP and LOCAL_PREF, without the attribute of the type `except`.
fn mandatory(next_hop: Ipv4Addr, except: u8) -> Vec<u8> {
    let next_hop = next_hop.octets();
    let all: [(u8, &[u8]); 4] = [(1, &[0]), (2, &[]), (3, &next_hop), (5, &[0, 0, 0, 100])];
    let others = all.into_iter().filter(|(code, _)| *code != except);
    others
        .flat_map(|(code, value)| attribute(0x40, code, value))
        .collect()
}

fn update(attributes: &[u8], prefix: Option<Ipv4Addr>) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).expect("the tests' messages are short");
    let mut body = vec![0, 0];
    body.extend(length.to_be_bytes());
    body.extend(attributes);
    if let Some(prefix) = prefix {
        body.push(32);
        body.extend(prefix.octets());
    }
    message(UPDATE, &body)
}

/// Returns an UPDATE that announces an IPv6 host route in MP_REACH_NLRI with these next hops.
fn update6(next_hops: &[Ipv6Addr], prefix: Ipv6Addr) -> Vec<u8> {
    let mut reach = vec![
        0,
        2,
        1,
        u8::try_from(16 * next_hops.len()).expect("two at most"),
    ];
    for next_hop in next_hops {
        reach.extend(next_hop.octets());
    }
    reach.extend([0, 128]);
    reach.extend(prefix.octets());
    let mut attributes = mandatory(Ipv4Addr::UNSPECIFIED, 3);
    attributes.extend(attribute(0x80, 14, &reach));
    update(&attributes, None)
}

/// Returns the type and all octets of an attribute of [`REFUSED`] or [`VALID`].
fn from_digits(head: &str, value: &str) -> (u8, Vec<u8>) {
    let [flags, type_code] = octets(head)[..] else {
        panic!("{head} is not flags and a type");
    };
    (type_code, attribute(flags, type_code, &octets(value)))
}

/// Returns the prefix that is announced with the attribute number `index` of [`VALID`].
fn valid_prefix(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 3, u8::try_from(index).expect("few attributes"))
}

/// Returns every attribute to test, with its type: the attributes of [`REFUSED`], and attributes of
/// the types 1 to 50 (except 14 and 15), 128, 129 and 255 with many flags, lengths and values.
fn attributes() -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for (head, value) in REFUSED {
        all.push(from_digits(head, value));
    }
    // Types 14 and 15 are left out, because a malformed attribute of these types ends the session
    // of the client that sent it (RFC 7606 section 7.11).
    let types = (1..=50)
        .chain([128, 129, 255])
        .filter(|code| ![14, 15].contains(code));
    for type_code in types {
        let flags: &[u8] = if KNOWN.contains(&type_code) {
            &[0x40, 0x80, 0xc0, 0xe0]
        } else {
            &[0x80, 0xc0, 0xe0]
        };
        for flags in flags {
            for length in [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 19, 20, 21, 40, 300] {
                for fill in [0, 1, 0xff] {
                    let value = vec![fill; length];
                    all.push((type_code, attribute(*flags, type_code, &value)));
                }
            }
        }
    }
    all
}

fn open() -> Vec<u8> {
    let mut body = vec![4];
    body.extend(lab_asn().to_be_bytes());
    body.extend([0, 60]);
    body.extend(HOSTILE.address().octets());
    // The capabilities: IPv4 unicast, IPv6 unicast, and four-octet AS numbers.
    body.extend([20, 2, 18, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4]);
    body.extend(u32::from(lab_asn()).to_be_bytes());
    message(OPEN, &body)
}

async fn send_everything(connection: &mut RawConnection) -> Result<()> {
    let own = HOSTILE.address();
    for (index, (type_code, attribute)) in (1_u16..).zip(attributes()) {
        let [high, low] = index.to_be_bytes();
        let mut all = mandatory(own, type_code);
        all.extend(attribute);
        let prefix = Ipv4Addr::new(10, 1, 100 + high, low);
        connection.send(&update(&all, Some(prefix))).await?;
    }
    for (index, (head, value)) in VALID.into_iter().enumerate() {
        let mut all = mandatory(own, 0);
        all.extend(from_digits(head, value).1);
        connection
            .send(&update(&all, Some(valid_prefix(index))))
            .await?;
    }
    let own_prefix = Ipv4Addr::new(10, 1, 2, 0);
    for (index, next_hop) in [
        "0.0.0.0",
        "0.0.0.1",
        "127.0.0.1",
        "127.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "10.1.2.7",
    ]
    .into_iter()
    .enumerate()
    {
        let last = u8::try_from(index).context("the test has too many next hops")?;
        let prefix = Ipv4Addr::from(u32::from(own_prefix) + u32::from(last));
        let all = mandatory(next_hop.parse()?, 0);
        connection.send(&update(&all, Some(prefix))).await?;
    }
    for (index, next_hops) in [
        &["::"][..],
        &["::1"],
        &["::10.0.1.2"],
        &["::ffff:10.0.1.2"],
        &["::ffff:127.0.0.1"],
        &["fe80::1"],
        &["fe80::1", "fe80::1"],
        &["::", "fe80::1"],
        &["ff02::1"],
        &["fd00:10:1:2::9"],
    ]
    .into_iter()
    .enumerate()
    {
        let last = u16::try_from(index).context("the test has too many next hops")?;
        let next_hops: Result<Vec<_>, _> = next_hops.iter().map(|text| text.parse()).collect();
        let prefix = Ipv6Addr::new(0xfd00, 0x10, 1, 2, 0, 0, 0, last);
        connection.send(&update6(&next_hops?, prefix)).await?;
    }
    let last = Ipv4Addr::new(10, 1, 255, 1);
    connection
        .send(&update(&mandatory(own, 0), Some(last)))
        .await?;
    let last = Ipv6Addr::new(0xfd00, 0x10, 1, 0xffff, 0, 0, 0, 1);
    connection
        .send(&update6(&[HOSTILE.address6()], last))
        .await?;
    connection.send(&message(KEEPALIVE, &[])).await
}

#[test]
fn no_attribute_or_next_hop_of_a_client_ends_the_session_of_a_router() {
    let members = [LinkMember::Reflector, GOOD, HOSTILE, ROUTER];
    let network = Network::bring_up("input-attributes", &members).unwrap();
    let router = network
        .start(ROUTER, Program::Frr, &ROUTER.router())
        .unwrap();
    let peers = [("router", ROUTER.address(), "routers")];
    let reflector = ReflectorProcess::start(&network, &[TRUSTING, ROUTERS], &peers).unwrap();
    network.start(GOOD, Program::Bird, &GOOD.client()).unwrap();
    router.wait_for_table(&[SERVICE, SERVICE6], SOON).unwrap();

    let host = network.host(HOSTILE).unwrap();
    host.inside_async(async || {
        let mut connection = RawConnection::establish_with(HOSTILE.address(), &open()).await?;
        send_everything(&mut connection).await?;
        router.wait_for_table(&[LAST, LAST6, SERVICE, SERVICE6], SOON)?;
        let table = router.table()?;
        for index in 0..VALID.len() {
            let prefix = format!("{}/32", valid_prefix(index));
            ensure!(table.contains(&prefix), "{prefix} is not in {table}");
        }
        for member in [ROUTER, GOOD, HOSTILE] {
            let session = reflector.session(member)?;
            ensure!(session.established_count == 1, "{session:#?}");
        }
        let neighbour = router.ask(&format!("show bgp neighbors {REFLECTOR} json"))?;
        let neighbour: String = neighbour.split_whitespace().collect();
        for expected in ["\"connectionsEstablished\":1,", "\"connectionsDropped\":0,"] {
            ensure!(neighbour.contains(expected), "no {expected} in {neighbour}");
        }
        // The reflector has no path with an unusable next hop.
        for path in reflector.paths()? {
            let is_unusable = ["10.1.2.", "fd00:10:1:2:"]
                .iter()
                .any(|range| path.prefix.starts_with(range));
            ensure!(!is_unusable, "{path:#?}");
        }
        Ok(())
    })
    .unwrap();
}
