mod clients;
mod policies;
mod rejected;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bgp_packet::{Announced, Asn, ClusterId, Nlri, PathAttributes, RawAttribute, RouterId, Update};

use super::*;
use crate::{
    ExportPolicy, ImportPolicy, LocalAddresses, MaximumPathsAction, MaximumPathsExceeded,
    NextHopFilter, NotBestReason, PeerKind, PrefixFilter, PrefixRule, ReceiveOutcome, RejectReason,
    RibFamily, UnknownAttributes,
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
            .map(|family| RibFamily {
                family,
                add_path_send,
            })
            .to_vec(),
        import: ImportPolicy::accept_all(),
        export: ExportPolicy::send_all(),
    }
}

/// Returns tables with two clients that receive no path, and a router with add-path.
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
    assert_eq!(
        drain(&mut rib, ROUTER).len(),
        2,
        "the router gets two end-of-RIB marks"
    );
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
fn a_router_with_add_path_gets_the_path_of_each_client_and_loses_only_the_path_of_a_removed_client()
{
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
fn a_path_keeps_its_path_id_when_its_attributes_change() {
    let mut rib = reflector();
    for next_hop in 1..4 {
        rib.receive(B, announce(&attributes(next_hop), &["10.1.1.0/24"]))
            .unwrap();
        rib.receive(A, announce(&attributes(9), &["10.1.1.0/24"]))
            .unwrap();
        drain(&mut rib, ROUTER);
        let id = rib
            .adj_rib_out(ROUTER)
            .find(|path| path.source == Some(PathSource::Peer(B)))
            .and_then(|path| path.path_id);
        assert_eq!(id, Some(PathId(1)));
    }
}

#[test]
fn each_of_more_than_256_paths_of_a_prefix_has_a_unique_path_id() {
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
fn a_peer_without_add_path_gets_only_the_best_path() {
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
fn a_change_that_is_reverted_before_the_peer_is_sent_updates_is_not_sent() {
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
fn repeated_changes_of_a_path_are_pending_as_one_change() {
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
fn withdrawals_are_sent_first_and_prefixes_with_equal_attributes_share_an_update() {
    let mut rib = reflector();
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    drain(&mut rib, ROUTER);
    // The next two announcements have equal attributes, each in an allocation of its own.
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
fn the_initial_paths_are_followed_by_one_end_of_rib_for_each_family() {
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
fn a_peer_without_exported_paths_gets_an_end_of_rib() {
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
fn a_route_refresh_sends_the_paths_of_the_family_again_without_a_second_end_of_rib() {
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
fn a_path_is_not_sent_to_the_peer_that_announced_it() {
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
fn prefixes_that_differ_only_in_host_bits_are_equal() {
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

#[test]
fn all_entries_are_freed_after_all_paths_are_withdrawn_and_the_withdrawals_are_sent() {
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
        "the withdrawal is pending for the router"
    );
    drain(&mut rib, ROUTER);
    assert_eq!(rib.prefix_count(), 0);
}

#[test]
fn take_changes_returns_each_path_whose_attributes_or_not_best_reason_changed() {
    let mut rib = reflector();
    rib.receive(B, announce(&attributes(2), &["10.1.1.0/24"]))
        .unwrap();
    assert_eq!(
        rib.take_changes(),
        [],
        "changes are not collected before follow_changes"
    );
    rib.follow_changes(true);
    rib.receive(A, announce(&attributes(1), &["10.1.1.0/24"]))
        .unwrap();
    let key = |id| PathKey {
        prefix: "10.1.1.0/24".parse().unwrap(),
        source: PathSource::Peer(id),
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
fn calls_for_unknown_peers_have_no_effect() {
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
