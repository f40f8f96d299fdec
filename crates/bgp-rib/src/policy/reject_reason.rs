//! Reasons for the rejection of an announcement.

/// A reason why an announcement is rejected. If the peer has a stored path with the prefix and the
/// path id of the rejected announcement, this path is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum RejectReason {
    /// A loop: AS_PATH contains this speaker's AS (RFC 4271 section 9.1.2).
    #[error("AS_PATH contains the local AS")]
    AsPathLoop,
    /// AS_PATH of an external peer does not start with the peer's AS (RFC 4271 section 6.3).
    #[error("AS_PATH does not start with the peer's AS")]
    FirstAsnIsNotThePeers,
    /// A loop: the originator id is this speaker's router id (RFC 4456 section 8).
    #[error("ORIGINATOR_ID is the local router id")]
    OwnOriginatorId,
    /// A loop: the cluster list contains this speaker's cluster id (RFC 4456 section 8).
    #[error("CLUSTER_LIST contains the local cluster id")]
    OwnClusterId,
    /// The next hop is an address of this speaker (RFC 4271 section 6.3).
    #[error("next hop is an address of this speaker")]
    OwnNextHop,
    /// The next hop is not a unicast address that other hosts can reach (RFC 4271 section 6.3, RFC
    /// 2545 section 3).
    #[error(
        "next hop is not a unicast address that other hosts can reach: it is unspecified, \
         loopback, link-local IPv6, IPv4-mapped, multicast or reserved"
    )]
    NextHopNotUnicast,
    #[error("next hop is the announced prefix itself")]
    NextHopIsPrefix,
    /// The prefix contains no unicast address that other hosts can reach.
    #[error(
        "prefix contains no unicast address that other hosts can reach: it belongs to 0.0.0.0/8, \
         loopback, link-local IPv6, IPv4-mapped, multicast or reserved addresses"
    )]
    PrefixReserved,
    #[error("next hop and prefix have different address families")]
    NextHopFamily,
    #[error("next hop is not allowed by import policy")]
    NextHopNotAllowed,
    #[error("prefix is not allowed by import policy")]
    PrefixNotAllowed,
    /// The import policy has rules for single peers, but no rule for this peer.
    #[error("import policy lists other peers and not this peer")]
    PeerNotListed,
    #[error("address family was not negotiated")]
    FamilyNotNegotiated,
    /// The Adj-RIB-In of the peer has as many paths as the import policy allows, and the import
    /// policy has [`MaximumPathsAction::Block`].
    ///
    /// [`MaximumPathsAction::Block`]: crate::MaximumPathsAction::Block
    #[error("peer has announced as many paths as import policy allows")]
    MaximumPaths,
}
