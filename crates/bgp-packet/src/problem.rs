//! All that can be wrong with a message, and the NOTIFICATION that each leads to.

use bytes::Bytes;

use crate::{
    codec::DecodeError,
    message::{AttributeError, Disposition},
    notification::{Notification, NotificationError},
};

/// What is wrong with a message as a whole: the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Marker,
    MessageLength,
    MessageType,
    OpenVersion,
    OpenZeroAsn,
    OpenZeroFourOctetAsn,
    OpenHoldTime,
    OpenZeroRouterId,
    OpenParametersLength,
    OpenParameterOverrun,
    OpenParameterUnknown,
    OpenCapabilityOverrun,
    NotificationTooShort,
    RouteRefreshTooShort,
    UpdateWithdrawnOverrun,
    UpdateAttributesOverrun,
    UpdateWithdrawnSyntax,
    UpdateNlriSyntax,
}

impl Problem {
    pub(crate) fn error(self) -> NotificationError {
        match self {
            Self::Marker => NotificationError::CONNECTION_NOT_SYNCHRONIZED,
            Self::MessageLength | Self::NotificationTooShort | Self::RouteRefreshTooShort => {
                NotificationError::BAD_MESSAGE_LENGTH
            }
            Self::MessageType => NotificationError::BAD_MESSAGE_TYPE,
            Self::OpenVersion => NotificationError::UNSUPPORTED_VERSION_NUMBER,
            Self::OpenZeroAsn | Self::OpenZeroFourOctetAsn => NotificationError::BAD_PEER_AS,
            Self::OpenHoldTime => NotificationError::UNACCEPTABLE_HOLD_TIME,
            Self::OpenZeroRouterId => NotificationError::BAD_BGP_IDENTIFIER,
            // RFC 4271 section 6.2: recognized, but malformed.
            Self::OpenParametersLength
            | Self::OpenParameterOverrun
            | Self::OpenCapabilityOverrun => NotificationError::OPEN_UNSPECIFIC,
            Self::OpenParameterUnknown => NotificationError::UNSUPPORTED_OPTIONAL_PARAMETER,
            Self::UpdateWithdrawnOverrun | Self::UpdateAttributesOverrun => {
                NotificationError::MALFORMED_ATTRIBUTE_LIST
            }
            Self::UpdateWithdrawnSyntax | Self::UpdateNlriSyntax => {
                NotificationError::INVALID_NETWORK_FIELD
            }
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Marker => "the marker of the header is not all ones",
            Self::MessageLength => "the length of the message is outside what its type allows",
            Self::MessageType => "the type of the message is unknown",
            Self::OpenVersion => "the version is not 4",
            Self::OpenZeroAsn => "the AS number is 0",
            Self::OpenZeroFourOctetAsn => "the AS number of the four-octet capability is 0",
            Self::OpenHoldTime => "the hold time is 1 or 2 seconds",
            Self::OpenZeroRouterId => "the BGP identifier is 0",
            Self::OpenParametersLength => {
                "the length of the optional parameters differs from what the message holds"
            }
            Self::OpenParameterOverrun => "an optional parameter exceeds its list",
            Self::OpenParameterUnknown => "an optional parameter is not a list of capabilities",
            Self::OpenCapabilityOverrun => "a capability exceeds its optional parameter",
            Self::NotificationTooShort => "the NOTIFICATION holds no code and subcode",
            Self::RouteRefreshTooShort => "the ROUTE-REFRESH holds no family",
            Self::UpdateWithdrawnOverrun => "the withdrawn routes exceed the message",
            Self::UpdateAttributesOverrun => "the path attributes exceed the message",
            Self::UpdateWithdrawnSyntax => "the withdrawn routes are not a list of prefixes",
            Self::UpdateNlriSyntax => "the NLRI are not a list of prefixes",
        }
    }

    pub(crate) fn without_data(self) -> DecodeError {
        self.with_data(&[])
    }

    pub(crate) fn with_data(self, data: &[u8]) -> DecodeError {
        DecodeError {
            notification: Notification {
                error: self.error(),
                data: Bytes::copy_from_slice(data),
            },
            problem: self.text(),
        }
    }
}

/// What is wrong with one path attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeProblem {
    Overrun,
    Repeated,
    MultiprotocolRepeated,
    WellKnownUnknown,
    Missing,
    Flags,
    Length,
    OriginUndefined,
    NextHopUnusable,
    AsPathSegmentType,
    AsPathSegmentEmpty,
    AsPathOverrun,
    AsPathZero,
    AggregatorZero,
    TunnelType,
    TunnelIdentifier,
    TlvMissing,
    TlvOverrun,
    TlvLength,
    OnlyToCustomerZero,
    RefusedByRouters,
    MultiprotocolTooShort,
    MultiprotocolNextHopLength,
    MultiprotocolNextHopUnusable,
    MultiprotocolSyntax,
}

impl AttributeProblem {
    pub(crate) fn error(self) -> NotificationError {
        match self {
            // RFC 7606 section 3 g names this one for a repeated MP_REACH or MP_UNREACH.
            Self::Overrun | Self::Repeated | Self::MultiprotocolRepeated => {
                NotificationError::MALFORMED_ATTRIBUTE_LIST
            }
            Self::WellKnownUnknown => NotificationError::UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE,
            Self::Missing => NotificationError::MISSING_WELL_KNOWN_ATTRIBUTE,
            Self::Flags => NotificationError::ATTRIBUTE_FLAGS_ERROR,
            Self::Length => NotificationError::ATTRIBUTE_LENGTH_ERROR,
            Self::OriginUndefined => NotificationError::INVALID_ORIGIN_ATTRIBUTE,
            Self::NextHopUnusable => NotificationError::INVALID_NEXT_HOP_ATTRIBUTE,
            Self::AsPathSegmentType
            | Self::AsPathSegmentEmpty
            | Self::AsPathOverrun
            | Self::AsPathZero => NotificationError::MALFORMED_AS_PATH,
            Self::AggregatorZero
            | Self::TunnelType
            | Self::TunnelIdentifier
            | Self::TlvMissing
            | Self::TlvOverrun
            | Self::TlvLength
            | Self::OnlyToCustomerZero
            | Self::RefusedByRouters
            | Self::MultiprotocolTooShort
            | Self::MultiprotocolNextHopLength
            | Self::MultiprotocolNextHopUnusable
            | Self::MultiprotocolSyntax => NotificationError::OPTIONAL_ATTRIBUTE_ERROR,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Overrun => "an attribute exceeds the list of attributes",
            Self::Repeated => "the attribute stands more than once",
            Self::MultiprotocolRepeated => "a multiprotocol attribute stands more than once",
            Self::WellKnownUnknown => "the attribute calls itself well-known and is not known",
            Self::Missing => "a mandatory attribute is missing",
            Self::Flags => "the flags contradict the type",
            Self::Length => "the length contradicts the type",
            Self::OriginUndefined => "the origin is not 0, 1 or 2",
            Self::NextHopUnusable => "the next hop is not the address of a host",
            Self::AsPathSegmentType => "a segment is neither a set nor a sequence",
            Self::AsPathSegmentEmpty => "a segment is empty",
            Self::AsPathOverrun => "a segment exceeds the attribute",
            Self::AsPathZero => "the path holds AS 0",
            Self::AggregatorZero => "the aggregator is AS 0",
            Self::TunnelType => "the tunnel type is undefined",
            Self::TunnelIdentifier => "the tunnel identifier contradicts the tunnel type",
            Self::TlvMissing => "the attribute holds no TLV",
            Self::TlvOverrun => "a TLV exceeds what it stands in",
            Self::TlvLength => "the length of a TLV contradicts its type",
            Self::OnlyToCustomerZero => "the attribute holds AS 0",
            Self::RefusedByRouters => {
                "the attribute is sound, but released routers end their session over this form"
            }
            Self::MultiprotocolTooShort => "the attribute is too short for its fixed fields",
            Self::MultiprotocolNextHopLength => "the length of the next hop contradicts the family",
            Self::MultiprotocolNextHopUnusable => "the next hop is not the address of a host",
            Self::MultiprotocolSyntax => "the attribute does not hold a list of prefixes",
        }
    }

    /// `attribute`: as received, flags, type, length and value.
    pub(crate) fn of(
        self,
        type_code: u8,
        disposition: Disposition,
        attribute: &[u8],
    ) -> AttributeError {
        AttributeError {
            type_code,
            disposition,
            subcode: self.error().subcode,
            data: Bytes::copy_from_slice(attribute),
            problem: self.text(),
        }
    }
}

impl From<AttributeError> for DecodeError {
    /// Ends the session over an attribute.
    fn from(error: AttributeError) -> Self {
        Self {
            notification: Notification {
                error: NotificationError::update(error.subcode),
                data: error.data,
            },
            problem: error.problem,
        }
    }
}
