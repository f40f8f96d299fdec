//! Path attributes on the wire: types, flags and the values of fixed form.
//!
//! ```text
//! +-----------+----------+------------------+-------+
//! | Flags (1) | Type (1) | Length (1 or 2)  | Value |
//! +-----------+----------+------------------+-------+
//!   O T P E 0 0 0 0: optional, transitive, partial, extended length
//! ```

use std::net::Ipv4Addr;

use crate::{
    attributes::Origin, identifiers::is_host_address, message::Disposition,
    problem::AttributeProblem, reader::Reader,
};

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
pub(super) const PARTIAL: u8 = 0x20;
pub(super) const EXTENDED_LENGTH: u8 = 0x10;

/// Makes the enum of the attributes that are checked here.
macro_rules! attribute_types {
    ($($name:ident = $code:literal, $flags:expr, $value:ident, $contradiction:ident, $use:ident;)*) => {
        /// The attributes that are checked here. Most are understood; [`AttributeType::is_carried`]
        /// tells the others.
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

            /// The optional and the transitive bit, as specified.
            pub(super) fn flags(self) -> u8 {
                match self {
                    $(Self::$name => $flags,)*
                }
            }

            /// What a malformed value asks for: RFC 7606 section 7, RFC 6793 section 6, RFC 8092
            /// section 5, RFC 6514 section 5, RFC 9012 section 13, RFC 7311 section 3, RFC 9234
            /// section 5, RFC 8669 section 6.
            pub(super) fn disposition(self) -> Disposition {
                match self {
                    $(Self::$name => Disposition::$value,)*
                }
            }

            /// What flags that contradict the type ask for: RFC 7606 sections 3 c and 5.3, RFC 9012
            /// section 13, RFC 7311 section 3.
            pub(super) fn flags_disposition(self) -> Disposition {
                match self {
                    $(Self::$name => Disposition::$contradiction,)*
                }
            }

            /// Whether the attribute is checked and then carried as it came, since nothing here
            /// uses it.
            pub(super) fn is_carried(self) -> bool {
                match self {
                    $(Self::$name => Use::$use == Use::Carried,)*
                }
            }
        }
    };
}

/// What becomes of an attribute that was checked.
#[derive(PartialEq, Eq)]
enum Use {
    /// It has a field of [`PathAttributes`](crate::PathAttributes) or leads to one.
    Understood,
    Carried,
}

// Code, flags, disposition of a malformed value, disposition of flags that contradict, use.
attribute_types! {
    Origin = 1, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    AsPath = 2, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    NextHop = 3, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    MultiExitDisc = 4, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Understood;
    LocalPref = 5, TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    AtomicAggregate = 6, TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Understood;
    Aggregator = 7, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Understood;
    Communities = 8, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    OriginatorId = 9, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Understood;
    ClusterList = 10, OPTIONAL, TreatAsWithdraw, TreatAsWithdraw, Understood;
    MpReach = 14, OPTIONAL, SessionReset, SessionReset, Understood;
    MpUnreach = 15, OPTIONAL, SessionReset, SessionReset, Understood;
    ExtendedCommunities = 16, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    As4Path = 17, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Understood;
    As4Aggregator = 18, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Understood;
    LargeCommunity = 32, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Understood;
    PmsiTunnel = 22, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Carried;
    TunnelEncapsulation = 23, OPTIONAL | TRANSITIVE, TreatAsWithdraw, AttributeDiscard, Carried;
    Ipv6ExtendedCommunities = 25, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Carried;
    Aigp = 26, OPTIONAL, AttributeDiscard, AttributeDiscard, Carried;
    OnlyToCustomer = 35, OPTIONAL | TRANSITIVE, TreatAsWithdraw, TreatAsWithdraw, Carried;
    PrefixSid = 40, OPTIONAL | TRANSITIVE, AttributeDiscard, TreatAsWithdraw, Carried;
}

/// One attribute, delimited.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) flags: u8,
    pub(super) type_code: u8,
    pub(super) value: &'a [u8],
    /// Flags, type, length and value.
    pub(super) whole: &'a [u8],
}

/// Takes the next attribute off the list; `None` if it exceeds the list.
pub(super) fn next<'a>(list: &mut Reader<'a>) -> Option<Attribute<'a>> {
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

/// The elements of a list that must have one at least.
pub(super) fn list<const N: usize>(value: &[u8]) -> Result<&[[u8; N]], AttributeProblem> {
    match value.as_chunks::<N>() {
        ([], _) | (_, [_, ..]) => Err(AttributeProblem::Length),
        (elements, []) => Ok(elements),
    }
}
