//! No sequence of inputs makes a session panic or break an invariant.

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
