//! Errors that end a connection or prevent a session.

use std::time::Duration;

use bgp_packet::{Asn, Family, Notification, NotificationError, RouterId, capability_code};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{cease::Cease, connection::Direction, reason::FailureReason, status::SessionState};

/// The reason why a connection ended, or why a session was not established.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// An attempt to connect failed.
    #[error("cannot connect: {0}")]
    Dial(String),
    /// An attempt to connect had no result within `connect_timeout`.
    #[error("cannot connect: no answer within {} ms", .0.as_millis())]
    DialTimeout(Duration),
    /// The connection ended without a NOTIFICATION.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// The peer opened a newer connection before this connection was established, so the peer has
    /// abandoned this connection.
    #[error("replaced by a newer connection of the peer")]
    Replaced,
    /// The peer sent no OPEN message within `open_timeout`.
    #[error("no OPEN message from the peer within {} ms", .0.as_millis())]
    OpenTimeout(Duration),
    /// The peer sent no message for the negotiated hold time.
    #[error("hold timer expired: no message from the peer for {} s", .0.as_secs())]
    HoldTimerExpired(Duration),
    /// The peer read nothing from its socket for the send hold time (RFC 9687).
    #[error("send hold timer expired: the peer reads nothing from its socket")]
    SendHoldTimerExpired,
    /// The AS number in the OPEN message of the peer differs from the configured AS number.
    #[error("peer has AS {received}, expected AS {expected}")]
    UnexpectedPeerAsn { expected: Asn, received: Asn },
    /// The OPEN message of an internal peer has the router id of this speaker.
    #[error("peer has the router id of this speaker, {0}; give each speaker its own router id")]
    OwnRouterId(RouterId),
    /// The OPEN message of the peer offers a shorter hold time than the configured minimum.
    #[error(
            "peer offers {}, at least {minimum_seconds} s are required",
            hold_time_offer(.offered_seconds)
        )]
    UnacceptableHoldTime {
        offered_seconds: u16,
        minimum_seconds: u16,
    },
    /// The peer supports none of the address families of this side.
    #[error("peer supports none of the address families {0:?}")]
    NoCommonFamily(Vec<Family>),
    /// The peer sent a malformed message, or violated a policy of the driver, such as a maximum of
    /// paths.
    #[error("{problem}")]
    Violation {
        problem: String,
        /// NOTIFICATION that this side sends to the peer.
        notification: Notification,
    },
    /// The type of the message is not allowed in the state of the connection (RFC 6608).
    #[error("unexpected {message} in state {state:?}")]
    UnexpectedMessage {
        /// Name of the message type.
        message: &'static str,
        /// State of the connection.
        state: SessionState,
    },
    /// The peer ended the connection with a NOTIFICATION.
    #[error("peer sent NOTIFICATION {0}")]
    NotificationReceived(Notification),
    /// This side ended the connection with a Cease NOTIFICATION.
    #[error("ended by this side: {}", .0.notification())]
    Ceased(Cease),
    /// The session had two connections, closed the connection of the given direction, and kept the
    /// other connection (RFC 4271 section 6.8).
    #[error("connection collision: closed the {0:?} connection and kept the other connection")]
    CollisionLost(Direction),
}

impl SessionError {
    /// Returns the NOTIFICATION that this side sends before it closes the connection. `None`: this
    /// side closes the connection without a NOTIFICATION.
    pub(crate) fn notification(&self) -> Option<Notification> {
        let error = match self {
            Self::Dial(_)
            | Self::DialTimeout(_)
            | Self::ConnectionLost(_)
            | Self::NotificationReceived(_) => return None,
            Self::Violation { notification, .. } => return Some(notification.clone()),
            Self::Ceased(cease) => return Some(cease.notification()),
            Self::NoCommonFamily(families) => {
                return Some(Notification {
                    error: NotificationError::UNSUPPORTED_CAPABILITY,
                    data: multiprotocol_capabilities(families),
                });
            }
            Self::CollisionLost(_) | Self::Replaced => {
                NotificationError::CONNECTION_COLLISION_RESOLUTION
            }
            Self::OpenTimeout(_) | Self::HoldTimerExpired(_) => {
                NotificationError::HOLD_TIMER_EXPIRED
            }
            Self::SendHoldTimerExpired => NotificationError::SEND_HOLD_TIMER_EXPIRED,
            Self::UnexpectedPeerAsn { .. } => NotificationError::BAD_PEER_AS,
            Self::OwnRouterId(_) => NotificationError::BAD_BGP_IDENTIFIER,
            Self::UnacceptableHoldTime { .. } => NotificationError::UNACCEPTABLE_HOLD_TIME,
            Self::UnexpectedMessage { state, .. } => match state {
                SessionState::Idle | SessionState::Connect | SessionState::Active => {
                    NotificationError::FINITE_STATE_MACHINE_ERROR
                }
                SessionState::OpenSent => NotificationError::UNEXPECTED_MESSAGE_IN_OPEN_SENT,
                SessionState::OpenConfirm => NotificationError::UNEXPECTED_MESSAGE_IN_OPEN_CONFIRM,
                SessionState::Established => NotificationError::UNEXPECTED_MESSAGE_IN_ESTABLISHED,
            },
        };
        Some(Notification::new(error))
    }

    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Dial(_) => FailureReason::DialFailed,
            Self::DialTimeout(_) => FailureReason::DialTimeout,
            Self::ConnectionLost(_) => FailureReason::ConnectionLost,
            Self::Replaced => FailureReason::Replaced,
            Self::OpenTimeout(_) => FailureReason::OpenTimeout,
            Self::HoldTimerExpired(_) => FailureReason::HoldTimerExpired,
            Self::SendHoldTimerExpired => FailureReason::SendHoldTimerExpired,
            Self::UnexpectedPeerAsn { .. } => FailureReason::BadPeerAs,
            Self::OwnRouterId(_) => FailureReason::BadRouterId,
            Self::UnacceptableHoldTime { .. } => FailureReason::UnacceptableHoldTime,
            Self::NoCommonFamily(_) => FailureReason::UnsupportedCapability,
            Self::UnexpectedMessage { .. } => FailureReason::UnexpectedMessage,
            Self::CollisionLost(_) => FailureReason::Collision,
            Self::Violation { notification, .. } | Self::NotificationReceived(notification) => {
                FailureReason::of(notification.error)
            }
            Self::Ceased(cease) => FailureReason::of(cease.notification().error),
        }
    }

    /// Reports whether an operator of one side ended the session, or changed the configuration of
    /// the session.
    pub fn is_deliberate(&self) -> bool {
        let is_cease = matches!(self, Self::Ceased(_) | Self::NotificationReceived(_));
        is_cease
            && matches!(
                self.reason(),
                FailureReason::AdministrativeShutdown
                    | FailureReason::PeerDeconfigured
                    | FailureReason::AdministrativeReset
                    | FailureReason::ConfigurationChange
            )
    }

    /// Reports whether a NOTIFICATION, sent or received, explains why the connection ended.
    pub(crate) fn is_explained_by_notification(&self) -> bool {
        matches!(
            self,
            Self::UnexpectedPeerAsn { .. }
                | Self::OwnRouterId(_)
                | Self::UnacceptableHoldTime { .. }
                | Self::NoCommonFamily(_)
                | Self::Violation { .. }
                | Self::UnexpectedMessage { .. }
                | Self::NotificationReceived(_)
        )
    }

    /// Reports whether the error can be the consequence of an earlier error: a side that has
    /// explained an error in a NOTIFICATION often closes the following connections without an
    /// explanation.
    pub(crate) fn is_consequence(&self) -> bool {
        let is_refusal = matches!(
            self.reason(),
            FailureReason::ConnectionRejected | FailureReason::Collision
        );
        matches!(self, Self::ConnectionLost(_) | Self::Replaced)
            || matches!(self, Self::NotificationReceived(_)) && is_refusal
    }
}

fn hold_time_offer(seconds: &u16) -> String {
    match seconds {
        0 => "no hold time".to_owned(),
        seconds => format!("a hold time of {seconds} s"),
    }
}

/// Encodes one multiprotocol capability for each family as the data of a NOTIFICATION (RFC 5492
/// section 3): code, length, AFI, reserved octet, SAFI.
fn multiprotocol_capabilities(families: &[Family]) -> Bytes {
    let mut data = BytesMut::new();
    for family in families {
        data.put_slice(&[capability_code::MULTIPROTOCOL, 4]);
        data.put_u16(family.afi());
        data.put_slice(&[0, family.safi()]);
    }
    data.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cease_that_an_operator_caused_is_deliberate() {
        for (subcode, expected) in [
            (0, false),
            (1, false),
            (2, true),
            (3, true),
            (4, true),
            (5, false),
            (6, true),
            (7, false),
            (8, false),
        ] {
            let error = NotificationError { code: 6, subcode };
            let received = SessionError::NotificationReceived(Notification::new(error));
            assert_eq!(received.is_deliberate(), expected, "{received}");
        }
        let text = String::new();
        assert!(SessionError::Ceased(Cease::AdministrativeShutdown { text }).is_deliberate());
        assert!(!SessionError::Ceased(Cease::ConnectionRejected).is_deliberate());
        assert!(!SessionError::ConnectionLost("reset".into()).is_deliberate());
    }

    #[test]
    fn the_notification_for_a_missing_common_family_lists_the_families_of_this_side() {
        let error = SessionError::NoCommonFamily(vec![Family::Ipv6Unicast]);
        let notification = error.notification().expect("the peer gets a NOTIFICATION");
        assert_eq!(notification.error.code, 2);
        assert_eq!(notification.error.subcode, 7);
        assert_eq!(&notification.data[..], [1, 4, 0, 2, 0, 1]);
    }
}
