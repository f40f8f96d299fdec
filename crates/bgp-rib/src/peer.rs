//! This speaker and its peers, as far as the tables have to know them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bgp_packet::{Asn, ClusterId, Family, IpNet, RouterId};

use crate::policy::{ExportPolicy, ImportPolicy};

/// Names a peer. Chosen by the caller, who may use it again once the peer is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Originated here.
    Own,
    /// Announced by a peer.
    Peer(PeerId),
}

/// How a peer relates to this speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    /// Of another AS.
    External,
    /// Of this AS, and a client of this reflector (RFC 4456).
    Client,
    /// Of this AS.
    NonClient,
}

/// Who this speaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibConfig {
    /// AS number.
    pub local_asn: Asn,
    /// BGP Identifier.
    pub router_id: RouterId,
    /// Cluster id (RFC 4456); usually the router id.
    pub cluster_id: ClusterId,
}

/// A family that was negotiated with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilySettings {
    /// The family.
    pub family: Family,
    /// Whether the peer takes all paths of a prefix (RFC 7911) instead of the best one.
    pub add_path_send: bool,
}

/// What stands for "next hop self" on a session. A path that needs one that is missing is not
/// sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// For IPv4 prefixes.
    pub ipv4: Option<Ipv4Addr>,
    /// For IPv6 prefixes.
    pub ipv6: Option<Ipv6Addr>,
}

impl From<IpAddr> for LocalAddresses {
    /// The address of this side of the connection.
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

/// A peer whose session is established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Decides about attributes and reflection.
    pub kind: PeerKind,
    /// From its OPEN.
    pub peer_asn: Asn,
    /// From its OPEN.
    pub peer_router_id: RouterId,
    /// Of its side of the connection.
    pub peer_address: IpAddr,
    /// Of this side.
    pub local_addresses: LocalAddresses,
    /// As negotiated. Paths of other families are neither accepted nor sent.
    pub families: Vec<FamilySettings>,
    /// What is accepted.
    pub import: ImportPolicy,
    /// What is sent.
    pub export: ExportPolicy,
}

impl PeerSettings {
    pub(crate) fn family(&self, prefix: &IpNet) -> Option<&FamilySettings> {
        let family = Family::of(*prefix);
        self.families
            .iter()
            .find(|settings| settings.family == family)
    }
}

/// What the paths of one source have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SourceFacts {
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

impl SourceFacts {
    pub(crate) fn source(self) -> Source {
        match self {
            Self::Own { .. } => Source::Own,
            Self::Peer { id, .. } => Source::Peer(id),
        }
    }
}

/// Reports whether the next hop is of the family of the prefix.
pub(crate) fn is_same_family(prefix: &IpNet, next_hop: IpAddr) -> bool {
    prefix.addr().is_ipv4() == next_hop.is_ipv4()
}
