//! Destinations of a service.

use netlink_packet_core::DecodeError;

use crate::{
    StatsAttribute,
    attribute::{Codec, HostOrder, Nested, NetworkOrder, Octets, attributes},
};

/// `IP_VS_CONN_F_FWD_MASK`: the bits of the connection flags that say how packets are forwarded.
const FORWARDING_MASK: u32 = 0x07;

/// `IP_VS_CONN_F_*` under `IP_VS_CONN_F_FWD_MASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// `IP_VS_CONN_F_MASQ`.
    Masq,
    /// `IP_VS_CONN_F_LOCALNODE`.
    LocalNode,
    /// `IP_VS_CONN_F_TUNNEL`.
    Tunnel,
    /// `IP_VS_CONN_F_DROUTE`.
    DirectRoute,
    /// `IP_VS_CONN_F_BYPASS`.
    Bypass,
    /// One that this crate does not know.
    Other(u32),
}

/// `enum` of `IP_VS_CONN_F_TUNNEL_TYPE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelType {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
    /// One that this crate does not know.
    Other(u8),
}

/// `IP_VS_TUNNEL_ENCAP_FLAG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelFlags(pub u16);

impl TunnelFlags {
    /// `IP_VS_TUNNEL_ENCAP_FLAG_NOCSUM`: without checksum.
    pub const NO_CHECKSUM: Self = Self(0);
    /// `IP_VS_TUNNEL_ENCAP_FLAG_CSUM`: with checksum.
    pub const CHECKSUM: Self = Self(1);
    /// `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM`: with remote checksum offload.
    pub const REMOTE_CHECKSUM: Self = Self(2);
}

attributes! {
    /// `IPVS_DEST_ATTR_*`.
    DestAttribute {
        /// `IPVS_DEST_ATTR_ADDR`: see [`encode_address`](crate::encode_address).
        1 Address([u8; 16]) Octets,
        /// `IPVS_DEST_ATTR_PORT`; 0 in a service by firewall mark keeps the client's port.
        2 Port(u16) NetworkOrder,
        /// `IPVS_DEST_ATTR_FWD_METHOD`.
        3 ForwardingMethod(ForwardingMethod) HostOrder,
        /// `IPVS_DEST_ATTR_WEIGHT`.
        4 Weight(u32) HostOrder,
        /// `IPVS_DEST_ATTR_U_THRESH`: no new connections above this many; 0: no threshold.
        5 UpperThreshold(u32) HostOrder,
        /// `IPVS_DEST_ATTR_L_THRESH`: new connections again below this many.
        6 LowerThreshold(u32) HostOrder,
        /// `IPVS_DEST_ATTR_ACTIVE_CONNS`.
        7 ActiveConnections(u32) HostOrder,
        /// `IPVS_DEST_ATTR_INACT_CONNS`.
        8 InactiveConnections(u32) HostOrder,
        /// `IPVS_DEST_ATTR_PERSIST_CONNS`: persistence templates.
        9 PersistentConnections(u32) HostOrder,
        /// `IPVS_DEST_ATTR_ADDR_FAMILY` (Linux 3.18); absent: that of the service.
        11 AddressFamily(u16) HostOrder,
        /// `IPVS_DEST_ATTR_STATS64`.
        12 Stats64(Vec<StatsAttribute>) Nested,
        /// `IPVS_DEST_ATTR_TUN_TYPE` (Linux 5.3); absent: IP in IP.
        13 TunnelType(TunnelType) HostOrder,
        /// `IPVS_DEST_ATTR_TUN_PORT`: destination port of GUE.
        14 TunnelPort(u16) NetworkOrder,
        /// `IPVS_DEST_ATTR_TUN_FLAGS`.
        15 TunnelFlags(TunnelFlags) HostOrder,
    }
}

impl From<u32> for ForwardingMethod {
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

impl From<ForwardingMethod> for u32 {
    fn from(method: ForwardingMethod) -> Self {
        match method {
            ForwardingMethod::Masq => 0,
            ForwardingMethod::LocalNode => 1,
            ForwardingMethod::Tunnel => 2,
            ForwardingMethod::DirectRoute => 3,
            ForwardingMethod::Bypass => 4,
            ForwardingMethod::Other(other) => other,
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

/// A word that stands for an integer is sent as the integer.
macro_rules! words {
    ($($word:ty as $integer:ty),+) => {$(
        impl Codec<$word> for HostOrder {
            fn len(_: &$word) -> usize {
                size_of::<$integer>()
            }
            fn emit(value: &$word, buffer: &mut [u8]) {
                <HostOrder as Codec<$integer>>::emit(&<$integer>::from(*value), buffer);
            }
            fn parse(octets: &[u8]) -> Result<$word, DecodeError> {
                <HostOrder as Codec<$integer>>::parse(octets).map(<$word>::from)
            }
        }
    )+};
}
words!(
    ForwardingMethod as u32,
    TunnelType as u8,
    TunnelFlags as u16
);
