//! Property tests: a session keeps its invariants for any sequence of inputs.

use super::*;

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

/// Generates an input, and whether the time advances to the next deadline before the input.
fn any_input() -> impl Strategy<Value = (SessionInput, bool)> {
    let input = prop_oneof![
        3 => Just(SessionInput::Start),
        1 => Just(SessionInput::Stop(Cease::PeerDeconfigured)),
        1 => Just(SessionInput::Reset(Cease::OtherConfigurationChange)),
        4 => any_connection().prop_map(SessionInput::Connected),
        4 => any_connection().prop_map(SessionInput::Accepted),
        1 => Just(SessionInput::DialFailed("refused".into())),
        12 => (any_connection(), any_message())
            .prop_map(|(id, message)| SessionInput::MessageReceived(id, message)),
        1 => any_connection().prop_map(|connection| SessionInput::Refuse {
            connection,
            problem: "too much".into(),
            notification: Cease::MaximumPaths.notification(),
            pause: Duration::from_secs(3),
        }),
        2 => any_connection().prop_map(SessionInput::Polled),
        1 => Just(SessionInput::DialTimedOut),
        1 => Just(SessionInput::EndPause),
        1 => Just(SessionInput::RequestRefresh(Family::Ipv6Unicast)),
        1 => any_connection().prop_map(|id| SessionInput::UpdatesWritten(id, 1)),
        1 => any_connection().prop_map(SessionInput::SendHoldTimerExpired),
        1 => any_connection().prop_map(|id| SessionInput::ConnectionLost(id, "lost".into())),
        3 => Just(SessionInput::DeadlineReached),
    ];
    (input, prop::bool::weighted(0.2))
}

/// Checks the rules that a driver relies on: at most one pending dial, at most one established
/// connection, `Down` before `Close` of the established connection, no `Failed` for a lost
/// collision, and no output for a connection that is not open.
#[derive(Default)]
struct Driver {
    open: std::collections::BTreeSet<ConnectionId>,
    established: Option<ConnectionId>,
    is_dialling: bool,
}

impl Driver {
    fn check(&mut self, outputs: &[SessionOutput]) {
        for output in outputs {
            match output {
                SessionOutput::Dial => {
                    assert!(
                        !self.is_dialling,
                        "the session dials while a dial is pending"
                    );
                    self.is_dialling = true;
                }
                SessionOutput::CancelDial => assert!(std::mem::take(&mut self.is_dialling)),
                SessionOutput::Send(id, _)
                | SessionOutput::Poll(id)
                | SessionOutput::SetCodecOptions { connection: id, .. }
                | SessionOutput::Updated(id, _)
                | SessionOutput::RefreshRequested(id, _) => assert!(self.open.contains(id)),
                SessionOutput::Established(id, _) => {
                    assert!(self.open.contains(id));
                    assert_eq!(
                        self.established.replace(*id),
                        None,
                        "the session has two established connections"
                    );
                }
                SessionOutput::Failed(error) => {
                    assert!(!matches!(error, SessionError::CollisionLost(_)));
                }
                SessionOutput::Down(id, _) => assert_eq!(self.established.take(), Some(*id)),
                SessionOutput::Close(id) => {
                    assert!(
                        self.open.remove(id),
                        "the session closes a connection that is not open"
                    );
                    assert_ne!(
                        self.established,
                        Some(*id),
                        "the session closes its established connection without `Down`"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_outputs_for_any_sequence_of_inputs_keep_the_rules_that_a_driver_relies_on(
        inputs in prop::collection::vec(any_input(), 0..60),
        is_active: bool,
        seed: u64,
    ) {
        let settings = SessionSettings { active: is_active, ..settings() };
        let mut now = Instant::now();
        let mut session = Session::new(settings, seed, now);
        let mut driver = Driver::default();
        for (input, passes_time) in inputs {
            if passes_time && let Some(deadline) = session.next_deadline() {
                now = now.max(deadline);
                driver.check(&session.handle(SessionInput::DeadlineReached, now));
                let next = session.next_deadline();
                prop_assert!(next.is_none_or(|next| next > now), "a deadline is due after `DeadlineReached`");
            }
            // A driver passes one result for each dial, and does not reuse the number of an open
            // connection.
            let is_dial_result = matches!(
                input,
                SessionInput::Connected(_) | SessionInput::DialFailed(_) | SessionInput::DialTimedOut
            );
            if is_dial_result && !driver.is_dialling {
                continue;
            }
            if let SessionInput::Connected(id) | SessionInput::Accepted(id) = &input
                && !driver.open.insert(*id)
            {
                continue;
            }
            if is_dial_result {
                driver.is_dialling = false;
            }
            driver.check(&session.handle(input, now));
            prop_assert_eq!(session.established(), driver.established);
            prop_assert_eq!(
                session.state() == SessionState::Established,
                driver.established.is_some()
            );
        }
    }
}
