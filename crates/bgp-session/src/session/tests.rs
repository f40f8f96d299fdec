//! Transcripts of one session. Long because each states its whole exchange, to be read on its own.

use std::{
    fmt::Write,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bgp_packet::{
    AddPathMode, Asn, Capability, DecodeError, Notification, NotificationError, Open, RouterId,
    Update,
};
use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{messages::message_name, *};
use crate::{FamilySettings, Negotiated, NegotiatedFamily};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn settings() -> Settings {
    Settings {
        hold_time_seconds: 9,
        ..Settings::new(Asn(64512), RouterId(OURS), Some(Asn(64512)))
    }
}

fn passive() -> Settings {
    Settings {
        active: false,
        ..settings()
    }
}

fn open(router_id: Ipv4Addr) -> Open {
    Settings {
        router_id: RouterId(router_id),
        ..settings()
    }
    .open()
}

fn receive(id: ConnectionId, message: Message) -> Input {
    Input::MessageReceived(id, message)
}

fn open_from(id: ConnectionId, router_id: Ipv4Addr) -> Input {
    receive(id, Message::Open(open(router_id)))
}

fn keepalive_from(id: ConnectionId) -> Input {
    receive(id, Message::Keepalive)
}

/// Drives a session and writes down what it does.
struct Transcript {
    session: Session,
    start: Instant,
    now: Instant,
    text: String,
}

impl Transcript {
    fn new(settings: Settings) -> Self {
        let start = Instant::now();
        Self {
            session: Session::new(settings, 42, start),
            start,
            now: start,
            text: String::new(),
        }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        let line = show_input(&input);
        let outputs = self.session.handle(input, self.now);
        let at = (self.now - self.start).as_secs_f64();
        let state = self.session.state();
        writeln!(self.text, "{at:.3}: {line} -> {state:?}").expect("a string takes all");
        for output in &outputs {
            writeln!(self.text, "    {}", show_output(output)).expect("a string takes all");
        }
        outputs
    }

    fn feed_all(&mut self, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            self.feed(input);
        }
    }

    /// Lets time pass until the next deadline.
    fn wait(&mut self) -> Duration {
        let deadline = self.session.next_deadline().expect("a timer runs");
        let passed = deadline - self.now;
        self.now = deadline;
        self.feed(Input::DeadlineReached);
        passed
    }

    /// Lets time pass until the next deadline. Returns whether the session wants a poll.
    fn wait_for_poll(&mut self) -> bool {
        let deadline = self.session.next_deadline().expect("a timer runs");
        self.now = self.now.max(deadline);
        let outputs = self.feed(Input::DeadlineReached);
        outputs.contains(&Output::Poll(A))
    }

    fn check(&self, expected: &Expect) {
        expected.assert_eq(&self.text);
    }

    fn last_error(&self) -> String {
        let (_, error) = self
            .session
            .status()
            .last_error
            .expect("there was an error");
        error.to_string()
    }
}

fn show_input(input: &Input) -> String {
    match input {
        Input::MessageReceived(id, message) => format!("{} from {}", message_name(message), id.0),
        Input::Malformed(id, error) => format!("malformed ({}) from {}", error.problem, id.0),
        other @ (Input::Start
        | Input::Stop(_)
        | Input::Reset(_)
        | Input::Connected(_)
        | Input::DialFailed(_)
        | Input::DialTimedOut
        | Input::Accepted(_)
        | Input::Refuse { .. }
        | Input::EndPause
        | Input::RequestRefresh(_)
        | Input::Polled(_)
        | Input::UpdatesWritten(..)
        | Input::SendHoldTimerExpired(_)
        | Input::ConnectionLost(..)
        | Input::DeadlineReached) => {
            let text = format!("{other:?}");
            [A, B].iter().fold(text, |text, id| {
                text.replace(&format!("{id:?}"), &id.0.to_string())
            })
        }
    }
}

fn show_output(output: &Output) -> String {
    match output {
        Output::Send(id, Message::Notification(notification)) => {
            let NotificationError { code, subcode } = notification.error;
            format!("send NOTIFICATION {code}/{subcode} on {}", id.0)
        }
        Output::Send(id, message) => format!("send {} on {}", message_name(message), id.0),
        Output::Established(id, negotiated) => {
            format!("established {} with {}", id.0, negotiated.peer_router_id)
        }
        Output::Down(id, error) => format!("down {}: {error}", id.0),
        Output::Failed(error) => format!("failed: {error}"),
        Output::Close(id) => format!("close {}", id.0),
        Output::SetCodecOptions { connection, .. } => format!("set codec of {}", connection.0),
        Output::Updated(id, _) => format!("updated {}", id.0),
        Output::RefreshRequested(id, family) => format!("refresh {family:?} of {}", id.0),
        Output::Poll(id) => format!("poll {}", id.0),
        Output::Dial => "dial".into(),
        Output::AbandonDial => "abandon dial".into(),
    }
}

/// An established session on connection `A`, which the peer opened.
fn established() -> Transcript {
    let mut transcript = Transcript::new(passive());
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        open_from(A, HIGHER),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    transcript.text.clear();
    transcript
}

#[test]
fn an_active_session_comes_up_and_keeps_itself_alive() {
    let mut transcript = Transcript::new(settings());
    transcript.feed_all([
        Input::Start,
        Input::Connected(A),
        open_from(A, HIGHER),
        keepalive_from(A),
    ]);
    transcript.wait();
    transcript.feed(keepalive_from(A));
    transcript.wait();
    transcript.check(&expect![[r#"
        0.000: Start -> Connect
            dial
        0.000: Connected(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> OpenConfirm
            set codec of 1
            send KEEPALIVE on 1
        0.000: KEEPALIVE from 1 -> Established
            established 1 with 10.0.0.9
        2.334: DeadlineReached -> Established
            send KEEPALIVE on 1
        2.334: KEEPALIVE from 1 -> Established
        4.587: DeadlineReached -> Established
            send KEEPALIVE on 1
    "#]]);
}

#[test]
fn a_passive_session_waits_for_the_peer_and_never_dials() {
    let mut transcript = Transcript::new(passive());
    transcript.feed(Input::Start);
    assert_eq!(transcript.session.next_deadline(), None);
    transcript.feed_all([
        Input::Accepted(A),
        open_from(A, HIGHER),
        keepalive_from(A),
        Input::ConnectionLost(A, "reset by peer".into()),
    ]);
    assert_eq!(transcript.session.next_deadline(), None);
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> OpenConfirm
            set codec of 1
            send KEEPALIVE on 1
        0.000: KEEPALIVE from 1 -> Established
            established 1 with 10.0.0.9
        0.000: ConnectionLost(1, "reset by peer") -> Active
            down 1: connection lost: reset by peer
            close 1
    "#]]);
}

#[test]
fn failed_dials_are_repeated_with_growing_pauses() {
    let mut transcript = Transcript::new(settings());
    transcript.feed(Input::Start);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        transcript.feed(Input::DialFailed("connection refused".into()));
        assert_eq!(transcript.session.state(), SessionState::Active);
        pauses.push(transcript.wait());
        assert_eq!(transcript.session.state(), SessionState::Connect);
    }
    for (pause, whole) in pauses.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
        let pause = pause.as_secs_f64();
        assert!(
            pause <= whole && pause >= whole * 0.75,
            "{pause} of {whole} s"
        );
    }
    assert_eq!(
        transcript.last_error(),
        "cannot connect: connection refused"
    );
}

#[test]
fn a_dial_without_an_answer_is_abandoned() {
    let mut transcript = Transcript::new(settings());
    transcript.feed_all([Input::Start, Input::DialTimedOut]);
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
fn a_silent_peer_is_given_up_when_the_hold_timer_expires() {
    let mut transcript = established();
    let begin = transcript.now;
    while !transcript.wait_for_poll() {}
    assert_eq!(transcript.now - begin, Duration::from_secs(9));
    transcript.feed(Input::Polled(A));
    assert_eq!(
        transcript.last_error(),
        "hold timer expired: nothing from the peer for 9 s"
    );
    let (_, text) = transcript
        .text
        .split_at(transcript.text.find("9.000").expect("9 s passed"));
    expect![[r#"
        9.000: DeadlineReached -> Established
            poll 1
        9.000: Polled(1) -> Active
            send NOTIFICATION 4/0 on 1
            down 1: hold timer expired: nothing from the peer for 9 s
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
        let outputs = transcript.feed(Input::DeadlineReached);
        assert!(!outputs.contains(&Output::Poll(A)), "{name}");
        transcript.now += Duration::from_secs(1);
        let outputs = transcript.feed(Input::DeadlineReached);
        assert!(outputs.contains(&Output::Poll(A)), "{name}");
        transcript.feed(Input::Polled(A));
        assert_eq!(transcript.session.state(), SessionState::Active, "{name}");
    };
    check("KEEPALIVE", Message::Keepalive);
    check("UPDATE", Message::Update(Update::default()));
}

/// This process slept for longer than the hold time; the peer's messages wait in the socket.
#[test]
fn a_peer_whose_message_waits_in_the_socket_is_kept_after_a_sleep_of_this_process() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([Input::DeadlineReached, keepalive_from(A), Input::Polled(A)]);
    transcript.check(&expect![[r#"
        60.000: DeadlineReached -> Established
            poll 1
            send KEEPALIVE on 1
        60.000: KEEPALIVE from 1 -> Established
        60.000: Polled(1) -> Established
    "#]]);
    // The next silence is measured from that message on.
    let begin = transcript.now;
    while !transcript.wait_for_poll() {}
    assert_eq!(transcript.now - begin, Duration::from_secs(9));
    transcript.feed(Input::Polled(A));
    assert_eq!(transcript.session.state(), SessionState::Active);
}

#[test]
fn the_answer_to_an_earlier_poll_ends_no_session_after_a_second_sleep() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(9);
    transcript.feed_all([Input::DeadlineReached, keepalive_from(A)]);
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([Input::DeadlineReached, Input::Polled(A)]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    assert!(transcript.wait_for_poll());
    transcript.feed(Input::Polled(A));
    assert_eq!(transcript.session.state(), SessionState::Active);
}

#[test]
fn an_unasked_poll_ends_no_session() {
    let mut transcript = established();
    transcript.now += Duration::from_secs(60);
    assert_eq!(transcript.feed(Input::Polled(A)), []);
    assert_eq!(transcript.session.state(), SessionState::Established);
}

#[test]
fn written_updates_spare_keepalives() {
    let mut transcript = established();
    let before = transcript
        .session
        .next_deadline()
        .expect("keepalives are sent");
    transcript.now += Duration::from_secs(2);
    transcript.feed(Input::UpdatesWritten(A, 3));
    let after = transcript
        .session
        .next_deadline()
        .expect("keepalives are sent");
    assert!(after > before);
    assert_eq!(transcript.session.status().counters.updates_sent, 3);
}

#[test]
fn a_hold_time_of_zero_runs_no_timer() {
    let mut transcript = Transcript::new(passive());
    let open = Open {
        hold_time_seconds: 0,
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    assert_eq!(transcript.session.next_deadline(), None);
}

#[test]
fn a_peer_that_never_sends_its_open_is_given_up() {
    let mut transcript = Transcript::new(passive());
    transcript.feed_all([Input::Start, Input::Accepted(A)]);
    assert_eq!(transcript.wait(), Duration::from_secs(30));
    transcript.feed(Input::Polled(A));
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        30.000: DeadlineReached -> OpenSent
            poll 1
        30.000: Polled(1) -> Active
            send NOTIFICATION 4/0 on 1
            failed: no OPEN from the peer within 30000 ms
            close 1
    "#]]);
}

#[test]
fn a_peer_whose_open_waits_in_the_socket_is_kept_after_a_sleep_of_this_process() {
    let mut transcript = Transcript::new(passive());
    transcript.feed_all([Input::Start, Input::Accepted(A)]);
    transcript.now += Duration::from_secs(60);
    transcript.feed_all([
        Input::DeadlineReached,
        open_from(A, HIGHER),
        Input::Polled(A),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
}

/// Both sides have dialled: `A` is ours, `B` the peer's.
fn collision(router_id: Ipv4Addr, first: ConnectionId) -> Transcript {
    let mut transcript = Transcript::new(settings());
    transcript.feed_all([
        Input::Start,
        Input::Connected(A),
        Input::Accepted(B),
        open_from(first, router_id),
    ]);
    transcript
}

#[test]
fn collision_is_won_by_the_higher_router_id() {
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
fn collision_ends_the_same_whichever_open_comes_first() {
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
fn equal_router_ids_of_two_ases_are_told_apart_by_the_as() {
    for (peer_asn, kept) in [(Asn(64513), B), (Asn(64511), A)] {
        let mut transcript = Transcript::new(Settings {
            peer_asn: None,
            ..settings()
        });
        let open = Message::Open(Open {
            asn: peer_asn,
            ..open(OURS)
        });
        transcript.feed_all([Input::Start, Input::Connected(A), Input::Accepted(B)]);
        transcript.feed(receive(kept, open));
        transcript.feed(keepalive_from(kept));
        assert_eq!(transcript.session.established(), Some(kept), "{peer_asn}");
    }
}

#[test]
fn an_established_connection_outlives_a_collision() {
    let mut transcript = established();
    transcript.feed(Input::Accepted(B));
    assert_eq!(transcript.session.established(), Some(A));
    transcript.check(&expect![[r#"
        0.000: Accepted(2) -> Established
            send NOTIFICATION 6/7 on 2
            failed: ended by this side: Cease/Connection Collision Resolution
            close 2
    "#]]);
}

#[test]
fn a_peer_that_connects_anew_replaces_its_unfinished_connection() {
    let mut transcript = Transcript::new(passive());
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        Input::Accepted(B),
        open_from(B, HIGHER),
        keepalive_from(B),
    ]);
    assert_eq!(transcript.session.established(), Some(B));
}

#[test]
fn a_dial_that_would_lose_a_collision_is_abandoned() {
    let mut transcript = Transcript::new(settings());
    transcript.feed_all([Input::Start, Input::Accepted(B)]);
    assert_eq!(transcript.session.state(), SessionState::OpenSent);
    let outputs = transcript.feed(open_from(B, HIGHER));
    assert!(outputs.contains(&Output::AbandonDial), "{outputs:?}");
}

#[test]
fn a_dial_that_would_win_a_collision_goes_on_until_the_other_connection_is_established() {
    let mut transcript = Transcript::new(settings());
    transcript.feed_all([Input::Start, Input::Accepted(B), open_from(B, LOWER)]);
    let mut peer_prefers_ours = transcript.session.clone();
    peer_prefers_ours.handle(Input::Connected(A), transcript.now);
    peer_prefers_ours.handle(Input::ConnectionLost(B, "closed".into()), transcript.now);
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
            abandon dial
            established 2 with 10.0.0.1
    "#]]);
}

#[test]
fn a_wrong_as_is_refused() {
    let mut transcript = Transcript::new(passive());
    let open = Open {
        asn: Asn(65000),
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    assert_eq!(
        transcript.last_error(),
        "peer has AS 65000, expected AS 64512"
    );
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/2 on 1
            failed: peer has AS 65000, expected AS 64512
            close 1
    "#]]);
}

#[test]
fn our_own_router_id_is_refused_inside_the_as_only() {
    let mut internal = Transcript::new(passive());
    internal.feed_all([Input::Start, Input::Accepted(A), open_from(A, OURS)]);
    assert_eq!(internal.last_error(), "peer has our own router id 10.0.0.5");
    internal.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/3 on 1
            failed: peer has our own router id 10.0.0.5
            close 1
    "#]]);

    let mut external = Transcript::new(Settings {
        peer_asn: None,
        ..passive()
    });
    let open = Open {
        asn: Asn(65000),
        ..open(OURS)
    };
    external.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    assert_eq!(external.session.state(), SessionState::OpenConfirm);
}

#[test]
fn a_peer_without_a_common_family_is_told_which_are_lacking() {
    let mut transcript = Transcript::new(Settings {
        families: vec![FamilySettings {
            family: Family::Ipv6Unicast,
            add_path: None,
        }],
        ..passive()
    });
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/7 on 1
            failed: peer speaks none of [Ipv6Unicast]
            close 1
    "#]]);
}

#[test]
fn messages_out_of_place_are_answered_with_the_subcode_of_rfc_6608() {
    let check = |state, inputs: &[Input], subcode| {
        let mut transcript = Transcript::new(passive());
        transcript.feed_all([Input::Start, Input::Accepted(A)]);
        let (last, before) = inputs.split_last().expect("there is one");
        transcript.feed_all(before.iter().cloned());
        assert_eq!(transcript.session.state(), state);
        let outputs = transcript.feed(last.clone());
        let Some(Output::Send(A, Message::Notification(notification))) = outputs.first() else {
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
fn shutdown_tells_the_peer_and_stays_down() {
    let mut transcript = established();
    transcript.feed(Input::Stop(Cease::AdministrativeShutdown {
        text: "drained".into(),
    }));
    assert_eq!(transcript.session.next_deadline(), None);
    transcript.feed(Input::Accepted(B));
    expect!["ended by this side: Cease/Administrative Shutdown: drained"]
        .assert_eq(&transcript.last_error());
    transcript.feed(Input::Start);
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
fn a_reset_session_comes_up_again() {
    let mut transcript = established();
    transcript.feed_all([
        Input::Reset(Cease::AdministrativeReset {
            text: String::new(),
        }),
        Input::Accepted(B),
        open_from(B, HIGHER),
        keepalive_from(B),
    ]);
    assert_eq!(transcript.session.established(), Some(B));
    assert_eq!(transcript.session.status().counters.established, 2);
}

#[test]
fn a_peer_that_broke_a_policy_is_kept_out_for_the_pause() {
    let mut transcript = established();
    transcript.feed_all([
        Input::Refuse {
            connection: A,
            problem: "more than 10 paths".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(60),
        },
        Input::Accepted(B),
    ]);
    assert_eq!(transcript.wait(), Duration::from_secs(60));
    transcript.feed(Input::Accepted(B));
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
fn the_pause_of_a_peer_that_broke_a_policy_can_end_early() {
    let mut transcript = established();
    transcript.feed(Input::EndPause);
    assert_eq!(transcript.session.established(), Some(A));
    transcript.feed_all([
        Input::Refuse {
            connection: A,
            problem: "more than 10 paths".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(60),
        },
        Input::EndPause,
        Input::Accepted(B),
    ]);
    assert_eq!(transcript.session.state(), SessionState::OpenSent);
    // A stop is no pause.
    transcript.feed_all([Input::Stop(Cease::PeerDeconfigured), Input::EndPause]);
    assert_eq!(transcript.session.state(), SessionState::Idle);
}

#[test]
fn the_reason_of_a_notification_stands_until_the_session_comes_up() {
    let lost = |id| Input::ConnectionLost(id, "reset by the peer".into());
    let notification = |cease: Cease| receive(A, Message::Notification(cease.notification()));
    let mut transcript = established();
    transcript.feed(notification(Cease::MaximumPaths));
    let expected = "peer sent NOTIFICATION Cease/Maximum Number of Prefixes Reached";
    assert_eq!(transcript.last_error(), expected);
    for consequence in [lost(A), notification(Cease::ConnectionRejected)] {
        transcript.feed_all([Input::Accepted(A), consequence]);
        assert_eq!(transcript.last_error(), expected);
    }
    transcript.feed_all([Input::Accepted(A), notification(Cease::PeerDeconfigured)]);
    let expected = "peer sent NOTIFICATION Cease/Peer De-configured";
    assert_eq!(transcript.last_error(), expected);
    transcript.feed_all([
        Input::Accepted(A),
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
fn a_peer_that_offers_less_than_the_minimum_hold_time_is_refused() {
    let check = |offered: u16, expected: &str| {
        let mut transcript = Transcript::new(Settings {
            minimum_hold_time_seconds: 9,
            ..passive()
        });
        let offer = Open {
            hold_time_seconds: offered,
            ..open(HIGHER)
        };
        transcript.feed_all([Input::Start, Input::Accepted(A)]);
        let outputs = transcript.feed(receive(A, Message::Open(offer)));
        let refusal = Notification::new(NotificationError::UNACCEPTABLE_HOLD_TIME);
        let is_refused = outputs.contains(&Output::Send(A, Message::Notification(refusal)));
        assert_eq!(is_refused, !expected.is_empty());
        if is_refused {
            assert_eq!(transcript.last_error(), expected);
        }
    };
    check(0, "peer offers no hold time, at least 9 s are required");
    check(
        8,
        "peer offers a hold time of 8 s, at least 9 s are required",
    );
    check(9, "");
    check(90, "");
}

#[test]
fn a_notification_of_the_peer_ends_the_connection_without_an_answer() {
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
fn what_cannot_be_decoded_is_answered_as_the_codec_says() {
    let mut transcript = established();
    transcript.feed(Input::Malformed(
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
fn route_refresh_is_answered_for_negotiated_families_only() {
    let mut transcript = Transcript::new(passive());
    let open = Open {
        capabilities: vec![Capability::Multiprotocol(Family::Ipv4Unicast)],
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
        keepalive_from(A),
    ]);
    let mut refresh = |family| {
        let message = Message::RouteRefresh(RouteRefresh { family });
        transcript.feed(receive(A, message))
    };
    let family = Family::Ipv4Unicast;
    assert_eq!(refresh(Some(family)), [Output::RefreshRequested(A, family)]);
    assert_eq!(refresh(Some(Family::Ipv6Unicast)), []);
    assert_eq!(refresh(None), []);
    // The peer itself did not say that it is able to.
    assert_eq!(transcript.feed(Input::RequestRefresh(family)), []);
}

#[test]
fn routes_are_asked_for_again_of_an_able_peer() {
    let mut transcript = established();
    let family = Family::Ipv6Unicast;
    let refresh = Message::RouteRefresh(RouteRefresh {
        family: Some(family),
    });
    let outputs = transcript.feed(Input::RequestRefresh(family));
    assert_eq!(outputs, [Output::Send(A, refresh)]);
}

#[test]
fn add_path_is_negotiated_per_family_and_direction() {
    use AddPathMode::{Both, Receive, Send};
    let check = |ours, theirs: Option<AddPathMode>, send, receive| {
        let mut settings = passive();
        settings.families[0].add_path = ours;
        let mut open = open(HIGHER);
        open.capabilities
            .extend(theirs.map(|mode| Capability::AddPath(vec![(Family::Ipv4Unicast, mode)])));
        let negotiated = Negotiated::new(&settings, &open).expect("families are common");
        let [v4, v6] = negotiated.families[..] else {
            panic!("two families: {negotiated:?}");
        };
        let expected = NegotiatedFamily {
            family: Family::Ipv4Unicast,
            add_path_send: send,
            add_path_receive: receive,
        };
        assert_eq!(v4, expected, "{ours:?} {theirs:?}");
        assert!(!v6.add_path_send && !v6.add_path_receive);
        assert_eq!(!negotiated.encoder_options().add_path.is_empty(), send);
        assert_eq!(!negotiated.decoder_options().add_path.is_empty(), receive);
    };
    check(Some(Send), Some(Receive), true, false);
    check(Some(Receive), Some(Send), false, true);
    check(Some(Both), Some(Both), true, true);
    check(Some(Both), Some(Send), false, true);
    check(Some(Send), Some(Send), false, false);
    check(Some(Both), None, false, false);
    check(None, Some(Both), false, false);
}

#[test]
fn a_peer_without_capabilities_speaks_ipv4_with_two_octet_numbers() {
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    let negotiated = Negotiated::new(&passive(), &open).expect("IPv4 is common");
    let families: Vec<_> = negotiated.families.iter().map(|it| it.family).collect();
    assert_eq!(families, [Family::Ipv4Unicast]);
    assert!(!negotiated.four_octet_asn && !negotiated.extended_message);
    assert!(!negotiated.route_refresh);
}

#[test]
fn the_shorter_hold_time_holds() {
    for (ours, theirs, expected) in [(9, 90, 9), (90, 9, 9), (3, 65535, 3)] {
        let settings = Settings {
            hold_time_seconds: ours,
            ..passive()
        };
        let open = Open {
            hold_time_seconds: theirs,
            ..open(HIGHER)
        };
        let negotiated = Negotiated::new(&settings, &open).expect("families are common");
        assert_eq!(negotiated.hold_time, Some(Duration::from_secs(expected)));
    }
}

#[test]
fn a_connection_that_was_closed_is_not_heard() {
    let mut transcript = established();
    transcript.feed(Input::ConnectionLost(A, "reset by peer".into()));
    for input in [
        keepalive_from(A),
        open_from(A, HIGHER),
        Input::Polled(A),
        Input::SendHoldTimerExpired(A),
        Input::ConnectionLost(A, "again".into()),
    ] {
        assert_eq!(transcript.feed(input), []);
    }
    assert_eq!(transcript.last_error(), "connection lost: reset by peer");
}

#[test]
fn settings_that_no_session_can_have_are_named() {
    let check = |change: fn(&mut Settings), expected: Expect| {
        let mut settings = settings();
        change(&mut settings);
        let error = settings.validate().expect_err("must be refused");
        expected.assert_eq(&error.to_string());
    };
    assert_eq!(settings().validate(), Ok(()));
    check(
        |it| it.hold_time_seconds = 2,
        expect!["hold time 2 s: must be 0 or at least 3 s"],
    );
    check(|it| it.local_asn = Asn(0), expect!["AS 0 is reserved"]);
    check(|it| it.peer_asn = Some(Asn(0)), expect!["AS 0 is reserved"]);
    check(
        |it| it.router_id = RouterId(Ipv4Addr::UNSPECIFIED),
        expect!["router id 0.0.0.0 is not allowed"],
    );
    check(|it| it.families.clear(), expect!["no address family"]);
    check(
        |it| it.families.push(it.families[0]),
        expect!["address family Ipv4Unicast is listed twice"],
    );
    check(
        |it| it.connect_retry_maximum = Duration::ZERO,
        expect!["the shortest pause between connects is zero or longer than the longest"],
    );
}

fn any_connection() -> impl Strategy<Value = ConnectionId> {
    (0_u64..3).prop_map(ConnectionId)
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => prop_oneof![Just(LOWER), Just(HIGHER), Just(OURS)]
            .prop_map(|router_id| Message::Open(open(router_id))),
        1 => Just(Message::Open(Open { hold_time_seconds: 0, ..open(HIGHER) })),
        4 => Just(Message::Keepalive),
        1 => Just(Message::Update(Update::default())),
        1 => Just(Message::Notification(Cease::MaximumPaths.notification())),
        1 => Just(Message::RouteRefresh(RouteRefresh { family: None })),
    ]
}

/// An input, and whether time passes to the next deadline before it.
fn any_input() -> impl Strategy<Value = (Input, bool)> {
    let input = prop_oneof![
        3 => Just(Input::Start),
        1 => Just(Input::Stop(Cease::PeerDeconfigured)),
        1 => Just(Input::Reset(Cease::OtherConfigurationChange)),
        4 => any_connection().prop_map(Input::Connected),
        4 => any_connection().prop_map(Input::Accepted),
        1 => Just(Input::DialFailed("refused".into())),
        12 => (any_connection(), any_message())
            .prop_map(|(id, message)| Input::MessageReceived(id, message)),
        1 => any_connection().prop_map(|connection| Input::Refuse {
            connection,
            problem: "too much".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(3),
        }),
        2 => any_connection().prop_map(Input::Polled),
        1 => Just(Input::DialTimedOut),
        1 => Just(Input::EndPause),
        1 => Just(Input::RequestRefresh(Family::Ipv6Unicast)),
        1 => any_connection().prop_map(|id| Input::UpdatesWritten(id, 1)),
        1 => any_connection().prop_map(Input::SendHoldTimerExpired),
        1 => any_connection().prop_map(|id| Input::ConnectionLost(id, "lost".into())),
        3 => Just(Input::DeadlineReached),
    ];
    (input, prop::bool::weighted(0.2))
}

/// The contract that a driver relies on, whatever happens.
#[derive(Default)]
struct Driver {
    open: std::collections::BTreeSet<ConnectionId>,
    established: Option<ConnectionId>,
    is_dialling: bool,
}

impl Driver {
    fn note(&mut self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Dial => {
                    assert!(!self.is_dialling, "dials twice");
                    self.is_dialling = true;
                }
                Output::AbandonDial => assert!(std::mem::take(&mut self.is_dialling)),
                Output::Send(id, _)
                | Output::Poll(id)
                | Output::SetCodecOptions { connection: id, .. }
                | Output::Updated(id, _)
                | Output::RefreshRequested(id, _) => assert!(self.open.contains(id)),
                Output::Established(id, _) => {
                    assert!(self.open.contains(id));
                    assert_eq!(self.established.replace(*id), None, "established twice");
                }
                Output::Failed(error) => {
                    assert!(!matches!(error, SessionError::CollisionLost(_)));
                }
                Output::Down(id, _) => assert_eq!(self.established.take(), Some(*id)),
                Output::Close(id) => {
                    assert!(self.open.remove(id), "closes what is closed");
                    assert_ne!(self.established, Some(*id), "closed without Down");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_input_breaks_the_contract_with_the_driver(
        inputs in prop::collection::vec(any_input(), 0..60),
        is_active: bool,
        seed: u64,
    ) {
        let settings = Settings { active: is_active, ..settings() };
        let mut now = Instant::now();
        let mut session = Session::new(settings, seed, now);
        let mut driver = Driver::default();
        for (input, passes_time) in inputs {
            if passes_time && let Some(deadline) = session.next_deadline() {
                now = now.max(deadline);
                driver.note(&session.handle(Input::DeadlineReached, now));
                let next = session.next_deadline();
                prop_assert!(next.is_none_or(|next| next > now), "the deadline has not moved");
            }
            // A driver answers a dial once, and never uses the name of a connection twice.
            let is_possible = match &input {
                Input::Connected(id) => driver.is_dialling && driver.open.insert(*id),
                Input::DialFailed(_) | Input::DialTimedOut => driver.is_dialling,
                Input::Accepted(id) => driver.open.insert(*id),
                Input::Start
                | Input::Stop(_)
                | Input::Reset(_)
                | Input::MessageReceived(..)
                | Input::Malformed(..)
                | Input::Refuse { .. }
                | Input::EndPause
                | Input::RequestRefresh(_)
                | Input::Polled(_)
                | Input::UpdatesWritten(..)
                | Input::SendHoldTimerExpired(_)
                | Input::ConnectionLost(..)
                | Input::DeadlineReached => true,
            };
            if !is_possible {
                continue;
            }
            if matches!(
                input,
                Input::Connected(_) | Input::DialFailed(_) | Input::DialTimedOut
            ) {
                driver.is_dialling = false;
            }
            driver.note(&session.handle(input, now));
            prop_assert_eq!(session.established(), driver.established);
            prop_assert_eq!(
                session.state() == SessionState::Established,
                driver.established.is_some()
            );
        }
    }
}
