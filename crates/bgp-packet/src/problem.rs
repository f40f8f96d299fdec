//! Errors of received messages with their NOTIFICATION codes.

use bytes::Bytes;

use crate::{
    codec::DecodeError,
    message::{AttributeError, Disposition},
    notification::{Notification, NotificationError},
};

/// Defines an enum of problems with the error code and the text of each problem.
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
    /// An error of a received message. Every such error ends the session.
    MessageProblem {
        Marker => CONNECTION_NOT_SYNCHRONIZED, "the marker in the header has bits that are 0";
        MessageLength => BAD_MESSAGE_LENGTH,
            "the message has a length that its type does not allow";
        MessageType => BAD_MESSAGE_TYPE, "the type of the message is unknown";
        OpenVersion => UNSUPPORTED_VERSION_NUMBER, "the BGP version in the OPEN is not 4";
        OpenZeroAsn => BAD_PEER_AS, "the AS number in the OPEN is 0";
        OpenZeroFourOctetAsn => BAD_PEER_AS, "the AS number in the four-octet capability is 0";
        OpenHoldTime => UNACCEPTABLE_HOLD_TIME, "the hold time in the OPEN is 1 or 2 seconds";
        OpenZeroRouterId => BAD_BGP_IDENTIFIER, "the BGP identifier in the OPEN is 0";
        // RFC 4271 section 6.2 requires subcode 0 for a malformed optional parameter of a known
        // type.
        OpenParametersLength => OPEN_UNSPECIFIC,
            "the length field of the optional parameters does not match the length of the message";
        OpenParameterOverrun => OPEN_UNSPECIFIC,
            "an optional parameter is longer than the list of optional parameters";
        OpenParameterUnknown => UNSUPPORTED_OPTIONAL_PARAMETER,
            "the type of an optional parameter is not 2 (capabilities)";
        OpenCapabilityOverrun => OPEN_UNSPECIFIC,
            "a capability is longer than its optional parameter";
        NotificationTooShort => BAD_MESSAGE_LENGTH,
            "the NOTIFICATION is too short for an error code and subcode";
        RouteRefreshTooShort => BAD_MESSAGE_LENGTH,
            "the ROUTE-REFRESH is too short for an address family";
        UpdateWithdrawnOverrun => MALFORMED_ATTRIBUTE_LIST,
            "the list of withdrawn routes is longer than the message";
        UpdateAttributesOverrun => MALFORMED_ATTRIBUTE_LIST,
            "the list of path attributes is longer than the message";
        UpdateWithdrawnSyntax => INVALID_NETWORK_FIELD,
            "the list of withdrawn routes has a malformed prefix";
        UpdateNlriSyntax => INVALID_NETWORK_FIELD, "the NLRI list has a malformed prefix";
    }
}

problems! {
    /// An error of one path attribute. The [`Disposition`] of the error decides whether the error
    /// ends the session.
    AttributeProblem {
        Overrun => MALFORMED_ATTRIBUTE_LIST, "an attribute is longer than the list of attributes";
        Repeated => MALFORMED_ATTRIBUTE_LIST, "the UPDATE has the attribute more than once";
        // RFC 7606 section 3 g: only a repetition of MP_REACH_NLRI or MP_UNREACH_NLRI ends the
        // session.
        MultiprotocolRepeated => MALFORMED_ATTRIBUTE_LIST,
            "the UPDATE has MP_REACH_NLRI or MP_UNREACH_NLRI more than once";
        WellKnownUnknown => UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE,
            "the attribute has an unknown type, but its flags say that it is well-known";
        Missing => MISSING_WELL_KNOWN_ATTRIBUTE, "a mandatory attribute is missing";
        Flags => ATTRIBUTE_FLAGS_ERROR, "the attribute has flags that its type does not allow";
        Length => ATTRIBUTE_LENGTH_ERROR, "the attribute has a length that its type does not allow";
        OriginUndefined => INVALID_ORIGIN_ATTRIBUTE, "ORIGIN is not 0, 1 or 2";
        NextHopUnusable => INVALID_NEXT_HOP_ATTRIBUTE, "NEXT_HOP is not the address of a host";
        AsPathSegmentType => MALFORMED_AS_PATH,
            "a segment of AS_PATH is neither a set nor a sequence";
        AsPathSegmentEmpty => MALFORMED_AS_PATH, "a segment of AS_PATH is empty";
        AsPathOverrun => MALFORMED_AS_PATH, "a segment of AS_PATH is longer than the attribute";
        AsPathZero => MALFORMED_AS_PATH, "AS_PATH contains AS 0";
        AggregatorZero => OPTIONAL_ATTRIBUTE_ERROR, "the AS number in AGGREGATOR is 0";
        TunnelType => OPTIONAL_ATTRIBUTE_ERROR, "the tunnel type in the attribute is undefined";
        TunnelIdentifier => OPTIONAL_ATTRIBUTE_ERROR,
            "the tunnel identifier has a form that the tunnel type does not allow";
        TlvMissing => OPTIONAL_ATTRIBUTE_ERROR, "the attribute has no TLV";
        TlvOverrun => OPTIONAL_ATTRIBUTE_ERROR,
            "a TLV is longer than the attribute or TLV that contains it";
        TlvLength => OPTIONAL_ATTRIBUTE_ERROR, "a TLV has a length that its type does not allow";
        OnlyToCustomerZero => OPTIONAL_ATTRIBUTE_ERROR, "the AS number in OTC is 0";
        RefusedByRouters => OPTIONAL_ATTRIBUTE_ERROR,
            "the attribute is valid, but an attribute of this form ends the sessions of FRR 8.4";
        MultiprotocolTooShort => OPTIONAL_ATTRIBUTE_ERROR,
            "the attribute is too short for its fixed fields";
        MultiprotocolNextHopLength => OPTIONAL_ATTRIBUTE_ERROR,
            "the next hop has a length that the address family does not allow";
        MultiprotocolNextHopUnusable => OPTIONAL_ATTRIBUTE_ERROR,
            "the next hop in MP_REACH_NLRI is not the address of a host";
        MultiprotocolSyntax => OPTIONAL_ATTRIBUTE_ERROR,
            "MP_REACH_NLRI or MP_UNREACH_NLRI has a malformed prefix";
    }
}

impl MessageProblem {
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
    /// Returns the reaction to this problem if the reaction does not depend on the type of the
    /// attribute, otherwise `None`.
    pub(crate) fn disposition_for_every_type(self) -> Option<Disposition> {
        if self == Self::MultiprotocolNextHopUnusable {
            // Any other error of MP_REACH_NLRI ends the session. An unusable next hop does not,
            // because the decoder has read the prefixes and can withdraw them.
            Some(Disposition::TreatAsWithdraw)
        } else if matches!(self, Self::TlvMissing | Self::RefusedByRouters) {
            // The path is valid without the attribute. RFC 9012 section 13 requires this reaction
            // for a tunnel encapsulation attribute without TLV.
            Some(Disposition::AttributeDiscard)
        } else {
            None
        }
    }

    /// Returns the error of an attribute. `attribute` becomes the field `data` of the error.
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
    /// Converts an attribute error that ends the session to the error of the UPDATE.
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
