mod clients;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bgp_packet::{Announced, Asn, ClusterId, Nlri, PathAttributes, RawAttribute, RouterId, Update};

use super::*;
use crate::{
    ExportPolicy, FamilySettings, ImportPolicy, LocalAddresses, MaximumPathsAction,
    MaximumPathsExceeded, NextHopFilter, NotBestReason, PeerKind, PrefixFilter, PrefixRule,
    ReceiveOutcome, RejectReason, UnknownAttributes,
};

const LOCAL_ASN: Asn = Asn(64512);
const OWN: RouterId = RouterId(Ipv4Addr::new(192, 0, 2, 1));
const CLUSTER: ClusterId = ClusterId(Ipv4Addr::new(192, 0, 2, 99));
const A: PeerId = PeerId(10);
const B: PeerId = PeerId(11);
const ROUTER: PeerId = PeerId(20);

fn rib() -> Rib {
    Rib::new(RibConfig {
        local_asn: LOCAL_ASN,
        router_id: OWN,
        cluster_id: CLUSTER,
    })
}

fn peer(id: PeerId, add_path_send: bool) -> PeerSettings {
    let last = u8::try_from(id.0).unwrap();
    PeerSettings {
        kind: PeerKind::Client,
        peer_asn: LOCAL_ASN,
        peer_router_id: RouterId([10, 0, 0, last].into()),
        peer_address: [10, 0, 0, last].into(),
        local_addresses: LocalAddresses::from(IpAddr::from([10, 0, 0, 1])),
        families: [Family::Ipv4Unicast, Family::Ipv6Unicast]
            .map(|family| FamilySettings {
                family,
                add_path_send,
            })
            .to_vec(),
        import: ImportPolicy::accept_all(),
        export: ExportPolicy::send_all(),
    }
}

/// Two clients that are sent nothing, and a router with add-path.
fn reflector() -> Rib {
    let mut rib = rib();
    for id in [A, B] {
        rib.add_peer(
            id,
            PeerSettings {
                export: ExportPolicy::default(),
                ..peer(id, false)
            },
        );
    }
    rib.add_peer(ROUTER, peer(ROUTER, true));
    assert_eq!(drain(&mut rib, ROUTER).len(), 2, "the two end-of-RIB marks");
    rib
}

fn attributes(next_hop: u8) -> Arc<PathAttributes> {
    Arc::new(PathAttributes::originate([10, 7, 0, next_hop].into()))
}

fn nlri(prefix: &str) -> Nlri {
    Nlri {
        prefix: prefix.parse().unwrap(),
        path_id: None,
    }
}

fn announce(attributes: &Arc<PathAttributes>, prefixes: &[&str]) -> Update {
    let nlri = prefixes.iter().map(|prefix| nlri(prefix)).collect();
    Update {
        announced: vec![Announced {
            attributes: attributes.clone(),
            nlri,
        }],
        ..Update::default()
    }
}

fn withdraw(prefixes: &[&str]) -> Update {
    Update {
        withdrawn: prefixes.iter().map(|prefix| nlri(prefix)).collect(),
        ..Update::default()
    }
}

fn drain(rib: &mut Rib, id: PeerId) -> Vec<Update> {
    let mut updates = Vec::new();
    while rib.has_pending(id) {
        updates.extend(rib.take_pending(id, 3));
    }
    updates
}

fn path_ids(rib: &Rib) -> Vec<u32> {
    let mut ids: Vec<_> = rib
        .adj_rib_out(ROUTER)
        .map(|path| path.path_id.unwrap().0)
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_router_with_add_path_gets_the_path_of_each_client_and_loses_only_that_of_the_dead_one() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    rib.receive(B, announce(&attributes(2), &["10.1.1.0/24"]))
        .unwrap();
    let updates = drain(&mut rib, ROUTER);
    assert_eq!(updates.len(), 2);
    assert_eq!(path_ids(&rib), [1, 2]);

    rib.remove_peer(A);
    let updates = drain(&mut rib, ROUTER);
    let gone = Nlri {
        path_id: Some(PathId(1)),
        ..nlri("10.1.1.0/24")
    };
    assert_eq!(
        updates,
        [Update {
            withdrawn: vec![gone],
            ..Update::default()
        }]
    );
    assert_eq!(path_ids(&rib), [2]);
}

#[test]
fn a_path_keeps_its_id_while_its_attributes_change() {
    let mut rib = reflector();
    for next_hop in 1..4 {
        rib.receive(B, announce(&attributes(next_hop), &["10.1.1.0/24"]))
            .unwrap();
        rib.receive(A, announce(&attributes(9), &["10.1.1.0/24"]))
            .unwrap();
        drain(&mut rib, ROUTER);
        let id = rib
            .adj_rib_out(ROUTER)
            .find(|path| path.source == Some(Source::Peer(B)))
            .and_then(|path| path.path_id);
        assert_eq!(id, Some(PathId(1)));
    }
}

#[test]
fn more_paths_of_a_prefix_than_an_octet_can_count_have_ids_of_their_own() {
    let mut rib = reflector();
    for path_id in 0..1000 {
        let nlri = vec![Nlri {
            path_id: Some(PathId(path_id)),
            ..nlri("10.1.1.0/24")
        }];
        let announced = vec![Announced {
            attributes: attributes(1),
            nlri,
        }];
        rib.receive(
            A,
            Update {
                announced,
                ..Update::default()
            },
        )
        .unwrap();
    }
    drain(&mut rib, ROUTER);
    let ids: HashSet<_> = path_ids(&rib).into_iter().collect();
    assert_eq!(ids.len(), 1000);
}

#[test]
fn a_peer_without_add_path_gets_the_best_path_only() {
    let mut rib = reflector();
    rib.add_peer(PeerId(30), peer(PeerId(30), false));
    rib.receive(B, announce(&attributes(2), &["10.1.1.0/24"]))
        .unwrap();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, PeerId(30));
    let next_hops = |rib: &Rib| -> Vec<_> {
        rib.adj_rib_out(PeerId(30))
            .map(|path| (path.path_id, path.attributes.next_hop))
            .collect()
    };
    assert_eq!(next_hops(&rib), [(None, IpAddr::from([10, 7, 0, 1]))]);

    rib.remove_peer(A);
    let updates = drain(&mut rib, PeerId(30));
    assert!(
        updates.iter().all(|update| update.withdrawn.is_empty()),
        "{updates:?}"
    );
    assert_eq!(next_hops(&rib), [(None, IpAddr::from([10, 7, 0, 2]))]);
}

#[test]
fn a_change_that_is_undone_before_the_peer_looks_is_not_sent() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    rib.receive(A, withdraw(&["10.1.1.0/24"])).unwrap();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    rib.receive(B, announce(&attributes(2), &["10.1.1.0/24"]))
        .unwrap();
    rib.receive(B, withdraw(&["10.1.1.0/24"])).unwrap();
    assert_eq!(drain(&mut rib, ROUTER), []);
}

#[test]
fn pending_keys_coalesce_for_a_peer_that_does_not_read() {
    let mut rib = reflector();
    for round in 0..100 {
        rib.receive(
            A,
            announce(&attributes(round), &["10.1.1.0/24", "10.1.2.0/24"]),
        )
        .unwrap();
    }
    assert_eq!(rib.counts(ROUTER).pending, 2);
}

#[test]
fn prefixes_with_common_attributes_leave_in_one_update_after_the_withdrawals() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    // Equal attributes in separate messages.
    rib.receive(A, announce(&attributes(2), &["10.1.2.0/24"]))
        .unwrap();
    rib.receive(A, announce(&attributes(2), &["10.1.3.0/24"]))
        .unwrap();
    rib.receive(A, withdraw(&["10.1.1.0/24"])).unwrap();
    let updates = rib.take_pending(ROUTER, 100);
    let shape: Vec<_> = updates
        .iter()
        .map(|update| {
            let announced: Vec<_> = update
                .announced
                .iter()
                .map(|group| group.nlri.len())
                .collect();
            (update.withdrawn.len(), announced)
        })
        .collect();
    assert_eq!(shape, [(1, vec![]), (0, vec![2])]);
}

#[test]
fn the_initial_dump_ends_with_one_end_of_rib_for_each_family() {
    let mut rib = rib();
    rib.add_peer(A, peer(A, false));
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    rib.add_peer(ROUTER, peer(ROUTER, true));
    rib.receive(A, announce(&attributes(1), &["10.1.2.0/24"]))
        .unwrap();
    let marks: Vec<_> = drain(&mut rib, ROUTER)
        .iter()
        .map(|u| (u.end_of_rib, u.announced.len()))
        .collect();
    let expected = [
        (None, 1),
        (Some(Family::Ipv4Unicast), 0),
        (Some(Family::Ipv6Unicast), 0),
        (None, 1),
    ];
    assert_eq!(marks, expected);
}

#[test]
fn a_peer_that_is_sent_nothing_still_gets_its_end_of_rib() {
    let mut rib = rib();
    rib.add_peer(
        A,
        PeerSettings {
            export: ExportPolicy::default(),
            ..peer(A, true)
        },
    );
    rib.originate("10.1.1.0/24".parse().unwrap(), attributes(1))
        .unwrap();
    let marks: Vec<_> = drain(&mut rib, A)
        .iter()
        .map(|update| update.end_of_rib)
        .collect();
    assert_eq!(
        marks,
        [Some(Family::Ipv4Unicast), Some(Family::Ipv6Unicast)]
    );
}

#[test]
fn a_route_refresh_sends_the_family_again_without_a_second_end_of_rib() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    let first = drain(&mut rib, ROUTER);
    rib.refresh(ROUTER, Family::Ipv6Unicast);
    assert_eq!(drain(&mut rib, ROUTER), []);
    rib.refresh(ROUTER, Family::Ipv4Unicast);
    assert_eq!(drain(&mut rib, ROUTER), first);
}

#[test]
fn a_path_is_not_sent_back_to_the_peer_it_came_from() {
    for add_path in [false, true] {
        let mut rib = rib();
        rib.add_peer(A, peer(A, add_path));
        drain(&mut rib, A);
        rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
            .unwrap();
        assert_eq!(drain(&mut rib, A), []);
    }
}

#[test]
fn host_bits_do_not_make_another_prefix() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    let outcome = rib
        .receive(A, announce(&attributes(1), &["10.1.1.7/24"]))
        .unwrap();
    assert_eq!((outcome.announced, outcome.unchanged), (0, 1));
    assert_eq!(
        rib.receive(A, withdraw(&["10.1.1.9/24"]))
            .unwrap()
            .withdrawn,
        1
    );
}

#[track_caller]
fn check_rejected(
    settings: impl FnOnce(&mut PeerSettings),
    edit: impl FnOnce(&mut PathAttributes),
    reason: RejectReason,
) {
    let mut rib = reflector();
    let mut changed = peer(A, false);
    settings(&mut changed);
    rib.add_peer(A, changed);
    let mut attributes = PathAttributes::originate([10, 7, 0, 7].into());
    edit(&mut attributes);
    let outcome = rib
        .receive(A, announce(&Arc::new(attributes), &["10.1.1.0/24"]))
        .unwrap();
    let reasons: Vec<_> = outcome.rejected.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [reason]);
    assert_eq!(rib.counts(A).paths_received, 0);
}

fn sequence(asns: &[u32]) -> bgp_packet::AsPath {
    let segment = bgp_packet::AsPathSegment::Sequence(asns.iter().copied().map(Asn).collect());
    bgp_packet::AsPath {
        segments: vec![segment],
    }
}

#[test]
fn loops_are_dropped() {
    check_rejected(
        |_| {},
        |attributes| attributes.as_path = sequence(&[1, LOCAL_ASN.0]),
        RejectReason::AsPathLoop,
    );
    check_rejected(
        |_| {},
        |attributes| attributes.originator_id = Some(OWN),
        RejectReason::OwnOriginatorId,
    );
    check_rejected(
        |_| {},
        |attributes| attributes.cluster_list = vec![ClusterId([1, 1, 1, 1].into()), CLUSTER],
        RejectReason::OwnClusterId,
    );
    check_rejected(
        |_| {},
        |attributes| attributes.next_hop = [10, 0, 0, 1].into(),
        RejectReason::OwnNextHop,
    );
}

#[test]
fn a_next_hop_that_no_other_host_reaches_is_rejected() {
    for next_hop in [
        "0.0.0.1",
        "127.0.0.1",
        "224.0.0.5",
        "240.0.0.1",
        "255.255.255.255",
    ] {
        check_rejected(
            |_| {},
            |attributes| attributes.next_hop = next_hop.parse().unwrap(),
            RejectReason::NextHopNotUnicast,
        );
    }
    for next_hop in ["::", "::1", "fe80::1", "::ffff:10.7.0.1", "ff02::1"] {
        let mut rib = reflector();
        let attributes = Arc::new(PathAttributes::originate(next_hop.parse().unwrap()));
        let update = announce(&attributes, &["fd00:10::1/128"]);
        let rejected = rib.receive(A, update).unwrap().rejected;
        let expected = (nlri("fd00:10::1/128"), RejectReason::NextHopNotUnicast);
        assert_eq!(rejected, [expected], "{next_hop}");
    }
}

#[test]
fn a_next_hop_that_is_the_announced_prefix_itself_is_rejected() {
    for (prefix, next_hop, is_rejected) in [
        ("10.1.1.10/32", "10.1.1.10", true),
        ("10.1.1.0/24", "10.1.1.0", true),
        ("10.1.1.0/24", "10.1.1.1", false),
        ("10.1.1.10/32", "10.1.1.11", false),
        ("fd00:10::1/128", "fd00:10::1", true),
        ("fd00:10::1/128", "fd00:10::2", false),
    ] {
        let mut rib = reflector();
        let attributes = Arc::new(PathAttributes::originate(next_hop.parse().unwrap()));
        let outcome = rib.receive(A, announce(&attributes, &[prefix])).unwrap();
        let expected = is_rejected.then_some((nlri(prefix), RejectReason::NextHopIsPrefix));
        assert_eq!(
            outcome.rejected,
            Vec::from_iter(expected),
            "{prefix} via {next_hop}"
        );
    }
}

#[test]
fn a_prefix_without_unicast_addresses_is_rejected_whatever_import_policy_allows() {
    for (prefix, is_rejected) in [
        ("0.0.0.0/0", false),
        ("0.0.0.0/8", true),
        ("127.0.0.0/8", true),
        ("127.0.0.1/32", true),
        ("224.0.0.0/4", true),
        ("239.1.1.1/32", true),
        ("240.0.0.0/4", true),
        ("10.1.1.0/24", false),
        ("::/0", false),
        ("::1/128", true),
        ("fe80::/10", true),
        ("ff02::1/128", true),
        ("fd00:10::1/128", false),
    ] {
        let mut rib = reflector();
        let next_hop = match prefix.contains(':') {
            true => "fd00:7::1",
            false => "10.7.0.1",
        };
        let attributes = Arc::new(PathAttributes::originate(next_hop.parse().unwrap()));
        let outcome = rib.receive(A, announce(&attributes, &[prefix])).unwrap();
        let expected = is_rejected.then_some((nlri(prefix), RejectReason::PrefixReserved));
        assert_eq!(outcome.rejected, Vec::from_iter(expected), "{prefix}");
    }
}

#[test]
fn unknown_attributes_are_discarded_unless_import_policy_passes_them() {
    let other = |type_code, value: &'static [u8]| RawAttribute {
        flags: 0xe0,
        type_code,
        value: value.into(),
    };
    // OTC is known to the codec, and checked by it.
    let checked = other(35, &[0, 0, 0xfd, 0xe9]);
    let unknown = other(99, b"anything");
    for (policy, expected, discarded) in [
        (UnknownAttributes::Discard, vec![checked.clone()], 1),
        (
            UnknownAttributes::Pass,
            vec![checked.clone(), unknown.clone()],
            0,
        ),
    ] {
        for kind in [PeerKind::Client, PeerKind::External] {
            let mut rib = reflector();
            let mut settings = peer(A, false);
            settings.kind = kind;
            settings.import.unknown_attributes = policy;
            let mut attributes = PathAttributes::originate([10, 7, 0, 1].into());
            if kind == PeerKind::External {
                settings.peer_asn = Asn(65001);
                attributes.as_path = sequence(&[65001]);
            }
            rib.add_peer(A, settings);
            attributes.others = vec![checked.clone(), unknown.clone()];
            let update = announce(&Arc::new(attributes), &["10.1.1.0/24", "10.1.2.0/24"]);
            let outcome = rib.receive(A, update).unwrap();
            assert_eq!(
                (outcome.announced, outcome.discarded_attributes),
                (2, discarded)
            );
            let sent = drain(&mut rib, ROUTER);
            assert_eq!(sent[0].announced[0].attributes.others, expected, "{kind:?}");
        }
    }
}

#[test]
fn an_external_peer_has_to_put_its_as_first() {
    let external = |settings: &mut PeerSettings| {
        settings.kind = PeerKind::External;
        settings.peer_asn = Asn(65001);
    };
    let reason = RejectReason::FirstAsnIsNotThePeers;
    check_rejected(
        external,
        |attributes| attributes.as_path = sequence(&[65002]),
        reason,
    );
    check_rejected(external, |_| {}, reason);
}

#[test]
fn import_policy_names_prefixes_and_next_hops() {
    check_rejected(
        |settings| settings.import = ImportPolicy::default(),
        |_| {},
        RejectReason::PrefixNotAllowed,
    );
    check_rejected(
        |settings| {
            let net = "10.0.0.0/8".parse().unwrap();
            let rule = PrefixRule::new(net, 32, 32).unwrap();
            settings.import.prefixes = PrefixFilter::Only(vec![rule]);
        },
        |_| {},
        RejectReason::PrefixNotAllowed,
    );
    check_rejected(
        |settings| settings.import.next_hops.prefixes = vec!["10.9.0.0/16".parse().unwrap()],
        |_| {},
        RejectReason::NextHopNotAllowed,
    );
    check_rejected(
        |_| {},
        |attributes| attributes.next_hop = "fd00::1".parse().unwrap(),
        RejectReason::NextHopFamily,
    );
    check_rejected(
        |settings| settings.families.remove(0).add_path_send = false,
        |_| {},
        RejectReason::FamilyNotNegotiated,
    );
}

#[test]
fn an_announcement_that_is_rejected_takes_its_predecessor_along() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    let mut looped = PathAttributes::originate([10, 7, 0, 1].into());
    looped.cluster_list = vec![CLUSTER];
    let outcome = rib
        .receive(A, announce(&Arc::new(looped), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!((outcome.withdrawn, outcome.rejected.len()), (1, 1));
    assert_eq!(drain(&mut rib, ROUTER)[0].withdrawn.len(), 1);
}

fn only(prefixes: &[&str]) -> PrefixFilter {
    let rules = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    PrefixFilter::Only(rules.map(PrefixRule::exact).collect())
}

/// The prefixes that the updates announce and withdraw.
fn said(updates: &[Update]) -> (Vec<String>, Vec<String>) {
    let text = |nlri: &Nlri| nlri.prefix.to_string();
    let groups = updates.iter().flat_map(|update| &update.announced);
    let mut announced: Vec<_> = groups
        .flat_map(|group| group.nlri.iter().map(text))
        .collect();
    announced.sort_unstable();
    let withdrawn = updates.iter().flat_map(|update| &update.withdrawn);
    (announced, withdrawn.map(text).collect())
}

#[test]
fn another_import_policy_withdraws_what_it_excludes_and_asks_for_the_rest() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        import,
        ..
    } = rib.peers[&A].settings.clone();
    let mut narrow = import.clone();
    narrow.prefixes = only(&["10.1.2.0/24", "10.1.3.0/24"]);
    let families = rib.set_policies(A, kind, narrow.clone(), export.clone());
    assert_eq!(families, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
    let (announced, withdrawn) = said(&drain(&mut rib, ROUTER));
    assert_eq!(
        (announced.len(), &withdrawn[..]),
        (0, &["10.1.1.0/24".to_owned()][..])
    );

    // Without a change nothing is asked for, and nothing is sent.
    assert_eq!(rib.set_policies(A, kind, narrow, export.clone()), []);
    assert_eq!(drain(&mut rib, ROUTER), []);

    let nowhere = ImportPolicy {
        next_hops: NextHopFilter {
            prefixes: vec!["192.0.2.0/24".parse().unwrap()],
            is_peer_allowed: false,
        },
        ..import
    };
    rib.set_policies(A, kind, nowhere, export);
    assert_eq!(said(&drain(&mut rib, ROUTER)).1, ["10.1.2.0/24"]);
}

#[test]
fn a_raised_maximum_asks_for_what_it_refused_and_a_lowered_one_drops_nothing() {
    let mut rib = reflector_with_maximum(1, MaximumPathsAction::Block);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    let PeerSettings {
        kind,
        export,
        mut import,
        ..
    } = rib.peers[&A].settings.clone();
    import.maximum_paths = Some(2);
    let families = rib.set_policies(A, kind, import.clone(), export.clone());
    assert_eq!(families, [Family::Ipv4Unicast]);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    import.maximum_paths = Some(1);
    assert_eq!(rib.set_policies(A, kind, import, export), []);
    assert_eq!(rib.counts(A).paths_received, 2);
}

#[test]
fn another_export_policy_sends_the_difference_only() {
    let mut rib = reflector();
    rib.receive(
        A,
        announce(
            &attributes(1),
            &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        ),
    )
    .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        import,
        ..
    } = rib.peers[&ROUTER].settings.clone();
    let mut check = |prefixes: PrefixFilter, announced: &[&str], withdrawn: &[&str]| {
        let export = ExportPolicy {
            prefixes,
            ..export.clone()
        };
        assert_eq!(rib.set_policies(ROUTER, kind, import.clone(), export), []);
        let mut said = said(&drain(&mut rib, ROUTER));
        said.1.sort_unstable();
        assert_eq!(
            (&said.0[..], &said.1[..]),
            (
                &announced
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()[..],
                &withdrawn
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()[..],
            )
        );
    };
    check(only(&["10.1.1.0/24", "10.1.2.0/24"]), &[], &["10.1.3.0/24"]);
    check(
        only(&["10.1.2.0/24", "10.1.3.0/24"]),
        &["10.1.3.0/24"],
        &["10.1.1.0/24"],
    );
    check(PrefixFilter::none(), &[], &["10.1.2.0/24", "10.1.3.0/24"]);
    check(
        PrefixFilter::All,
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        &[],
    );
    check(PrefixFilter::All, &[], &[]);
    // A peer that is sent something again follows what comes later, too.
    rib.receive(B, announce(&attributes(2), &["10.1.4.0/24"]))
        .unwrap();
    assert_eq!(said(&drain(&mut rib, ROUTER)).0, ["10.1.4.0/24"]);
}

#[test]
fn another_role_changes_what_is_reflected_from_and_to_the_peer() {
    let mut rib = reflector();
    let non_client = PeerSettings {
        kind: PeerKind::NonClient,
        ..peer(ROUTER, true)
    };
    rib.add_peer(ROUTER, non_client);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!(said(&drain(&mut rib, ROUTER)).0, ["10.1.1.0/24"]);
    let PeerSettings { export, import, .. } = rib.peers[&A].settings.clone();
    // Paths of a non-client do not go to another non-client.
    let families = rib.set_policies(A, PeerKind::NonClient, import.clone(), export.clone());
    assert_eq!(families, []);
    assert_eq!(said(&drain(&mut rib, ROUTER)).1, ["10.1.1.0/24"]);
    rib.set_policies(A, PeerKind::Client, import, export);
    assert_eq!(said(&drain(&mut rib, ROUTER)).0, ["10.1.1.0/24"]);
}

#[test]
fn unknown_attributes_leave_the_held_paths_when_the_policy_discards_them() {
    let mut rib = reflector();
    let mut passing = peer(A, false);
    passing.import.unknown_attributes = UnknownAttributes::Pass;
    rib.add_peer(A, passing);
    let mut attributes = PathAttributes::originate([10, 7, 0, 1].into());
    attributes.others = vec![RawAttribute {
        flags: 0xe0,
        type_code: 99,
        value: (&b"anything"[..]).into(),
    }];
    rib.receive(A, announce(&Arc::new(attributes), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    let PeerSettings {
        kind,
        export,
        mut import,
        ..
    } = rib.peers[&A].settings.clone();
    import.unknown_attributes = UnknownAttributes::Discard;
    rib.set_policies(A, kind, import, export);
    let sent = drain(&mut rib, ROUTER);
    assert_eq!(sent[0].announced[0].attributes.others, []);
}

fn reflector_with_maximum(limit: u32, action: MaximumPathsAction) -> Rib {
    let mut rib = reflector();
    let mut limited = peer(A, false);
    limited.import.maximum_paths = Some(limit);
    limited.import.at_maximum = action;
    rib.add_peer(A, limited);
    rib
}

#[test]
fn a_path_beyond_the_maximum_is_rejected_and_the_others_stay() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Block);
    let update = announce(
        &attributes(1),
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
    );
    let outcome = rib.receive(A, update).unwrap();
    assert_eq!(outcome.announced, 2);
    let rejected = (nlri("10.1.3.0/24"), RejectReason::MaximumPaths);
    assert_eq!(outcome.rejected, [rejected]);
    assert_eq!(outcome.unblocked, []);
    // What is held can be replaced.
    let update = announce(&attributes(2), &["10.1.2.0/24", "10.1.3.0/24"]);
    let outcome = rib.receive(A, update).unwrap();
    assert_eq!((outcome.announced, outcome.rejected.len()), (1, 1));
    assert_eq!(rib.counts(A).paths_received, 2);
    // Other peers have limits of their own.
    let outcome = rib.receive(B, announce(&attributes(3), &["10.1.3.0/24"]));
    assert_eq!(outcome.unwrap().announced, 1);
}

#[test]
fn families_with_rejected_paths_are_asked_for_once_when_there_is_room() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Block);
    let v6 = Arc::new(PathAttributes::originate("fd00::1".parse().unwrap()));
    for update in [
        announce(
            &attributes(1),
            &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
        ),
        announce(&v6, &["fd00:10::/64", "fd00:11::/64"]),
        withdraw(&["10.1.3.0/24"]),
    ] {
        assert_eq!(rib.receive(A, update).unwrap().unblocked, []);
    }
    let unblocked = rib
        .receive(A, withdraw(&["10.1.1.0/24"]))
        .unwrap()
        .unblocked;
    assert_eq!(unblocked, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
    let outcome = rib.receive(A, withdraw(&["10.1.2.0/24"])).unwrap();
    assert_eq!(outcome.unblocked, [], "nothing was rejected since");
    // A path that is rejected for another reason makes room, too.
    let update = announce(
        &attributes(1),
        &["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"],
    );
    assert_eq!(rib.receive(A, update).unwrap().rejected.len(), 1);
    let mut looped = PathAttributes::originate([10, 7, 0, 1].into());
    looped.cluster_list = vec![CLUSTER];
    let outcome = rib.receive(A, announce(&Arc::new(looped), &["10.1.1.0/24"]));
    assert_eq!(outcome.unwrap().unblocked, [Family::Ipv4Unicast]);
}

#[test]
fn a_session_may_be_restarted_at_the_maximum() {
    let mut rib = reflector_with_maximum(2, MaximumPathsAction::Restart);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    rib.receive(A, announce(&attributes(2), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    let error = rib
        .receive(A, announce(&attributes(1), &["10.1.3.0/24"]))
        .unwrap_err();
    assert_eq!(error, MaximumPathsExceeded { limit: 2 });
    rib.remove_peer(A);
    assert_eq!(rib.paths().count(), 0);
}

#[test]
fn nothing_is_left_once_everything_is_withdrawn_and_read() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24", "10.1.2.0/24"]))
        .unwrap();
    rib.originate("10.1.1.0/24".parse().unwrap(), attributes(3))
        .unwrap();
    drain(&mut rib, ROUTER);
    rib.receive(A, withdraw(&["10.1.1.0/24"])).unwrap();
    rib.remove_peer(A);
    rib.withdraw_originated("10.1.1.0/24".parse().unwrap());
    assert_eq!(
        rib.prefix_count(),
        2,
        "still to be withdrawn from the router"
    );
    drain(&mut rib, ROUTER);
    assert_eq!(rib.prefix_count(), 0);
}

#[test]
fn changes_name_each_path_whose_attributes_or_verdict_changed() {
    let mut rib = reflector();
    rib.receive(B, announce(&attributes(2), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!(rib.take_changes(), [], "nobody asked");
    rib.follow_changes(true);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    let key = |id| PathKey {
        prefix: "10.1.1.0/24".parse().unwrap(),
        source: Source::Peer(id),
        path_id: None,
    };
    let mut changes = rib.take_changes();
    changes.sort_unstable();
    assert_eq!(changes, [key(A), key(B)]);
    let verdicts = [A, B].map(|id| rib.path(&key(id)).unwrap().not_best);
    assert_eq!(verdicts, [None, Some(NotBestReason::HigherRouterId)]);

    rib.receive(B, withdraw(&["10.1.1.0/24"])).unwrap();
    assert_eq!(rib.take_changes(), [key(B)]);
    assert!(rib.path(&key(B)).is_none());
    rib.follow_changes(false);
    rib.remove_peer(A);
    assert_eq!(rib.take_changes(), []);
}

#[test]
fn calls_for_unknown_peers_do_nothing() {
    let mut rib = rib();
    rib.remove_peer(A);
    rib.refresh(A, Family::Ipv4Unicast);
    rib.withdraw_originated("10.1.1.0/24".parse().unwrap());
    let outcome = rib
        .receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!(outcome, ReceiveOutcome::default());
    assert_eq!(rib.take_pending(A, 10), []);
    assert_eq!(rib.adj_rib_in(A).count() + rib.adj_rib_out(A).count(), 0);
}
