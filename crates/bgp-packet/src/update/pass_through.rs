//! Checks of the attributes that portlb passes on unchanged.
//!
//! A router can end its session with the reflector because of an attribute in a reflected path, and
//! then loses all routes of the session. Any client could send such a path to the reflector.
//! Therefore the checks are stricter than the RFCs in one point: they also refuse valid forms for
//! which FRR 8.4 ends an internal session ([`AttributeProblem::RefusedByRouters`], decision 0022).

use super::attribute;
use crate::{problem::AttributeProblem, reader::OctetReader};

/// Checks IPv6 extended communities (RFC 5701 section 2, RFC 7606 section 7.15).
pub(super) fn check_ipv6_extended_communities(value: &[u8]) -> Result<(), AttributeProblem> {
    attribute::list::<20>(value).map(|_| ())
}

/// Checks a PMSI tunnel (RFC 6514 section 5).
///
/// ```text
/// +-----------+-----------------+----------------+-------------------+
/// | Flags (1) | Tunnel Type (1) | MPLS Label (3) | Tunnel Identifier |
/// +-----------+-----------------+----------------+-------------------+
/// ```
pub(super) fn check_pmsi_tunnel(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = OctetReader(value);
    let [_flags, tunnel_type, _, _, _] = reader.array().ok_or(AttributeProblem::Length)?;
    let identifier = reader.0;
    let is_valid = match tunnel_type {
        // No tunnel information is present.
        0 => identifier.is_empty(),
        // RSVP-TE P2MP (RFC 4875 section 19.1).
        1 => [12, 24].contains(&identifier.len()),
        // mLDP P2MP and MP2MP.
        2 | 7 => is_mldp_fec(identifier),
        // PIM-SSM, PIM-SM and BIDIR-PIM: a sender address and a group address.
        3..=5 => [8, 32].contains(&identifier.len()),
        // Ingress replication: the address of the tunnel endpoint. FRR 8.4 refuses an IPv6 address.
        6 if identifier.len() == 16 => return Err(AttributeProblem::RefusedByRouters),
        6 => identifier.len() == 4,
        _ => return Err(AttributeProblem::TunnelType),
    };
    if is_valid {
        Ok(())
    } else {
        Err(AttributeProblem::TunnelIdentifier)
    }
}

/// Reports whether `identifier` is one P2MP or MP2MP FEC element (RFC 6388 section 2.2).
///
/// ```text
/// +----------+--------------------+--------------------+------+-------------------+--------+
/// | Type (1) | Address Family (2) | Address Length (1) | Root | Opaque Length (2) | Opaque |
/// +----------+--------------------+--------------------+------+-------------------+--------+
/// ```
fn is_mldp_fec(identifier: &[u8]) -> bool {
    let mut reader = OctetReader(identifier);
    let mut skip = || {
        let [_type, _family_high, _family_low, root] = reader.array()?;
        reader.take(usize::from(root))?;
        let opaque = reader.u16()?;
        reader.take(usize::from(opaque))
    };
    skip().is_some() && reader.is_empty()
}

/// Checks a tunnel encapsulation attribute (RFC 9012 sections 2 and 13).
///
/// ```text
/// +-----------------+------------+----------+
/// | Tunnel Type (2) | Length (2) | Sub-TLVs |
/// +-----------------+------------+----------+
/// +------------------+-----------------+-------+
/// | Sub-TLV Type (1) | Length (1 or 2) | Value |  types 128 to 255: length of two octets
/// +------------------+-----------------+-------+
/// ```
pub(super) fn check_tunnel_encapsulation(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = OctetReader(value);
    let mut tunnels = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let tunnel = tunnel(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        is_refused |= has_refused_sub_tlv(tunnel)?;
        tunnels += 1;
    }
    match tunnels {
        0 => Err(AttributeProblem::TlvMissing),
        1 if !is_refused => Ok(()),
        // FRR 8.4 refuses a sub-TLV, or would read a second tunnel as sub-TLVs of the first tunnel.
        _ => Err(AttributeProblem::RefusedByRouters),
    }
}

fn tunnel<'a>(reader: &mut OctetReader<'a>) -> Option<&'a [u8]> {
    let _tunnel_type = reader.u16()?;
    let length = reader.u16()?;
    reader.take(usize::from(length))
}

/// Reports whether FRR 8.4 refuses the list of sub-TLVs. FRR 8.4 misreads the lengths of types 128
/// to 255, which have two octets, and refuses a list whose last sub-TLV has fewer than four octets
/// in total.
fn has_refused_sub_tlv(list: &[u8]) -> Result<bool, AttributeProblem> {
    let mut reader = OctetReader(list);
    let mut is_refused = false;
    while !reader.is_empty() {
        is_refused |= reader.0.len() < 4 || reader.0.first().is_some_and(|code| *code >= 128);
        sub_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
    }
    Ok(is_refused)
}

fn sub_tlv<'a>(reader: &mut OctetReader<'a>) -> Option<&'a [u8]> {
    let length = match reader.u8()? {
        128.. => usize::from(reader.u16()?),
        _ => usize::from(reader.u8()?),
    };
    reader.take(length)
}

/// Checks an AIGP attribute (RFC 7311 section 3). The length field of a TLV counts the type field,
/// the length field and the value.
///
/// ```text
/// +----------+------------+-----------+
/// | Type (1) | Length (2) | Value (8) |
/// +----------+------------+-----------+
/// ```
pub(super) fn check_aigp(value: &[u8]) -> Result<(), AttributeProblem> {
    const AIGP: u8 = 1;
    const HEADER: usize = 3;
    let mut reader = OctetReader(value);
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

/// Checks an OTC attribute (RFC 9234 section 5). AS 0 is invalid (RFC 7607).
pub(super) fn check_only_to_customer(value: &[u8]) -> Result<(), AttributeProblem> {
    match attribute::fixed::<4>(value)? {
        [0, 0, 0, 0] => Err(AttributeProblem::OnlyToCustomerZero),
        _ => Ok(()),
    }
}

/// Checks a BGP Prefix-SID attribute (RFC 8669 section 3, RFC 9252 section 2).
///
/// ```text
/// +----------+------------+-------+
/// | Type (1) | Length (2) | Value |
/// +----------+------------+-------+
/// ```
pub(super) fn check_prefix_sid(value: &[u8]) -> Result<(), AttributeProblem> {
    let mut reader = OctetReader(value);
    if reader.is_empty() {
        return Err(AttributeProblem::TlvMissing);
    }
    let mut services = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let (code, value) = prefix_sid_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        is_refused |= match code {
            // Label-Index TLV: reserved octet, flags, index. FRR 8.4 refuses the index 4294967295.
            1 => attribute::fixed::<7>(value)
                .map(|index| index[3..] == [0xff; 4])
                .map_err(|_| AttributeProblem::TlvLength)?,
            // Originator SRGB TLV: flags, then at least one range of six octets.
            3 => match value.split_first_chunk::<2>() {
                Some((_, ranges)) if !ranges.is_empty() && ranges.len() % 6 == 0 => false,
                Some(_) | None => return Err(AttributeProblem::TlvLength),
            },
            // RFC 8669 section 7 deprecates the types 2 and 4. FRR 8.4 reads TLVs of these types in
            // the form of an early draft, and can refuse them.
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

/// Reads a TLV or a sub-TLV of BGP Prefix-SID. Returns the type and the value. `None` if the TLV or
/// sub-TLV is longer than the unread octets.
fn prefix_sid_tlv<'a>(reader: &mut OctetReader<'a>) -> Option<(u8, &'a [u8])> {
    let code = reader.u8()?;
    let length = reader.u16()?;
    Some((code, reader.take(usize::from(length))?))
}

/// Checks an SRv6 service TLV (RFC 9252 sections 2 to 3.2.1). Returns whether FRR 8.4 refuses the
/// TLV.
///
/// The TLV has a reserved octet, then sub-TLVs. An SRv6 SID Information sub-TLV (type 1) has 21
/// octets, then sub-sub-TLVs. An SRv6 SID Structure sub-sub-TLV (type 1) has 6 octets. FRR 8.4
/// reads exactly one sub-TLV and at most one sub-sub-TLV of at least 6 octets, and misreads any
/// other form.
fn is_srv6_service_refused(value: &[u8]) -> Result<bool, AttributeProblem> {
    const SID_INFORMATION: u8 = 1;
    const SID_STRUCTURE: u8 = 1;
    let mut reader = OctetReader(value);
    reader.u8().ok_or(AttributeProblem::TlvLength)?;
    let mut sub_tlvs = 0;
    let mut is_refused = false;
    while !reader.is_empty() {
        let (code, value) = prefix_sid_tlv(&mut reader).ok_or(AttributeProblem::TlvOverrun)?;
        sub_tlvs += 1;
        if code != SID_INFORMATION {
            continue;
        }
        let mut inner = OctetReader(value);
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
