//! Tests of collisions: two connections of one session (RFC 4271 section 6.8).

use super::*;

/// Returns a session with two connections: `A`, opened by this side, and `B`, opened by the peer.
/// An OPEN message with the router id `router_id` has arrived on the connection `first`.
fn collision(router_id: Ipv4Addr, first: ConnectionId) -> SessionTranscript {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Connected(A),
        SessionInput::Accepted(B),
        open_from(first, router_id),
    ]);
    transcript
}

#[test]
fn a_collision_keeps_the_connection_that_the_side_with_the_higher_router_id_opened() {
    let mut ours_is_higher = collision(LOWER, B);
    ours_is_higher.feed_all([open_from(A, LOWER), keepalive_from(A)]);
    assert_eq!(ours_is_higher.session.established(), Some(A));
    ours_is_higher.check(&expect![[r#"
        0.000: Start -> Connect
            dial
        0.000: Connected(1) -> OpenSent
            send OPEN on 1
        0.000: Accepted(2) -> OpenSent
            send OPEN on 2
        0.000: OPEN from 2 -> OpenSent
            send NOTIFICATION 6/7 on 2
            close 2
        0.000: OPEN from 1 -> OpenConfirm
            set codec of 1
            send KEEPALIVE on 1
        0.000: KEEPALIVE from 1 -> Established
            established 1 with 10.0.0.1
    "#]]);

    let mut ours_is_lower = collision(HIGHER, B);
    ours_is_lower.feed(keepalive_from(B));
    assert_eq!(ours_is_lower.session.established(), Some(B));
    ours_is_lower.check(&expect![[r#"
        0.000: Start -> Connect
            dial
        0.000: Connected(1) -> OpenSent
            send OPEN on 1
        0.000: Accepted(2) -> OpenSent
            send OPEN on 2
        0.000: OPEN from 2 -> OpenConfirm
            send NOTIFICATION 6/7 on 1
            close 1
            set codec of 2
            send KEEPALIVE on 2
        0.000: KEEPALIVE from 2 -> Established
            established 2 with 10.0.0.9
    "#]]);
}

#[test]
fn the_order_of_the_open_messages_does_not_change_which_connection_a_collision_keeps() {
    for (router_id, kept, closed) in [(LOWER, A, B), (HIGHER, B, A)] {
        for first in [A, B] {
            let mut transcript = collision(router_id, first);
            if first != kept {
                transcript.feed(open_from(kept, router_id));
            }
            transcript.feed_all([open_from(closed, router_id), keepalive_from(kept)]);
            assert_eq!(
                transcript.session.established(),
                Some(kept),
                "{router_id} {first:?}"
            );
            assert_eq!(transcript.session.status().last_error, None);
        }
    }
}

#[test]
fn the_higher_as_number_decides_a_collision_of_equal_router_ids() {
    for (peer_asn, kept) in [(Asn(64513), B), (Asn(64511), A)] {
        let mut transcript = SessionTranscript::new(SessionSettings {
            peer_asn: None,
            ..settings()
        });
        let open = Message::Open(Open {
            asn: peer_asn,
            ..open(OURS)
        });
        transcript.feed_all([
            SessionInput::Start,
            SessionInput::Connected(A),
            SessionInput::Accepted(B),
        ]);
        transcript.feed(receive(kept, open));
        transcript.feed(keepalive_from(kept));
        assert_eq!(transcript.session.established(), Some(kept), "{peer_asn}");
    }
}

#[test]
fn a_session_keeps_its_established_connection_in_a_collision() {
    let mut transcript = established();
    transcript.feed(SessionInput::Accepted(B));
    assert_eq!(transcript.session.established(), Some(A));
    transcript.check(&expect![[r#"
        0.000: Accepted(2) -> Established
            send NOTIFICATION 6/7 on 2
            failed: ended by this side: Cease/Connection Collision Resolution
            close 2
    "#]]);
}

#[test]
fn a_new_connection_of_the_peer_replaces_an_older_connection_of_the_peer_in_open_sent() {
    let mut transcript = SessionTranscript::new(passive());
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Accepted(A),
        SessionInput::Accepted(B),
        open_from(B, HIGHER),
        keepalive_from(B),
    ]);
    assert_eq!(transcript.session.established(), Some(B));
}

#[test]
fn a_dial_that_would_lose_a_collision_is_cancelled() {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed_all([SessionInput::Start, SessionInput::Accepted(B)]);
    assert_eq!(transcript.session.state(), SessionState::OpenSent);
    let outputs = transcript.feed(open_from(B, HIGHER));
    assert!(outputs.contains(&SessionOutput::CancelDial), "{outputs:?}");
}

#[test]
fn a_dial_that_would_win_a_collision_continues_until_the_connection_of_the_peer_is_established() {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Accepted(B),
        open_from(B, LOWER),
    ]);
    let mut peer_prefers_ours = transcript.session.clone();
    peer_prefers_ours.handle(SessionInput::Connected(A), transcript.now);
    peer_prefers_ours.handle(
        SessionInput::ConnectionLost(B, "closed".into()),
        transcript.now,
    );
    peer_prefers_ours.handle(open_from(A, LOWER), transcript.now);
    assert_eq!(peer_prefers_ours.state(), SessionState::OpenConfirm);

    transcript.feed(keepalive_from(B));
    assert_eq!(transcript.session.established(), Some(B));
    transcript.check(&expect![[r#"
        0.000: Start -> Connect
            dial
        0.000: Accepted(2) -> OpenSent
            send OPEN on 2
        0.000: OPEN from 2 -> OpenConfirm
            set codec of 2
            send KEEPALIVE on 2
        0.000: KEEPALIVE from 2 -> Established
            cancel dial
            established 2 with 10.0.0.1
    "#]]);
}
