//! Attributes of destinations.

use netlink_packet_core::DecodeError;

use crate::{
    StatsAttribute,
    attribute::{Codec, HostOrder, Nested, NetworkOrder, Octets, attributes},
};

/// Bits of the connection flags that hold the forwarding method: `IP_VS_CONN_F_FWD_MASK`.
const FORWARDING_MASK: u32 = 0x07;

/// The way in which the kernel forwards packets to a destination: the value of the bits
/// `IP_VS_CONN_F_FWD_MASK` in the connection flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpvsForwardingMethod {
    Masq,
    LocalNode,
    Tunnel,
    DirectRoute,
    Bypass,
    /// Number of a forwarding method that has no variant in this enum.
    Other(u32),
}

/// The encapsulation of the forwarding method `Tunnel`: `IP_VS_CONN_F_TUNNEL_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelType {
    Ipip,
    Gue,
    Gre,
    /// Number of an encapsulation that has no variant in this enum.
    Other(u8),
}

/// Checksum options of a tunnel: `IP_VS_TUNNEL_ENCAP_FLAG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelFlags(pub u16);

impl TunnelFlags {
    pub const NO_CHECKSUM: Self = Self(0);
    pub const CHECKSUM: Self = Self(1);
    /// `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM`: the remote checksum offload of GUE.
    pub const REMOTE_CHECKSUM: Self = Self(2);
}

attributes! {
    /// An attribute of a destination: `IPVS_DEST_ATTR_*` (linux/ip_vs.h).
    DestAttribute {
        1 Address([u8; 16]) Octets,
        /// `IPVS_DEST_ATTR_PORT`. With port 0, a destination of a firewall-mark service receives
        /// packets on the port that the client used.
        2 Port(u16) NetworkOrder,
        3 ForwardingMethod(IpvsForwardingMethod) HostOrder,
        4 Weight(u32) HostOrder,
        /// `IPVS_DEST_ATTR_U_THRESH`: a destination with this number of connections or more is
        /// overloaded and gets no new connections. 0: no threshold.
        5 UpperThreshold(u32) HostOrder,
        /// `IPVS_DEST_ATTR_L_THRESH`: an overloaded destination gets new connections when it has
        /// fewer connections than this number. 0: three quarters of the upper threshold.
        6 LowerThreshold(u32) HostOrder,
        7 ActiveConnections(u32) HostOrder,
        8 InactiveConnections(u32) HostOrder,
        9 PersistentConnections(u32) HostOrder,
        /// `IPVS_DEST_ATTR_ADDR_FAMILY` (since Linux 3.18). If absent, the kernel uses the address
        /// family of the service.
        11 AddressFamily(u16) HostOrder,
        12 Stats64(Vec<StatsAttribute>) Nested,
        /// `IPVS_DEST_ATTR_TUN_TYPE` (since Linux 5.3). If absent, the kernel uses IP in IP.
        13 TunnelType(TunnelType) HostOrder,
        /// `IPVS_DEST_ATTR_TUN_PORT`: the UDP destination port of a GUE tunnel.
        14 TunnelPort(u16) NetworkOrder,
        15 TunnelFlags(TunnelFlags) HostOrder,
    }
}

impl From<u32> for IpvsForwardingMethod {
    fn from(number: u32) -> Self {
        match number & FORWARDING_MASK {
            0 => Self::Masq,
            1 => Self::LocalNode,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            other => Self::Other(other),
        }
    }
}

impl From<IpvsForwardingMethod> for u32 {
    fn from(method: IpvsForwardingMethod) -> Self {
        match method {
            IpvsForwardingMethod::Masq => 0,
            IpvsForwardingMethod::LocalNode => 1,
            IpvsForwardingMethod::Tunnel => 2,
            IpvsForwardingMethod::DirectRoute => 3,
            IpvsForwardingMethod::Bypass => 4,
            IpvsForwardingMethod::Other(other) => other,
        }
    }
}

impl From<u8> for TunnelType {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Ipip,
            1 => Self::Gue,
            2 => Self::Gre,
            other => Self::Other(other),
        }
    }
}

impl From<TunnelType> for u8 {
    fn from(kind: TunnelType) -> Self {
        match kind {
            TunnelType::Ipip => 0,
            TunnelType::Gue => 1,
            TunnelType::Gre => 2,
            TunnelType::Other(other) => other,
        }
    }
}

impl From<u16> for TunnelFlags {
    fn from(flags: u16) -> Self {
        Self(flags)
    }
}

impl From<TunnelFlags> for u16 {
    fn from(flags: TunnelFlags) -> Self {
        flags.0
    }
}

/// Implements [`Codec`] for types that the kernel encodes as an integer.
macro_rules! integer_codecs {
    ($($named:ty as $integer:ty),+) => {$(
        impl Codec<$named> for HostOrder {
            fn len(_: &$named) -> usize {
                size_of::<$integer>()
            }
            fn emit(value: &$named, buffer: &mut [u8]) {
                <HostOrder as Codec<$integer>>::emit(&<$integer>::from(*value), buffer);
            }
            fn parse(octets: &[u8]) -> Result<$named, DecodeError> {
                <HostOrder as Codec<$integer>>::parse(octets).map(<$named>::from)
            }
        }
    )+};
}
integer_codecs!(
    IpvsForwardingMethod as u32,
    TunnelType as u8,
    TunnelFlags as u16
);
