//! Generators of arbitrary messages and options for property tests.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::hex;
use crate::{
    AddPathMode, Aggregator, Announced, AsPath, AsPathSegment, Asn, Capability, ClusterId,
    CodecOptions, Community, Family, GracefulRestart, IpNet, LargeCommunity, Message, Nlri,
    Notification, NotificationError, Open, Origin, PartialAttributes, PathAttributes, PathId,
    RawAttribute, RouteRefresh, RouterId, Update,
};

pub(super) fn options() -> impl Strategy<Value = CodecOptions> {
    let add_path = select(vec![
        vec![],
        vec![Family::Ipv4Unicast],
        vec![Family::Ipv6Unicast],
        Family::ALL.to_vec(),
    ]);
    (any::<[bool; 3]>(), add_path).prop_map(
        |([four_octet_asn, extended_message, internal], add_path)| CodecOptions {
            four_octet_asn,
            add_path,
            extended_message,
            internal,
        },
    )
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        1 => open().prop_map(Message::Open),
        6 => update().prop_map(Message::Update),
        1 => notification().prop_map(Message::Notification),
        1 => Just(Message::Keepalive),
        1 => option::of(family()).prop_map(|family| Message::RouteRefresh(RouteRefresh { family })),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    select(Family::ALL.to_vec())
}

fn router_id() -> impl Strategy<Value = RouterId> {
    (1..=u32::MAX).prop_map(|number| RouterId(Ipv4Addr::from(number)))
}

/// Generates two-octet AS numbers, four-octet AS numbers, numbers at the limits of both ranges, and
/// AS_TRANS.
fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![
        1..=65535_u32,
        1..=u32::MAX,
        select(vec![1, 23456, 65535, 65536, u32::MAX]),
    ]
    .prop_map(Asn)
}

fn octets(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), length).prop_map(Bytes::from)
}

fn notification() -> impl Strategy<Value = Notification> {
    (any::<[u8; 2]>(), octets(0..300)).prop_map(|([code, subcode], data)| Notification {
        error: NotificationError { code, subcode },
        data,
    })
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    (asn(), hold_time, router_id(), vec(capability(), 0..8)).prop_map(
        |(asn, hold_time_seconds, router_id, mut capabilities)| {
            // The four-octet capability must have the number of `asn`, as in a valid OPEN.
            capabilities.retain(|capability| !matches!(capability, Capability::FourOctetAsn(_)));
            if asn.0 > 65535 {
                capabilities.push(Capability::FourOctetAsn(asn));
            }
            Open {
                asn,
                hold_time_seconds,
                router_id,
                capabilities,
            }
        },
    )
}

fn capability() -> impl Strategy<Value = Capability> {
    let mode = select(vec![
        AddPathMode::Receive,
        AddPathMode::Send,
        AddPathMode::Both,
    ]);
    let graceful_restart = (
        any::<[bool; 2]>(),
        0..4096_u16,
        vec((family(), any::<bool>()), 0..3),
    )
        .prop_map(
            |([restarting, notification], restart_time_seconds, families)| {
                Capability::GracefulRestart(GracefulRestart {
                    restarting,
                    notification,
                    restart_time_seconds,
                    families,
                })
            },
        );
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        graceful_restart,
        vec((family(), mode), 0..3).prop_map(Capability::AddPath),
        (70..=255_u8, octets(0..=255))
            .prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

fn prefix(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::Ipv4Unicast => (any::<u32>(), 0..=32_u8)
            .prop_map(|(address, length)| {
                IpNet::new(IpAddr::V4(address.into()), length)
                    .unwrap()
                    .trunc()
            })
            .boxed(),
        Family::Ipv6Unicast => (any::<u128>(), 0..=128_u8)
            .prop_map(|(address, length)| {
                IpNet::new(IpAddr::V6(address.into()), length)
                    .unwrap()
                    .trunc()
            })
            .boxed(),
    }
}

fn nlri(family: Family) -> impl Strategy<Value = Nlri> {
    (prefix(family), any::<u32>()).prop_map(|(prefix, path_id)| Nlri {
        prefix,
        path_id: Some(PathId(path_id)),
    })
}

/// Generates mostly short lists, and sometimes a list of at least 1000 prefixes, which with path
/// ids needs several messages of 4096 octets.
fn nlri_list(family: Family, minimum: usize) -> impl Strategy<Value = Vec<Nlri>> {
    prop_oneof![
        8 => vec(nlri(family), minimum..6),
        1 => vec(nlri(family), 1000..1500),
    ]
}

fn update() -> impl Strategy<Value = Update> {
    let withdrawn = (
        nlri_list(Family::Ipv4Unicast, 0),
        nlri_list(Family::Ipv6Unicast, 0),
    )
        .prop_map(|(ipv4, ipv6)| [ipv4, ipv6].concat());
    let announced = family().prop_flat_map(|family| {
        (path_attributes(family), nlri_list(family, 1)).prop_map(|(attributes, nlri)| Announced {
            attributes: Arc::new(attributes),
            nlri,
        })
    });
    (withdrawn, vec(announced, 0..3), option::of(family())).prop_map(
        |(withdrawn, announced, end_of_rib)| Update {
            withdrawn,
            announced,
            end_of_rib,
            errors: Vec::new(),
        },
    )
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let segment = prop_oneof![
        vec(asn(), 1..5).prop_map(AsPathSegment::Sequence),
        vec(asn(), 1..5).prop_map(AsPathSegment::Set),
    ];
    let longest = vec(asn(), 255).prop_map(AsPathSegment::Sequence);
    // Generate at most one segment of 255 AS numbers. With more, the attributes could leave no room
    // for prefixes in a message of 4096 octets.
    (vec(segment, 0..4), option::weighted(0.1, longest)).prop_map(|(mut segments, longest)| {
        segments.extend(longest);
        AsPath { segments }
    })
}

/// Generates next hops that the encoder does not change for prefixes of `family`.
fn next_hop(family: Family) -> BoxedStrategy<IpAddr> {
    let ipv4 = (1..224_u8, any::<[u8; 3]>())
        .prop_map(|(a, [b, c, d])| IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    let ipv6 = (1..0xff00_u16, any::<u64>())
        .prop_map(|(first, rest)| {
            Ipv6Addr::from(u128::from(first) << 112 | u128::from(rest)).into()
        })
        .boxed();
    match family {
        Family::Ipv4Unicast => prop_oneof![3 => ipv4, 1 => ipv6].boxed(),
        Family::Ipv6Unicast => ipv6,
    }
}

/// Generates attributes for `PathAttributes::others`: attributes of unknown types, and valid
/// attributes of types that the decoder checks.
fn other() -> impl Strategy<Value = RawAttribute> {
    let type_code = select(vec![11_u8, 13, 19, 24, 33, 36, 41, 128, 255]);
    let unknown = (type_code, prop_oneof![octets(0..20), octets(250..260)]);
    let passed_through = select(vec![
        (22, "00 06 000000 0a000001"),
        (23, "000f 0004 04 02 0102"),
        (25, "0002fd00000000000000000000000000000100c8"),
        (35, "0000fde9"),
        (40, "01 0007 000000 00000001"),
    ])
    .prop_map(|(type_code, value)| (type_code, Bytes::from(hex(value))));
    prop_oneof![unknown, passed_through].prop_map(|(type_code, value)| RawAttribute {
        flags: 0xe0,
        type_code,
        value,
    })
}

fn path_attributes(family: Family) -> impl Strategy<Value = PathAttributes> {
    let origin = select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete]);
    let aggregator = (asn(), any::<u32>()).prop_map(|(asn, router_id)| Aggregator {
        asn,
        router_id: RouterId(router_id.into()),
    });
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of(aggregator),
    );
    let communities = prop_oneof![vec(any::<u32>(), 0..4), vec(any::<u32>(), 60..70)];
    let reflection = (option::of(router_id()), vec(any::<u32>(), 0..4));
    let more = (
        vec(any::<[u8; 8]>(), 0..4),
        vec(any::<[u32; 3]>(), 0..4),
        vec(other(), 0..4),
        any::<[bool; 4]>(),
    );
    (
        origin,
        as_path(),
        next_hop(family),
        numbers,
        communities,
        reflection,
        more,
    )
        .prop_map(
            |(origin, as_path, next_hop, numbers, communities, reflection, more)| {
                let (multi_exit_disc, local_pref, atomic_aggregate, aggregator) = numbers;
                let (originator_id, cluster_list) = reflection;
                let (extended_communities, large_communities, mut others, partial) = more;
                let [of_aggregator, of_communities, of_extended, of_large] = partial;
                others.sort_by_key(|other| other.type_code);
                others.dedup_by_key(|other| other.type_code);
                // The encoder omits an attribute without values together with its Partial bit, so
                // only an attribute with values can have the bit.
                let partial = PartialAttributes {
                    aggregator: of_aggregator && aggregator.is_some(),
                    communities: of_communities && !communities.is_empty(),
                    extended_communities: of_extended && !extended_communities.is_empty(),
                    large_communities: of_large && !large_communities.is_empty(),
                };
                PathAttributes {
                    origin,
                    as_path,
                    next_hop,
                    multi_exit_disc,
                    local_pref,
                    atomic_aggregate,
                    aggregator,
                    communities: communities.into_iter().map(Community).collect(),
                    originator_id,
                    cluster_list: cluster_list
                        .into_iter()
                        .map(|number| ClusterId(number.into()))
                        .collect(),
                    extended_communities,
                    large_communities: large_communities
                        .into_iter()
                        .map(|[a, b, c]| LargeCommunity(a, b, c))
                        .collect(),
                    partial,
                    others,
                }
            },
        )
}
