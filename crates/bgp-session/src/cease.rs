//! Reasons for which this speaker ends a session.

use bgp_packet::{Notification, NotificationError};

/// The reason of a Cease NOTIFICATION (RFC 4486).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cease {
    /// The peer sent more paths than its maximum.
    MaximumPaths,
    /// The operator ended the session.
    AdministrativeShutdown {
        /// Text for the operator of the peer (RFC 9003), cut after 255 octets. Empty: no text.
        text: String,
    },
    /// The peer was removed from the configuration.
    PeerDeconfigured,
    /// The operator restarts the session.
    AdministrativeReset {
        /// Text for the operator of the peer (RFC 9003), cut after 255 octets. Empty: no text.
        text: String,
    },
    /// The speaker accepts no connection of the peer at present.
    ConnectionRejected,
    /// The configuration of the peer changed, and the change requires a new session.
    OtherConfigurationChange,
    /// Another connection of the peer was kept (RFC 4271 section 6.8).
    ConnectionCollisionResolution,
}

impl Cease {
    /// Returns the NOTIFICATION that sends the reason to the peer.
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
