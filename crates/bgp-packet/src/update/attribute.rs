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

/// The attributes that are understood here.
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
            32 => Self::LargeCommunity,
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
            Self::LargeCommunity => 32,
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
            | Self::LargeCommunity => OPTIONAL | TRANSITIVE,
            Self::MultiExitDisc
            | Self::OriginatorId
            | Self::ClusterList
            | Self::MpReach
            | Self::MpUnreach => OPTIONAL,
        }
    }

    /// What a malformed value asks for (RFC 7606 section 7, RFC 6793 section 6, RFC 8092 section 5).
    pub(super) fn disposition(self) -> Disposition {
        match self {
            Self::AtomicAggregate | Self::Aggregator | Self::As4Path | Self::As4Aggregator => {
                Disposition::AttributeDiscard
            }
            Self::Origin
            | Self::AsPath
            | Self::NextHop
            | Self::MultiExitDisc
            | Self::LocalPref
            | Self::Communities
            | Self::OriginatorId
            | Self::ClusterList
            | Self::ExtendedCommunities
            | Self::LargeCommunity => Disposition::TreatAsWithdraw,
            Self::MpReach | Self::MpUnreach => Disposition::SessionReset,
        }
    }

    /// What flags that contradict the type ask for (RFC 7606 sections 3 c and 5.3).
    pub(super) fn flags_disposition(self) -> Disposition {
        match self {
            Self::MpReach | Self::MpUnreach => Disposition::SessionReset,
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
            | Self::LargeCommunity => Disposition::TreatAsWithdraw,
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
