//! Tests of the end of connections, and of the session afterwards.

use super::*;

#[test]
fn a_message_in_the_wrong_state_is_answered_with_the_subcode_of_rfc_6608() {
    let check = |state, inputs: &[SessionInput], subcode| {
        let mut transcript = SessionTranscript::new(passive());
        transcript.feed_all([SessionInput::Start, SessionInput::Accepted(A)]);
        let (last, before) = inputs.split_last().expect("the case has an input");
        transcript.feed_all(before.iter().cloned());
        assert_eq!(transcript.session.state(), state);
        let outputs = transcript.feed(last.clone());
        let Some(SessionOutput::Send(A, Message::Notification(notification))) = outputs.first()
        else {
            panic!("no NOTIFICATION: {outputs:?}");
        };
        assert_eq!(notification.error, NotificationError { code: 5, subcode });
        assert_eq!(transcript.session.state(), SessionState::Active);
    };
    let update = || receive(A, Message::Update(Update::default()));
    check(SessionState::OpenSent, &[update()], 1);
    check(SessionState::OpenSent, &[keepalive_from(A)], 1);
    check(
        SessionState::OpenConfirm,
        &[open_from(A, HIGHER), update()],
        2,
    );
    check(
        SessionState::OpenConfirm,
        &[open_from(A, HIGHER), open_from(A, HIGHER)],
        2,
    );
    check(
        SessionState::Established,
        &[
            open_from(A, HIGHER),
            keepalive_from(A),
            open_from(A, HIGHER),
        ],
        3,
    );
}

#[test]
fn a_stopped_session_notifies_the_peer_and_rejects_connections_until_start() {
    let mut transcript = established();
    transcript.feed(SessionInput::Stop(Cease::AdministrativeShutdown {
        text: "drained".into(),
    }));
    assert_eq!(transcript.session.next_deadline(), None);
    transcript.feed(SessionInput::Accepted(B));
    expect!["ended by this side: Cease/Administrative Shutdown: drained"]
        .assert_eq(&transcript.last_error());
    transcript.feed(SessionInput::Start);
    transcript.check(&expect![[r#"
        0.000: Stop(AdministrativeShutdown { text: "drained" }) -> Idle
            send NOTIFICATION 6/2 on 1
            down 1: ended by this side: Cease/Administrative Shutdown: drained
            close 1
        0.000: Accepted(2) -> Idle
            send NOTIFICATION 6/5 on 2
            failed: ended by this side: Cease/Connection Rejected
            close 2
        0.000: Start -> Active
    "#]]);
}

#[test]
fn a_session_can_be_established_after_a_reset() {
    let mut transcript = established();
    transcript.feed_all([
        SessionInput::Reset(Cease::AdministrativeReset {
            text: String::new(),
        }),
        SessionInput::Accepted(B),
        open_from(B, HIGHER),
        keepalive_from(B),
    ]);
    assert_eq!(transcript.session.established(), Some(B));
    assert_eq!(transcript.session.status().counters.established, 2);
}

#[test]
fn connections_of_a_refused_peer_are_rejected_during_the_pause() {
    let mut transcript = established();
    transcript.feed_all([
        SessionInput::Refuse {
            connection: A,
            problem: "more than 10 paths".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(60),
        },
        SessionInput::Accepted(B),
    ]);
    assert_eq!(transcript.wait(), Duration::from_secs(60));
    transcript.feed(SessionInput::Accepted(B));
    transcript.check(&expect![[r#"
        0.000: Refuse { connection: 1, problem: "more than 10 paths", notification: Notification { error: NotificationError { code: 6, subcode: 1 }, data: b"" }, pause: 60s } -> Idle
            send NOTIFICATION 6/1 on 1
            down 1: more than 10 paths
            close 1
        0.000: Accepted(2) -> Idle
            send NOTIFICATION 6/5 on 2
            failed: ended by this side: Cease/Connection Rejected
            close 2
        60.000: DeadlineReached -> Active
        60.000: Accepted(2) -> OpenSent
            send OPEN on 2
    "#]]);
}

#[test]
fn end_pause_ends_the_pause_of_a_refused_peer_and_does_not_start_a_stopped_session() {
    let mut transcript = established();
    transcript.feed(SessionInput::EndPause);
    assert_eq!(transcript.session.established(), Some(A));
    transcript.feed_all([
        SessionInput::Refuse {
            connection: A,
            problem: "more than 10 paths".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(60),
        },
        SessionInput::EndPause,
        SessionInput::Accepted(B),
    ]);
    assert_eq!(transcript.session.state(), SessionState::OpenSent);
    // `EndPause` does not start a session that `Stop` has stopped.
    transcript.feed_all([
        SessionInput::Stop(Cease::PeerDeconfigured),
        SessionInput::EndPause,
    ]);
    assert_eq!(transcript.session.state(), SessionState::Idle);
}

#[test]
fn consequences_of_a_notification_do_not_replace_its_error_until_the_session_is_established() {
    let lost = |id| SessionInput::ConnectionLost(id, "reset by the peer".into());
    let notification = |cease: Cease| receive(A, Message::Notification(cease.notification()));
    let mut transcript = established();
    transcript.feed(notification(Cease::MaximumPaths));
    let expected = "peer sent NOTIFICATION Cease/Maximum Number of Prefixes Reached";
    assert_eq!(transcript.last_error(), expected);
    for consequence in [lost(A), notification(Cease::ConnectionRejected)] {
        transcript.feed_all([SessionInput::Accepted(A), consequence]);
        assert_eq!(transcript.last_error(), expected);
    }
    transcript.feed_all([
        SessionInput::Accepted(A),
        notification(Cease::PeerDeconfigured),
    ]);
    let expected = "peer sent NOTIFICATION Cease/Peer De-configured";
    assert_eq!(transcript.last_error(), expected);
    transcript.feed_all([
        SessionInput::Accepted(A),
        open_from(A, HIGHER),
        keepalive_from(A),
        lost(A),
    ]);
    assert_eq!(
        transcript.last_error(),
        "connection lost: reset by the peer"
    );
}

#[test]
fn a_notification_of_the_peer_is_not_answered_with_a_notification() {
    let mut transcript = established();
    let notification = Cease::AdministrativeReset { text: "bye".into() }.notification();
    transcript.feed(receive(A, Message::Notification(notification)));
    expect!["peer sent NOTIFICATION Cease/Administrative Reset: bye"]
        .assert_eq(&transcript.last_error());
    transcript.check(&expect![[r#"
        0.000: NOTIFICATION from 1 -> Active
            down 1: peer sent NOTIFICATION Cease/Administrative Reset: bye
            close 1
    "#]]);
}

#[test]
fn the_session_answers_a_malformed_message_with_the_notification_of_the_decoder() {
    let mut transcript = established();
    transcript.feed(SessionInput::Malformed(
        A,
        DecodeError {
            notification: Notification {
                error: NotificationError {
                    code: 1,
                    subcode: 2,
                },
                data: Bytes::from_static(&[0, 1]),
            },
            problem: "length 1",
        },
    ));
    transcript.check(&expect![[r#"
        0.000: malformed (length 1) from 1 -> Active
            send NOTIFICATION 1/2 on 1
            down 1: length 1
            close 1
    "#]]);
}

#[test]
fn inputs_of_a_closed_connection_are_ignored() {
    let mut transcript = established();
    transcript.feed(SessionInput::ConnectionLost(A, "reset by peer".into()));
    for input in [
        keepalive_from(A),
        open_from(A, HIGHER),
        SessionInput::Polled(A),
        SessionInput::SendHoldTimerExpired(A),
        SessionInput::ConnectionLost(A, "again".into()),
    ] {
        assert_eq!(transcript.feed(input), []);
    }
    assert_eq!(transcript.last_error(), "connection lost: reset by peer");
}
