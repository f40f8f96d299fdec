use std::time::Instant;

use bgp_packet::{Family, RouterId};
use bgp_rib::PeerCounts;
use bgp_session::{FailureReason, Negotiated, SessionCounters, SessionError, SessionStatus};

use super::*;

/// Returns the status of a configured peer whose session is in the state Connect.
fn peer() -> PeerStatus {
    PeerStatus {
        name: "router-1".to_owned(),
        group: None,
        address: "[2001:db8::1]:1179".parse().unwrap(),
        configured_asn: Some(Asn(64513)),
        is_dynamic: false,
        session: SessionStatus {
            state: SessionState::Connect,
            since: Instant::now(),
            negotiated: None,
            hold_deadline: None,
            dial_deadline: None,
            last_error: None,
            counters: SessionCounters::default(),
        },
        local_address: None,
        in_state: Duration::from_millis(1500),
        hold_timer_remaining: None,
        counts: PeerCounts::default(),
    }
}

fn negotiated() -> Negotiated {
    Negotiated {
        peer_asn: Asn(64512),
        peer_router_id: RouterId([10, 0, 0, 1].into()),
        internal: true,
        hold_time: Some(Duration::from_secs(9)),
        families: Vec::new(),
        route_refresh: true,
        extended_message: false,
        four_octet_asn: true,
    }
}

fn seconds(seconds: i64) -> daemon_api::Duration {
    daemon_api::Duration { seconds, nanos: 0 }
}

#[test]
fn a_session_in_the_state_connect_has_no_negotiated_values() {
    let expected = wire::Session {
        peer: "router-1".to_owned(),
        peer_address: "2001:db8::1".to_owned(),
        peer_port: 1179,
        peer_asn: 64513,
        state: wire::SessionState::Connect.into(),
        local_asn: 64512,
        time_in_state: Some(daemon_api::Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        ..wire::Session::default()
    };
    assert_eq!(session(Asn(64512), &peer()), expected);
}

#[test]
fn an_established_session_has_the_negotiated_values() {
    let mut peer = peer();
    peer.session.state = SessionState::Established;
    peer.session.negotiated = Some(negotiated());
    peer.session.last_error = Some((Instant::now(), SessionError::Replaced));
    peer.local_address = Some("[2001:db8::2]:179".parse().unwrap());
    peer.hold_timer_remaining = Some(Duration::from_secs(8));
    peer.counts.paths_sent = 3;
    let message = session(Asn(64512), &peer);
    assert_eq!(message.state(), wire::SessionState::Established);
    assert_eq!(message.peer_asn, 64512);
    assert_eq!(message.peer_router_id, "10.0.0.1");
    assert_eq!(message.local_address, "2001:db8::2");
    assert_eq!(message.hold_time, Some(seconds(9)));
    assert_eq!(message.keepalive_interval, Some(seconds(3)));
    assert_eq!(message.hold_timer_remaining, Some(seconds(8)));
    assert_eq!(message.paths_sent, 3);
    assert_eq!(message.last_error, SessionError::Replaced.to_string());
}

#[test]
fn a_session_without_hold_timer_has_a_hold_time_of_zero() {
    let mut peer = peer();
    peer.session.negotiated = Some(Negotiated {
        hold_time: None,
        ..negotiated()
    });
    let message = session(Asn(64512), &peer);
    assert_eq!(message.hold_time, Some(seconds(0)));
    assert_eq!(message.keepalive_interval, Some(seconds(0)));
    assert_eq!(message.hold_timer_remaining, None);
}

#[test]
fn each_combination_of_add_path_directions_has_its_enum_value() {
    for (receive, send, expected) in [
        (false, false, wire::AddPath::None),
        (true, false, wire::AddPath::Receive),
        (false, true, wire::AddPath::Send),
        (true, true, wire::AddPath::Both),
    ] {
        let negotiated = NegotiatedFamily {
            family: Family::Ipv6Unicast,
            add_path_send: send,
            add_path_receive: receive,
        };
        let message = family(&negotiated);
        assert_eq!(message.add_path(), expected);
        assert_eq!(message.family(), wire::Family::Ipv6Unicast);
    }
}

#[test]
fn the_reason_of_a_refused_session_is_equal_to_the_metric_label() {
    let refused = RefusedSession {
        address: [192, 0, 2, 1].into(),
        peer: "192.0.2.1".to_owned(),
        group: Some("clients".to_owned()),
        reason: FailureReason::BadPeerAs,
        error: "AS 1".to_owned(),
        count: 2,
        since_last: Duration::from_secs(5),
    };
    let expected = wire::RefusedSession {
        address: "192.0.2.1".to_owned(),
        peer: "192.0.2.1".to_owned(),
        group: "clients".to_owned(),
        reason: "bad_peer_as".to_owned(),
        error: "AS 1".to_owned(),
        count: 2,
        time_since_last: Some(seconds(5)),
    };
    assert_eq!(refused_session(refused), expected);
}
