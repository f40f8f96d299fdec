//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 sections 3 and 4).
//!
//! ```text
//! +---------+----------+------------------------+----------+--------------+------+
//! | AFI (2) | SAFI (1) | Length of Next Hop (1) | Next Hop | Reserved (1) | NLRI |
//! +---------+----------+------------------------+----------+--------------+------+
//! +---------+----------+------------------+
//! | AFI (2) | SAFI (1) | Withdrawn Routes |
//! +---------+----------+------------------+
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    codec::CodecOptions,
    identifiers::{Family, is_host_address},
    message::Nlri,
    nlri::{self, SyntacticallyIncorrect},
    problem::AttributeProblem,
    reader::Reader,
};

/// What MP_REACH_NLRI holds.
pub(super) enum Reach {
    /// Of a family that is spoken here.
    Spoken {
        /// `None` if it is not the address of a host.
        next_hop: Option<IpAddr>,
        nlri: Vec<Nlri>,
    },
    /// Of another family, to be ignored.
    Foreign { has_nlri: bool },
}

pub(super) fn reach(value: &[u8], options: &CodecOptions) -> Result<Reach, AttributeProblem> {
    let mut reader = Reader(value);
    let (family, next_hop) =
        reach_fixed_fields(&mut reader).ok_or(AttributeProblem::MultiprotocolTooShort)?;
    let Some(family) = family else {
        return Ok(Reach::Foreign {
            has_nlri: !reader.is_empty(),
        });
    };
    Ok(Reach::Spoken {
        next_hop: decode_next_hop(family, next_hop)?,
        nlri: decode_nlri(reader.0, family, options)?,
    })
}

fn reach_fixed_fields<'a>(reader: &mut Reader<'a>) -> Option<(Option<Family>, &'a [u8])> {
    let family = Family::from_afi_safi(reader.u16()?, reader.u8()?);
    let length = reader.u8()?;
    let next_hop = reader.take(usize::from(length))?;
    let _reserved = reader.u8()?;
    Some((family, next_hop))
}

/// What MP_UNREACH_NLRI withdraws; `None` of a family that is not spoken here.
pub(super) fn unreach(
    value: &[u8],
    options: &CodecOptions,
) -> Result<Option<(Family, Vec<Nlri>)>, AttributeProblem> {
    let mut reader = Reader(value);
    let [afi_high, afi_low, safi] = reader
        .array()
        .ok_or(AttributeProblem::MultiprotocolTooShort)?;
    let afi = u16::from_be_bytes([afi_high, afi_low]);
    Family::from_afi_safi(afi, safi)
        .map(|family| Ok((family, decode_nlri(reader.0, family, options)?)))
        .transpose()
}

/// RFC 2545 section 3 and RFC 8950 section 3; of a pair the link-local half is dropped, as it is
/// of no use beyond the link that it was received on.
fn decode_next_hop(family: Family, octets: &[u8]) -> Result<Option<IpAddr>, AttributeProblem> {
    let address = match (family, octets.len()) {
        (Family::Ipv4Unicast, 4) => octets
            .first_chunk()
            .copied()
            .map(Ipv4Addr::from)
            .map(IpAddr::V4),
        (Family::Ipv4Unicast | Family::Ipv6Unicast, 16 | 32) => octets
            .first_chunk()
            .copied()
            .map(Ipv6Addr::from)
            .map(IpAddr::V6),
        _ => return Err(AttributeProblem::MultiprotocolNextHopLength),
    };
    Ok(address.filter(|address| is_host_address(*address)))
}

fn decode_nlri(
    list: &[u8],
    family: Family,
    options: &CodecOptions,
) -> Result<Vec<Nlri>, AttributeProblem> {
    let mut nlri = Vec::new();
    nlri::decode(list, family, options.has_add_path(family), &mut nlri)
        .map_err(|SyntacticallyIncorrect| AttributeProblem::MultiprotocolSyntax)?;
    Ok(nlri)
}
