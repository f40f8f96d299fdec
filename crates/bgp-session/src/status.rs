//! A session as an operator sees it.

use std::time::Instant;

use crate::{error::SessionError, negotiation::Negotiated};

/// RFC 4271 section 8.2.2, of the connection that has come furthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// No connection is made or taken.
    Idle,
    /// Waits for the peer, or for the time to dial.
    Active,
    /// Dials.
    Connect,
    /// Waits for the peer's OPEN.
    OpenSent,
    /// Waits for the peer's first KEEPALIVE.
    OpenConfirm,
    /// Exchanges routes.
    Established,
}

/// What has been exchanged since the session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of any type.
    pub messages_received: u64,
    /// Of any type.
    pub messages_sent: u64,
    /// UPDATE messages.
    pub updates_received: u64,
    /// UPDATE messages.
    pub updates_sent: u64,
    /// How often the session was established.
    pub established: u64,
}

/// What there is to know about a session at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: SessionState,
    /// When it was reached.
    pub since: Instant,
    /// From OpenConfirm on.
    pub negotiated: Option<Negotiated>,
    /// When the peer is given up unless it is heard; `None`: the timer does not run.
    pub hold_deadline: Option<Instant>,
    /// When the next attempt to connect is due.
    pub dial_deadline: Option<Instant>,
    /// What ended the last connection or kept it from coming up, and when. The reason of a
    /// NOTIFICATION stays over the loss of later connections, until the session is established.
    pub last_error: Option<(Instant, SessionError)>,
    /// What has been exchanged.
    pub counters: Counters,
}
