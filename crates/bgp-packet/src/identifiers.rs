//! AS numbers, router ids, cluster ids, path ids and address families.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// An autonomous system number (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

/// The BGP identifier of a speaker (RFC 6286). The decoder refuses an OPEN with the value zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub Ipv4Addr);

/// The id of a cluster of route reflectors (RFC 4456).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub Ipv4Addr);

/// A path id (RFC 7911). It distinguishes the paths of one prefix within one direction of one
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// An address family that portlb supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Address family identifier (AFI) 1, subsequent address family identifier (SAFI) 1.
    Ipv4Unicast,
    /// Address family identifier (AFI) 2, subsequent address family identifier (SAFI) 1.
    Ipv6Unicast,
}

/// The SAFI of unicast forwarding.
const UNICAST: u8 = 1;

impl Asn {
    /// AS_TRANS, which replaces a number above 65535 in a two-octet field (RFC 6793 section 9).
    pub const TRANS: Self = Self(23456);

    /// Returns the number, or AS_TRANS if the number is above 65535.
    pub(crate) fn two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// Returns the family of `prefix`.
    pub const fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4Unicast,
            IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }

    /// Returns the family with the AFI `afi` and the SAFI `safi`. `None` if portlb does not support
    /// the family.
    ///
    /// <https://www.iana.org/assignments/address-family-numbers/>
    pub const fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, UNICAST) => Some(Self::Ipv4Unicast),
            (2, UNICAST) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
        }
    }

    pub const fn safi(self) -> u8 {
        UNICAST
    }

    pub(crate) const fn address_bits(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 32,
            Self::Ipv6Unicast => 128,
        }
    }
}

/// Reports whether `address` can be the address of a host: it is not in 0.0.0.0/8, 224.0.0.0/4 or
/// 240.0.0.0/4, is not `::`, and is not an IPv6 multicast address.
///
/// Returns true for loopback and link-local addresses. The import policy of the crate `bgp-rib`
/// refuses or accepts a next hop with such an address.
pub(crate) fn is_host_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 224..),
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "IPv4 unicast",
            Self::Ipv6Unicast => "IPv6 unicast",
        })
    }
}

/// The error of a text that is not an identifier. The message describes the allowed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentifierError {
    #[error("an AS number is a plain number of 0 to 4294967295, such as 64512")]
    Asn,
    #[error("a BGP identifier has the form of an IPv4 address, such as 192.0.2.1")]
    Identifier,
}

impl FromStr for Asn {
    type Err = ParseIdentifierError;

    /// Parses a decimal number (asplain, RFC 5396).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ParseIdentifierError::Asn)
    }
}

impl FromStr for RouterId {
    type Err = ParseIdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ParseIdentifierError::Identifier)
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ParseIdentifierError::Identifier)
    }
}
