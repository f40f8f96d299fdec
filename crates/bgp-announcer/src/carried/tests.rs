use std::time::{Duration, Instant};

use bgp_packet::{Asn, RouterId};
use bgp_session::{Negotiated, NegotiatedFamily, SessionCounters, SessionState, SessionStatus};

use super::*;

const IPV4: &str = "10.1.1.10/32";
const IPV6: &str = "fd01::10/128";

fn peer(state: SessionState, families: &[Family]) -> PeerStatus {
    let family = |family: &Family| NegotiatedFamily {
        family: *family,
        add_path_send: false,
        add_path_receive: false,
    };
    let negotiated = Negotiated {
        peer_asn: Asn(64512),
        peer_router_id: RouterId([192, 0, 2, 2].into()),
        internal: true,
        hold_time: None,
        families: families.iter().map(family).collect(),
        route_refresh: true,
        extended_message: false,
        four_octet_asn: true,
    };
    PeerStatus {
        name: "reflector".to_owned(),
        group: None,
        address: "192.0.2.2:179".parse().unwrap(),
        configured_asn: None,
        is_dynamic: false,
        session: SessionStatus {
            state,
            since: Instant::now(),
            negotiated: (state == SessionState::Established).then_some(negotiated),
            hold_deadline: None,
            dial_deadline: None,
            last_error: None,
            counters: SessionCounters::default(),
        },
        local_address: Some("192.0.2.9:40000".parse().unwrap()),
        in_state: Duration::ZERO,
        hold_timer_remaining: None,
        counts: bgp_rib::PeerCounts::default(),
    }
}

fn established() -> PeerStatus {
    peer(SessionState::Established, &Family::ALL)
}

fn decision(state: AddressState, next_hop: &str) -> AnnouncementDecision {
    AnnouncementDecision {
        state,
        detail: String::new(),
        next_hop: Some(next_hop.parse().unwrap()),
    }
}

#[track_caller]
fn check(prefix: &str, next_hop: &str, peers: &[PeerStatus], is_not_carriable: bool, reason: &str) {
    let prefix = prefix.parse().unwrap();
    let decision = decision(AddressState::Announced, next_hop);
    let hop = decision.next_hop;
    let shown = announcement_status(&prefix, decision, Vec::new(), &[], peers);
    assert_eq!(shown.state, AddressState::WaitingForSession);
    assert_eq!(
        shown.detail,
        format!("no session carries the address: {reason}")
    );
    assert_eq!(
        no_session_can_carry(&prefix, hop, &[], peers),
        is_not_carriable
    );
}

#[test]
fn an_address_that_no_session_carries_has_the_state_waiting_for_session_and_the_reason() {
    let down = peer(SessionState::Active, &[]);
    let reason = "reflector: the session is not established";
    check(IPV4, "192.0.2.11", &[down], false, reason);
    let reason = "reflector: not written to the socket yet";
    check(IPV4, "192.0.2.11", &[established()], false, reason);
    let only_ipv4 = peer(SessionState::Established, &[Family::Ipv4Unicast]);
    let reason = "reflector: the peer does not accept IPv6 unicast";
    check(IPV6, "2001:db8::11", &[only_ipv4], true, reason);
    let reason = "reflector: the session runs over IPv4, so --next-hop self has no address for IPv6 \
                  unicast: add an address of this family to --next-hop";
    check(IPV6, "::", &[established()], true, reason);
    let reason = "reflector: the next hop 192.0.2.2 is the peer itself";
    check(IPV4, "192.0.2.2", &[established()], true, reason);
}

#[test]
fn no_session_can_carry_an_address_with_a_community_that_forbids_its_export() {
    let prefix = IPV4.parse().unwrap();
    let hop = Some("192.0.2.11".parse().unwrap());
    let mut external = established();
    external.session.negotiated.as_mut().unwrap().internal = false;
    for (community, peer, expected) in [
        (Community::NO_ADVERTISE, established(), true),
        (Community::NO_EXPORT, established(), false),
        (Community::NO_EXPORT, external, true),
        (Community::GRACEFUL_SHUTDOWN, established(), false),
    ] {
        let actual = no_session_can_carry(&prefix, hop, &[community], &[peer]);
        assert_eq!(actual, expected, "{community}");
    }
}

#[test]
fn an_address_that_a_session_carries_has_the_state_that_the_state_machine_decided() {
    for state in [
        AddressState::Announced,
        AddressState::LeastPreferred,
        AddressState::Draining,
    ] {
        let prefix = IPV4.parse().unwrap();
        let carried_by = vec!["reflector".to_owned()];
        let decision = decision(state, "192.0.2.11");
        let shown = announcement_status(&prefix, decision, carried_by, &[], &[established()]);
        assert_eq!((shown.state, shown.announced_to.len()), (state, 1));
    }
    // The state machine has withdrawn the address, but the session has not sent the withdrawal yet.
    let decision = decision(AddressState::NotServing, "192.0.2.11");
    let carried_by = vec!["reflector".to_owned()];
    let shown = announcement_status(&IPV4.parse().unwrap(), decision, carried_by, &[], &[]);
    assert_eq!(
        (shown.state, shown.announced_to.len()),
        (AddressState::NotServing, 0)
    );
}
