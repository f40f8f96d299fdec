//! Types and flags of path attributes, and decoders of simple values.
//!
//! ```text
//! +-----------+----------+------------------+-------+
//! | Flags (1) | Type (1) | Length (1 or 2)  | Value |
//! +-----------+----------+------------------+-------+
//! ```
//!
//! The four upper bits of the flags are, from the highest bit: optional, transitive, partial,
//! extended length.

use std::net::Ipv4Addr;

use crate::{
    attributes::Origin, identifiers::is_host_address, message::Disposition,
    problem::AttributeProblem, reader::OctetReader,
};

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// Defines the enum of the attribute types that the decoder checks.
macro_rules! attribute_types {
    ($($name:ident = $code:literal, $flags:expr, $value:ident, $contradiction:ident, $use:ident;)*) => {
        /// A type of attribute that the decoder checks.
        ///
        /// portlb uses the attributes of most of these types. If
        /// [`AttributeType::is_passed_through`] returns true for a type, portlb passes on
        /// attributes of the type without using them.
        ///
        /// <https://www.iana.org/assignments/bgp-parameters/>
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum AttributeType {
            $($name,)*
        }

        impl AttributeType {
            pub(super) fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            pub(super) fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Returns the optional bit and the transitive bit that the RFC of the type requires.
            pub(super) fn flags(self) -> u8 {
                match self {
                    $(Self::$name => $flags,)*
                }
            }

            /// Returns the reaction to a malformed value: RFC 7606 section 7, RFC 6793 section 6,
            /// RFC 8092 section 5, RFC 6514 section 5, RFC 9012 section 13, RFC 7311 section 3,
            /// RFC 9234 section 5, RFC 8669 section 6.
            pub(super) fn disposition(self) -> Disposition {
                match self {
                    $(Self::$name => Disposition::$value,)*
                }
            }

            /// Returns the reaction to flags that the type does not allow: RFC 7606 sections 3 c
            /// and 5.3, RFC 9012 section 13, RFC 7311 section 3.
            pub(super) fn flags_disposition(self) -> Disposition {
                match self {
                    $(Self::$name => Disposition::$contradiction,)*
                }
            }

            /// Reports whether the decoder keeps a valid attribute of this type in
            /// [`PathAttributes::others`](crate::PathAttributes::others).
            pub(super) fn is_passed_through(self) -> bool {
                match self {
                    $(Self::$name => AttributeUse::$use == AttributeUse::PassedThrough,)*
                }
            }

            /// Reports whether a speaker ignores the attribute on an external session (RFC 7606
            /// sections 7.5, 7.9 and 7.10, RFC 7311 section 3.1).
            pub(super) fn is_internal_only(self) -> bool {
                matches!(
                    self,
                    Self::LocalPref | Self::OriginatorId | Self::ClusterList | Self::Aigp
                )
            }

            /// Reports whether a speaker ignores the attribute on a session with four-octet AS
            /// numbers (RFC 6793 section 4.1).
            pub(super) fn is_two_octet_only(self) -> bool {
                matches!(self, Self::As4Path | Self::As4Aggregator)
            }
        }
    };
}

/// The place where the decoder stores a valid attribute.
#[derive(PartialEq, Eq)]
enum AttributeUse {
    /// The value goes into a field of [`PathAttributes`](crate::PathAttributes), or contains
    /// prefixes.
    Used,
    /// The value goes unchanged into [`PathAttributes::others`](crate::PathAttributes::others).
    PassedThrough,
}

// Each line: type code, required flags, reaction to a malformed value, reaction to wrong flags,
// use.
attribute_types! {
    Origin = 1, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    AsPath = 2, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    NextHop = 3, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    MultiExitDisc = 4, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Used;
    LocalPref = 5, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    AtomicAggregate = 6, TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Used;
    Aggregator = 7, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Used;
    Communities = 8, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    OriginatorId = 9, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Used;
    ClusterList = 10, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Used;
    MpReach = 14, OPTIONAL, SessionReset, SessionReset, Used;
    MpUnreach = 15, OPTIONAL, SessionReset, SessionReset, Used;
    ExtendedCommunities = 16, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    As4Path = 17, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Used;
    As4Aggregator = 18, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Used;
    LargeCommunity = 32, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Used;
    PmsiTunnel = 22, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, PassedThrough;
    TunnelEncapsulation = 23, OPTIONAL | TRANSITIVE, TreatAsWithdraw, AttributeDiscard, PassedThrough;
    Ipv6ExtendedCommunities = 25, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, PassedThrough;
    Aigp = 26, OPTIONAL, AttributeDiscard, AttributeDiscard, PassedThrough;
    OnlyToCustomer = 35, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, PassedThrough;
    PrefixSid = 40, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, PassedThrough;
}

/// One received attribute whose value is not decoded yet.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) flags: u8,
    pub(super) type_code: u8,
    pub(super) value: &'a [u8],
    /// Flags, type, length and value as received.
    pub(super) whole: &'a [u8],
}

/// Removes the next attribute from the front of `list`. `None` if the attribute is longer than
/// `list`.
pub(super) fn next_attribute<'a>(list: &mut OctetReader<'a>) -> Option<Attribute<'a>> {
    let start = list.0;
    let [flags, type_code] = list.array()?;
    let length = if flags & EXTENDED_LENGTH != 0 {
        usize::from(list.u16()?)
    } else {
        usize::from(list.u8()?)
    };
    let value = list.take(length)?;
    Some(Attribute {
        flags,
        type_code,
        value,
        whole: &start[..start.len() - list.0.len()],
    })
}

pub(super) fn origin(value: &[u8]) -> Result<Origin, AttributeProblem> {
    match fixed::<1>(value)? {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        _ => Err(AttributeProblem::OriginUndefined),
    }
}

pub(super) fn origin_code(origin: Origin) -> u8 {
    match origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    }
}

pub(super) fn next_hop(value: &[u8]) -> Result<Ipv4Addr, AttributeProblem> {
    let address = Ipv4Addr::from(fixed::<4>(value)?);
    if is_host_address(address.into()) {
        Ok(address)
    } else {
        Err(AttributeProblem::NextHopUnusable)
    }
}

pub(super) fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], AttributeProblem> {
    value.try_into().map_err(|_| AttributeProblem::Length)
}

/// Splits a value into elements of `N` octets. Refuses an empty value, and a value whose length is
/// not a multiple of `N`.
pub(super) fn list<const N: usize>(value: &[u8]) -> Result<&[[u8; N]], AttributeProblem> {
    match value.as_chunks::<N>() {
        ([], _) | (_, [_, ..]) => Err(AttributeProblem::Length),
        (elements, []) => Ok(elements),
    }
}
