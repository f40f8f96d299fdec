//! Decoding and encoding of BGP messages. The crate has no clock and no I/O.
//!
//! This crate itself reads and checks headers, attributes and lengths, and handles malformed
//! attributes (RFC 7606). It uses the crate zettabgp only to read and write prefixes
//! (`docs/decisions/0006-zettabgp-behind-our-own-walk.md`).

mod as_path;
mod attributes;
mod capability;
mod codec;
mod identifiers;
mod message;
mod nlri;
mod notification;
mod open;
mod problem;
mod reader;
mod reserved_range;
mod update;

pub use attributes::{
    Aggregator, AsPath, AsPathSegment, Community, LargeCommunity, Origin, ParseCommunityError,
    PartialAttributes, PathAttributes, RawAttribute,
};
pub use capability::{AddPathMode, Capability, GracefulRestart, code as capability_code};
pub use codec::{CodecOptions, DecodeError, Decoder, encode};
pub use identifiers::{Asn, ClusterId, Family, ParseIdentifierError, PathId, RouterId};
pub use ipnet::IpNet;
pub use message::{
    Announced, AttributeError, Disposition, Message, Nlri, Open, RouteRefresh, Update,
};
pub use notification::{Notification, NotificationError};
pub use reserved_range::{overlapping_reserved_range, reserved_range_of};

#[cfg(test)]
mod tests;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
