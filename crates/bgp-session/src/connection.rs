//! State of one TCP connection of a session.

use std::time::Instant;

use crate::negotiation::Negotiated;

/// The number of a connection. The driver chooses a new number for each connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This side opened the connection.
    Outgoing,
    /// The peer opened the connection.
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
pub(crate) struct SessionConnection {
    pub(crate) id: ConnectionId,
    pub(crate) phase: OpenPhase,
    /// The value of `silence_deadline` at the time when the session asked the driver to poll the
    /// socket. `None`: no poll is pending.
    pub(crate) polled_for: Option<Instant>,
}

/// The progress of the OPEN exchange on a connection.
#[derive(Clone, Debug)]
pub(crate) enum OpenPhase {
    /// This side has sent its OPEN message. The OPEN message of the peer is due at `deadline`.
    OpenSent { deadline: Instant },
    /// This side has accepted the OPEN message of the peer and waits for a KEEPALIVE.
    OpenConfirm(Agreement),
    /// Each side has accepted the OPEN message of the other side.
    Established(Agreement),
}

/// The negotiated parameters and the timers of a connection. The deadlines are `None` if the
/// negotiated hold time is zero.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    pub(crate) negotiated: Negotiated,
    pub(crate) hold_deadline: Option<Instant>,
    pub(crate) keepalive_deadline: Option<Instant>,
}

impl SessionConnection {
    pub(crate) fn agreement(&self) -> Option<&Agreement> {
        match &self.phase {
            OpenPhase::OpenSent { .. } => None,
            OpenPhase::OpenConfirm(agreement) | OpenPhase::Established(agreement) => {
                Some(agreement)
            }
        }
    }

    pub(crate) fn agreement_mut(&mut self) -> Option<&mut Agreement> {
        match &mut self.phase {
            OpenPhase::OpenSent { .. } => None,
            OpenPhase::OpenConfirm(agreement) | OpenPhase::Established(agreement) => {
                Some(agreement)
            }
        }
    }

    pub(crate) fn is_established(&self) -> bool {
        match self.phase {
            OpenPhase::OpenSent { .. } | OpenPhase::OpenConfirm(_) => false,
            OpenPhase::Established(_) => true,
        }
    }

    /// Returns the time at which the peer counts as silent, unless a message arrives before this
    /// time. `None`: the peer never counts as silent.
    pub(crate) fn silence_deadline(&self) -> Option<Instant> {
        match &self.phase {
            OpenPhase::OpenSent { deadline } => Some(*deadline),
            OpenPhase::OpenConfirm(agreement) | OpenPhase::Established(agreement) => {
                agreement.hold_deadline
            }
        }
    }

    /// Returns the time at which the driver must poll the socket: the silence deadline. `None` if a
    /// poll is pending, or if the peer never counts as silent.
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
