//! Bytes to messages and back.
//!
//! ```text
//! +---------------------------+
//! | Marker, all ones (16)     |
//! +-------------+-------------+
//! | Length (2)  | Type (1)    |  the length counts the header
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
    problem::Problem,
    reader::Reader,
    update,
};

/// Octets of the header.
pub(crate) const HEADER_LENGTH: usize = 19;

/// RFC 4271 section 4.1.
const MAXIMUM_LENGTH: usize = 4096;

/// RFC 8654 section 4.
const EXTENDED_MAXIMUM_LENGTH: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

/// What was negotiated, as far as it changes the encoding. One value for each direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodecOptions {
    /// RFC 6793: AS numbers of AS_PATH and AGGREGATOR have four octets.
    pub four_octet_asn: bool,
    /// RFC 7911: families whose NLRI carry path ids in this direction.
    pub add_path: Vec<Family>,
    /// RFC 8654: messages of up to 65535 octets, else 4096.
    pub extended_message: bool,
    /// Whether the session is internal (LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are ignored on
    /// external ones, RFC 7606 section 7, and not sent to them).
    pub internal: bool,
}

impl CodecOptions {
    pub(crate) fn has_add_path(&self, family: Family) -> bool {
        self.add_path.contains(&family)
    }

    /// Of UPDATE, NOTIFICATION and ROUTE-REFRESH.
    pub(crate) fn maximum_message_length(&self) -> usize {
        if self.extended_message {
            EXTENDED_MAXIMUM_LENGTH
        } else {
            MAXIMUM_LENGTH
        }
    }
}

/// A message that ends the session: the NOTIFICATION to send, and the cause in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DecodeError {
    /// What to send before the connection is closed.
    pub notification: Notification,
    /// In words.
    pub problem: &'static str,
}

/// The types of RFC 4271 section 4.1 and RFC 2918.
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

    /// RFC 4271 section 6.1; RFC 8654 section 4 leaves OPEN and KEEPALIVE as they are.
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

/// Cuts a stream of bytes into messages. Holds none of them.
#[derive(Debug, Default)]
pub struct Decoder {
    options: CodecOptions,
}

impl Decoder {
    /// Options as before the OPEN: two-octet AS numbers, no add-path, 4096 octets.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called once both OPEN messages have been exchanged.
    pub fn set_options(&mut self, options: CodecOptions) {
        self.options = options;
    }

    /// Takes the next whole message off the front of `buffer`; `None` if more bytes are needed.
    ///
    /// The header is judged as soon as it is there, so that `buffer` never has to hold more than
    /// the longest message allowed.
    ///
    /// # Errors
    /// The session must be reset. No further call is meaningful.
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

/// The type and the length of the message; `None` if the header is incomplete.
fn read_header(
    buffer: &[u8],
    options: &CodecOptions,
) -> Result<Option<(MessageType, usize)>, DecodeError> {
    let Some(header) = buffer.first_chunk::<HEADER_LENGTH>() else {
        return Ok(None);
    };
    if header[..MARKER.len()] != MARKER {
        return Err(Problem::Marker.without_data());
    }
    let [.., length_high, length_low, type_code] = *header;
    let message_type = MessageType::from_code(type_code);
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let is_allowed = match message_type {
        Some(message_type) => message_type.allows_length(length, options),
        None => (HEADER_LENGTH..=options.maximum_message_length()).contains(&length),
    };
    if !is_allowed {
        return Err(Problem::MessageLength.with_data(&[length_high, length_low]));
    }
    match message_type {
        Some(message_type) => Ok(Some((message_type, length))),
        None => Err(Problem::MessageType.with_data(&[type_code])),
    }
}

/// RFC 2918 section 3. What follows the family (RFC 5291) was not negotiated and is ignored.
fn decode_route_refresh(body: &[u8]) -> Result<RouteRefresh, DecodeError> {
    let mut reader = Reader(body);
    let Some([afi_high, afi_low, subtype, safi]) = reader.array() else {
        return Err(Problem::RouteRefreshTooShort.without_data());
    };
    // Other subtypes (RFC 7313) mark the ends of a refresh that was not asked for.
    let family = match subtype {
        0 => Family::from_afi_safi(u16::from_be_bytes([afi_high, afi_low]), safi),
        _ => None,
    };
    Ok(RouteRefresh { family })
}

/// Appends the message to `buffer`, as several UPDATEs if one cannot hold it.
///
/// Prefixes that share attributes are packed together. An UPDATE that says nothing appends
/// nothing, since an empty message would mean the end of the IPv4 RIB; `errors` are not sent. A
/// path id is sent if, and only if, `options` ask for one, as 0 where it is missing. An IPv6 prefix
/// with an IPv4 next hop gets the IPv4-mapped address, an IPv4 prefix with an IPv6 next hop travels
/// as RFC 8950 says. Data of a NOTIFICATION that exceed the message are cut; capabilities that
/// exceed an OPEN are left out.
///
/// Returned are the prefixes whose attributes leave no room for them in any message. They are
/// withdrawn instead of announced, so that the peer keeps no older path (RFC 8654 section 5).
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
            // AFI and SAFI 0 are reserved: a family that no receiver speaks.
            buffer.put_u16(family.map_or(0, Family::afi));
            buffer.put_u8(0);
            buffer.put_u8(family.map_or(0, Family::safi));
            finish_message(start, buffer);
        }
    }
    Vec::new()
}

/// Appends a header without its length; returns where the message starts.
pub(crate) fn begin_message(message_type: MessageType, buffer: &mut BytesMut) -> usize {
    let start = buffer.len();
    buffer.put_slice(&MARKER);
    buffer.put_u16(0);
    buffer.put_u8(message_type.code());
    start
}

/// Writes the length of the message that starts there and ends at the end of `buffer`.
pub(crate) fn finish_message(start: usize, buffer: &mut BytesMut) {
    let length = u16::try_from(buffer.len() - start).expect("a message has at most 65535 octets");
    buffer[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}
