//! Transcripts of one session. Each states its whole exchange, to be read on its own.

mod collision;
mod end;
mod open;
mod properties;
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
