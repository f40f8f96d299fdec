//! Numbers that can be confused, each with a type of its own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Autonomous system number (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

/// BGP Identifier (RFC 6286). Never zero on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub Ipv4Addr);

/// Cluster id (RFC 4456).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub Ipv4Addr);

/// Path identifier (RFC 7911). Local to one direction of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// The address families that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

/// SAFI of unicast forwarding.
const UNICAST: u8 = 1;

impl Asn {
    /// Stands for a number that does not fit in two octets (RFC 6793 section 9).
    pub const TRANS: Self = Self(23456);

    /// The number, or AS_TRANS if it does not fit.
    pub(crate) fn two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }
}

impl Family {
    /// Every family that is spoken here.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The family that a prefix belongs to.
    pub const fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4Unicast,
            IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }

    /// The family that the numbers name, if it is spoken here.
    ///
    /// <https://www.iana.org/assignments/address-family-numbers/>
    pub const fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, UNICAST) => Some(Self::Ipv4Unicast),
            (2, UNICAST) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    /// Address family identifier.
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
        }
    }

    /// Subsequent address family identifier.
    pub const fn safi(self) -> u8 {
        UNICAST
    }

    /// Bits of an address.
    pub(crate) const fn address_bits(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 32,
            Self::Ipv6Unicast => 128,
        }
    }
}

/// Whether the address can belong to a host: neither unspecified, multicast nor reserved.
///
/// Loopback and link-local addresses pass; whether they are wanted is a matter of policy.
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

/// A text that is no identifier; says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentifierError {
    /// Allowed: asplain.
    #[error("an AS number is a plain number of 0 to 4294967295, such as 64512")]
    Asn,
    /// Allowed: four octets.
    #[error("a BGP identifier has the form of an IPv4 address, such as 192.0.2.1")]
    Identifier,
}

impl FromStr for Asn {
    type Err = ParseIdentifierError;

    /// Plain decimal (RFC 5396 asplain).
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
