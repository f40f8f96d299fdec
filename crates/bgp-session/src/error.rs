//! What can end a connection or keep it from coming up.

use std::time::Duration;

use bgp_packet::{Asn, Family, Notification, NotificationError, RouterId, capability_code};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{cease::Cease, connection::Direction, reason::FailureReason, status::SessionState};

/// Why a connection ended or did not come up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// An attempt to connect failed.
    #[error("cannot connect: {0}")]
    Dial(String),
    /// An attempt to connect took too long.
    #[error("cannot connect: no answer within {} ms", .0.as_millis())]
    DialTimeout(Duration),
    /// The connection ended without a NOTIFICATION.
    #[error("connection lost: {0}")]
    ConnectionLost(String),
    /// The peer opened a newer connection, so it had given this one up.
    #[error("replaced by a newer connection of the peer")]
    Replaced,
    /// The peer never sent its OPEN.
    #[error("no OPEN from the peer within {} ms", .0.as_millis())]
    OpenTimeout(Duration),
    /// The peer fell silent.
    #[error("hold timer expired: nothing from the peer for {} s", .0.as_secs())]
    HoldTimerExpired(Duration),
    /// The peer takes nothing off its socket (RFC 9687).
    #[error("send hold timer expired: the peer takes nothing off its socket")]
    SendHoldTimerExpired,
    /// OPEN with a wrong AS.
    #[error("peer has AS {received}, expected AS {expected}")]
    UnexpectedPeerAsn {
        /// As configured.
        expected: Asn,
        /// As in the OPEN.
        received: Asn,
    },
    /// OPEN of an internal peer with our own router id.
    #[error("peer has our own router id {0}")]
    OwnRouterId(RouterId),
    /// OPEN with a hold time that the configuration does not allow.
    #[error(
        "peer offers {}, at least {minimum_seconds} s are required",
        hold_time_offer(.offered_seconds)
    )]
    UnacceptableHoldTime {
        /// As in the OPEN.
        offered_seconds: u16,
        /// As configured.
        minimum_seconds: u16,
    },
    /// None of our families is spoken by the peer.
    #[error("peer speaks none of {0:?}")]
    NoCommonFamily(Vec<Family>),
    /// The peer sent what cannot be decoded, or what policy answers with a NOTIFICATION.
    #[error("{problem}")]
    Violation {
        /// In words.
        problem: String,
        /// The answer.
        notification: Notification,
    },
    /// A message that does not belong to the state (RFC 6608).
    #[error("unexpected {message} in state {state:?}")]
    UnexpectedMessage {
        /// Name of the message type.
        message: &'static str,
        /// State of the connection.
        state: SessionState,
    },
    /// The peer ended the connection.
    #[error("peer sent NOTIFICATION {0}")]
    NotificationReceived(Notification),
    /// This side ended the connection of its own will.
    #[error("ended by this side: {}", .0.notification())]
    Ceased(Cease),
    /// Of two connections the other one stayed (RFC 4271 section 6.8).
    #[error("the other of two connections was kept, this one was {0:?}")]
    CollisionLost(Direction),
}

impl SessionError {
    /// Returns the NOTIFICATION that precedes the end of the connection.
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
                    data: multiprotocol(families),
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

    /// Its kind.
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

    /// Reports whether an operator of one side ended the session, or changed its configuration.
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

    /// Reports whether a NOTIFICATION names what one side finds wrong with the other.
    pub(crate) fn is_stated(&self) -> bool {
        match self {
            Self::Dial(_)
            | Self::DialTimeout(_)
            | Self::ConnectionLost(_)
            | Self::Replaced
            | Self::OpenTimeout(_)
            | Self::HoldTimerExpired(_)
            | Self::SendHoldTimerExpired
            | Self::CollisionLost(_)
            | Self::Ceased(_) => false,
            Self::UnexpectedPeerAsn { .. }
            | Self::OwnRouterId(_)
            | Self::UnacceptableHoldTime { .. }
            | Self::NoCommonFamily(_)
            | Self::Violation { .. }
            | Self::UnexpectedMessage { .. }
            | Self::NotificationReceived(_) => true,
        }
    }

    /// Reports whether the error only shows that a connection has ended, as a peer does that had
    /// stated its reason on an earlier connection.
    pub(crate) fn is_consequence(&self) -> bool {
        let is_refusal = matches!(
            self.reason(),
            FailureReason::ConnectionRejected | FailureReason::Collision
        );
        match self {
            Self::ConnectionLost(_) | Self::Replaced => true,
            Self::NotificationReceived(_) => is_refusal,
            Self::Dial(_)
            | Self::DialTimeout(_)
            | Self::OpenTimeout(_)
            | Self::HoldTimerExpired(_)
            | Self::SendHoldTimerExpired
            | Self::UnexpectedPeerAsn { .. }
            | Self::OwnRouterId(_)
            | Self::UnacceptableHoldTime { .. }
            | Self::NoCommonFamily(_)
            | Self::Violation { .. }
            | Self::UnexpectedMessage { .. }
            | Self::Ceased(_)
            | Self::CollisionLost(_) => false,
        }
    }
}

fn hold_time_offer(seconds: &u16) -> String {
    match seconds {
        0 => "no hold time".to_owned(),
        seconds => format!("a hold time of {seconds} s"),
    }
}

/// The capabilities that the peer lacks (RFC 5492 section 3): code, length, AFI, reserved, SAFI.
fn multiprotocol(families: &[Family]) -> Bytes {
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
    fn only_what_an_operator_did_is_deliberate() {
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
    fn lacking_families_are_named_to_the_peer() {
        let error = SessionError::NoCommonFamily(vec![Family::Ipv6Unicast]);
        let notification = error.notification().expect("is sent");
        assert_eq!(notification.error.code, 2);
        assert_eq!(notification.error.subcode, 7);
        assert_eq!(&notification.data[..], [1, 4, 0, 2, 0, 1]);
    }
}
