//! The messages of RFC 4271 section 4 and RFC 2918.

use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

use crate::{
    attributes::PathAttributes,
    capability::Capability,
    identifiers::{Asn, Family, PathId, RouterId},
    notification::Notification,
};

/// One BGP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Type 1.
    Open(Open),
    /// Type 2.
    Update(Update),
    /// Type 3.
    Notification(Notification),
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918).
    RouteRefresh(RouteRefresh),
}

/// OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The four-octet number if its capability was sent, else the two-octet field.
    pub asn: Asn,
    /// 0, or at least 3.
    pub hold_time_seconds: u16,
    /// Never zero.
    pub router_id: RouterId,
    /// In the order of the wire.
    pub capabilities: Vec<Capability>,
}

/// ROUTE-REFRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family that is asked for; `None` for one that is not spoken here, to be ignored.
    pub family: Option<Family>,
}

/// A prefix, with its path id where add-path was negotiated for this direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// Without host bits.
    pub prefix: IpNet,
    /// RFC 7911.
    pub path_id: Option<PathId>,
}

/// UPDATE, of whichever encoding (RFC 4271 fields or RFC 4760 attributes).
///
/// What RFC 7606 turns into a withdrawal stands in `withdrawn`, with its cause in `errors`. A prefix
/// that is both withdrawn and announced is announced (RFC 4271 section 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Prefixes that are no longer reachable by this peer.
    pub withdrawn: Vec<Nlri>,
    /// Prefixes that are reachable.
    pub announced: Vec<Announced>,
    /// RFC 4724 section 2: the initial exchange of this family is complete.
    pub end_of_rib: Option<Family>,
    /// What was wrong with attributes without ending the session.
    pub errors: Vec<AttributeError>,
}

/// Prefixes of one family that share their attributes. An UPDATE holds up to two such groups, as
/// its next hops differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The attributes, with the next hop of this family.
    pub attributes: Arc<PathAttributes>,
    /// The prefixes.
    pub nlri: Vec<Nlri>,
}

/// What RFC 7606 asks for when an attribute is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// The attribute is dropped, the path stays.
    AttributeDiscard,
    /// The prefixes of the UPDATE count as withdrawn.
    TreatAsWithdraw,
    /// A NOTIFICATION ends the session.
    SessionReset,
}

/// A malformed attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeError {
    /// Attribute type code.
    pub type_code: u8,
    /// What is done about it.
    pub disposition: Disposition,
    /// Subcode of UPDATE Message Error (RFC 4271 section 4.5).
    pub subcode: u8,
    /// The attribute as received: flags, type, length and value; its type alone if it is missing.
    pub data: Bytes,
    /// In words.
    pub problem: &'static str,
}
