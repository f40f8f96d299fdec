//! Tests of rules for clients and of the attribute policy.

use bgp_packet::Community;

use super::*;
use crate::{AttributePolicy, ClientRule};

fn with_import(import: ImportPolicy) -> Rib {
    let mut rib = reflector();
    rib.add_peer(
        A,
        PeerSettings {
            import,
            export: ExportPolicy::default(),
            ..peer(A, false)
        },
    );
    drain(&mut rib, ROUTER);
    rib
}

/// Returns the attributes of the only path that the router has received.
fn sent(rib: &Rib) -> PathAttributes {
    let sent: Vec<_> = rib.adj_rib_out(ROUTER).collect();
    assert_eq!(sent.len(), 1);
    (**sent[0].attributes).clone()
}

fn attributes_that_attract_traffic() -> Arc<PathAttributes> {
    Arc::new(PathAttributes {
        local_pref: Some(u32::MAX),
        multi_exit_disc: Some(0),
        communities: vec![Community(64512 << 16 | 1), Community::GRACEFUL_SHUTDOWN],
        originator_id: Some(RouterId([10, 0, 0, 1].into())),
        cluster_list: vec![ClusterId([10, 0, 0, 2].into())],
        ..PathAttributes::originate([10, 7, 0, 1].into())
    })
}

#[test]
fn a_stricter_attribute_policy_changes_stored_paths_and_a_relaxed_policy_requests_a_refresh() {
    let import = ImportPolicy::accept_all();
    let mut rib = with_import(import.clone());
    let outcome = rib.receive(
        A,
        announce(&attributes_that_attract_traffic(), &["10.1.1.0/24"]),
    );
    assert_eq!(outcome.unwrap().clamped_attributes, 0);
    drain(&mut rib, ROUTER);
    assert_eq!(sent(&rib).local_pref, Some(u32::MAX));

    let strict = ImportPolicy {
        attributes: AttributePolicy::strict(),
        ..import.clone()
    };
    let (kind, export) = (PeerKind::Client, ExportPolicy::default());
    rib.set_policies(A, kind, strict, export.clone());
    drain(&mut rib, ROUTER);
    let clamped = sent(&rib);
    assert_eq!(clamped.local_pref, Some(100));
    assert_eq!(clamped.multi_exit_disc, None);
    assert_eq!(clamped.communities, [Community::GRACEFUL_SHUTDOWN]);
    // The reflector sets ORIGINATOR_ID and CLUSTER_LIST as if the client had sent neither
    // attribute.
    assert_eq!(clamped.originator_id, Some(RouterId([10, 0, 0, 10].into())));
    assert_eq!(clamped.cluster_list, [CLUSTER]);
    let outcome = rib.receive(
        A,
        announce(&attributes_that_attract_traffic(), &["10.1.1.0/24"]),
    );
    let outcome = outcome.unwrap();
    assert_eq!((outcome.clamped_attributes, outcome.unchanged), (1, 1));

    let families = rib.set_policies(A, kind, import, export);
    assert_eq!(families, [Family::Ipv4Unicast, Family::Ipv6Unicast]);
}

#[test]
fn loops_are_detected_before_the_attributes_of_reflection_are_discarded() {
    let mut rib = with_import(ImportPolicy {
        attributes: AttributePolicy::strict(),
        ..ImportPolicy::accept_all()
    });
    let mut attributes = (*attributes_that_attract_traffic()).clone();
    attributes.cluster_list = vec![CLUSTER];
    let outcome = rib.receive(A, announce(&Arc::new(attributes), &["10.1.1.0/24"]));
    let expected = (nlri("10.1.1.0/24"), RejectReason::OwnClusterId);
    assert_eq!(outcome.unwrap().rejected, [expected]);
}

#[test]
fn a_client_can_announce_only_the_prefixes_and_next_hops_of_its_rule() {
    let rule = |clients: &str| ClientRule {
        clients: vec![clients.parse().unwrap()],
        prefixes: PrefixFilter::Only(vec![PrefixRule::or_longer("10.1.1.0/24".parse().unwrap())]),
        next_hops: NextHopFilter {
            prefixes: vec!["10.7.0.1/32".parse().unwrap()],
            is_peer_allowed: true,
        },
    };
    // The address of client A is 10.0.0.10.
    for (clients, prefix, next_hop, expected) in [
        ("10.0.0.10/32", "10.1.1.1/32", "10.7.0.1", None),
        ("10.0.0.10/32", "10.1.1.1/32", "10.0.0.10", None),
        (
            "10.0.0.10/32",
            "10.1.1.1/32",
            "10.7.0.2",
            Some(RejectReason::NextHopNotAllowed),
        ),
        (
            "10.0.0.10/32",
            "10.1.2.1/32",
            "10.7.0.1",
            Some(RejectReason::PrefixNotAllowed),
        ),
        (
            "10.0.0.11/32",
            "10.1.1.1/32",
            "10.7.0.1",
            Some(RejectReason::PeerNotListed),
        ),
    ] {
        let mut rib = with_import(ImportPolicy {
            clients: vec![rule(clients)],
            ..ImportPolicy::accept_all()
        });
        let attributes = Arc::new(PathAttributes::originate(next_hop.parse().unwrap()));
        let outcome = rib.receive(A, announce(&attributes, &[prefix])).unwrap();
        let expected = expected.map(|reason| (nlri(prefix), reason));
        assert_eq!(
            outcome.rejected,
            Vec::from_iter(expected),
            "{clients}: {prefix} via {next_hop}"
        );
    }
}
