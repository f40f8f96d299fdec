use bgp_packet::{Announced, AsPath, Family, Nlri, Update};

use super::*;
use crate::{
    ExportPolicy, ImportPolicy, LocalAddresses, PeerId, PrefixFilter, PrefixRule, Rib, RibFamily,
};

const LOCAL_ASN: Asn = Asn(64512);
const OWN: RouterId = RouterId(std::net::Ipv4Addr::new(192, 0, 2, 1));
const CLUSTER: ClusterId = ClusterId(std::net::Ipv4Addr::new(192, 0, 2, 99));

fn settings(kind: PeerKind, last: u8) -> PeerSettings {
    PeerSettings {
        kind,
        peer_asn: if kind == PeerKind::External {
            Asn(65000 + u32::from(last))
        } else {
            LOCAL_ASN
        },
        peer_router_id: RouterId([10, 0, 0, last].into()),
        peer_address: [10, 0, 0, last].into(),
        local_addresses: LocalAddresses::from(IpAddr::from([10, 0, 0, 1])),
        families: vec![RibFamily {
            family: Family::Ipv4Unicast,
            add_path_send: false,
        }],
        import: ImportPolicy::accept_all(),
        export: ExportPolicy::send_all(),
    }
}

fn prefix() -> IpNet {
    "10.1.1.0/24".parse().unwrap()
}

fn rib() -> Rib {
    Rib::new(RibConfig {
        local_asn: LOCAL_ASN,
        router_id: OWN,
        cluster_id: CLUSTER,
    })
}

fn announcement(attributes: PathAttributes) -> Update {
    let nlri = vec![Nlri {
        prefix: prefix(),
        path_id: None,
    }];
    Update {
        announced: vec![Announced {
            attributes: Arc::new(attributes),
            nlri,
        }],
        ..Update::default()
    }
}

fn attributes(edit: impl FnOnce(&mut PathAttributes)) -> PathAttributes {
    let mut attributes = PathAttributes::originate([10, 9, 9, 9].into());
    edit(&mut attributes);
    attributes
}

fn from_external_peer(edit: impl FnOnce(&mut PathAttributes)) -> PathAttributes {
    attributes(|a| {
        a.as_path = sequence(&[65002]);
        edit(a);
    })
}

fn sequence(asns: &[u32]) -> AsPath {
    AsPath {
        segments: vec![AsPathSegment::Sequence(
            asns.iter().copied().map(Asn).collect(),
        )],
    }
}

/// Lets peer number 2 announce a path. Returns the attributes with which peer number 3 receives the
/// path.
fn relay(
    from: PeerSettings,
    to: PeerSettings,
    attributes: PathAttributes,
) -> Option<PathAttributes> {
    let mut rib = rib();
    rib.add_peer(PeerId(2), from);
    rib.add_peer(PeerId(3), to);
    let outcome = rib.receive(PeerId(2), announcement(attributes)).unwrap();
    assert_eq!(outcome.rejected, []);
    sent(&mut rib, PeerId(3))
}

fn sent(rib: &mut Rib, id: PeerId) -> Option<PathAttributes> {
    let mut announced = Vec::new();
    while rib.has_pending(id) {
        announced.extend(
            rib.take_pending(id, 100)
                .into_iter()
                .flat_map(|u| u.announced),
        );
    }
    assert!(announced.len() <= 1, "{announced:?}");
    announced
        .pop()
        .map(|group| group.attributes.as_ref().clone())
}

#[track_caller]
fn check_is_relayed(from: PeerKind, to: PeerKind, expected: bool) {
    let attributes = match from {
        PeerKind::External => from_external_peer(|_| {}),
        PeerKind::Client | PeerKind::NonClient => attributes(|_| {}),
    };
    let relayed = relay(settings(from, 2), settings(to, 3), attributes);
    assert_eq!(relayed.is_some(), expected, "{from:?} to {to:?}");
}

#[test]
fn paths_are_exported_between_all_kinds_of_peers_except_from_non_clients_to_non_clients() {
    use PeerKind::{Client, External, NonClient};
    for (from, to) in [
        (Client, Client),
        (Client, NonClient),
        (Client, External),
        (NonClient, Client),
        (NonClient, External),
        (External, Client),
        (External, NonClient),
        (External, External),
    ] {
        check_is_relayed(from, to, true);
    }
    check_is_relayed(NonClient, NonClient, false);
}

#[test]
fn a_reflected_path_gets_the_originator_id_and_the_prepended_cluster_id() {
    let received = attributes(|a| {
        a.local_pref = Some(0);
        a.multi_exit_disc = Some(7);
    });
    let expected = PathAttributes {
        originator_id: Some(RouterId([10, 0, 0, 2].into())),
        cluster_list: vec![CLUSTER],
        ..received.clone()
    };
    let to = settings(PeerKind::NonClient, 3);
    assert_eq!(
        relay(settings(PeerKind::Client, 2), to, received),
        Some(expected)
    );
}

#[test]
fn a_reflected_path_keeps_the_originator_id_of_another_reflector() {
    let other_cluster = ClusterId([1, 1, 1, 1].into());
    let received = attributes(|a| {
        a.originator_id = Some(RouterId([9, 9, 9, 9].into()));
        a.cluster_list = vec![other_cluster];
    });
    let to = settings(PeerKind::Client, 3);
    let relayed = relay(settings(PeerKind::NonClient, 2), to, received).unwrap();
    assert_eq!(relayed.originator_id, Some(RouterId([9, 9, 9, 9].into())));
    assert_eq!(relayed.cluster_list, [CLUSTER, other_cluster]);
}

#[test]
fn a_path_is_not_sent_to_the_peer_whose_router_id_is_the_originator_id_of_the_path() {
    let received = attributes(|a| a.originator_id = Some(RouterId([10, 0, 0, 3].into())));
    let to = settings(PeerKind::Client, 3);
    assert_eq!(relay(settings(PeerKind::Client, 2), to, received), None);
}

#[test]
fn a_reflected_path_keeps_its_next_hop_even_with_next_hop_self() {
    let mut to = settings(PeerKind::Client, 3);
    to.export.next_hop_self = true;
    let relayed = relay(settings(PeerKind::Client, 2), to, attributes(|_| {})).unwrap();
    assert_eq!(relayed.next_hop, IpAddr::from([10, 9, 9, 9]));
}

#[test]
fn an_external_peer_gets_the_local_as_prepended_and_no_internal_attributes() {
    let received = attributes(|a| {
        a.local_pref = Some(300);
        a.multi_exit_disc = Some(7);
        a.originator_id = Some(RouterId([9, 9, 9, 9].into()));
        a.cluster_list = vec![ClusterId([1, 1, 1, 1].into())];
    });
    let mut to = settings(PeerKind::External, 3);
    to.export.next_hop_self = true;
    let relayed = relay(settings(PeerKind::Client, 2), to, received).unwrap();
    let expected = attributes(|a| {
        a.next_hop = [10, 0, 0, 1].into();
        a.multi_exit_disc = Some(7);
        a.as_path = sequence(&[LOCAL_ASN.0]);
    });
    assert_eq!(relayed, expected);
}

#[test]
fn the_multi_exit_disc_of_one_neighbouring_as_is_not_sent_to_another_as() {
    let received = from_external_peer(|a| a.multi_exit_disc = Some(7));
    let to = settings(PeerKind::External, 3);
    let relayed = relay(settings(PeerKind::External, 2), to, received).unwrap();
    assert_eq!(relayed.multi_exit_disc, None);
    assert_eq!(relayed.as_path, sequence(&[LOCAL_ASN.0, 65002]));
}

#[test]
fn a_new_segment_is_prepended_when_the_first_as_sequence_is_full() {
    let mut full = attributes(|a| a.as_path = sequence(&[1; 255]));
    prepend(&mut full, LOCAL_ASN);
    assert_eq!(full.as_path.segments.len(), 2);
    assert_eq!(
        full.as_path.segments[0],
        AsPathSegment::Sequence(vec![LOCAL_ASN])
    );
}

#[test]
fn next_hop_self_and_the_default_local_pref_apply_to_a_path_of_an_external_peer() {
    let mut to = settings(PeerKind::Client, 3);
    to.export.next_hop_self = true;
    let from = settings(PeerKind::External, 2);
    let relayed = relay(from, to, from_external_peer(|a| a.local_pref = Some(5))).unwrap();
    let expected = from_external_peer(|a| {
        a.local_pref = Some(DEFAULT_LOCAL_PREF);
        a.next_hop = [10, 0, 0, 1].into();
    });
    assert_eq!(relayed, expected);
}

#[test]
fn a_path_of_an_external_peer_with_graceful_shutdown_gets_local_pref_0() {
    let from = settings(PeerKind::External, 2);
    let received = from_external_peer(|a| a.communities = vec![Community::GRACEFUL_SHUTDOWN]);
    let relayed = relay(from, settings(PeerKind::Client, 3), received).unwrap();
    assert_eq!(relayed.local_pref, Some(0));
}

#[test]
fn a_path_of_this_as_with_graceful_shutdown_is_sent_least_preferred_to_an_external_peer() {
    let received = attributes(|a| {
        a.local_pref = Some(0);
        a.multi_exit_disc = Some(7);
        a.communities = vec![Community::GRACEFUL_SHUTDOWN];
    });
    let to = settings(PeerKind::External, 3);
    let relayed = relay(settings(PeerKind::Client, 2), to, received.clone()).unwrap();
    assert_eq!(relayed.local_pref, None);
    assert_eq!(relayed.multi_exit_disc, Some(u32::MAX));
    assert_eq!(relayed.as_path, sequence(&[LOCAL_ASN.0; 4]));
    assert_eq!(relayed.communities, [Community::GRACEFUL_SHUTDOWN]);

    let mut rib = rib();
    rib.add_peer(PeerId(3), settings(PeerKind::External, 3));
    rib.originate(prefix(), Arc::new(received.clone())).unwrap();
    let own = sent(&mut rib, PeerId(3)).unwrap();
    assert_eq!(own.multi_exit_disc, Some(u32::MAX));
    assert_eq!(own.as_path, sequence(&[LOCAL_ASN.0; 4]));

    // For an internal peer, LOCAL_PREF 0 makes the path least preferred. The internal peer would
    // reject the local AS in AS_PATH as a loop.
    let to = settings(PeerKind::NonClient, 3);
    let relayed = relay(settings(PeerKind::Client, 2), to, received).unwrap();
    assert_eq!(relayed.local_pref, Some(0));
    assert_eq!(relayed.multi_exit_disc, Some(7));
    assert_eq!(relayed.as_path, AsPath::default());
}

#[test]
fn a_path_of_another_as_with_graceful_shutdown_is_sent_without_additional_prepends() {
    let from = settings(PeerKind::External, 2);
    let received = from_external_peer(|a| a.communities = vec![Community::GRACEFUL_SHUTDOWN]);
    let relayed = relay(from, settings(PeerKind::External, 3), received).unwrap();
    assert_eq!(relayed.as_path, sequence(&[LOCAL_ASN.0, 65002]));
    assert_eq!(relayed.multi_exit_disc, None);
}

#[track_caller]
fn check_community(community: Community, to: PeerKind, expected: bool) {
    let received = attributes(|a| a.communities = vec![community]);
    let relayed = relay(settings(PeerKind::Client, 2), settings(to, 3), received);
    assert_eq!(relayed.is_some(), expected, "{community} to {to:?}");
}

#[test]
fn well_known_communities_restrict_the_export_of_a_path() {
    for to in [PeerKind::Client, PeerKind::NonClient, PeerKind::External] {
        check_community(Community::NO_ADVERTISE, to, false);
        check_community(Community::GRACEFUL_SHUTDOWN, to, true);
        check_community(Community::NO_EXPORT, to, to != PeerKind::External);
        check_community(NO_EXPORT_SUBCONFED, to, to != PeerKind::External);
    }
}

#[test]
fn a_path_is_not_sent_to_an_external_peer_that_is_its_next_hop() {
    let received = attributes(|a| a.next_hop = [10, 0, 0, 3].into());
    let to = settings(PeerKind::External, 3);
    assert_eq!(relay(settings(PeerKind::Client, 2), to, received), None);
}

#[test]
fn a_path_is_sent_only_if_the_export_policy_allows_its_prefix() {
    let relayed = |prefixes| {
        let mut to = settings(PeerKind::Client, 3);
        to.export.prefixes = prefixes;
        relay(settings(PeerKind::Client, 2), to, attributes(|_| {}))
    };
    let only = |text: &str| PrefixFilter::Only(vec![PrefixRule::exact(text.parse().unwrap())]);
    assert!(relayed(only("10.1.1.0/24")).is_some());
    assert!(relayed(only("10.1.2.0/24")).is_none());
    assert!(relayed(PrefixFilter::none()).is_none());
}

#[test]
fn an_originated_path_keeps_its_next_hop() {
    for (kind, length) in [(PeerKind::Client, 0), (PeerKind::External, 1)] {
        let mut rib = rib();
        rib.add_peer(PeerId(3), settings(kind, 3));
        rib.originate(prefix(), Arc::new(attributes(|_| {})))
            .unwrap();
        let sent = sent(&mut rib, PeerId(3)).unwrap();
        assert_eq!(sent.next_hop, IpAddr::from([10, 9, 9, 9]));
        assert_eq!(sent.as_path.decision_length(), length);
    }
}

#[test]
fn an_unspecified_next_hop_of_an_originated_path_becomes_the_local_address_of_the_session() {
    let mut rib = rib();
    rib.add_peer(PeerId(3), settings(PeerKind::Client, 3));
    let unspecified = attributes(|a| a.next_hop = [0, 0, 0, 0].into());
    rib.originate(prefix(), Arc::new(unspecified)).unwrap();
    assert_eq!(
        sent(&mut rib, PeerId(3)).unwrap().next_hop,
        IpAddr::from([10, 0, 0, 1])
    );

    let mut without = settings(PeerKind::Client, 4);
    without.local_addresses = LocalAddresses::default();
    rib.add_peer(PeerId(4), without);
    assert_eq!(sent(&mut rib, PeerId(4)), None);
}

#[test]
fn an_originated_path_with_a_next_hop_of_another_address_family_is_rejected() {
    let v6 = attributes(|a| a.next_hop = "fd00::1".parse().unwrap());
    let error = rib().originate(prefix(), Arc::new(v6)).unwrap_err();
    assert!(error.to_string().contains("fd00::1"), "{error}");
}
