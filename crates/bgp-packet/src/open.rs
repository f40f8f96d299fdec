//! OPEN (RFC 4271 section 4.2) with capabilities (RFC 5492) and extended optional parameters
//! (RFC 9072).
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
    problem::Problem,
    reader::Reader,
};

const VERSION: u8 = 4;
const CAPABILITIES: u8 = 2;
const EXTENDED: u8 = 255;

/// Octets of the body before the optional parameters.
const FIXED: usize = 10;

/// Reads the body: what follows the header, of at least ten octets.
pub(crate) fn decode(body: &[u8]) -> Result<Open, DecodeError> {
    let mut reader = Reader(body);
    let Some((version, asn, hold_time_seconds, identifier, declared)) =
        read_fixed_fields(&mut reader)
    else {
        return Err(Problem::MessageLength.without_data());
    };
    if version != VERSION {
        return Err(Problem::OpenVersion.with_data(&u16::from(VERSION).to_be_bytes()));
    }
    if asn == 0 {
        return Err(Problem::OpenZeroAsn.without_data());
    }
    if matches!(hold_time_seconds, 1 | 2) {
        return Err(Problem::OpenHoldTime.without_data());
    }
    if identifier.is_unspecified() {
        return Err(Problem::OpenZeroRouterId.without_data());
    }
    let capabilities = decode_parameters(declared, reader.0).map_err(Problem::without_data)?;
    let four_octets = capabilities.iter().find_map(Capability::four_octet_asn);
    if four_octets == Some(Asn(0)) {
        return Err(Problem::OpenZeroFourOctetAsn.without_data());
    }
    Ok(Open {
        asn: four_octets.unwrap_or(Asn(u32::from(asn))),
        hold_time_seconds,
        router_id: RouterId(identifier),
        capabilities,
    })
}

fn read_fixed_fields(reader: &mut Reader<'_>) -> Option<(u8, u16, u16, Ipv4Addr, u8)> {
    Some((
        reader.u8()?,
        reader.u16()?,
        reader.u16()?,
        Ipv4Addr::from(reader.array::<4>()?),
        reader.u8()?,
    ))
}

fn decode_parameters(declared: u8, parameters: &[u8]) -> Result<Vec<Capability>, Problem> {
    let extended = declared != 0 && parameters.first() == Some(&EXTENDED);
    let mut reader = Reader(parameters);
    let length = if extended {
        reader.u8().and_then(|_type| reader.u16())
    } else {
        Some(u16::from(declared))
    };
    if length.map(usize::from) != Some(reader.0.len()) {
        return Err(Problem::OpenParametersLength);
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let (parameter, value) =
            read_parameter(&mut reader, extended).ok_or(Problem::OpenParameterOverrun)?;
        if parameter != CAPABILITIES {
            return Err(Problem::OpenParameterUnknown);
        }
        capability::decode_list(value, &mut capabilities)
            .map_err(|capability::Overrun| Problem::OpenCapabilityOverrun)?;
    }
    Ok(capabilities)
}

fn read_parameter<'a>(reader: &mut Reader<'a>, extended: bool) -> Option<(u8, &'a [u8])> {
    let parameter = reader.u8()?;
    let length = if extended {
        usize::from(reader.u16()?)
    } else {
        usize::from(reader.u8()?)
    };
    Some((parameter, reader.take(length)?))
}

/// Appends the body, with all capabilities in one parameter.
///
/// Capabilities that exceed `room`, the octets of the body, are left out from the first that does.
pub(crate) fn encode(open: &Open, room: usize, buffer: &mut BytesMut) {
    buffer.put_u8(VERSION);
    buffer.put_u16(open.asn.two_octets());
    buffer.put_u16(open.hold_time_seconds);
    buffer.put_u32(open.router_id.0.to_bits());

    // Type 255, length of the list, type of the parameter, length of the parameter.
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
        let length = u16::try_from(list.len()).expect("the list fits a message");
        buffer.put_u8(EXTENDED);
        buffer.put_u8(EXTENDED);
        buffer.put_u16(length + 3);
        buffer.put_u8(CAPABILITIES);
        buffer.put_u16(length);
    }
    buffer.put_slice(&list);
}
