//! Outputs of a session.

use bgp_packet::{CodecOptions, Family, Message, Update};

use crate::{connection::ConnectionId, error::SessionError, negotiation::Negotiated};

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection; answer with `Connected`, `DialFailed` or `DialTimedOut`.
    Dial,
    /// Stop trying to open one. It is not to be answered.
    AbandonDial,
    /// Send the message.
    Send(ConnectionId, Message),
    /// A deadline for the peer's next message has passed. Read the socket once, hand in each
    /// message that waits there, then answer with `Polled`: this process may have slept since the
    /// deadline while the peer kept sending.
    Poll(ConnectionId),
    /// Both OPEN messages are known: the codecs of the connection change here.
    SetCodecOptions {
        /// The connection.
        connection: ConnectionId,
        /// For what the peer sends.
        decoder: CodecOptions,
        /// For what the peer is sent.
        encoder: CodecOptions,
    },
    /// Routes may flow.
    Established(ConnectionId, Box<Negotiated>),
    /// The peer's routes have changed.
    Updated(ConnectionId, Update),
    /// The peer wants to have all routes of the family again.
    RefreshRequested(ConnectionId, Family),
    /// The established connection ended: what the peer announced is void.
    Down(ConnectionId, SessionError),
    /// An attempt to connect failed, or a connection ended before it was established. Not for the
    /// connection that loses a collision.
    Failed(SessionError),
    /// Send what is still to be sent, then close. Nothing more will be heard of the connection.
    Close(ConnectionId),
}
