//! Types of BGP messages (RFC 4271 section 4, RFC 2918).

use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use crate::{
    attributes::PathAttributes,
    capability::Capability,
    identifiers::{Asn, Family, PathId, RouterId},
    notification::Notification,
};

/// A BGP message of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The AS number of the four-octet capability if the OPEN has this capability, otherwise the
    /// number of the two-octet field.
    pub asn: Asn,
    /// 0 (no hold timer), or 3 to 65535.
    pub hold_time_seconds: u16,
    /// The decoder refuses the value zero.
    pub router_id: RouterId,
    /// In the order of the message.
    pub capabilities: Vec<Capability>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family whose paths the sender requests. `None` if portlb does not support the family or
    /// the subtype of the message: the receiver ignores such a message.
    pub family: Option<Family>,
}

/// A prefix with its path id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The decoder clears the host bits.
    pub prefix: IpNet,
    /// `None` if the prefix was received without add-path for its family (RFC 7911).
    pub path_id: Option<PathId>,
}

/// An UPDATE. Prefixes can come from the fields of RFC 4271 and from the attributes of RFC 4760.
///
/// `withdrawn` includes announced prefixes that are treated as withdrawn because of a malformed
/// attribute (RFC 7606). If a prefix is in `withdrawn` and in `announced`, it is announced
/// (RFC 4271 section 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    pub withdrawn: Vec<Nlri>,
    pub announced: Vec<Announced>,
    /// The family of an End-of-RIB marker, which a speaker sends after its initial paths of this
    /// family (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// Errors of malformed, missing or repeated attributes. None of these errors ends the session.
    pub errors: Vec<AttributeError>,
}

/// Announced prefixes that share their attributes.
///
/// A received UPDATE has up to two of these groups: the prefixes in the NLRI field with the next
/// hop in NEXT_HOP, and the prefixes in MP_REACH_NLRI with the next hop in MP_REACH_NLRI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    pub attributes: Arc<PathAttributes>,
    pub nlri: Vec<Nlri>,
}

/// The reaction to a malformed attribute (RFC 7606 section 2). A greater value is a stronger
/// reaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// The decoder drops the attribute. The other attributes and the path remain valid.
    AttributeDiscard,
    /// All announced prefixes of the UPDATE are treated as withdrawn.
    TreatAsWithdraw,
    /// The speaker sends a NOTIFICATION and ends the session.
    SessionReset,
}

/// A malformed, missing or repeated attribute of a received UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeError {
    pub type_code: u8,
    pub disposition: Disposition,
    /// The subcode of the error code "UPDATE Message Error" (RFC 4271 section 4.5).
    pub subcode: u8,
    /// The received attribute with its flags, type, length and value. For a missing attribute: only
    /// the type code. For an attribute that is longer than the list of attributes: the octets from
    /// its flags to the end of the list.
    pub data: Bytes,
    pub problem: &'static str,
}
