//! Events that the driver passes to a session.

use std::time::Duration;

use bgp_packet::{DecodeError, Family, Message, Notification};

use crate::{cease::Cease, connection::ConnectionId};

/// An event or a request for a session.
#[derive(Clone, Debug)]
pub enum SessionInput {
    /// Start the session. Ignored unless the session is idle.
    Start,
    /// End all connections and accept none until `Start`.
    Stop(Cease),
    /// End all connections, then reconnect.
    Reset(Cease),
    /// The attempt to connect succeeded.
    Connected(ConnectionId),
    /// The attempt to connect failed. The text describes the cause.
    DialFailed(String),
    /// The peer did not answer the attempt to connect within `connect_timeout`. The driver measures
    /// this time, not the session.
    DialTimedOut,
    /// The peer opened a connection.
    Accepted(ConnectionId),
    MessageReceived(ConnectionId, Message),
    /// The peer sent bytes that are not a valid BGP message.
    Malformed(ConnectionId, DecodeError),
    /// The peer violated a policy of the driver, such as a maximum of paths. The session sends
    /// `notification`, ends, and neither dials nor accepts connections during `pause`.
    Refuse {
        connection: ConnectionId,
        /// Description for the operator of this side.
        problem: String,
        notification: Notification,
        pause: Duration,
    },
    /// End the pause of `Refuse` early. Ignored unless the session pauses.
    EndPause,
    /// Ask the peer to send all routes of the family again. Ignored if the peer did not offer the
    /// ROUTE-REFRESH capability.
    RequestRefresh(Family),
    /// The answer to [`crate::SessionOutput::Poll`]: the driver has read the socket until it was
    /// empty, and has passed each message to the session.
    Polled(ConnectionId),
    /// The driver wrote this number of UPDATE messages to the connection.
    UpdatesWritten(ConnectionId, u64),
    /// The peer read nothing from its socket for [`crate::Negotiated::send_hold_time`].
    SendHoldTimerExpired(ConnectionId),
    /// The connection ended without a NOTIFICATION. The text describes the cause.
    ConnectionLost(ConnectionId, String),
    /// [`crate::Session::next_deadline`] has passed. Without effect if no deadline has passed.
    DeadlineReached,
}
