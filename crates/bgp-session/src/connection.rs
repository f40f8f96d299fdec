//! One TCP connection of a session.

use std::time::Instant;

use crate::negotiation::Negotiated;

/// Names a connection. The driver chooses it and never uses one twice within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This side.
    Outgoing,
    /// The peer.
    Incoming,
}

impl Direction {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) phase: Phase,
    /// The silence deadline that [`crate::Output::Poll`] was sent for, until the driver answers.
    pub(crate) polled_for: Option<Instant>,
}

/// How far a connection has come.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Our OPEN is out.
    OpenSent { deadline: Instant },
    /// The peer's OPEN was accepted.
    OpenConfirm(Agreement),
    /// The peer accepted ours, too.
    Established(Agreement),
}

/// What both OPEN messages made, and the timers that run since. The timers are `None` when the
/// negotiated hold time is zero.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    pub(crate) negotiated: Negotiated,
    pub(crate) hold_deadline: Option<Instant>,
    pub(crate) keepalive_deadline: Option<Instant>,
}

impl Connection {
    pub(crate) fn agreement(&self) -> Option<&Agreement> {
        match &self.phase {
            Phase::OpenSent { .. } => None,
            Phase::OpenConfirm(agreement) | Phase::Established(agreement) => Some(agreement),
        }
    }

    pub(crate) fn agreement_mut(&mut self) -> Option<&mut Agreement> {
        match &mut self.phase {
            Phase::OpenSent { .. } => None,
            Phase::OpenConfirm(agreement) | Phase::Established(agreement) => Some(agreement),
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        match self.phase {
            Phase::OpenSent { .. } | Phase::OpenConfirm(_) => false,
            Phase::Established(_) => true,
        }
    }

    /// When the peer counts as silent, unless it sends a message first.
    pub(crate) fn silence_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::OpenSent { deadline } => Some(*deadline),
            Phase::OpenConfirm(agreement) | Phase::Established(agreement) => {
                agreement.hold_deadline
            }
        }
    }

    /// When the driver must poll the socket: at the silence deadline, once.
    pub(crate) fn poll_deadline(&self) -> Option<Instant> {
        match self.polled_for {
            Some(_) => None,
            None => self.silence_deadline(),
        }
    }

    pub(crate) fn keepalive_deadline(&self) -> Option<Instant> {
        self.agreement()
            .and_then(|agreement| agreement.keepalive_deadline)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.poll_deadline(), self.keepalive_deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}
