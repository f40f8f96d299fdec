//! Kinds of failures, few enough for the labels of a metric.

use std::fmt;

use bgp_packet::NotificationError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a session ended or did not come up, without details.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FailureReason {
            $($(#[$doc])* $name,)*
        }

        impl FailureReason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in metrics, logs and lists.
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
    /// An attempt to connect got no answer.
    DialTimeout = "dial_timeout",
    /// The connection ended without a NOTIFICATION.
    ConnectionLost = "connection_lost",
    /// The peer opened a newer connection.
    Replaced = "replaced",
    /// The peer did not send its OPEN.
    OpenTimeout = "open_timeout",
    /// The peer was silent for the hold time.
    HoldTimerExpired = "hold_timer_expired",
    /// The peer took nothing off its socket.
    SendHoldTimerExpired = "send_hold_timer_expired",
    /// Message Header Error.
    BadMessageHeader = "bad_message_header",
    /// OPEN Message Error without a reason of its own here.
    MalformedOpen = "malformed_open",
    /// OPEN with another version than 4.
    UnsupportedVersion = "unsupported_version",
    /// OPEN with an unexpected or reserved AS.
    BadPeerAs = "bad_peer_as",
    /// OPEN with the receiver's router id, or 0.0.0.0.
    BadRouterId = "bad_router_id",
    /// OPEN with an optional parameter that is not supported, such as authentication.
    UnsupportedParameter = "unsupported_parameter",
    /// OPEN with a hold time of 1 s or 2 s, or below the configured minimum.
    UnacceptableHoldTime = "unacceptable_hold_time",
    /// OPEN without a capability that the receiver needs.
    UnsupportedCapability = "unsupported_capability",
    /// UPDATE Message Error.
    MalformedUpdate = "malformed_update",
    /// ROUTE-REFRESH Message Error.
    MalformedRouteRefresh = "malformed_route_refresh",
    /// Finite State Machine Error.
    UnexpectedMessage = "unexpected_message",
    /// Cease: more paths than the receiver allows.
    MaximumPaths = "maximum_paths",
    /// Cease.
    AdministrativeShutdown = "administrative_shutdown",
    /// Cease.
    PeerDeconfigured = "peer_deconfigured",
    /// Cease.
    AdministrativeReset = "administrative_reset",
    /// Cease.
    ConnectionRejected = "connection_rejected",
    /// Cease: another change of the configuration.
    ConfigurationChange = "configuration_change",
    /// Cease: another connection of the same peer stays.
    Collision = "collision",
    /// Cease.
    OutOfResources = "out_of_resources",
    /// Cease with any other subcode.
    Cease = "cease",
    /// The group of a dynamic peer has its maximum of peers.
    GroupFull = "group_full",
    /// The address of a dynamic peer has its maximum of peers.
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
    fn each_notification_has_a_reason_of_the_list() {
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
    fn labels_and_positions_are_unique() {
        let labels: BTreeSet<_> = FailureReason::ALL.iter().map(|it| it.label()).collect();
        assert_eq!(labels.len(), FailureReason::ALL.len());
        for (position, reason) in FailureReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
        }
    }
}
