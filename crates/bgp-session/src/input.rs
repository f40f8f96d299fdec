//! Inputs of a session.

use std::time::Duration;

use bgp_packet::{DecodeError, Family, Message, Notification};

use crate::{cease::Cease, connection::ConnectionId};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Start the session. Ignored unless it is idle.
    Start,
    /// End the session, and keep it down until `Start`.
    Stop(Cease),
    /// End the session, and let it come up again.
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
    /// The peer broke a policy: it gets a NOTIFICATION, and the session pauses in Idle.
    Refuse {
        /// Established.
        connection: ConnectionId,
        /// In words.
        problem: String,
        /// The NOTIFICATION for the peer.
        notification: Notification,
        /// How long no connection is made or taken.
        pause: Duration,
    },
    /// The pause of `Refuse` is over before its time. Ignored unless the session pauses.
    EndPause,
    /// Ask the peer for all routes of the family. Ignored unless the peer is able to send them again.
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
