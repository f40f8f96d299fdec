//! What a session is told.

use std::time::Duration;

use bgp_packet::{DecodeError, Family, Message, Notification};

use crate::{cease::Cease, connection::ConnectionId};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The session shall come up. Ignored unless it is idle.
    Start,
    /// The session shall end and stay down until `Start`.
    Stop(Cease),
    /// The session shall end and come up again.
    Reset(Cease),
    /// A connection that this side opened is there.
    Connected(ConnectionId),
    /// The attempt to connect failed; the cause in words.
    DialFailed(String),
    /// The attempt to connect got no answer within `connect_timeout`. The driver measures that
    /// time in the task that polls the socket.
    DialTimedOut,
    /// The peer opened a connection.
    Accepted(ConnectionId),
    /// The peer sent a message.
    MessageReceived(ConnectionId, Message),
    /// The peer sent something else.
    Malformed(ConnectionId, DecodeError),
    /// The peer broke a policy: it is told, and the session pauses in Idle.
    Refuse {
        /// Established.
        connection: ConnectionId,
        /// In words.
        problem: String,
        /// What the peer is told.
        notification: Notification,
        /// How long no connection is made or taken.
        pause: Duration,
    },
    /// The pause of `Refuse` is over before its time. Ignored unless the session pauses.
    EndPause,
    /// The peer shall send all routes of the family again. Ignored unless it is able to.
    RequestRefresh(Family),
    /// The answer to [`crate::Output::Poll`]: the socket was read until it was empty, and each
    /// message found there was handed in before this.
    Polled(ConnectionId),
    /// So many UPDATE messages were written to the connection.
    UpdatesWritten(ConnectionId, u64),
    /// The peer takes nothing off its socket, see [`crate::Negotiated::send_hold_time`].
    SendHoldTimerExpired(ConnectionId),
    /// The connection is gone; the cause in words.
    ConnectionLost(ConnectionId, String),
    /// [`crate::Session::next_deadline`] has come. Harmless at any other time.
    DeadlineReached,
}
