//! Why this side ends a session of its own will.

use bgp_packet::{Notification, NotificationError};

/// Reasons of the Cease NOTIFICATION (RFC 4486).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The peer sent more paths than it may.
    MaximumPaths,
    /// The operator ends the session.
    AdministrativeShutdown {
        /// Text for the peer's operator (RFC 9003), cut after 255 octets; may be empty.
        text: String,
    },
    /// The peer is no longer configured.
    PeerDeconfigured,
    /// The session comes up again.
    AdministrativeReset {
        /// As in a shutdown.
        text: String,
    },
    /// The connection is not wanted.
    ConnectionRejected,
    /// The peer's settings have changed.
    OtherConfigurationChange,
    /// The other of two connections stays (RFC 4271 section 6.8).
    ConnectionCollisionResolution,
}

impl Cease {
    /// The message that tells the peer.
    pub fn notification(&self) -> Notification {
        let error = match self {
            Self::AdministrativeShutdown { text } => {
                return Notification::administrative_shutdown(text);
            }
            Self::AdministrativeReset { text } => return Notification::administrative_reset(text),
            Self::MaximumPaths => NotificationError::MAXIMUM_PREFIXES_REACHED,
            Self::PeerDeconfigured => NotificationError::PEER_DECONFIGURED,
            Self::ConnectionRejected => NotificationError::CONNECTION_REJECTED,
            Self::OtherConfigurationChange => NotificationError::OTHER_CONFIGURATION_CHANGE,
            Self::ConnectionCollisionResolution => {
                NotificationError::CONNECTION_COLLISION_RESOLUTION
            }
        };
        Notification::new(error)
    }
}
