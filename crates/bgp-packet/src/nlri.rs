//! Decoding and encoding of prefix lists (RFC 4271 section 4.3, RFC 7911 section 3).
//!
//! ```text
//! +---------------------------+
//! | Path Identifier (4)       |  only with add-path
//! +---------------------------+
//! | Length in bits (1)        |
//! +---------------------------+
//! | Prefix (0 to 16)          |  length in bits / 8, rounded up
//! +---------------------------+
//! ```
//!
//! The crate zettabgp reads and writes the octets of a prefix. This module checks the length before
//! it calls zettabgp, and clears the host bits afterwards, because zettabgp keeps them.

use bytes::{BufMut, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zettabgp::afi::{BgpAddrV4, BgpAddrV6};

use crate::{
    identifiers::{Family, PathId},
    message::Nlri,
    reader::OctetReader,
};

/// The error of a list of octets that is not a list of prefixes (RFC 7606 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyntacticallyIncorrect;

/// Decodes all prefixes of `list` and appends them to `nlri`.
pub(crate) fn decode(
    list: &[u8],
    family: Family,
    add_path: bool,
    nlri: &mut Vec<Nlri>,
) -> Result<(), SyntacticallyIncorrect> {
    let mut reader = OctetReader(list);
    while !reader.is_empty() {
        nlri.push(decode_one(&mut reader, family, add_path).ok_or(SyntacticallyIncorrect)?);
    }
    Ok(())
}

fn decode_one(reader: &mut OctetReader<'_>, family: Family, add_path: bool) -> Option<Nlri> {
    let path_id = if add_path {
        Some(PathId(reader.u32()?))
    } else {
        None
    };
    let bits = reader.u8()?;
    // Check the length before the call of zettabgp, which computes `bits + 7` in one octet. The sum
    // overflows for lengths above 248 bits.
    if bits > family.address_bits() {
        return None;
    }
    let octets = reader.take(octets_of(bits))?;
    let prefix = match family {
        Family::Ipv4Unicast => {
            let (prefix, _) = BgpAddrV4::from_bits(bits, octets).ok()?;
            IpNet::V4(Ipv4Net::new(prefix.addr, bits).ok()?.trunc())
        }
        Family::Ipv6Unicast => {
            let (prefix, _) = BgpAddrV6::from_bits(bits, octets).ok()?;
            IpNet::V6(Ipv6Net::new(prefix.addr, bits).ok()?.trunc())
        }
    };
    Some(Nlri { prefix, path_id })
}

/// Returns the number of octets that [`encode`] appends.
pub(crate) fn encoded_length(nlri: &Nlri, add_path: bool) -> usize {
    usize::from(add_path) * 4 + 1 + octets_of(nlri.prefix.prefix_len())
}

/// Appends one prefix. With add-path, the path id 0 replaces `None`.
pub(crate) fn encode(nlri: &Nlri, add_path: bool, buffer: &mut BytesMut) {
    if add_path {
        buffer.put_u32(nlri.path_id.unwrap_or(PathId(0)).0);
    }
    let mut octets = [0; 16];
    let written = match nlri.prefix.trunc() {
        IpNet::V4(net) => BgpAddrV4::new(net.addr(), net.prefix_len()).to_bits(&mut octets),
        IpNet::V6(net) => BgpAddrV6::new(net.addr(), net.prefix_len()).to_bits(&mut octets),
    };
    let (bits, length) = written.expect("every prefix fits into 16 octets");
    buffer.put_u8(bits);
    buffer.put_slice(&octets[..length]);
}

fn octets_of(bits: u8) -> usize {
    usize::from(bits).div_ceil(8)
}
