//! NOTIFICATION messages and their error codes (RFC 4271 section 4.5).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{codec::DecodeError, problem::MessageProblem, reader::OctetReader};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub error: NotificationError,
    /// The error defines the meaning of the data.
    pub data: Bytes,
}

/// The error code and the error subcode of a NOTIFICATION.
///
/// <https://www.iana.org/assignments/bgp-parameters/>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotificationError {
    pub code: u8,
    /// 0 if the error code has no subcodes, or if no subcode describes the error.
    pub subcode: u8,
}

const HEADER: u8 = 1;
const OPEN: u8 = 2;
const UPDATE: u8 = 3;
const HOLD_TIMER: u8 = 4;
const STATE_MACHINE: u8 = 5;
const CEASE: u8 = 6;
const ROUTE_REFRESH: u8 = 7;
const SEND_HOLD_TIMER: u8 = 8;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:expr, $subcode:literal, $text:literal;)*) => {
        impl NotificationError {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, subcode: $subcode };)*
        }

        /// Returns the name of the subcode in the IANA registry. `None` if portlb does not know the
        /// subcode.
        fn name(error: NotificationError) -> Option<&'static str> {
            match error {
                $(NotificationError::$name => Some($text),)*
                _ => None,
            }
        }
    };
}

errors! {
    /// Defined in RFC 4271 section 6.1.
    CONNECTION_NOT_SYNCHRONIZED = HEADER, 1, "Connection Not Synchronized";
    /// Defined in RFC 4271 section 6.1. The data contains the length field of the refused message.
    BAD_MESSAGE_LENGTH = HEADER, 2, "Bad Message Length";
    /// Defined in RFC 4271 section 6.1. The data contains the type field of the refused message.
    BAD_MESSAGE_TYPE = HEADER, 3, "Bad Message Type";
    /// Defined in RFC 4271 section 6.2.
    OPEN_UNSPECIFIC = OPEN, 0, "Unspecific";
    /// Defined in RFC 4271 section 6.2. The data contains the highest BGP version that the sender
    /// of the NOTIFICATION supports, as two octets.
    UNSUPPORTED_VERSION_NUMBER = OPEN, 1, "Unsupported Version Number";
    /// Defined in RFC 4271 section 6.2.
    BAD_PEER_AS = OPEN, 2, "Bad Peer AS";
    /// Defined in RFC 4271 section 6.2.
    BAD_BGP_IDENTIFIER = OPEN, 3, "Bad BGP Identifier";
    /// Defined in RFC 4271 section 6.2.
    UNSUPPORTED_OPTIONAL_PARAMETER = OPEN, 4, "Unsupported Optional Parameter";
    /// Defined in RFC 4271 section 6.2.
    UNACCEPTABLE_HOLD_TIME = OPEN, 6, "Unacceptable Hold Time";
    /// RFC 5492 section 5. The data contains the capabilities that the OPEN of the peer lacks.
    UNSUPPORTED_CAPABILITY = OPEN, 7, "Unsupported Capability";
    /// Defined in RFC 4271 section 6.3.
    MALFORMED_ATTRIBUTE_LIST = UPDATE, 1, "Malformed Attribute List";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    UNRECOGNIZED_WELL_KNOWN_ATTRIBUTE = UPDATE, 2, "Unrecognized Well-known Attribute";
    /// Defined in RFC 4271 section 6.3. The data contains the type code of the missing attribute.
    MISSING_WELL_KNOWN_ATTRIBUTE = UPDATE, 3, "Missing Well-known Attribute";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    ATTRIBUTE_FLAGS_ERROR = UPDATE, 4, "Attribute Flags Error";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    ATTRIBUTE_LENGTH_ERROR = UPDATE, 5, "Attribute Length Error";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    INVALID_ORIGIN_ATTRIBUTE = UPDATE, 6, "Invalid ORIGIN Attribute";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    INVALID_NEXT_HOP_ATTRIBUTE = UPDATE, 8, "Invalid NEXT_HOP Attribute";
    /// Defined in RFC 4271 section 6.3. The data contains the refused attribute.
    OPTIONAL_ATTRIBUTE_ERROR = UPDATE, 9, "Optional Attribute Error";
    /// Defined in RFC 4271 section 6.3.
    INVALID_NETWORK_FIELD = UPDATE, 10, "Invalid Network Field";
    /// Defined in RFC 4271 section 6.3.
    MALFORMED_AS_PATH = UPDATE, 11, "Malformed AS_PATH";
    /// Defined in RFC 4271 section 6.5.
    HOLD_TIMER_EXPIRED = HOLD_TIMER, 0, "Hold Timer Expired";
    /// Defined in RFC 4271 section 6.6.
    FINITE_STATE_MACHINE_ERROR = STATE_MACHINE, 0, "Finite State Machine Error";
    /// Defined in RFC 6608.
    UNEXPECTED_MESSAGE_IN_OPEN_SENT = STATE_MACHINE, 1, "Unexpected Message in OpenSent";
    /// Defined in RFC 6608.
    UNEXPECTED_MESSAGE_IN_OPEN_CONFIRM = STATE_MACHINE, 2, "Unexpected Message in OpenConfirm";
    /// Defined in RFC 6608.
    UNEXPECTED_MESSAGE_IN_ESTABLISHED = STATE_MACHINE, 3, "Unexpected Message in Established";
    /// Defined in RFC 4271 section 6.7.
    CEASE_UNSPECIFIC = CEASE, 0, "Unspecific";
    /// Defined in RFC 4486.
    MAXIMUM_PREFIXES_REACHED = CEASE, 1, "Maximum Number of Prefixes Reached";
    /// Defined in RFC 4486. The data contains a shutdown communication (RFC 9003).
    ADMINISTRATIVE_SHUTDOWN = CEASE, 2, "Administrative Shutdown";
    /// Defined in RFC 4486.
    PEER_DECONFIGURED = CEASE, 3, "Peer De-configured";
    /// Defined in RFC 4486. The data contains a shutdown communication (RFC 9003).
    ADMINISTRATIVE_RESET = CEASE, 4, "Administrative Reset";
    /// Defined in RFC 4486.
    CONNECTION_REJECTED = CEASE, 5, "Connection Rejected";
    /// Defined in RFC 4486.
    OTHER_CONFIGURATION_CHANGE = CEASE, 6, "Other Configuration Change";
    /// Defined in RFC 4486.
    CONNECTION_COLLISION_RESOLUTION = CEASE, 7, "Connection Collision Resolution";
    /// Defined in RFC 4486.
    OUT_OF_RESOURCES = CEASE, 8, "Out of Resources";
    /// Defined in RFC 8538. The data contains the code, subcode and data of the error that causes
    /// the reset.
    HARD_RESET = CEASE, 9, "Hard Reset";
    /// Defined in RFC 9384.
    BFD_DOWN = CEASE, 10, "BFD Down";
    /// Defined in RFC 9687.
    SEND_HOLD_TIMER_EXPIRED = SEND_HOLD_TIMER, 0, "Send Hold Timer Expired";
    /// Defined in RFC 7313. The data contains the received ROUTE-REFRESH.
    ROUTE_REFRESH_INVALID_LENGTH = ROUTE_REFRESH, 1, "Invalid Message Length";
}

impl NotificationError {
    /// Returns an UPDATE Message Error with `subcode`.
    pub const fn update(subcode: u8) -> Self {
        Self {
            code: UPDATE,
            subcode,
        }
    }

    /// Reports whether the error code is Cease: the sender ends the session on purpose.
    pub const fn is_cease(self) -> bool {
        self.code == CEASE
    }
}

impl Notification {
    /// Returns a NOTIFICATION without data.
    pub const fn new(error: NotificationError) -> Self {
        Self {
            error,
            data: Bytes::new(),
        }
    }

    /// Returns an administrative shutdown with a text for the operator of the peer (RFC 9003).
    ///
    /// Cuts `text` after the last whole character within 255 octets. An empty `text` is not sent.
    pub fn administrative_shutdown(text: &str) -> Self {
        Self::with_communication(NotificationError::ADMINISTRATIVE_SHUTDOWN, text)
    }

    /// Returns an administrative reset with a text for the operator of the peer (RFC 9003).
    ///
    /// Cuts `text` after the last whole character within 255 octets. An empty `text` is not sent.
    pub fn administrative_reset(text: &str) -> Self {
        Self::with_communication(NotificationError::ADMINISTRATIVE_RESET, text)
    }

    fn with_communication(error: NotificationError, text: &str) -> Self {
        let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
        if text.is_empty() {
            return Self::new(error);
        }
        let length = u8::try_from(text.len()).expect("the text has at most 255 octets");
        let mut data = BytesMut::with_capacity(1 + text.len());
        data.put_u8(length);
        data.put_slice(text.as_bytes());
        Self {
            error,
            data: data.freeze(),
        }
    }

    /// Returns the text for the operator in an administrative shutdown or reset (RFC 9003).
    ///
    /// `None` for any other error, and if the text is empty, is not UTF-8, or does not have the
    /// length in its length field. The peer chooses the text: callers that print the text must
    /// escape control characters.
    pub fn shutdown_communication(&self) -> Option<&str> {
        if !matches!(
            self.error,
            NotificationError::ADMINISTRATIVE_SHUTDOWN | NotificationError::ADMINISTRATIVE_RESET
        ) {
            return None;
        }
        let mut reader = OctetReader(&self.data);
        let length = reader.u8()?;
        let text = reader.take(usize::from(length))?;
        if text.is_empty() || !reader.is_empty() {
            return None;
        }
        std::str::from_utf8(text).ok()
    }
}

/// Decodes the body of a NOTIFICATION: the octets after the header.
pub(crate) fn decode(body: &[u8]) -> Result<Notification, DecodeError> {
    let mut reader = OctetReader(body);
    let Some([code, subcode]) = reader.array() else {
        return Err(MessageProblem::NotificationTooShort.without_data());
    };
    Ok(Notification {
        error: NotificationError { code, subcode },
        data: Bytes::copy_from_slice(reader.0),
    })
}

/// Appends the body of a NOTIFICATION. Cuts the data so that the body has at most `room` octets.
pub(crate) fn encode(notification: &Notification, room: usize, buffer: &mut BytesMut) {
    buffer.put_u8(notification.error.code);
    buffer.put_u8(notification.error.subcode);
    let length = notification.data.len().min(room.saturating_sub(2));
    buffer.put_slice(&notification.data[..length]);
}

impl fmt::Display for NotificationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.code {
            HEADER => "Message Header Error",
            OPEN => "OPEN Message Error",
            UPDATE => "UPDATE Message Error",
            HOLD_TIMER => "Hold Timer Expired",
            STATE_MACHINE => "Finite State Machine Error",
            CEASE => "Cease",
            ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
            SEND_HOLD_TIMER => "Send Hold Timer Expired",
            code => return write!(f, "error {code}/{}", self.subcode),
        };
        f.write_str(code)?;
        match name(*self) {
            Some(subcode) if subcode == code => Ok(()),
            Some(subcode) => write!(f, "/{subcode}"),
            None => write!(f, "/{}", self.subcode),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match self.shutdown_communication() {
            Some(text) => write!(f, ": {}", text.escape_debug()),
            None => Ok(()),
        }
    }
}
