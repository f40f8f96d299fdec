//! What can end a connection or keep it from coming up.

use std::time::Duration;

use bgp_packet::{Asn, Family, Notification, NotificationError, RouterId};
use bytes::{BufMut, Bytes, BytesMut};

use crate::{cease::Cease, connection::Direction, status::SessionState};

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
    /// The peer connected anew, thus it had given this connection up.
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
    /// What the peer is told before the connection is closed.
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
}

/// The capabilities that the peer lacks (RFC 5492 section 3): code, length, AFI, reserved, SAFI.
fn multiprotocol(families: &[Family]) -> Bytes {
    let mut data = BytesMut::new();
    for family in families {
        data.put_slice(&[1, 4]);
        data.put_u16(family.afi());
        data.put_slice(&[0, family.safi()]);
    }
    data.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lacking_families_are_named_to_the_peer() {
        let error = SessionError::NoCommonFamily(vec![Family::Ipv6Unicast]);
        let notification = error.notification().expect("is sent");
        assert_eq!(notification.error.code, 2);
        assert_eq!(notification.error.subcode, 7);
        assert_eq!(&notification.data[..], [1, 4, 0, 2, 0, 1]);
    }
}
