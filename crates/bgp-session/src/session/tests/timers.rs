//! Tests of dials, the hold timer, keepalives and a suspended process.

use super::*;

#[test]
fn failed_dials_are_repeated_with_growing_pauses() {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed(SessionInput::Start);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        transcript.feed(SessionInput::DialFailed("connection refused".into()));
        assert_eq!(transcript.session.state(), SessionState::Active);
        pauses.push(transcript.wait());
        assert_eq!(transcript.session.state(), SessionState::Connect);
    }
    for (pause, whole) in pauses.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
        let pause = pause.as_secs_f64();
        assert!(
            pause <= whole && pause >= whole * 0.75,
            "the pause is {pause} s, not 75 % to 100 % of {whole} s"
        );
    }
    assert_eq!(
        transcript.last_error(),
        "cannot connect: connection refused"
    );
}

#[test]
fn a_dial_without_an_answer_fails_with_a_timeout() {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed_all([SessionInput::Start, SessionInput::DialTimedOut]);
    transcript.check(&expect![[r#"
        0.000: Start -> Connect
            dial
        0.000: DialTimedOut -> Active
            failed: cannot connect: no answer within 5000 ms
    "#]]);
    assert_eq!(
        transcript.last_error(),
        "cannot connect: no answer within 5000 ms"
    );
}

#[test]
fn the_session_with_a_silent_peer_ends_when_the_hold_timer_expires() {
    let mut transcript = established();
    let begin = transcript.now;
    while !transcript.wait_for_poll() {}
    assert_eq!(transcript.now - begin, Duration::from_secs(9));
    transcript.feed(SessionInput::Polled(A));
    assert_eq!(
        transcript.last_error(),
        "hold timer expired: no message from the peer for 9 s"
    );
    let (_, text) = transcript
        .text
        .split_at(transcript.text.find("9.000").expect("9 s passed"));
    expect![[r#"
        9.000: DeadlineReached -> Established
            poll 1
        9.000: Polled(1) -> Active
            send NOTIFICATION 4/0 on 1
            down 1: hold timer expired: no message from the peer for 9 s
            close 1
    "#]]
    .assert_eq(text);
}

#[test]
fn updates_and_keepalives_restart_the_hold_timer() {
    let check = |name, message: Message| {
        let mut transcript = established();
        transcript.now += Duration::from_secs(8);
        transcript.feed(receive(A, message));
        transcript.now += Duration::from_secs(8);
        let outputs = transcript.feed(SessionInput::DeadlineReached);
        assert!(!outputs.contains(&SessionOutput::Poll(A)), "{name}");
        transcript.now += Duration::from_secs(1);
        let outputs = transcript.feed(SessionInput::DeadlineReached);
        assert!(outputs.contains(&SessionOutput::Poll(A)), "{name}");
        transcript.feed(SessionInput::Polled(A));
        assert_eq!(transcript.session.state(), SessionState::Active, "{name}");
    };
    check("KEEPALIVE", Message::Keepalive);
    check("UPDATE", Message::Update(Update::default()));
}

/// The process was suspended for longer than the hold time, and the socket holds an unread message
/// of the peer.
#[test]
fn a_session_survives_a_suspended_process_if_the_socket_holds_a_message() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([
        SessionInput::DeadlineReached,
        keepalive_from(A),
        SessionInput::Polled(A),
    ]);
    transcript.check(&expect![[r#"
        60.000: DeadlineReached -> Established
            poll 1
            send KEEPALIVE on 1
        60.000: KEEPALIVE from 1 -> Established
        60.000: Polled(1) -> Established
    "#]]);
    // The message from the socket has restarted the hold timer of 9 s.
    let begin = transcript.now;
    while !transcript.wait_for_poll() {}
    assert_eq!(transcript.now - begin, Duration::from_secs(9));
    transcript.feed(SessionInput::Polled(A));
    assert_eq!(transcript.session.state(), SessionState::Active);
}

#[test]
fn the_answer_to_a_poll_does_not_end_a_session_that_received_a_message_after_the_poll() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(9);
    transcript.feed_all([SessionInput::DeadlineReached, keepalive_from(A)]);
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([SessionInput::DeadlineReached, SessionInput::Polled(A)]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    assert!(transcript.wait_for_poll());
    transcript.feed(SessionInput::Polled(A));
    assert_eq!(transcript.session.state(), SessionState::Active);
}

#[test]
fn the_answer_to_a_poll_that_the_session_did_not_request_does_not_end_the_session() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(60);
    assert_eq!(transcript.feed(SessionInput::Polled(A)), []);
    assert_eq!(transcript.session.state(), SessionState::Established);
}

#[test]
fn written_updates_postpone_the_next_keepalive() {
    let mut transcript = established();
    let before = transcript
        .session
        .next_deadline()
        .expect("the keepalive timer runs");
    transcript.now += Duration::from_secs(2);
    transcript.feed(SessionInput::UpdatesWritten(A, 3));
    let after = transcript
        .session
        .next_deadline()
        .expect("the keepalive timer runs");
    assert!(after > before);
    assert_eq!(transcript.session.status().counters.updates_sent, 3);
}

#[test]
fn a_hold_time_of_zero_disables_the_hold_timer_and_the_keepalive_timer() {
    let mut transcript = SessionTranscript::new(passive());
    let open = Open {
        hold_time_seconds: 0,
        ..open(HIGHER)
    };
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Accepted(A),
        receive(A, Message::Open(open)),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    assert_eq!(transcript.session.next_deadline(), None);
}

#[test]
fn a_connection_without_an_open_of_the_peer_is_closed_after_the_open_timeout() {
    let mut transcript = SessionTranscript::new(passive());
    transcript.feed_all([SessionInput::Start, SessionInput::Accepted(A)]);
    assert_eq!(transcript.wait(), Duration::from_secs(30));
    transcript.feed(SessionInput::Polled(A));
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        30.000: DeadlineReached -> OpenSent
            poll 1
        30.000: Polled(1) -> Active
            send NOTIFICATION 4/0 on 1
            failed: no OPEN message from the peer within 30000 ms
            close 1
    "#]]);
}

#[test]
fn a_connection_survives_a_suspended_process_if_the_socket_holds_the_open_of_the_peer() {
    let mut transcript = SessionTranscript::new(passive());
    transcript.feed_all([SessionInput::Start, SessionInput::Accepted(A)]);
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([
        SessionInput::DeadlineReached,
        open_from(A, HIGHER),
        SessionInput::Polled(A),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
}
