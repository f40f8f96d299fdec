//! Kinds of session failures, used as metric labels.

use std::fmt;

use bgp_packet::NotificationError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// The kind of failure that ended or prevented a session. The list is short, so that a
        /// reason can be a metric label. A reason that names a NOTIFICATION, a Cease or an OPEN
        /// message applies to sent and to received NOTIFICATIONs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FailureReason {
            $($(#[$doc])* $name,)*
        }

        impl FailureReason {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name of the reason in metrics, logs and status lists.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// An attempt to connect failed.
    DialFailed = "dial_failed",
    /// The peer did not answer an attempt to connect within `connect_timeout`.
    DialTimeout = "dial_timeout",
    /// The connection ended without a NOTIFICATION.
    ConnectionLost = "connection_lost",
    /// The peer opened a newer connection, which replaced an older connection of the peer that was
    /// not established.
    Replaced = "replaced",
    /// The peer did not send its OPEN message within `open_timeout`.
    OpenTimeout = "open_timeout",
    /// NOTIFICATION with code 4, Hold Timer Expired: one side received no message for the hold
    /// time.
    HoldTimerExpired = "hold_timer_expired",
    /// NOTIFICATION with code 8, Send Hold Timer Expired: one side read nothing from its socket for
    /// the send hold time.
    SendHoldTimerExpired = "send_hold_timer_expired",
    /// NOTIFICATION with code 1, Message Header Error.
    BadMessageHeader = "bad_message_header",
    /// NOTIFICATION with code 2, OPEN Message Error, and a subcode that has no reason in this list.
    MalformedOpen = "malformed_open",
    /// OPEN message with a BGP version other than 4.
    UnsupportedVersion = "unsupported_version",
    /// OPEN message with an AS number that is reserved, or that the receiver does not expect.
    BadPeerAs = "bad_peer_as",
    /// OPEN message with the receiver's own router id, or with 0.0.0.0.
    BadRouterId = "bad_router_id",
    /// OPEN message with an unsupported optional parameter, such as authentication.
    UnsupportedParameter = "unsupported_parameter",
    /// OPEN message with a hold time of 1 s or 2 s, or below the minimum of the receiver.
    UnacceptableHoldTime = "unacceptable_hold_time",
    /// OPEN message without a capability that the receiver requires.
    UnsupportedCapability = "unsupported_capability",
    /// NOTIFICATION with code 3, UPDATE Message Error.
    MalformedUpdate = "malformed_update",
    /// NOTIFICATION with code 7, ROUTE-REFRESH Message Error.
    MalformedRouteRefresh = "malformed_route_refresh",
    /// A message arrived in the wrong state: NOTIFICATION with code 5, Finite State Machine Error.
    UnexpectedMessage = "unexpected_message",
    /// Cease: one side sent more paths than the maximum that the other side allows.
    MaximumPaths = "maximum_paths",
    AdministrativeShutdown = "administrative_shutdown",
    PeerDeconfigured = "peer_deconfigured",
    AdministrativeReset = "administrative_reset",
    ConnectionRejected = "connection_rejected",
    /// Cease: the configuration of the session changed.
    ConfigurationChange = "configuration_change",
    /// Cease: the session had two connections, and the other connection was kept.
    Collision = "collision",
    OutOfResources = "out_of_resources",
    /// Cease with a subcode that has no reason in this list.
    Cease = "cease",
    /// The speaker refused a dynamic peer, because the group of the peer already has the maximum
    /// number of dynamic peers.
    GroupFull = "group_full",
    /// The speaker refused a dynamic peer, because the maximum number of dynamic peers already
    /// connects from the address of the peer.
    AddressFull = "address_full",
    /// A NOTIFICATION with an unknown error code.
    Other = "other",
}

impl FailureReason {
    pub(crate) fn of(error: NotificationError) -> Self {
        use NotificationError as Error;
        match error {
            Error::UNSUPPORTED_VERSION_NUMBER => Self::UnsupportedVersion,
            Error::BAD_PEER_AS => Self::BadPeerAs,
            Error::BAD_BGP_IDENTIFIER => Self::BadRouterId,
            Error::UNSUPPORTED_OPTIONAL_PARAMETER => Self::UnsupportedParameter,
            Error::UNACCEPTABLE_HOLD_TIME => Self::UnacceptableHoldTime,
            Error::UNSUPPORTED_CAPABILITY => Self::UnsupportedCapability,
            Error::MAXIMUM_PREFIXES_REACHED => Self::MaximumPaths,
            Error::ADMINISTRATIVE_SHUTDOWN => Self::AdministrativeShutdown,
            Error::PEER_DECONFIGURED => Self::PeerDeconfigured,
            Error::ADMINISTRATIVE_RESET => Self::AdministrativeReset,
            Error::CONNECTION_REJECTED => Self::ConnectionRejected,
            Error::OTHER_CONFIGURATION_CHANGE => Self::ConfigurationChange,
            Error::CONNECTION_COLLISION_RESOLUTION => Self::Collision,
            Error::OUT_OF_RESOURCES => Self::OutOfResources,
            Error { code: 1, .. } => Self::BadMessageHeader,
            Error { code: 2, .. } => Self::MalformedOpen,
            Error { code: 3, .. } => Self::MalformedUpdate,
            Error { code: 4, .. } => Self::HoldTimerExpired,
            Error { code: 5, .. } => Self::UnexpectedMessage,
            Error { code: 6, .. } => Self::Cease,
            Error { code: 7, .. } => Self::MalformedRouteRefresh,
            Error { code: 8, .. } => Self::SendHoldTimerExpired,
            Error { .. } => Self::Other,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_notification_error_maps_to_a_listed_reason() {
        let errors = (0..=u8::MAX)
            .flat_map(|code| (0..=u8::MAX).map(move |subcode| NotificationError { code, subcode }));
        let reasons: BTreeSet<_> = errors.map(FailureReason::of).collect();
        assert!(
            reasons
                .iter()
                .all(|reason| FailureReason::ALL.contains(reason))
        );
        assert_eq!(
            FailureReason::of(NotificationError {
                code: 6,
                subcode: 1
            })
            .label(),
            "maximum_paths"
        );
    }

    #[test]
    fn labels_are_unique_and_the_number_of_each_reason_is_its_position_in_all() {
        let labels: BTreeSet<_> = FailureReason::ALL.iter().map(|it| it.label()).collect();
        assert_eq!(labels.len(), FailureReason::ALL.len());
        for (position, reason) in FailureReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
        }
    }
}
