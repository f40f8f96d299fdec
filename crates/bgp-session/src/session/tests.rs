//! Tests of one session, whose inputs and outputs a transcript records as text.

mod collision;
mod open;
mod properties;
mod session_end;
mod timers;

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
use crate::{Negotiated, NegotiatedFamily, OfferedFamily};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn settings() -> SessionSettings {
    SessionSettings {
        hold_time_seconds: 9,
        ..SessionSettings::new(Asn(64512), RouterId(OURS), Some(Asn(64512)))
    }
}

fn passive() -> SessionSettings {
    SessionSettings {
        active: false,
        ..settings()
    }
}

fn open(router_id: Ipv4Addr) -> Open {
    SessionSettings {
        router_id: RouterId(router_id),
        ..settings()
    }
    .open()
}

fn receive(id: ConnectionId, message: Message) -> SessionInput {
    SessionInput::MessageReceived(id, message)
}

fn open_from(id: ConnectionId, router_id: Ipv4Addr) -> SessionInput {
    receive(id, Message::Open(open(router_id)))
}

fn keepalive_from(id: ConnectionId) -> SessionInput {
    receive(id, Message::Keepalive)
}

/// Drives a session, and records each input with its outputs as text.
struct SessionTranscript {
    session: Session,
    start: Instant,
    now: Instant,
    text: String,
}

impl SessionTranscript {
    fn new(settings: SessionSettings) -> Self {
        let start = Instant::now();
        Self {
            session: Session::new(settings, 42, start),
            start,
            now: start,
            text: String::new(),
        }
    }

    fn feed(&mut self, input: SessionInput) -> Vec<SessionOutput> {
        let line = show_input(&input);
        let outputs = self.session.handle(input, self.now);
        let at = (self.now - self.start).as_secs_f64();
        let state = self.session.state();
        writeln!(self.text, "{at:.3}: {line} -> {state:?}").expect("writing to a string succeeds");
        for output in &outputs {
            writeln!(self.text, "    {}", show_output(output))
                .expect("writing to a string succeeds");
        }
        outputs
    }

    fn feed_all(&mut self, inputs: impl IntoIterator<Item = SessionInput>) {
        for input in inputs {
            self.feed(input);
        }
    }

    /// Advances the time to the next deadline and passes `DeadlineReached` to the session. Returns
    /// the duration of the advance.
    fn wait(&mut self) -> Duration {
        let deadline = self.session.next_deadline().expect("a timer runs");
        let passed = deadline - self.now;
        self.now = deadline;
        self.feed(SessionInput::DeadlineReached);
        passed
    }

    /// Advances the time to the next deadline and passes `DeadlineReached` to the session. Returns
    /// whether the session then asks for a poll of connection `A`.
    fn wait_for_poll(&mut self) -> bool {
        let deadline = self.session.next_deadline().expect("a timer runs");
        self.now = self.now.max(deadline);
        let outputs = self.feed(SessionInput::DeadlineReached);
        outputs.contains(&SessionOutput::Poll(A))
    }

    fn check(&self, expected: &Expect) {
        expected.assert_eq(&self.text);
    }

    fn last_error(&self) -> String {
        let (_, error) = self
            .session
            .status()
            .last_error
            .expect("the session has recorded an error");
        error.to_string()
    }
}

fn show_input(input: &SessionInput) -> String {
    if let SessionInput::MessageReceived(id, message) = input {
        return format!("{} from {}", message_name(message), id.0);
    }
    if let SessionInput::Malformed(id, error) = input {
        return format!("malformed ({}) from {}", error.problem, id.0);
    }
    let text = format!("{input:?}");
    [A, B].iter().fold(text, |text, id| {
        text.replace(&format!("{id:?}"), &id.0.to_string())
    })
}

fn show_output(output: &SessionOutput) -> String {
    match output {
        SessionOutput::Send(id, Message::Notification(notification)) => {
            let NotificationError { code, subcode } = notification.error;
            format!("send NOTIFICATION {code}/{subcode} on {}", id.0)
        }
        SessionOutput::Send(id, message) => format!("send {} on {}", message_name(message), id.0),
        SessionOutput::Established(id, negotiated) => {
            format!("established {} with {}", id.0, negotiated.peer_router_id)
        }
        SessionOutput::Down(id, error) => format!("down {}: {error}", id.0),
        SessionOutput::Failed(error) => format!("failed: {error}"),
        SessionOutput::Close(id) => format!("close {}", id.0),
        SessionOutput::SetCodecOptions { connection, .. } => {
            format!("set codec of {}", connection.0)
        }
        SessionOutput::Updated(id, _) => format!("updated {}", id.0),
        SessionOutput::RefreshRequested(id, family) => format!("refresh {family:?} of {}", id.0),
        SessionOutput::Poll(id) => format!("poll {}", id.0),
        SessionOutput::Dial => "dial".into(),
        SessionOutput::CancelDial => "cancel dial".into(),
    }
}

/// Returns an established session on connection `A`. The peer opened the connection.
fn established() -> SessionTranscript {
    let mut transcript = SessionTranscript::new(passive());
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Accepted(A),
        open_from(A, HIGHER),
        keepalive_from(A),
    ]);
    assert_eq!(transcript.session.state(), SessionState::Established);
    transcript.text.clear();
    transcript
}

#[test]
fn a_session_that_dials_is_established_and_sends_keepalives() {
    let mut transcript = SessionTranscript::new(settings());
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Connected(A),
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
    let mut transcript = SessionTranscript::new(passive());
    transcript.feed(SessionInput::Start);
    assert_eq!(transcript.session.next_deadline(), None);
    transcript.feed_all([
        SessionInput::Accepted(A),
        open_from(A, HIGHER),
        keepalive_from(A),
        SessionInput::ConnectionLost(A, "reset by peer".into()),
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
fn a_route_refresh_for_a_family_that_was_not_negotiated_is_ignored() {
    let mut transcript = SessionTranscript::new(passive());
    let open = Open {
        capabilities: vec![Capability::Multiprotocol(Family::Ipv4Unicast)],
        ..open(HIGHER)
    };
    transcript.feed_all([
        SessionInput::Start,
        SessionInput::Accepted(A),
        receive(A, Message::Open(open)),
        keepalive_from(A),
    ]);
    let mut refresh = |family| {
        let message = Message::RouteRefresh(RouteRefresh { family });
        transcript.feed(receive(A, message))
    };
    let family = Family::Ipv4Unicast;
    assert_eq!(
        refresh(Some(family)),
        [SessionOutput::RefreshRequested(A, family)]
    );
    assert_eq!(refresh(Some(Family::Ipv6Unicast)), []);
    assert_eq!(refresh(None), []);
    // The peer did not offer the ROUTE-REFRESH capability, so this side sends no ROUTE-REFRESH to
    // the peer.
    assert_eq!(transcript.feed(SessionInput::RequestRefresh(family)), []);
}

#[test]
fn a_route_refresh_is_requested_from_a_peer_with_the_route_refresh_capability() {
    let mut transcript = established();
    let family = Family::Ipv6Unicast;
    let refresh = Message::RouteRefresh(RouteRefresh {
        family: Some(family),
    });
    let outputs = transcript.feed(SessionInput::RequestRefresh(family));
    assert_eq!(outputs, [SessionOutput::Send(A, refresh)]);
}
