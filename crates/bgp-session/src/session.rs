//! The state machine of a session.

use std::time::Instant;

use bgp_packet::{Family, Message, RouteRefresh};

use crate::{
    backoff::{DialBackoff, Jitter},
    cease::Cease,
    connection::{ConnectionId, Direction, OpenPhase, SessionConnection},
    error::SessionError,
    input::SessionInput,
    output::SessionOutput,
    settings::SessionSettings,
    status::{SessionCounters, SessionState, SessionStatus},
};

mod messages;
mod timers;

/// The state machine of one peer.
#[derive(Clone, Debug)]
pub struct Session {
    settings: SessionSettings,
    dialler: Dialler,
    incoming: Option<SessionConnection>,
    outgoing: Option<SessionConnection>,
    backoff: DialBackoff,
    jitter: Jitter,
    state: SessionState,
    since: Instant,
    last_error: Option<(Instant, SessionError)>,
    /// Whether the session has been established since `last_error`.
    has_recovered: bool,
    counters: SessionCounters,
}

/// The state of this side's attempts to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dialler {
    /// The session neither dials nor accepts connections until `until`. `None`: until
    /// [`SessionInput::Start`].
    Stopped { until: Option<Instant> },
    /// The session accepts connections and dials at `until`. `None`: the session is passive and
    /// never dials.
    Waiting { until: Option<Instant> },
    /// A dial is pending. The driver reports a timeout after `connect_timeout`.
    Dialling,
    /// The session has a connection and does not dial.
    Connected,
}

impl Session {
    /// Returns an idle session. Sessions with different seeds have different random pauses.
    pub fn new(settings: SessionSettings, seed: u64, now: Instant) -> Self {
        Self {
            backoff: DialBackoff::new(
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
            counters: SessionCounters::default(),
        }
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    pub fn state(&self) -> SessionState {
        self.state
    }

    /// Returns the time of [`SessionStatus::last_error`].
    pub fn last_error_at(&self) -> Option<Instant> {
        self.last_error.as_ref().map(|(at, _)| *at)
    }

    /// Returns the established connection. `None`: the session is not established.
    pub fn established(&self) -> Option<ConnectionId> {
        self.connections()
            .find(|connection| connection.is_established())
            .map(|connection| connection.id)
    }

    pub fn status(&self) -> SessionStatus {
        let agreement = self
            .connections()
            .filter_map(|connection| Some((connection.is_established(), connection.agreement()?)))
            .max_by_key(|(is_established, _)| *is_established)
            .map(|(_, agreement)| agreement);
        SessionStatus {
            state: self.state,
            since: self.since,
            negotiated: agreement.map(|agreement| agreement.negotiated.clone()),
            hold_deadline: agreement.and_then(|agreement| agreement.hold_deadline),
            dial_deadline: match self.dialler {
                Dialler::Waiting { until } => until,
                Dialler::Stopped { .. } | Dialler::Dialling | Dialler::Connected => None,
            },
            last_error: self.last_error.clone(),
            counters: self.counters,
        }
    }

    /// Handles an event and returns the actions for the driver.
    ///
    /// The session ignores an event of a connection that it has closed, except that it counts
    /// written UPDATE messages.
    pub fn handle(&mut self, input: SessionInput, now: Instant) -> Vec<SessionOutput> {
        let mut outputs = Vec::new();
        self.apply(input, now, &mut outputs);
        let state = self.furthest_state();
        if state != self.state {
            self.state = state;
            self.since = now;
        }
        outputs
    }

    fn apply(&mut self, input: SessionInput, now: Instant, outputs: &mut Vec<SessionOutput>) {
        match input {
            SessionInput::Start => {
                if matches!(self.dialler, Dialler::Stopped { .. }) {
                    self.start(outputs);
                }
            }
            SessionInput::Stop(cease) => {
                self.end_all_connections(SessionError::Ceased(cease), now, outputs);
                self.dialler = Dialler::Stopped { until: None };
            }
            SessionInput::Reset(cease) => {
                if !matches!(self.dialler, Dialler::Stopped { .. }) {
                    self.end_all_connections(SessionError::Ceased(cease), now, outputs);
                    self.backoff.reset();
                    self.wait_to_dial(now);
                }
            }
            SessionInput::Connected(id) => self.connected(id, now, outputs),
            SessionInput::DialFailed(problem) => {
                if self.dialler == Dialler::Dialling {
                    self.dial_failed(SessionError::Dial(problem), now, outputs);
                }
            }
            SessionInput::DialTimedOut => {
                if self.dialler == Dialler::Dialling {
                    let timeout = self.settings.connect_timeout;
                    self.dial_failed(SessionError::DialTimeout(timeout), now, outputs);
                }
            }
            SessionInput::Accepted(id) => self.accepted(id, now, outputs),
            SessionInput::MessageReceived(id, message) => {
                if let Some(direction) = self.direction(id) {
                    self.message_received(direction, message, now, outputs);
                }
            }
            SessionInput::Malformed(id, error) => {
                let problem = SessionError::Violation {
                    problem: error.problem.to_owned(),
                    notification: error.notification,
                };
                self.end_connection_by_id(id, problem, now, outputs);
            }
            SessionInput::Refuse {
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
                    self.end_all_connections(error, now, outputs);
                    self.dialler = Dialler::Stopped {
                        until: Some(now + pause),
                    };
                }
            }
            SessionInput::EndPause => {
                if matches!(self.dialler, Dialler::Stopped { until: Some(_) }) {
                    self.start(outputs);
                }
            }
            SessionInput::RequestRefresh(family) => self.request_refresh(family, outputs),
            SessionInput::Polled(id) => self.polled(id, now, outputs),
            SessionInput::UpdatesWritten(id, count) => {
                self.counters.messages_sent += count;
                self.counters.updates_sent += count;
                if count > 0 {
                    self.restart_keepalive_timer(id, now);
                }
            }
            SessionInput::SendHoldTimerExpired(id) => {
                self.end_connection_by_id(id, SessionError::SendHoldTimerExpired, now, outputs);
            }
            SessionInput::ConnectionLost(id, problem) => {
                self.end_connection_by_id(id, SessionError::ConnectionLost(problem), now, outputs);
            }
            SessionInput::DeadlineReached => self.deadline_reached(now, outputs),
        }
    }

    fn start(&mut self, outputs: &mut Vec<SessionOutput>) {
        if self.settings.active {
            self.dial(outputs);
        } else {
            self.dialler = Dialler::Waiting { until: None };
        }
    }

    fn dial(&mut self, outputs: &mut Vec<SessionOutput>) {
        self.dialler = Dialler::Dialling;
        outputs.push(SessionOutput::Dial);
    }

    fn wait_to_dial(&mut self, now: Instant) {
        let pause = self.backoff.pause(&mut self.jitter);
        let until = self.settings.active.then(|| now + pause);
        self.dialler = Dialler::Waiting { until };
    }

    fn dial_failed(&mut self, error: SessionError, now: Instant, outputs: &mut Vec<SessionOutput>) {
        if self.connections().next().is_some() {
            self.dialler = Dialler::Connected;
        } else {
            outputs.push(SessionOutput::Failed(error.clone()));
            self.record_error(error, now);
            self.wait_to_dial(now);
        }
    }

    fn connected(&mut self, id: ConnectionId, now: Instant, outputs: &mut Vec<SessionOutput>) {
        if self.dialler != Dialler::Dialling {
            // The driver connected before it received the request to cancel the dial, so the
            // session closes the connection.
            outputs.push(SessionOutput::Close(id));
            return;
        }
        self.dialler = Dialler::Connected;
        self.open(id, Direction::Outgoing, now, outputs);
    }

    fn accepted(&mut self, id: ConnectionId, now: Instant, outputs: &mut Vec<SessionOutput>) {
        match self.dialler {
            Dialler::Stopped { .. } => {
                self.reject(id, Cease::ConnectionRejected, outputs);
                return;
            }
            Dialler::Waiting { .. } => self.dialler = Dialler::Connected,
            Dialler::Dialling | Dialler::Connected => {}
        }
        if self.established().is_some() {
            // RFC 4271 section 6.8: a session keeps its established connection and rejects a new
            // connection.
            self.reject(id, Cease::ConnectionCollisionResolution, outputs);
            return;
        }
        if self.incoming.is_some() {
            // A peer opens one connection at a time, so it has abandoned the connection that it
            // opened before.
            self.take_down(Direction::Incoming, SessionError::Replaced, now, outputs);
        }
        self.open(id, Direction::Incoming, now, outputs);
    }

    fn reject(&mut self, id: ConnectionId, cease: Cease, outputs: &mut Vec<SessionOutput>) {
        self.send(id, Message::Notification(cease.notification()), outputs);
        outputs.push(SessionOutput::Failed(SessionError::Ceased(cease)));
        outputs.push(SessionOutput::Close(id));
    }

    fn open(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        let open = Message::Open(self.settings.open());
        self.send(id, open, outputs);
        let deadline = now + self.settings.open_timeout;
        *self.slot(direction) = Some(SessionConnection {
            id,
            phase: OpenPhase::OpenSent { deadline },
            polled_for: None,
        });
    }

    fn request_refresh(&mut self, family: Family, outputs: &mut Vec<SessionOutput>) {
        let refreshable = self.connections().find(|connection| {
            connection.is_established()
                && connection.agreement().is_some_and(|agreement| {
                    let mut families = agreement.negotiated.families.iter();
                    agreement.negotiated.route_refresh && families.any(|it| it.family == family)
                })
        });
        if let Some(id) = refreshable.map(|connection| connection.id) {
            let family = Some(family);
            self.send(id, Message::RouteRefresh(RouteRefresh { family }), outputs);
        }
    }

    fn send(&mut self, id: ConnectionId, message: Message, outputs: &mut Vec<SessionOutput>) {
        self.counters.messages_sent += 1;
        outputs.push(SessionOutput::Send(id, message));
    }

    fn end_connection_by_id(
        &mut self,
        id: ConnectionId,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        if let Some(direction) = self.direction(id) {
            self.end_connection(direction, error, now, outputs);
        }
    }

    /// Ends a connection. If the session has no other connection and no pending dial, and its
    /// settings have `active`, schedules the next dial.
    fn end_connection(
        &mut self,
        direction: Direction,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        self.take_down(direction, error, now, outputs);
        if self.connections().next().is_none() && self.dialler == Dialler::Connected {
            self.wait_to_dial(now);
        }
    }

    fn end_all_connections(
        &mut self,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            self.take_down(direction, error.clone(), now, outputs);
        }
        if self.dialler == Dialler::Dialling {
            outputs.push(SessionOutput::CancelDial);
        }
    }

    /// Ends a connection without scheduling a dial.
    fn take_down(
        &mut self,
        direction: Direction,
        error: SessionError,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        let Some(connection) = self.slot(direction).take() else {
            return;
        };
        if let Some(notification) = error.notification() {
            self.send(connection.id, Message::Notification(notification), outputs);
        }
        if connection.is_established() {
            outputs.push(SessionOutput::Down(connection.id, error.clone()));
            // Reset the pause only if the connection was established for at least the longest
            // pause. So the pauses stay long for a session that always ends soon after it was
            // established.
            if now.duration_since(self.since) >= self.settings.connect_retry_maximum {
                self.backoff.reset();
            }
        }
        // The loss of a collision is no failure: a collision can occur whenever both sides dial.
        let is_failure = !matches!(error, SessionError::CollisionLost(_));
        if is_failure && !connection.is_established() {
            outputs.push(SessionOutput::Failed(error.clone()));
        }
        outputs.push(SessionOutput::Close(connection.id));
        if is_failure {
            self.record_error(error, now);
        }
    }

    /// Records the error for the status. After an error that a NOTIFICATION explained, the
    /// consequences of this error, such as lost connections, are not recorded until the session has
    /// been established.
    fn record_error(&mut self, error: SessionError, now: Instant) {
        let is_explained = self
            .last_error
            .as_ref()
            .is_some_and(|(_, last)| last.is_explained_by_notification());
        if is_explained && !self.has_recovered && error.is_consequence() {
            return;
        }
        self.has_recovered = false;
        self.last_error = Some((now, error));
    }

    fn slot(&mut self, direction: Direction) -> &mut Option<SessionConnection> {
        match direction {
            Direction::Incoming => &mut self.incoming,
            Direction::Outgoing => &mut self.outgoing,
        }
    }

    fn connections(&self) -> impl Iterator<Item = &SessionConnection> {
        self.outgoing.iter().chain(&self.incoming)
    }

    fn direction(&self, id: ConnectionId) -> Option<Direction> {
        let has_id = |slot: &Option<SessionConnection>| {
            slot.as_ref().is_some_and(|connection| connection.id == id)
        };
        if has_id(&self.outgoing) {
            Some(Direction::Outgoing)
        } else if has_id(&self.incoming) {
            Some(Direction::Incoming)
        } else {
            None
        }
    }

    fn furthest_state(&self) -> SessionState {
        let dialler = match self.dialler {
            Dialler::Stopped { .. } => SessionState::Idle,
            Dialler::Waiting { .. } | Dialler::Connected => SessionState::Active,
            Dialler::Dialling => SessionState::Connect,
        };
        self.connections()
            .map(|connection| phase_state(&connection.phase))
            .chain([dialler])
            .max()
            .unwrap_or(dialler)
    }
}

fn phase_state(phase: &OpenPhase) -> SessionState {
    match phase {
        OpenPhase::OpenSent { .. } => SessionState::OpenSent,
        OpenPhase::OpenConfirm(_) => SessionState::OpenConfirm,
        OpenPhase::Established(_) => SessionState::Established,
    }
}

#[cfg(test)]
mod tests;
