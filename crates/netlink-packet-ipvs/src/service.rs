//! Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DecodeError;

use crate::{
    StatsAttribute,
    attribute::{Codec, HostOrder, Nested, NetworkOrder, Octets, Text, attributes},
};

/// IPv4, as in [`ServiceAttribute::AddressFamily`].
pub const AF_INET: u16 = 2;
/// IPv6.
pub const AF_INET6: u16 = 10;

/// `IP_VS_SVC_F_PERSISTENT`: new connections of one client go to the same destination.
pub const SVC_F_PERSISTENT: u32 = 0x01;
/// `IP_VS_SVC_F_HASHED`: set by the kernel alone, on each service of its table.
pub const SVC_F_HASHED: u32 = 0x02;
/// `IP_VS_SVC_F_ONEPACKET`: each UDP packet is scheduled for itself.
pub const SVC_F_ONEPACKET: u32 = 0x04;
/// `IP_VS_SVC_F_SCHED1`: first flag of the scheduler.
pub const SVC_F_SCHED1: u32 = 0x08;
/// `IP_VS_SVC_F_SCHED2`: second flag of the scheduler.
pub const SVC_F_SCHED2: u32 = 0x10;
/// `IP_VS_SVC_F_SCHED3`: third flag of the scheduler.
pub const SVC_F_SCHED3: u32 = 0x20;
/// sh: a flow that hashes to a destination of weight 0 goes to another one.
pub const SVC_F_SCHED_SH_FALLBACK: u32 = SVC_F_SCHED1;
/// sh: the source port is part of the hash.
pub const SVC_F_SCHED_SH_PORT: u32 = SVC_F_SCHED2;
/// mh: a flow that hashes to a destination of weight 0 goes to another one.
pub const SVC_F_SCHED_MH_FALLBACK: u32 = SVC_F_SCHED1;
/// mh: the source port is part of the hash.
pub const SVC_F_SCHED_MH_PORT: u32 = SVC_F_SCHED2;

/// `struct ip_vs_flags`: the service's flags under the mask become `flags`; the others stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags {
    /// `IP_VS_SVC_F_*`.
    pub flags: u32,
    /// Which of them the sender means; the kernel sends all ones.
    pub mask: u32,
}

attributes! {
    /// `IPVS_SVC_ATTR_*`.
    ServiceAttribute {
        /// `IPVS_SVC_ATTR_AF`: [`AF_INET`] or [`AF_INET6`].
        1 AddressFamily(u16) HostOrder,
        /// `IPVS_SVC_ATTR_PROTOCOL`: `IPPROTO_TCP`, `IPPROTO_UDP` or `IPPROTO_SCTP`.
        2 Protocol(u16) HostOrder,
        /// `IPVS_SVC_ATTR_ADDR`: see [`encode_address`].
        3 Address([u8; 16]) Octets,
        /// `IPVS_SVC_ATTR_PORT`; 0 takes all ports and needs persistence.
        4 Port(u16) NetworkOrder,
        /// `IPVS_SVC_ATTR_FWMARK`, in place of protocol, address and port.
        5 FirewallMark(u32) HostOrder,
        /// `IPVS_SVC_ATTR_SCHED_NAME`, such as `rr`.
        6 SchedulerName(String) Text,
        /// `IPVS_SVC_ATTR_FLAGS`.
        7 Flags(Flags) HostOrder,
        /// `IPVS_SVC_ATTR_TIMEOUT`: seconds of persistence.
        8 Timeout(u32) HostOrder,
        /// `IPVS_SVC_ATTR_NETMASK`: for IPv4 the mask in network byte order, for IPv6 the length of
        /// the prefix; never 0.
        9 Netmask(u32) HostOrder,
        /// `IPVS_SVC_ATTR_PE_NAME`: the persistence engine.
        11 PersistenceEngineName(String) Text,
        /// `IPVS_SVC_ATTR_STATS64`.
        12 Stats64(Vec<StatsAttribute>) Nested,
    }
}

impl Codec<Flags> for HostOrder {
    fn len(_: &Flags) -> usize {
        8
    }

    fn emit(value: &Flags, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(&value.flags.to_ne_bytes());
        buffer[4..].copy_from_slice(&value.mask.to_ne_bytes());
    }

    fn parse(octets: &[u8]) -> Result<Flags, DecodeError> {
        match octets {
            [a, b, c, d, e, f, g, h] => Ok(Flags {
                flags: u32::from_ne_bytes([*a, *b, *c, *d]),
                mask: u32::from_ne_bytes([*e, *f, *g, *h]),
            }),
            _ => Err(DecodeError::invalid_number(8, octets.len())),
        }
    }
}

/// An address as `union nf_inet_addr`: an IPv4 address fills the first four of the 16 octets.
pub fn encode_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address of this family in a `union nf_inet_addr`; `None` for an unknown family.
pub fn decode_address(family: u16, octets: [u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = octets;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(Ipv6Addr::from(octets).into()),
        _ => None,
    }
}
