//! Hold, keepalive and dial timers of a session.

use std::time::{Duration, Instant};

use bgp_packet::Message;

use super::{Dialler, Session};
use crate::{
    connection::{ConnectionId, Direction, OpenPhase, SessionConnection},
    error::SessionError,
    output::SessionOutput,
};

impl Session {
    /// Returns the time at which the driver must pass [`crate::SessionInput::DeadlineReached`].
    /// `None`: no timer runs.
    pub fn next_deadline(&self) -> Option<Instant> {
        let dialler = match self.dialler {
            Dialler::Stopped { until } | Dialler::Waiting { until } => until,
            Dialler::Dialling | Dialler::Connected => None,
        };
        self.connections()
            .filter_map(SessionConnection::next_deadline)
            .chain(dialler)
            .min()
    }

    pub(super) fn deadline_reached(&mut self, now: Instant, outputs: &mut Vec<SessionOutput>) {
        for direction in [Direction::Outgoing, Direction::Incoming] {
            self.connection_deadline_reached(direction, now, outputs);
        }
        match self.dialler {
            Dialler::Stopped { until: Some(until) } if until <= now => self.start(outputs),
            Dialler::Waiting { until: Some(until) } if until <= now => self.dial(outputs),
            Dialler::Stopped { .. }
            | Dialler::Waiting { .. }
            | Dialler::Dialling
            | Dialler::Connected => {}
        }
    }

    fn connection_deadline_reached(
        &mut self,
        direction: Direction,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let id = connection.id;
        if is_due(connection.poll_deadline()) {
            connection.polled_for = connection.silence_deadline();
            outputs.push(SessionOutput::Poll(id));
        }
        if is_due(connection.keepalive_deadline()) {
            self.send(id, Message::Keepalive, outputs);
            self.restart_keepalive_timer(id, now);
        }
    }

    /// Ends the connection if the peer is silent. Each message postpones the silence deadline, so
    /// the peer is silent if the deadline is unchanged after the driver has read the socket.
    pub(super) fn polled(
        &mut self,
        id: ConnectionId,
        now: Instant,
        outputs: &mut Vec<SessionOutput>,
    ) {
        let open_timeout = self.settings.open_timeout;
        let Some(direction) = self.direction(id) else {
            return;
        };
        let Some(connection) = self.slot(direction) else {
            return;
        };
        let polled_for = connection.polled_for.take();
        if polled_for.is_none() || polled_for != connection.silence_deadline() {
            return;
        }
        let error = match &connection.phase {
            OpenPhase::OpenSent { .. } => SessionError::OpenTimeout(open_timeout),
            OpenPhase::OpenConfirm(agreement) | OpenPhase::Established(agreement) => {
                let hold_time = agreement.negotiated.hold_time.unwrap_or_default();
                SessionError::HoldTimerExpired(hold_time)
            }
        };
        self.end_connection(direction, error, now, outputs);
    }

    pub(super) fn restart_hold_timer(&mut self, id: ConnectionId, now: Instant) {
        if let Some(direction) = self.direction(id)
            && let Some(connection) = self.slot(direction)
            && let Some(agreement) = connection.agreement_mut()
        {
            agreement.hold_deadline = agreement.negotiated.hold_time.map(|time| now + time);
        }
    }

    /// Restarts the keepalive timer after this side has sent a KEEPALIVE or UPDATE message (RFC
    /// 4271 section 8.2.2).
    pub(super) fn restart_keepalive_timer(&mut self, id: ConnectionId, now: Instant) {
        let interval = self
            .connections()
            .find(|connection| connection.id == id)
            .and_then(SessionConnection::agreement)
            .and_then(|agreement| agreement.negotiated.keepalive_interval());
        let deadline = self.keepalive_deadline(interval, now);
        if let Some(direction) = self.direction(id)
            && let Some(connection) = self.slot(direction)
            && let Some(agreement) = connection.agreement_mut()
        {
            agreement.keepalive_deadline = deadline;
        }
    }

    pub(super) fn keepalive_deadline(
        &mut self,
        interval: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        interval.map(|interval| now + self.jitter.shorten(interval))
    }
}
