//! All that can be wrong with a message, and the NOTIFICATION that each leads to.

use bytes::Bytes;

use crate::{
    codec::DecodeError,
    message::{AttributeError, Disposition},
    notification::{Notification, NotificationError},
};

/// Makes an enum of problems, with the NOTIFICATION and the text of each.
macro_rules! problems {
    ($(#[$doc:meta])* $problems:ident { $($name:ident => $error:ident, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $problems {
            $($name,)*
        }

        impl $problems {
            fn error(self) -> NotificationError {
                match self {
                    $(Self::$name => NotificationError::$error,)*
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

problems! {
    /// What is wrong with a message as a whole: the session ends.
    Problem {
        Marker => CONNECTION_NOT_SYNCHRONIZED, "the marker of the header is not all ones";
        MessageLength => BAD_MESSAGE_LENGTH,
            "the length of the message is outside what its type allows";
        MessageType => BAD_MESSAGE_TYPE, "the type of the message is unknown";
        OpenVersion => UNSUPPORTED_VERSION_NUMBER, "the version is not 4";
        OpenZeroAsn => BAD_PEER_AS, "the AS number is 0";
        OpenZeroFourOctetAsn => BAD_PEER_AS, "the AS number of the four-octet capability is 0";
        OpenHoldTime => UNACCEPTABLE_HOLD_TIME, "the hold time is 1 or 2 seconds";
        OpenZeroRouterId => BAD_BGP_IDENTIFIER, "the BGP identifier is 0";
        // RFC 4271 section 6.2: recognized, but malformed.
        OpenParametersLength => OPEN_UNSPECIFIC,
            "the length of the optional parameters differs from what the message holds";
        OpenParameterOverrun => OPEN_UNSPECIFIC, "an optional parameter exceeds its list";
        OpenParameterUnknown => UNSUPPORTED_OPTIONAL_PARAMETER,
            "an optional parameter is not a list of capabilities";
        OpenCapabilityOverrun => OPEN_UNSPECIFIC, "a capability exceeds its optional parameter";
        NotificationTooShort => BAD_MESSAGE_LENGTH, "the NOTIFICATION holds no code and subcode";
        RouteRefreshTooShort => BAD_MESSAGE_LENGTH, "the ROUTE-REFRESH holds no family";
        UpdateWithdrawnOverrun => MALFORMED_ATTRIBUTE_LIST,
            "the withdrawn routes exceed the message";
        UpdateAttributesOverrun => MALFORMED_ATTRIBUTE_LIST,
            "the path attributes exceed the message";
        UpdateWithdrawnSyntax => INVALID_NETWORK_FIELD,
            "the withdrawn routes are not a list of prefixes";
        UpdateNlriSyntax => INVALID_NETWORK_FIELD, "the NLRI are not a list of prefixes";
    }
}

problems! {
    /// What is wrong with one path attribute.
    AttributeProblem {
        Overrun => MALFORMED_ATTRIBUTE_LIST, "an attribute exceeds the list of attributes";
        Repeated => MALFORMED_ATTRIBUTE_LIST, "the attribute stands more than once";
        // RFC 7606 section 3 g.
        MultiprotocolRepeated => MALFORMED_ATTRIBUTE_LIST,
            "a multiprotocol attribute stands more than once";
        WellKnownUnknown => UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE,
            "the attribute calls itself well-known and is not known";
        Missing => MISSING_WELL_KNOWN_ATTRIBUTE, "a mandatory attribute is missing";
        Flags => ATTRIBUTE_FLAGS_ERROR, "the flags contradict the type";
        Length => ATTRIBUTE_LENGTH_ERROR, "the length contradicts the type";
        OriginUndefined => INVALID_ORIGIN_ATTRIBUTE, "the origin is not 0, 1 or 2";
        NextHopUnusable => INVALID_NEXT_HOP_ATTRIBUTE, "the next hop is not the address of a host";
        AsPathSegmentType => MALFORMED_AS_PATH, "a segment is neither a set nor a sequence";
        AsPathSegmentEmpty => MALFORMED_AS_PATH, "a segment is empty";
        AsPathOverrun => MALFORMED_AS_PATH, "a segment exceeds the attribute";
        AsPathZero => MALFORMED_AS_PATH, "the path holds AS 0";
        AggregatorZero => OPTIONAL_ATTRIBUTE_ERROR, "the aggregator is AS 0";
        TunnelType => OPTIONAL_ATTRIBUTE_ERROR, "the tunnel type is undefined";
        TunnelIdentifier => OPTIONAL_ATTRIBUTE_ERROR,
            "the tunnel identifier contradicts the tunnel type";
        TlvMissing => OPTIONAL_ATTRIBUTE_ERROR, "the attribute holds no TLV";
        TlvOverrun => OPTIONAL_ATTRIBUTE_ERROR, "a TLV exceeds what it stands in";
        TlvLength => OPTIONAL_ATTRIBUTE_ERROR, "the length of a TLV contradicts its type";
        OnlyToCustomerZero => OPTIONAL_ATTRIBUTE_ERROR, "the attribute holds AS 0";
        RefusedByRouters => OPTIONAL_ATTRIBUTE_ERROR,
            "the attribute is sound, but released routers end their session over this form";
        MultiprotocolTooShort => OPTIONAL_ATTRIBUTE_ERROR,
            "the attribute is too short for its fixed fields";
        MultiprotocolNextHopLength => OPTIONAL_ATTRIBUTE_ERROR,
            "the length of the next hop contradicts the family";
        MultiprotocolNextHopUnusable => OPTIONAL_ATTRIBUTE_ERROR,
            "the next hop is not the address of a host";
        MultiprotocolSyntax => OPTIONAL_ATTRIBUTE_ERROR,
            "the attribute does not hold a list of prefixes";
    }
}

impl Problem {
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

impl AttributeProblem {
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
