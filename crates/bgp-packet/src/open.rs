//! Decoding and encoding of OPEN messages (RFC 4271 section 4.2).
//!
//! The optional parameters contain the capabilities (RFC 5492) and have a normal and an extended
//! form (RFC 9072):
//!
//! ```text
//! +-------------+-----------+---------------+--------------------+
//! | Version (1) | My AS (2) | Hold Time (2) | BGP Identifier (4) |
//! +-------------+-----------+---------------+--------------------+
//! | Length (1)  | Parameters: Type (1), Length (1), Value        |
//! +-------------+------------------------------------------------+
//!   or
//! +-------------+-----------+---------------+----------------------------------------+
//! | not 0 (1)   | 255 (1)   | Length (2)    | Parameters: Type (1), Length (2), Value|
//! +-------------+-----------+---------------+----------------------------------------+
//! ```

use std::net::Ipv4Addr;

use bytes::{BufMut, BytesMut};

use crate::{
    capability::{self, Capability},
    codec::DecodeError,
    identifiers::{Asn, RouterId},
    message::Open,
    problem::MessageProblem,
    reader::OctetReader,
};

const VERSION: u8 = 4;
const CAPABILITIES: u8 = 2;
const EXTENDED: u8 = 255;

/// Length of the body before the optional parameters, in octets.
const FIXED: usize = 10;

/// Decodes the body of an OPEN: the octets after the header. The caller has checked that the body
/// has at least ten octets.
pub(crate) fn decode(body: &[u8]) -> Result<Open, DecodeError> {
    let mut reader = OctetReader(body);
    let Some((version, asn, hold_time_seconds, identifier, declared)) =
        read_fixed_fields(&mut reader)
    else {
        return Err(MessageProblem::MessageLength.without_data());
    };
    if version != VERSION {
        return Err(MessageProblem::OpenVersion.with_data(&u16::from(VERSION).to_be_bytes()));
    }
    if asn == 0 {
        return Err(MessageProblem::OpenZeroAsn.without_data());
    }
    if matches!(hold_time_seconds, 1 | 2) {
        return Err(MessageProblem::OpenHoldTime.without_data());
    }
    if identifier.is_unspecified() {
        return Err(MessageProblem::OpenZeroRouterId.without_data());
    }
    let capabilities =
        decode_parameters(declared, reader.0).map_err(MessageProblem::without_data)?;
    let four_octets = capabilities.iter().find_map(Capability::four_octet_asn);
    if four_octets == Some(Asn(0)) {
        return Err(MessageProblem::OpenZeroFourOctetAsn.without_data());
    }
    Ok(Open {
        asn: four_octets.unwrap_or(Asn(u32::from(asn))),
        hold_time_seconds,
        router_id: RouterId(identifier),
        capabilities,
    })
}

fn read_fixed_fields(reader: &mut OctetReader<'_>) -> Option<(u8, u16, u16, Ipv4Addr, u8)> {
    Some((
        reader.u8()?,
        reader.u16()?,
        reader.u16()?,
        Ipv4Addr::from(reader.array::<4>()?),
        reader.u8()?,
    ))
}

fn decode_parameters(declared: u8, parameters: &[u8]) -> Result<Vec<Capability>, MessageProblem> {
    let extended = declared != 0 && parameters.first() == Some(&EXTENDED);
    let mut reader = OctetReader(parameters);
    let length = if extended {
        reader.u8().and_then(|_type| reader.u16())
    } else {
        Some(u16::from(declared))
    };
    if length.map(usize::from) != Some(reader.0.len()) {
        return Err(MessageProblem::OpenParametersLength);
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let (parameter, value) =
            read_parameter(&mut reader, extended).ok_or(MessageProblem::OpenParameterOverrun)?;
        if parameter != CAPABILITIES {
            return Err(MessageProblem::OpenParameterUnknown);
        }
        capability::decode_list(value, &mut capabilities)
            .map_err(|capability::Overrun| MessageProblem::OpenCapabilityOverrun)?;
    }
    Ok(capabilities)
}

fn read_parameter<'a>(reader: &mut OctetReader<'a>, extended: bool) -> Option<(u8, &'a [u8])> {
    let parameter = reader.u8()?;
    let length = if extended {
        usize::from(reader.u16()?)
    } else {
        usize::from(reader.u8()?)
    };
    Some((parameter, reader.take(length)?))
}

/// Appends the body of an OPEN with all capabilities in one parameter.
///
/// The body has at most `room` octets. The encoder omits the first capability that does not fit and
/// all capabilities after it.
pub(crate) fn encode(open: &Open, room: usize, buffer: &mut BytesMut) {
    buffer.put_u8(VERSION);
    buffer.put_u16(open.asn.two_octets());
    buffer.put_u16(open.hold_time_seconds);
    buffer.put_u32(open.router_id.0.to_bits());

    // Octets that the extended form adds to the fixed fields and the capabilities: type 255, list
    // length, parameter type, parameter length.
    const EXTENDED_OVERHEAD: usize = 1 + 2 + 1 + 2;
    let room = room.saturating_sub(FIXED + EXTENDED_OVERHEAD);
    let mut list = BytesMut::new();
    for capability in &open.capabilities {
        let before = list.len();
        capability::encode(capability, &mut list);
        if list.len() > room {
            list.truncate(before);
            break;
        }
    }

    if list.is_empty() {
        buffer.put_u8(0);
    } else if let Ok(length) = u8::try_from(list.len() + 2) {
        buffer.put_u8(length);
        buffer.put_u8(CAPABILITIES);
        buffer.put_u8(length - 2);
    } else {
        let length =
            u16::try_from(list.len()).expect("the list of capabilities fits into a message");
        buffer.put_u8(EXTENDED);
        buffer.put_u8(EXTENDED);
        buffer.put_u16(length + 3);
        buffer.put_u8(CAPABILITIES);
        buffer.put_u16(length);
    }
    buffer.put_slice(&list);
}
