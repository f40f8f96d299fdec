//! The state machine.

use std::time::Instant;

use bgp_packet::{Family, Message, RouteRefresh};

use crate::{
    backoff::{Backoff, Jitter},
    cease::Cease,
    connection::{Connection, ConnectionId, Direction, Phase},
    error::SessionError,
    input::Input,
    output::Output,
    settings::Settings,
    status::{Counters, SessionState, Status},
};

mod messages;
mod timers;

/// One peer's state machine.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    dialler: Dialler,
    incoming: Option<Connection>,
    outgoing: Option<Connection>,
    backoff: Backoff,
    jitter: Jitter,
    state: SessionState,
    since: Instant,
    last_error: Option<(Instant, SessionError)>,
    /// The session has come up since `last_error`.
    has_recovered: bool,
    counters: Counters,
}

/// What this side does to get a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dialler {
    /// Takes none either. Ends at the deadline, if there is one.
    Stopped { until: Option<Instant> },
    /// Dials at the deadline; a passive session has none.
    Waiting { until: Option<Instant> },
    /// Dials. The driver gives up after `connect_timeout`.
    Dialling,
    /// There is a connection.
    Settled,
}

impl Session {
    /// An idle session. `seed` makes its pauses differ from those of other sessions.
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        Self {
            backoff: Backoff::new(
                settings.connect_retry_minimum,
                settings.connect_retry_maximum,
            ),
            settings,
            dialler: Dialler::Stopped { until: None },
            incoming: None,
            outgoing: None,
            jitter: Jitter::new(seed),
            state: SessionState::Idle,
            since: now,
            last_error: None,
            has_recovered: false,
            counters: Counters::default(),
        }
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// When the last error of its status happened.
    pub fn last_error_at(&self) -> Option<Instant> {
        self.last_error.as_ref().map(|(at, _)| *at)
    }

    /// The connection that routes flow on.
    pub fn established(&self) -> Option<ConnectionId> {
        self.connections()
            .find(|connection| connection.is_established())
            .map(|connection| connection.id)
    }

    /// What there is to know about it.
    pub fn status(&self) -> Status {
        let agreement = self
            .connections()
            .filter_map(|connection| Some((connection.is_established(), connection.agreement()?)))
            .max_by_key(|(is_established, _)| *is_established)
            .map(|(_, agreement)| agreement);
        Status {
            state: self.state,
            since: self.since,
            negotiated: agreement.map(|agreement| agreement.negotiated.clone()),
            hold_deadline: agreement.and_then(|agreement| agreement.hold_deadline),
            dial_deadline: match self.dialler {
                Dialler::Waiting { until } => until,
                Dialler::Stopped { .. } | Dialler::Dialling | Dialler::Settled => None,
            },
            last_error: self.last_error.clone(),
            counters: self.counters,
        }
    }

    /// Takes note of what happened and says what is to be done.
    ///
    /// An input of a connection that was closed in the meantime is ignored.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.apply(input, now, &mut outputs);
        let state = self.furthest_state();
        if state != self.state {
            self.state = state;
            self.since = now;
        }
        outputs
    }

    fn apply(&mut self, input: Input, now: Instant, outputs: &mut Vec<Output>) {
        match input {
            Input::Start => {
                if matches!(self.dialler, Dialler::Stopped { .. }) {
                    self.start(outputs);
                }
            }
            Input::Stop(cease) => {
                self.end_all(SessionError::Ceased(cease), now, outputs);
                self.dialler = Dialler::Stopped { until: None };
            }
            Input::Reset(cease) => {
                if !matches!(self.dialler, Dialler::Stopped { .. }) {
                    self.end_all(SessionError::Ceased(cease), now, outputs);
                    self.backoff.reset();
                    self.wait_to_dial(now);
                }
            }
            Input::Connected(id) => self.connected(id, now, outputs),
            Input::DialFailed(problem) => {
                if self.dialler == Dialler::Dialling {
                    self.dial_failed(SessionError::Dial(problem), now, outputs);
                }
            }
            Input::DialTimedOut => {
                if self.dialler == Dialler::Dialling {
                    let timeout = self.settings.connect_timeout;
                    self.dial_failed(SessionError::DialTimeout(timeout), now, outputs);
                }
            }
            Input::Accepted(id) => self.accepted(id, now, outputs),
            Input::MessageReceived(id, message) => {
                if let Some(direction) = self.direction(id) {
                    self.message_received(direction, message, now, outputs);
                }
            }
            Input::Malformed(id, error) => {
                let problem = SessionError::Violation {
                    problem: error.problem.to_owned(),
                    notification: error.notification,
                };
                self.end_by_id(id, problem, now, outputs);
            }
            Input::Refuse {
                connection,
                problem,
                notification,
                pause,
            } => {
                if self.direction(connection).is_some() {
                    let error = SessionError::Violation {
                        problem,
                        notification,
                    };
                    self.end_all(error, now, outputs);
                    self.dialler = Dialler::Stopped {
                        until: Some(now + pause),
                    };
                }
            }
            Input::EndPause => {
                if matches!(self.dialler, Dialler::Stopped { until: Some(_) }) {
                    self.start(outputs);
                }
            }
            Input::RequestRefresh(family) => self.request_refresh(family, outputs),
            Input::Polled(id) => self.polled(id, now, outputs),
            Input::UpdatesWritten(id, count) => {
                self.counters.messages_sent += count;
                self.counters.updates_sent += count;
                if count > 0 {
                    self.restart_keepalive_timer(id, now);
                }
            }
            Input::SendHoldTimerExpired(id) => {
                self.end_by_id(id, SessionError::SendHoldTimerExpired, now, outputs);
            }
            Input::ConnectionLost(id, problem) => {
                self.end_by_id(id, SessionError::ConnectionLost(problem), now, outputs);
            }
            Input::DeadlineReached => self.deadline_reached(now, outputs),
        }
    }

    fn start(&mut self, outputs: &mut Vec<Output>) {
        if self.settings.active {
            self.dial(outputs);
        } else {
            self.dialler = Dialler::Waiting { until: None };
        }
    }

    fn dial(&mut self, outputs: &mut Vec<Output>) {
        self.dialler = Dialler::Dialling;
        outputs.push(Output::Dial);
    }

    fn wait_to_dial(&mut self, now: Instant) {
        let pause = self.backoff.pause(&mut self.jitter);
        let until = self.settings.active.then(|| now + pause);
        self.dialler = Dialler::Waiting { until };
    }

    fn dial_failed(&mut self, error: SessionError, now: Instant, outputs: &mut Vec<Output>) {
        if self.connections().next().is_some() {
            self.dialler = Dialler::Settled;
        } else {
            outputs.push(Output::Failed(error.clone()));
            self.note_error(error, now);
            self.wait_to_dial(now);
        }
    }

    fn connected(&mut self, id: ConnectionId, now: Instant, outputs: &mut Vec<Output>) {
        if self.dialler != Dialler::Dialling {
            // The dial was abandoned while its success was on its way.
            outputs.push(Output::Close(id));
            return;
        }
        self.dialler = Dialler::Settled;
        self.open(id, Direction::Outgoing, now, outputs);
    }

    fn accepted(&mut self, id: ConnectionId, now: Instant, outputs: &mut Vec<Output>) {
        match self.dialler {
            Dialler::Stopped { .. } => {
                self.reject(id, Cease::ConnectionRejected, outputs);
                return;
            }
            Dialler::Waiting { .. } => self.dialler = Dialler::Settled,
            Dialler::Dialling | Dialler::Settled => {}
        }
        if self.established().is_some() {
            // RFC 4271 section 6.8: an established connection stays.
            self.reject(id, Cease::ConnectionCollisionResolution, outputs);
            return;
        }
        if self.incoming.is_some() {
            // The peer opens one connection at a time, so it has given up the earlier one.
            self.take_down(Direction::Incoming, SessionError::Replaced, now, outputs);
        }
        self.open(id, Direction::Incoming, now, outputs);
    }

    fn reject(&mut self, id: ConnectionId, cease: Cease, outputs: &mut Vec<Output>) {
        self.send(id, Message::Notification(cease.notification()), outputs);
        outputs.push(Output::Failed(SessionError::Ceased(cease)));
        outputs.push(Output::Close(id));
    }

    fn open(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let open = Message::Open(self.settings.open());
        self.send(id, open, outputs);
        let deadline = now + self.settings.open_timeout;
        *self.slot(direction) = Some(Connection {
            id,
            phase: Phase::OpenSent { deadline },
            polled_for: None,
        });
    }

    fn request_refresh(&mut self, family: Family, outputs: &mut Vec<Output>) {
        let able = self.connections().find(|connection| {
            connection.is_established()
                && connection.agreement().is_some_and(|agreement| {
                    let mut families = agreement.negotiated.families.iter();
                    agreement.negotiated.route_refresh && families.any(|it| it.family == family)
                })
        });
        if let Some(id) = able.map(|connection| connection.id) {
            let family = Some(family);
            self.send(id, Message::RouteRefresh(RouteRefresh { family }), outputs);
        }
    }

    fn send(&mut self, id: ConnectionId, message: Message, outputs: &mut Vec<Output>) {
        self.counters.messages_sent += 1;
        outputs.push(Output::Send(id, message));
    }

    fn end_by_id(
        &mut self,
        id: ConnectionId,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        if let Some(direction) = self.direction(id) {
            self.end(direction, error, now, outputs);
        }
    }

    /// Ends a connection; the session tries again if it was the only one.
    fn end(
        &mut self,
        direction: Direction,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.take_down(direction, error, now, outputs);
        if self.connections().next().is_none() && self.dialler == Dialler::Settled {
            self.wait_to_dial(now);
        }
    }

    fn end_all(&mut self, error: SessionError, now: Instant, outputs: &mut Vec<Output>) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            self.take_down(direction, error.clone(), now, outputs);
        }
        if self.dialler == Dialler::Dialling {
            outputs.push(Output::AbandonDial);
        }
    }

    /// Ends a connection, whatever the session does next.
    fn take_down(
        &mut self,
        direction: Direction,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let Some(connection) = self.slot(direction).take() else {
            return;
        };
        if let Some(notification) = error.notification() {
            self.send(connection.id, Message::Notification(notification), outputs);
        }
        if connection.is_established() {
            outputs.push(Output::Down(connection.id, error.clone()));
            // A session that comes up and falls at once is not tried faster and faster.
            if now.duration_since(self.since) >= self.settings.connect_retry_maximum {
                self.backoff.reset();
            }
        }
        // The loser of a collision is part of coming up.
        let is_failure = !matches!(error, SessionError::CollisionLost(_));
        if is_failure && !connection.is_established() {
            outputs.push(Output::Failed(error.clone()));
        }
        outputs.push(Output::Close(connection.id));
        if is_failure {
            self.note_error(error, now);
        }
    }

    /// Keeps the reason that one side stated in a NOTIFICATION over the resets that follow, until
    /// the session comes up.
    fn note_error(&mut self, error: SessionError, now: Instant) {
        let has_reason = self
            .last_error
            .as_ref()
            .is_some_and(|(_, last)| last.is_stated());
        if has_reason && !self.has_recovered && error.is_consequence() {
            return;
        }
        self.has_recovered = false;
        self.last_error = Some((now, error));
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Incoming => &mut self.incoming,
            Direction::Outgoing => &mut self.outgoing,
        }
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.outgoing.iter().chain(&self.incoming)
    }

    fn direction(&self, id: ConnectionId) -> Option<Direction> {
        let is_it = |slot: &Option<Connection>| slot.as_ref().is_some_and(|it| it.id == id);
        if is_it(&self.outgoing) {
            Some(Direction::Outgoing)
        } else if is_it(&self.incoming) {
            Some(Direction::Incoming)
        } else {
            None
        }
    }

    fn furthest_state(&self) -> SessionState {
        let dialler = match self.dialler {
            Dialler::Stopped { .. } => SessionState::Idle,
            Dialler::Waiting { .. } | Dialler::Settled => SessionState::Active,
            Dialler::Dialling => SessionState::Connect,
        };
        self.connections()
            .map(|connection| phase_state(&connection.phase))
            .chain([dialler])
            .max()
            .unwrap_or(dialler)
    }
}

fn phase_state(phase: &Phase) -> SessionState {
    match phase {
        Phase::OpenSent { .. } => SessionState::OpenSent,
        Phase::OpenConfirm(_) => SessionState::OpenConfirm,
        Phase::Established(_) => SessionState::Established,
    }
}

#[cfg(test)]
mod tests;
