//! Checks of the attributes that nothing here uses and that are carried as they came.
//!
//! The receiver of a reflected path may use them, and may end its session over a malformed one. A
//! client could take all routes off a router that way. The checks are therefore stricter than the
//! RFCs in one point: a sound form over which FRR 8.4 ends an internal session is not carried
//! ([`AttributeProblem::RefusedByRouters`], decision 0022).

use super::attribute::{self, AttributeType};
use crate::{problem::AttributeProblem, reader::Reader};

/// Checks the value of a carried attribute; any other type passes.
pub(super) fn check(known: AttributeType, value: &[u8]) -> Result<(), AttributeProblem> {
    match known {
        AttributeType::PmsiTunnel => pmsi_tunnel(value),
        AttributeType::TunnelEncapsulation => tunnel_encapsulation(value),
        // RFC 5701 section 2, RFC 7606 section 7.15.
        AttributeType::Ipv6ExtendedCommunities => attribute::list::<20>(value).map(|_| ()),
        AttributeType::Aigp => aigp(value),
        AttributeType::OnlyToCustomer => only_to_customer(value),
        AttributeType::PrefixSid => prefix_sid(value),
        AttributeType::Origin
        | AttributeType::AsPath
        | AttributeType::NextHop
        | AttributeType::MultiExitDisc
        | AttributeType::LocalPref
        | AttributeType::AtomicAggregate
        | AttributeType::Aggregator
        | AttributeType::Communities
        | AttributeType::OriginatorId
        | AttributeType::ClusterList
        | AttributeType::MpReach
        | AttributeType::MpUnreach
        | AttributeType::ExtendedCommunities
        | AttributeType::As4Path
        | AttributeType::As4Aggregator
        | AttributeType::LargeCommunity => Ok(()),
    }
}

/// RFC 6514 section 5.
///
/// ```text
/// +-----------+-----------------+----------------+-------------------+
/// | Flags (1) | Tunnel Type (1) | MPLS Label (3) | Tunnel Identifier |
/// +-----------+-----------------+----------------+-------------------+
/// ```
fn pmsi_tunnel(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = Reader(value);
    let [_flags, tunnel_type, _, _, _] = reader.array().ok_or(AttributeProblem::Length)?;
    let identifier = reader.0;
    let is_sound = match tunnel_type {
        // No tunnel information.
        0 => identifier.is_empty(),
        // RSVP-TE P2MP (RFC 4875 section 19.1).
        1 => [12, 24].contains(&identifier.len()),
        // mLDP P2MP and MP2MP.
        2 | 7 => is_mldp_fec(identifier),
        // PIM-SSM, PIM-SM and BIDIR-PIM: a sender and a group.
        3..=5 => [8, 32].contains(&identifier.len()),
        // Ingress replication: the endpoint.
        6 if identifier.len() == 16 => return Err(AttributeProblem::RefusedByRouters),
        6 => identifier.len() == 4,
        _ => return Err(AttributeProblem::TunnelType),
    };
    if is_sound {
        Ok(())
    } else {
        Err(AttributeProblem::TunnelIdentifier)
    }
}

/// A P2MP or MP2MP FEC element (RFC 6388 section 2.2).
///
/// ```text
/// +----------+--------------------+--------------------+------+-------------------+--------+
/// | Type (1) | Address Family (2) | Address Length (1) | Root | Opaque Length (2) | Opaque |
/// +----------+--------------------+--------------------+------+-------------------+--------+
/// ```
fn is_mldp_fec(identifier: &[u8]) -> bool {
    let mut reader = Reader(identifier);
    let mut skip = || {
        let [_type, _family_high, _family_low, root] = reader.array()?;
        reader.take(usize::from(root))?;
        let opaque = reader.u16()?;
        reader.take(usize::from(opaque))
    };
    skip().is_some() && reader.is_empty()
}

/// RFC 9012 sections 2 and 13.
///
/// ```text
/// +-----------------+------------+----------+
/// | Tunnel Type (2) | Length (2) | Sub-TLVs |
/// +-----------------+------------+----------+
/// +------------------+-----------------+-------+
/// | Sub-TLV Type (1) | Length (1 or 2) | Value |  two octets from type 128 on
/// +------------------+-----------------+-------+
/// ```
fn tunnel_encapsulation(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = Reader(value);
    let mut tunnels = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let tunnel = tunnel(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        is_refused |= is_sub_tlvs_refused(tunnel)?;
        tunnels += 1;
    }
    match tunnels {
        0 => Err(AttributeProblem::TlvMissing),
        1 if !is_refused => Ok(()),
        // FRR 8.4 takes the second tunnel for sub-TLVs of the first.
        _ => Err(AttributeProblem::RefusedByRouters),
    }
}

fn tunnel<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let _tunnel_type = reader.u16()?;
    let length = reader.u16()?;
    reader.take(usize::from(length))
}

/// Whether FRR 8.4 refuses the list: it reads lengths of one octet only, and takes fewer than four
/// octets at the end for garbage.
fn is_sub_tlvs_refused(list: &[u8]) -> Result<bool, AttributeProblem> {
    let mut reader = Reader(list);
    let mut is_refused = false;
    while !reader.is_empty() {
        is_refused |= reader.0.len() < 4 || reader.0.first().is_some_and(|code| *code >= 128);
        sub_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
    }
    Ok(is_refused)
}

fn sub_tlv<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = match reader.u8()? {
        128.. => usize::from(reader.u16()?),
        _ => usize::from(reader.u8()?),
    };
    reader.take(length)
}

/// RFC 7311 section 3. The length of a TLV counts its type and its length, too.
///
/// ```text
/// +----------+------------+-----------+
/// | Type (1) | Length (2) | Value (8) |
/// +----------+------------+-----------+
/// ```
fn aigp(value: &[u8]) -> Result<(), AttributeProblem> {
    const AIGP: u8 = 1;
    const HEADER: usize = 3;
    let mut reader = Reader(value);
    if reader.is_empty() {
        return Err(AttributeProblem::TlvMissing);
    }
    while !reader.is_empty() {
        let [code, high, low] = reader.array().ok_or(AttributeProblem::TlvOverrun)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < HEADER || code == AIGP && length != 11 {
            return Err(AttributeProblem::TlvLength);
        }
        reader
            .take(length - HEADER)
            .ok_or(AttributeProblem::TlvOverrun)?;
    }
    Ok(())
}

/// RFC 9234 section 5; AS 0 is no AS (RFC 7607).
fn only_to_customer(value: &[u8]) -> Result<(), AttributeProblem> {
    match attribute::fixed::<4>(value)? {
        [0, 0, 0, 0] => Err(AttributeProblem::OnlyToCustomerZero),
        _ => Ok(()),
    }
}

/// RFC 8669 section 3, RFC 9252 section 2.
///
/// ```text
/// +----------+------------+-------+
/// | Type (1) | Length (2) | Value |
/// +----------+------------+-------+
/// ```
fn prefix_sid(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = Reader(value);
    if reader.is_empty() {
        return Err(AttributeProblem::TlvMissing);
    }
    let mut services = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let (code, value) = prefix_sid_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        is_refused |= match code {
            // Label-Index: reserved, flags, index.
            1 => attribute::fixed::<7>(value)
                .map(|index| index[3..] == [0xff; 4])
                .map_err(|_| AttributeProblem::TlvLength)?,
            // Originator SRGB: flags, then ranges of six octets, one at least.
            3 => match value.split_first_chunk::<2>() {
                Some((_, ranges)) if !ranges.is_empty() && ranges.len() % 6 == 0 => false,
                Some(_) | None => return Err(AttributeProblem::TlvLength),
            },
            // Deprecated (RFC 8669 section 7); FRR 8.4 still reads them as drafts had them.
            2 | 4 => true,
            5 => {
                services += 1;
                is_srv6_service_refused(value)?
            }
            6 => {
                is_srv6_service_refused(value)?;
                false
            }
            _ => false,
        };
    }
    if is_refused || services > 1 {
        return Err(AttributeProblem::RefusedByRouters);
    }
    Ok(())
}

/// The TLVs and the sub-TLVs of BGP Prefix-SID have one form.
fn prefix_sid_tlv<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let code = reader.u8()?;
    let length = reader.u16()?;
    Some((code, reader.take(usize::from(length))?))
}

/// RFC 9252 sections 2 to 3.2.1: a reserved octet, and sub-TLVs; in the SRv6 SID Information
/// sub-TLV (1) 21 octets, and sub-sub-TLVs; the SRv6 SID Structure sub-sub-TLV (1) has 6 octets.
///
/// Returns whether FRR 8.4 refuses the TLV: it reads one sub-TLV and one sub-sub-TLV, and takes the
/// next one for something else.
fn is_srv6_service_refused(value: &[u8]) -> Result<bool, AttributeProblem> {
    const SID_INFORMATION: u8 = 1;
    const SID_STRUCTURE: u8 = 1;
    let mut reader = Reader(value);
    reader.u8().ok_or(AttributeProblem::TlvLength)?;
    let mut sub_tlvs = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let (code, value) = prefix_sid_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        sub_tlvs += 1;
        if code != SID_INFORMATION {
            continue;
        }
        let mut inner = Reader(value);
        inner.take(21).ok_or(AttributeProblem::TlvLength)?;
        let mut sub_sub_tlvs = 0;
        while !inner.is_empty() {
            let (code, value) = prefix_sid_tlv(&mut inner).ok_or(AttributeProblem::TlvOverrun)?;
            if code == SID_STRUCTURE && value.len() != 6 {
                return Err(AttributeProblem::TlvLength);
            }
            is_refused |= value.len() < 6;
            sub_sub_tlvs += 1;
        }
        is_refused |= sub_sub_tlvs > 1;
    }
    Ok(is_refused || sub_tlvs != 1)
}
