//! Message framing: headers, lengths, the decoder and the encoder.
//!
//! ```text
//! +---------------------------+
//! | Marker, all ones (16)     |
//! +-------------+-------------+
//! | Length (2)  | Type (1)    |  the length includes the header
//! +-------------+-------------+
//! | Body                      |
//! +---------------------------+
//! ```

use bytes::{Buf, BufMut, BytesMut};

use crate::{
    identifiers::Family,
    message::{Message, Nlri, RouteRefresh},
    notification::{self, Notification},
    open,
    problem::MessageProblem,
    reader::OctetReader,
    update,
};

/// Length of the message header in octets.
pub(crate) const HEADER_LENGTH: usize = 19;

/// Largest message length in octets, unless both speakers sent the extended message capability (RFC
/// 4271 section 4.1).
const MAXIMUM_LENGTH: usize = 4096;

/// Largest message length in octets after both speakers sent the extended message capability
/// (RFC 8654 section 4).
const EXTENDED_MAXIMUM_LENGTH: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// The negotiated options that change the encoding of messages. A session has one value for each
/// direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodecOptions {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets, not two (RFC 6793).
    pub four_octet_asn: bool,
    /// Families whose NLRI have path ids in this direction (RFC 7911).
    pub add_path: Vec<Family>,
    /// An UPDATE, NOTIFICATION or ROUTE-REFRESH can have up to 65535 octets instead of 4096 (RFC
    /// 8654).
    pub extended_message: bool,
    /// The peer is in the AS of this speaker. On a session with a peer in another AS, the decoder
    /// ignores LOCAL_PREF, ORIGINATOR_ID, CLUSTER_LIST (RFC 7606 section 7) and AIGP (RFC 7311
    /// section 3.1), and the encoder omits these attributes.
    pub internal: bool,
}

impl CodecOptions {
    pub(crate) fn has_add_path(&self, family: Family) -> bool {
        self.add_path.contains(&family)
    }

    /// Returns the largest length in octets of an UPDATE, NOTIFICATION or ROUTE-REFRESH.
    pub(crate) fn maximum_message_length(&self) -> usize {
        if self.extended_message {
            EXTENDED_MAXIMUM_LENGTH
        } else {
            MAXIMUM_LENGTH
        }
    }
}

/// An error in a received message. Every such error ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DecodeError {
    /// The NOTIFICATION that the caller must send before it closes the connection.
    pub notification: Notification,
    pub problem: &'static str,
}

/// A message type of RFC 4271 section 4.1 or RFC 2918.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl MessageType {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// Reports whether a message of this type can have `length` octets (RFC 4271 section 6.1).
    ///
    /// OPEN and KEEPALIVE are never extended messages (RFC 8654 section 4).
    fn allows_length(self, length: usize, options: &CodecOptions) -> bool {
        let maximum = options.maximum_message_length();
        match self {
            Self::Open => (29..=MAXIMUM_LENGTH).contains(&length),
            Self::Update => (23..=maximum).contains(&length),
            Self::Notification => (21..=maximum).contains(&length),
            Self::Keepalive => length == HEADER_LENGTH,
            Self::RouteRefresh => (23..=maximum).contains(&length),
        }
    }
}

/// A decoder of the messages that one connection receives. The undecoded bytes stay in the buffer
/// of the caller.
#[derive(Debug, Default)]
pub struct Decoder {
    options: CodecOptions,
}

impl Decoder {
    /// Returns a decoder with the options that apply until both OPEN messages have been exchanged:
    /// two-octet AS numbers, no add-path, messages of at most 4096 octets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the options that both OPEN messages negotiated, for all messages after the OPEN of the
    /// peer.
    pub fn set_options(&mut self, options: CodecOptions) {
        self.options = options;
    }

    /// Removes the next message from the front of `buffer` and decodes it. `None` if `buffer` does
    /// not contain the whole message yet.
    ///
    /// The decoder checks the header before the body has arrived. So `buffer` never needs to be
    /// larger than the longest message that the options allow.
    ///
    /// # Errors
    /// Returns the error of a malformed message, which ends the session. The caller must not decode
    /// further messages.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, DecodeError> {
        let Some((message_type, length)) = read_header(buffer, &self.options)? else {
            return Ok(None);
        };
        let Some(body) = buffer.get(HEADER_LENGTH..length) else {
            buffer.reserve(length - buffer.len());
            return Ok(None);
        };
        let message = match message_type {
            MessageType::Open => Message::Open(open::decode(body)?),
            MessageType::Update => Message::Update(update::decode(body, &self.options)?),
            MessageType::Notification => Message::Notification(notification::decode(body)?),
            MessageType::Keepalive => Message::Keepalive,
            MessageType::RouteRefresh => Message::RouteRefresh(decode_route_refresh(body)?),
        };
        buffer.advance(length);
        Ok(Some(message))
    }
}

/// Returns the type of the message and its length with the header. `None` if the header is
/// incomplete.
fn read_header(
    buffer: &[u8],
    options: &CodecOptions,
) -> Result<Option<(MessageType, usize)>, DecodeError> {
    let Some(header) = buffer.first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    if header[..MARKER.len()] != MARKER {
        return Err(MessageProblem::Marker.without_data());
    }
    let [.., length_high, length_low, type_code] = *header;
    let message_type = MessageType::from_code(type_code);
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let is_allowed = match message_type {
        Some(message_type) => message_type.allows_length(length, options),
        None => (HEADER_LENGTH..=options.maximum_message_length()).contains(&length),
    };
    if !is_allowed {
        return Err(MessageProblem::MessageLength.with_data(&[length_high, length_low]));
    }
    match message_type {
        Some(message_type) => Ok(Some((message_type, length))),
        None => Err(MessageProblem::MessageType.with_data(&[type_code])),
    }
}

/// Decodes the body of a ROUTE-REFRESH (RFC 2918 section 3). Ignores the octets after the family:
/// they are filters (RFC 5291), which portlb never negotiates.
fn decode_route_refresh(body: &[u8]) -> Result<RouteRefresh, DecodeError> {
    let mut reader = OctetReader(body);
    let Some([afi_high, afi_low, subtype, safi]) = reader.array() else {
        return Err(MessageProblem::RouteRefreshTooShort.without_data());
    };
    // A subtype other than 0 (RFC 7313) marks the begin or the end of an enhanced route refresh,
    // which portlb never negotiates.
    let family = match subtype {
        0 => Family::from_afi_safi(u16::from_be_bytes([afi_high, afi_low]), safi),
        _ => None,
    };
    Ok(RouteRefresh { family })
}

/// Encodes `message` and appends it to `buffer`. Splits an UPDATE that is too long for one message.
///
/// - A message contains as many prefixes of one [`Announced`](crate::Announced) and one family as
///   fit into it.
/// - For an UPDATE without prefixes and without `end_of_rib`, the encoder appends nothing, because
///   an UPDATE without content is the End-of-RIB marker of IPv4.
/// - [`Update::errors`](crate::Update::errors) is not encoded.
/// - Prefixes have path ids only if `options` has add-path for their family. If a path id is then
///   `None`, the encoder sends 0.
/// - An IPv4 next hop of an IPv6 prefix becomes an IPv4-mapped address. An IPv4 prefix with an IPv6
///   next hop is encoded by RFC 8950.
/// - The data of a NOTIFICATION is cut to the longest message that the options allow. Capabilities
///   that do not fit into an OPEN are omitted.
///
/// Returns the announced prefixes for which the attributes leave no room in a message. The appended
/// messages withdraw these prefixes, so that the peer does not keep an older path (RFC 8654 section
/// 5).
pub fn encode(message: &Message, options: &CodecOptions, buffer: &mut BytesMut) -> Vec<Nlri> {
    match message {
        Message::Update(update) => return update::encode(update, options, buffer),
        Message::Open(open) => {
            let start = begin_message(MessageType::Open, buffer);
            open::encode(open, MAXIMUM_LENGTH - HEADER_LENGTH, buffer);
            finish_message(start, buffer);
        }
        Message::Notification(notification) => {
            let start = begin_message(MessageType::Notification, buffer);
            let room = options.maximum_message_length() - HEADER_LENGTH;
            notification::encode(notification, room, buffer);
            finish_message(start, buffer);
        }
        Message::Keepalive => {
            let start = begin_message(MessageType::Keepalive, buffer);
            finish_message(start, buffer);
        }
        Message::RouteRefresh(RouteRefresh { family }) => {
            let start = begin_message(MessageType::RouteRefresh, buffer);
            // A message without a family gets AFI 0 and SAFI 0. Both are reserved, so the receiver
            // ignores the message.
            buffer.put_u16(family.map_or(0, Family::afi));
            buffer.put_u8(0);
            buffer.put_u8(family.map_or(0, Family::safi));
            finish_message(start, buffer);
        }
    }
    Vec::new()
}

/// Appends a message header with length 0, which `finish_message` overwrites. Returns the index of
/// the header in `buffer`.
pub(crate) fn begin_message(message_type: MessageType, buffer: &mut BytesMut) -> usize {
    let start = buffer.len();
    buffer.put_slice(&MARKER);
    buffer.put_u16(0);
    buffer.put_u8(message_type.code());
    start
}

/// Writes the length of the message that begins at index `start` and ends at the end of `buffer`.
pub(crate) fn finish_message(start: usize, buffer: &mut BytesMut) {
    let length = u16::try_from(buffer.len() - start).expect("a message has at most 65535 octets");
    buffer[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}
