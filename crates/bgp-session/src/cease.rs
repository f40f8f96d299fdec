//! Reasons for which this speaker sends a Cease NOTIFICATION.

use bgp_packet::{Notification, NotificationError};

/// The reason of a Cease NOTIFICATION (RFC 4486).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The peer sent more paths than the configuration of this speaker allows for the peer.
    MaximumPaths,
    /// The operator of this speaker ended the session.
    AdministrativeShutdown {
        /// Text for the operator of the peer (RFC 9003). The NOTIFICATION contains at most 255
        /// octets of the text.
        text: String,
    },
    /// The peer was removed from the configuration of this speaker.
    PeerDeconfigured,
    /// The operator of this speaker reset the session: the session ends all connections, then
    /// accepts and opens new connections.
    AdministrativeReset {
        /// Text for the operator of the peer (RFC 9003). The NOTIFICATION contains at most 255
        /// octets of the text.
        text: String,
    },
    /// This speaker does not accept a connection from the peer at present.
    ConnectionRejected,
    /// The configuration of the peer at this speaker changed, and the change requires a new
    /// connection.
    OtherConfigurationChange,
    /// The session has two connections with the peer, and closes the connection that gets this
    /// Cease (RFC 4271 section 6.8).
    ConnectionCollisionResolution,
}

impl Cease {
    /// Returns the NOTIFICATION that tells the peer the reason.
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
