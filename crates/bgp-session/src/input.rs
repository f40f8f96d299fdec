//! Events that the driver passes to a session.

use std::time::Duration;

use bgp_packet::{DecodeError, Family, Message, Notification};

use crate::{cease::Cease, connection::ConnectionId};

/// An event or a request for a session.
#[derive(Clone, Debug)]
pub enum SessionInput {
    /// Start the session. Ignored unless the session is idle.
    Start,
    /// End all connections with a Cease NOTIFICATION. Until `Start`, the session neither dials nor
    /// accepts connections.
    Stop(Cease),
    /// End all connections with a Cease NOTIFICATION. Then accept connections, and, if the settings
    /// have `active`, dial after the shortest pause. Ignored in the state Idle.
    Reset(Cease),
    /// The attempt to connect that the session requested succeeded.
    Connected(ConnectionId),
    /// The attempt to connect that the session requested failed. The text describes the cause.
    DialFailed(String),
    /// The peer did not answer the attempt to connect within `connect_timeout`. The driver measures
    /// this time; the session has no timer for a dial.
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
        /// Description of the violation for the operator of this side.
        problem: String,
        notification: Notification,
        pause: Duration,
    },
    /// End the pause of `Refuse` before its time is over. Ignored unless the session is in such a
    /// pause.
    EndPause,
    /// Ask the peer to send all routes of the family again. Ignored unless the session is
    /// established, the family is negotiated, and the peer offers the ROUTE-REFRESH capability.
    RequestRefresh(Family),
    /// The answer to [`crate::SessionOutput::Poll`]: the driver has read the socket until the
    /// socket was empty, and has passed each message to the session.
    Polled(ConnectionId),
    /// The driver wrote the given number of UPDATE messages to the connection.
    UpdatesWritten(ConnectionId, u64),
    /// The peer read nothing from its socket for [`crate::Negotiated::send_hold_time`].
    SendHoldTimerExpired(ConnectionId),
    /// The connection ended without a NOTIFICATION. The text describes the cause.
    ConnectionLost(ConnectionId, String),
    /// The time that [`crate::Session::next_deadline`] returns has come. Without effect before this
    /// time.
    DeadlineReached,
}
