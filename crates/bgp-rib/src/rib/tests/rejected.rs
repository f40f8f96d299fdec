//! Tests of rejected announcements.

use super::*;

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
fn paths_with_a_loop_are_rejected() {
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
fn a_next_hop_that_other_hosts_cannot_reach_is_rejected() {
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
fn a_prefix_without_unicast_addresses_is_rejected_even_if_the_import_policy_allows_it() {
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
    // The codec knows the attribute OTC and checks its value, so the import policy keeps OTC.
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
fn a_path_of_an_external_peer_is_rejected_unless_as_path_starts_with_the_peers_as() {
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
fn a_prefix_or_next_hop_that_the_import_policy_does_not_allow_is_rejected() {
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
fn a_rejected_announcement_removes_the_stored_path_with_its_prefix_and_path_id() {
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
