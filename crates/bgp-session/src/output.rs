//! Actions that a session asks its driver to perform.

use bgp_packet::{CodecOptions, Family, Message, Update};

use crate::{connection::ConnectionId, error::SessionError, negotiation::Negotiated};

/// An action for the driver. The driver performs the outputs of one input in the order in which the
/// session returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionOutput {
    /// Try to connect to the peer, then pass the result to the session: `Connected`, `DialFailed`
    /// or `DialTimedOut`.
    Dial,
    /// Cancel the pending attempt to connect. The driver passes no result of a cancelled attempt.
    CancelDial,
    Send(ConnectionId, Message),
    /// The deadline for the peer's next message has passed. Read the socket until the socket is
    /// empty, pass each message to the session, then pass `Polled`. The process of the driver might
    /// have been suspended while the peer kept sending, so the socket can hold messages that
    /// arrived before the deadline.
    Poll(ConnectionId),
    /// Decode and encode all further messages of the connection with the options that both OPEN
    /// messages negotiated.
    SetCodecOptions {
        connection: ConnectionId,
        /// For messages from the peer.
        decoder: CodecOptions,
        /// For messages to the peer.
        encoder: CodecOptions,
    },
    /// The session is established. Both sides can send routes on this connection.
    Established(ConnectionId, Box<Negotiated>),
    /// The peer announced or withdrew routes.
    Updated(ConnectionId, Update),
    /// The peer asks this side to send all routes of the family again (RFC 2918).
    RefreshRequested(ConnectionId, Family),
    /// The established connection ended. The driver removes all routes that the peer announced.
    Down(ConnectionId, SessionError),
    /// An attempt to connect failed, the session rejected a connection of the peer, or a connection
    /// ended before it was established. The error is never `SessionError::CollisionLost`.
    Failed(SessionError),
    /// Send all pending messages, then close the connection. The session sends no further output
    /// for this connection.
    Close(ConnectionId),
}
