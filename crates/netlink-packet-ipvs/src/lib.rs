//! Encoder and decoder of the kernel's IPVS generic-netlink messages.
//!
//! The crate uses the names of the kernel (`linux/ip_vs.h`, `net/netfilter/ipvs/ip_vs_ctl.c`):
//! services and destinations, not virtual servers and real servers. The crate opens no socket. An
//! [`IpvsMessage`] consists of an [`IpvsCommand`] and attributes. The sender wraps the message in a
//! `GenlMessage` for the generic-netlink family [`FAMILY_NAME`].
//!
//! The decoder keeps unknown attributes as `Other` instead of returning an error, because newer
//! kernels send additional attributes. In each attribute enum, a variant is the kernel's constant
//! of a similar name: `DestAttribute::Weight` is `IPVS_DEST_ATTR_WEIGHT`.
//!
//! ```
//! use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NLM_F_REQUEST};
//! use netlink_packet_generic::GenlMessage;
//! use netlink_packet_ipvs::{
//!     AF_INET, IpvsAttribute, IpvsCommand, IpvsMessage, ServiceAttribute, encode_address,
//! };
//!
//! let message = IpvsMessage {
//!     command: IpvsCommand::DelService,
//!     attributes: vec![IpvsAttribute::Service(vec![
//!         ServiceAttribute::AddressFamily(AF_INET),
//!         ServiceAttribute::Protocol(6),
//!         ServiceAttribute::Address(encode_address("10.1.1.10".parse()?)),
//!         ServiceAttribute::Port(80),
//!     ])],
//! };
//! let family_id = 25; // the kernel assigns the id to FAMILY_NAME
//! let mut genl = GenlMessage::from_payload(message);
//! genl.set_resolved_family_id(family_id);
//! let mut netlink = NetlinkMessage::from(genl);
//! netlink.header.flags = NLM_F_REQUEST;
//! netlink.finalize();
//! let mut bytes = vec![0; netlink.buffer_len()];
//! netlink.serialize(&mut bytes);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod attribute;
mod destination;
mod message;
mod service;
mod stats;

pub use destination::{DestAttribute, IpvsForwardingMethod, TunnelFlags, TunnelType};
pub use message::{FAMILY_NAME, FAMILY_VERSION, IpvsAttribute, IpvsCommand, IpvsMessage};
pub use service::{
    AF_INET, AF_INET6, Flags, SVC_F_HASHED, SVC_F_ONEPACKET, SVC_F_PERSISTENT,
    SVC_F_SCHED_MH_FALLBACK, SVC_F_SCHED_MH_PORT, SVC_F_SCHED_SH_FALLBACK, SVC_F_SCHED_SH_PORT,
    SVC_F_SCHED1, SVC_F_SCHED2, SVC_F_SCHED3, ServiceAttribute, decode_address, encode_address,
};
pub use stats::StatsAttribute;
