//! Attributes of services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DecodeError;

use crate::{
    StatsAttribute,
    attribute::{Codec, HostOrder, Nested, NetworkOrder, Octets, Text, attributes},
};

/// Value of [`ServiceAttribute::AddressFamily`] for IPv4.
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// `IP_VS_SVC_F_PERSISTENT`: the kernel sends new connections of a client to the destination of the
/// client's earlier connections.
pub const SVC_F_PERSISTENT: u32 = 0x01;
/// `IP_VS_SVC_F_HASHED`: only the kernel sets this flag, on each service in its table.
pub const SVC_F_HASHED: u32 = 0x02;
/// `IP_VS_SVC_F_ONEPACKET`: the kernel schedules each UDP packet independently of earlier packets.
pub const SVC_F_ONEPACKET: u32 = 0x04;
/// `IP_VS_SVC_F_SCHED1`: the first scheduler-specific flag.
pub const SVC_F_SCHED1: u32 = 0x08;
/// `IP_VS_SVC_F_SCHED2`: the second scheduler-specific flag.
pub const SVC_F_SCHED2: u32 = 0x10;
/// `IP_VS_SVC_F_SCHED3`: the third scheduler-specific flag.
pub const SVC_F_SCHED3: u32 = 0x20;
/// Scheduler `sh`: a flow that hashes to a destination with weight 0 goes to another destination.
pub const SVC_F_SCHED_SH_FALLBACK: u32 = SVC_F_SCHED1;
/// Scheduler `sh`: the source port is part of the hash.
pub const SVC_F_SCHED_SH_PORT: u32 = SVC_F_SCHED2;
/// Scheduler `mh`: a flow that hashes to a destination with weight 0 goes to another destination.
pub const SVC_F_SCHED_MH_FALLBACK: u32 = SVC_F_SCHED1;
/// Scheduler `mh`: the source port is part of the hash.
pub const SVC_F_SCHED_MH_PORT: u32 = SVC_F_SCHED2;

/// New flags of a service: `struct ip_vs_flags`. The kernel sets the bits in `mask` to the bits of
/// `flags`, and keeps the other bits of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags {
    pub flags: u32,
    /// Bits that a request changes. In answers of the kernel, every bit of the mask is set.
    pub mask: u32,
}

attributes! {
    /// An attribute of a service: `IPVS_SVC_ATTR_*` (linux/ip_vs.h).
    ServiceAttribute {
        /// `IPVS_SVC_ATTR_AF`: the value is [`AF_INET`] or [`AF_INET6`].
        1 AddressFamily(u16) HostOrder,
        /// `IPVS_SVC_ATTR_PROTOCOL`: the value is `IPPROTO_TCP`, `IPPROTO_UDP` or `IPPROTO_SCTP`.
        2 Protocol(u16) HostOrder,
        3 Address([u8; 16]) Octets,
        /// `IPVS_SVC_ATTR_PORT`. Port 0 matches every port, and the kernel accepts port 0 only for
        /// persistent services.
        4 Port(u16) NetworkOrder,
        /// `IPVS_SVC_ATTR_FWMARK`: identifies a service by firewall mark instead of protocol,
        /// address and port.
        5 FirewallMark(u32) HostOrder,
        /// `IPVS_SVC_ATTR_SCHED_NAME`, for example `rr`.
        6 SchedulerName(String) Text,
        7 Flags(Flags) HostOrder,
        /// `IPVS_SVC_ATTR_TIMEOUT`: the persistence timeout in seconds.
        8 Timeout(u32) HostOrder,
        /// `IPVS_SVC_ATTR_NETMASK`: the persistence mask. For IPv4 the mask in network byte order,
        /// for IPv6 the prefix length. The kernel refuses 0.
        9 Netmask(u32) HostOrder,
        /// `IPVS_SVC_ATTR_PE_NAME`: the name of the persistence engine.
        11 PersistenceEngineName(String) Text,
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

/// Encodes an address as `union nf_inet_addr`. An IPv4 address fills the first 4 of the 16 octets.
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

/// Decodes a `union nf_inet_addr` as an address of the given family. Returns `None` for an unknown
/// family.
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
