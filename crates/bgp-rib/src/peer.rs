//! Properties of this speaker and of its peers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bgp_packet::{Asn, ClusterId, Family, IpNet, RouterId};

use crate::policy::{ExportPolicy, ImportPolicy};

/// The id of a peer. The caller chooses the id, and can use the id for another peer after the first
/// peer is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The origin of a path: this speaker or a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathSource {
    /// This speaker originated the path.
    Own,
    /// This peer announced the path.
    Peer(PeerId),
}

/// The relation of a peer to this speaker. The relation decides which paths are reflected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    /// A peer of another AS.
    External,
    /// A peer of this AS that is a client of this reflector (RFC 4456).
    Client,
    /// A peer of this AS that is not a client of this reflector.
    NonClient,
}

/// The BGP identity of this speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibConfig {
    pub local_asn: Asn,
    /// BGP identifier of this speaker (RFC 4271 section 4.2).
    pub router_id: RouterId,
    /// Cluster id of this reflector (RFC 4456), usually equal to the router id.
    pub cluster_id: ClusterId,
}

/// An address family that was negotiated with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibFamily {
    pub family: Family,
    /// `true`: the peer receives all paths of a prefix (RFC 7911). `false`: the peer receives only
    /// the best path.
    pub add_path_send: bool,
}

/// The addresses of this speaker that replace "next hop self" on a session. A path with "next hop
/// self" is not sent if this speaker has no address of the family of the path's prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Next hop of IPv4 prefixes.
    pub ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 prefixes.
    pub ipv6: Option<Ipv6Addr>,
}

impl From<IpAddr> for LocalAddresses {
    /// Makes the local address of a connection the next hop of prefixes of its address family.
    /// Prefixes of the other address family get no next hop.
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self {
                ipv4: Some(address),
                ipv6: None,
            },
            IpAddr::V6(address) => Self {
                ipv4: None,
                ipv6: Some(address),
            },
        }
    }
}

/// The properties and policies of a peer whose session is established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    pub kind: PeerKind,
    /// AS number from the peer's OPEN message.
    pub peer_asn: Asn,
    /// BGP identifier from the OPEN message of the peer.
    pub peer_router_id: RouterId,
    /// Remote address of the connection.
    pub peer_address: IpAddr,
    pub local_addresses: LocalAddresses,
    /// The negotiated families. Paths of other families are neither accepted nor sent.
    pub families: Vec<RibFamily>,
    pub import: ImportPolicy,
    pub export: ExportPolicy,
}

impl PeerSettings {
    pub(crate) fn family(&self, prefix: &IpNet) -> Option<&RibFamily> {
        let family = Family::of(*prefix);
        self.families
            .iter()
            .find(|settings| settings.family == family)
    }
}

/// The properties of a source of paths. The decision process and the export rules use them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SourceProperties {
    Own {
        router_id: RouterId,
    },
    Peer {
        id: PeerId,
        kind: PeerKind,
        router_id: RouterId,
        address: IpAddr,
    },
}

impl SourceProperties {
    pub(crate) fn source(self) -> PathSource {
        match self {
            Self::Own { .. } => PathSource::Own,
            Self::Peer { id, .. } => PathSource::Peer(id),
        }
    }
}

/// Reports whether the next hop and the prefix have the same address family.
pub(crate) fn is_same_family(prefix: &IpNet, next_hop: IpAddr) -> bool {
    prefix.addr().is_ipv4() == next_hop.is_ipv4()
}
