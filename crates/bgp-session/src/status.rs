//! Status of a session for operators.

use std::time::Instant;

use crate::{error::SessionError, negotiation::Negotiated};

/// The state of a session (RFC 4271 section 8.2.2). With two connections: the more advanced state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// The session neither dials nor accepts connections.
    Idle,
    /// The session waits for a connection of the peer, or for its next dial.
    Active,
    /// The session tries to connect to the peer.
    Connect,
    /// The session waits for the OPEN message of the peer.
    OpenSent,
    /// The session waits for the first KEEPALIVE of the peer.
    OpenConfirm,
    /// Both sides exchange routes.
    Established,
}

/// Counts of messages and established connections since the session was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Messages of all types from the peer.
    pub messages_received: u64,
    /// Messages of all types to the peer.
    pub messages_sent: u64,
    /// UPDATE messages from the peer.
    pub updates_received: u64,
    /// UPDATE messages to the peer.
    pub updates_sent: u64,
    /// Number of connections that were established.
    pub established: u64,
}

/// A snapshot of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub state: SessionState,
    /// Time of the last change of `state`.
    pub since: Instant,
    /// `None` in the states before OpenConfirm.
    pub negotiated: Option<Negotiated>,
    /// Time at which the connection ends unless the peer sends a message before this time. `None`:
    /// the hold timer does not run.
    pub hold_deadline: Option<Instant>,
    /// Time of the next attempt to connect. `None`: no attempt is scheduled.
    pub dial_deadline: Option<Instant>,
    /// Time and cause of the last failure. After an error that a NOTIFICATION explained, the
    /// consequences of this error, such as lost connections, are not recorded until the session has
    /// been established.
    pub last_error: Option<(Instant, SessionError)>,
    pub counters: SessionCounters,
}
