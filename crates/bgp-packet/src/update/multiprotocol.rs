//! Decoding of MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 sections 3 and 4).
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
    reader::OctetReader,
};

/// The value of MP_REACH_NLRI.
pub(super) enum Reach {
    /// The family is one of [`Family`].
    Supported {
        /// `None` if the next hop is not the address of a host.
        next_hop: Option<IpAddr>,
        nlri: Vec<Nlri>,
    },
    /// portlb does not support the family and ignores the prefixes.
    Unsupported { has_nlri: bool },
}

pub(super) fn reach(value: &[u8], options: &CodecOptions) -> Result<Reach, AttributeProblem> {
    let mut reader = OctetReader(value);
    let (family, next_hop) =
        reach_fixed_fields(&mut reader).ok_or(AttributeProblem::MultiprotocolTooShort)?;
    let Some(family) = family else {
        return Ok(Reach::Unsupported {
            has_nlri: !reader.is_empty(),
        });
    };
    Ok(Reach::Supported {
        next_hop: decode_next_hop(family, next_hop)?,
        nlri: decode_nlri(reader.0, family, options)?,
    })
}

fn reach_fixed_fields<'a>(reader: &mut OctetReader<'a>) -> Option<(Option<Family>, &'a [u8])> {
    let family = Family::from_afi_safi(reader.u16()?, reader.u8()?);
    let length = reader.u8()?;
    let next_hop = reader.take(usize::from(length))?;
    let _reserved = reader.u8()?;
    Some((family, next_hop))
}

/// Decodes MP_UNREACH_NLRI. `None` if portlb does not support the family.
pub(super) fn unreach(
    value: &[u8],
    options: &CodecOptions,
) -> Result<Option<(Family, Vec<Nlri>)>, AttributeProblem> {
    let mut reader = OctetReader(value);
    let [afi_high, afi_low, safi] = reader
        .array()
        .ok_or(AttributeProblem::MultiprotocolTooShort)?;
    let afi = u16::from_be_bytes([afi_high, afi_low]);
    Family::from_afi_safi(afi, safi)
        .map(|family| Ok((family, decode_nlri(reader.0, family, options)?)))
        .transpose()
}

/// Decodes a next hop (RFC 2545 section 3, RFC 8950 section 3). `None` if the next hop is not the
/// address of a host.
///
/// Ignores a link-local address after the global address, because a link-local address is valid
/// only on the link of the session.
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
