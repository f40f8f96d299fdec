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

/// The attributes that are checked here. Most are understood; [`AttributeType::is_carried`] tells
/// the others.
///
/// <https://www.iana.org/assignments/bgp-parameters/>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttributeType {
    Origin,
    AsPath,
    NextHop,
    MultiExitDisc,
    LocalPref,
    AtomicAggregate,
    Aggregator,
    Communities,
    OriginatorId,
    ClusterList,
    MpReach,
    MpUnreach,
    ExtendedCommunities,
    As4Path,
    As4Aggregator,
    LargeCommunity,
    PmsiTunnel,
    TunnelEncapsulation,
    Ipv6ExtendedCommunities,
    Aigp,
    OnlyToCustomer,
    PrefixSid,
}

impl AttributeType {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Origin,
            2 => Self::AsPath,
            3 => Self::NextHop,
            4 => Self::MultiExitDisc,
            5 => Self::LocalPref,
            6 => Self::AtomicAggregate,
            7 => Self::Aggregator,
            8 => Self::Communities,
            9 => Self::OriginatorId,
            10 => Self::ClusterList,
            14 => Self::MpReach,
            15 => Self::MpUnreach,
            16 => Self::ExtendedCommunities,
            17 => Self::As4Path,
            18 => Self::As4Aggregator,
            22 => Self::PmsiTunnel,
            23 => Self::TunnelEncapsulation,
            25 => Self::Ipv6ExtendedCommunities,
            26 => Self::Aigp,
            32 => Self::LargeCommunity,
            35 => Self::OnlyToCustomer,
            40 => Self::PrefixSid,
            _ => return None,
        })
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Origin => 1,
            Self::AsPath => 2,
            Self::NextHop => 3,
            Self::MultiExitDisc => 4,
            Self::LocalPref => 5,
            Self::AtomicAggregate => 6,
            Self::Aggregator => 7,
            Self::Communities => 8,
            Self::OriginatorId => 9,
            Self::ClusterList => 10,
            Self::MpReach => 14,
            Self::MpUnreach => 15,
            Self::ExtendedCommunities => 16,
            Self::As4Path => 17,
            Self::As4Aggregator => 18,
            Self::PmsiTunnel => 22,
            Self::TunnelEncapsulation => 23,
            Self::Ipv6ExtendedCommunities => 25,
            Self::Aigp => 26,
            Self::LargeCommunity => 32,
            Self::OnlyToCustomer => 35,
            Self::PrefixSid => 40,
        }
    }

    /// Whether the attribute is checked and then carried as it came, since nothing here uses it.
    pub(super) fn is_carried(self) -> bool {
        match self {
            Self::PmsiTunnel
            | Self::TunnelEncapsulation
            | Self::Ipv6ExtendedCommunities
            | Self::Aigp
            | Self::OnlyToCustomer
            | Self::PrefixSid => true,
            Self::Origin
            | Self::AsPath
            | Self::NextHop
            | Self::MultiExitDisc
            | Self::LocalPref
            | Self::AtomicAggregate
            | Self::Aggregator
            | Self::Communities
            | Self::OriginatorId
            | Self::ClusterList
            | Self::MpReach
            | Self::MpUnreach
            | Self::ExtendedCommunities
            | Self::As4Path
            | Self::As4Aggregator
            | Self::LargeCommunity => false,
        }
    }

    /// The optional and the transitive bit, as specified.
    pub(super) fn flags(self) -> u8 {
        match self {
            Self::Origin
            | Self::AsPath
            | Self::NextHop
            | Self::LocalPref
            | Self::AtomicAggregate => TRANSITIVE,
            Self::Aggregator
            | Self::Communities
            | Self::ExtendedCommunities
            | Self::As4Path
            | Self::As4Aggregator
            | Self::LargeCommunity
            | Self::PmsiTunnel
            | Self::TunnelEncapsulation
            | Self::Ipv6ExtendedCommunities
            | Self::OnlyToCustomer
            | Self::PrefixSid => OPTIONAL | TRANSITIVE,
            Self::MultiExitDisc
            | Self::OriginatorId
            | Self::ClusterList
            | Self::Aigp
            | Self::MpReach
            | Self::MpUnreach => OPTIONAL,
        }
    }

    /// What a malformed value asks for: RFC 7606 section 7, RFC 6793 section 6, RFC 8092 section 5,
    /// RFC 6514 section 5, RFC 9012 section 13, RFC 7311 section 3, RFC 9234 section 5, RFC 8669
    /// section 6.
    pub(super) fn disposition(self) -> Disposition {
        match self {
            Self::AtomicAggregate
            | Self::Aggregator
            | Self::As4Path
            | Self::As4Aggregator
            | Self::Aigp
            | Self::PrefixSid => Disposition::AttributeDiscard,
            Self::Origin
            | Self::AsPath
            | Self::NextHop
            | Self::MultiExitDisc
            | Self::LocalPref
            | Self::Communities
            | Self::OriginatorId
            | Self::ClusterList
            | Self::ExtendedCommunities
            | Self::LargeCommunity
            | Self::PmsiTunnel
            | Self::TunnelEncapsulation
            | Self::Ipv6ExtendedCommunities
            | Self::OnlyToCustomer => Disposition::TreatAsWithdraw,
            Self::MpReach | Self::MpUnreach => Disposition::SessionReset,
        }
    }

    /// What flags that contradict the type ask for: RFC 7606 sections 3 c and 5.3, RFC 9012
    /// section 13, RFC 7311 section 3.
    pub(super) fn flags_disposition(self) -> Disposition {
        match self {
            Self::MpReach | Self::MpUnreach => Disposition::SessionReset,
            Self::TunnelEncapsulation | Self::Aigp => Disposition::AttributeDiscard,
            Self::Origin
            | Self::AsPath
            | Self::NextHop
            | Self::MultiExitDisc
            | Self::LocalPref
            | Self::AtomicAggregate
            | Self::Aggregator
            | Self::Communities
            | Self::OriginatorId
            | Self::ClusterList
            | Self::ExtendedCommunities
            | Self::As4Path
            | Self::As4Aggregator
            | Self::LargeCommunity
            | Self::PmsiTunnel
            | Self::Ipv6ExtendedCommunities
            | Self::OnlyToCustomer
            | Self::PrefixSid => Disposition::TreatAsWithdraw,
        }
    }
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
